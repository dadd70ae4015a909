"""``Engine``: texts for many callers at once, side by side in one batch; submitted and cancelled at any time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.batching import BatchSlots, Slot, sample_rows
from charrnn_runtime.blocks import MIN_STEPS
from charrnn_runtime.errors import BusyError, CharrnnError, ModelOutputError, UsageError
from charrnn_runtime.generation import Request, SequenceState, check_request, note_end, start_sequence
from charrnn_runtime.jobs import Job, TokenScore, token_score
from charrnn_runtime.options import SamplingOptions, check_count
from charrnn_runtime.particles import generate_from_particles
from charrnn_runtime.sampler import Sampler
from charrnn_runtime.sampling import StopStrings, TokenSampler, UniformStream, log_softmax
from charrnn_runtime.scoring import UnknownCharge
from charrnn_runtime.session import Logits, State
from charrnn_runtime.vocab import UNKNOWN, UnknownScore

log = logging.getLogger("charrnn_runtime")

_IDLE_PREFILL_S = 0.02  # seconds of prefill between two looks at the queue while no text is being generated
_MAX_TOKEN_SAMPLERS = 256  # sets of options whose tables are kept
_BLOCK_S = 0.01  # seconds that a block of all texts may take: so long a new job waits
_UPDATE_S_PER_JOB = 0.0004  # updates come less often when there are many jobs: each costs the receiver some work


class Engine:
    """Generates texts that are submitted one by one, at any time and from any thread, side by side.

    Each text is the one that ``Sampler.generate`` gives for its request alone.
    Prompts are fed in a batch of their own, a few tokens between two tokens of
    the texts that are being generated, so that a long prompt delays nothing. A
    job whose caller has not taken ``max_buffered`` characters is paused: it costs
    no time until ``Job.take`` is called.

        with Engine(sampler) as engine:
            job = engine.submit(Request(prompt="ROMEO:", length=200, seed=7))

    Args:
        sampler: the model.
        batch: how many texts are generated side by side.
        queue: how many more may wait or be paused.
        queue_tokens: how many prompt tokens the waiting ones may have together.
        max_buffered: how many characters of a job may wait to be taken before the job is paused.
        update_interval: seconds between two updates about the same job; the first piece and the
            end of a text are reported at once. With many jobs the interval grows.
        on_update: called on the engine's thread with the jobs that have something new to
            take. It must return at once and raise nothing.

    Attributes:
        tokens_generated: how many tokens have been sampled, over all jobs.
        tokens_prefilled: how many prompt tokens have been fed.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        batch: int = 64,
        queue: int = 1024,
        queue_tokens: int = 4_000_000,
        max_buffered: int = 4096,
        update_interval: float = 0.02,
        on_update: Callable[[Sequence[Job]], None] | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch = check_count("batch", batch, least=1)
        self.queue = check_count("queue", queue, least=0)
        self.queue_tokens = check_count("queue_tokens", queue_tokens, least=1)
        self.max_buffered = check_count("max_buffered", max_buffered, least=1)
        self.update_interval = update_interval
        self.tokens_generated = 0
        self.tokens_prefilled = 0
        self._on_update = on_update
        # The condition guards what both callers and the engine's thread change: the attributes
        # from here to _token_samplers, and the flags of slots and jobs.
        self._changed = threading.Condition()
        self._waiting: deque[_JobSlot] = deque()
        self._waiting_tokens = 0
        self._resuming: deque[_JobSlot] = deque()  # were paused, and their text has been taken
        self._paused: set[_JobSlot] = set()
        self._any_cancelled = False  # whether the batches may hold cancelled jobs
        self._token_samplers: dict[SamplingOptions, TokenSampler] = {}
        self._charge = UnknownCharge(sampler.vocabulary)
        self._prefilling = self._batch_slots()
        self._generating = self._batch_slots()
        # Texts with particles, which are a batch of their own each; every turn takes one step of each.
        self._from_particles: dict[_JobSlot, Iterator[str]] = {}
        # Jobs to be reported in the next update, and those to be reported at once (dicts keep the order).
        self._updated: dict[Job, None] = {}
        self._urgent: dict[Job, None] = {}
        self._last_update = 0.0
        self._block_seconds = 0.0  # what the last step or block of all generated texts took
        self._step_seconds = 0.0  # and each step of it
        self._closed = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def active(self) -> int:
        """How many texts are being prefilled or generated."""
        return self._prefilling.count + self._generating.count + len(self._from_particles)

    @property
    def waiting(self) -> int:
        """How many wait for a place in the batch, or are paused."""
        return len(self._waiting) + len(self._paused) + len(self._resuming)

    def start(self) -> None:
        """Starts the engine's thread; ``with`` does it too.

        Raises:
            UsageError: the engine was closed, or was made before this process was forked.
        """
        self._check_process()
        if self._closed:
            raise UsageError("the engine is closed; make a new one")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="charrnn-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread; all texts that have not ended get an error."""
        if os.getpid() != self._pid:
            return  # the engine's thread does not exist in a forked child
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._fail_all(UsageError("the engine was closed"))

    def submit(self, request: Request, *, top: int = 0, scores_prompt: bool = False) -> Job:
        """Takes a request; generation begins as soon as there is a place in the batch.

        Args:
            request: as for ``Sampler.generate_many``; a length of 0 only feeds the prompt.
            top: how many of the most likely tokens to report with each token, if ``request.log_probs`` is set.
            scores_prompt: whether to score the tokens of the prompt too.

        Raises:
            UsageError: the request cannot be served, the engine does not run, or it runs in another process;
                or the request asks for particles and for log-probabilities.
            BusyError: the queue is full.
        """
        check_request(request)
        token_sampler = self._token_sampler(SamplingOptions.from_kwargs(request.options))
        sequence = start_sequence(request, self.sampler.info, token_sampler, min_length=0)
        if request.log_probs and sequence.particles > 1:
            raise UsageError(
                "an Engine reports no log-probabilities with particles; use Sampler.generate, or leave one out"
            )
        sequence.wants_log_probs = False  # _sample scores the tokens, together with the most likely ones
        slot = _JobSlot(sequence, check_count("top", top, least=0) if request.log_probs else -1, scores_prompt, {})
        # Without a start token nothing comes before the first token of the prompt.
        follows_nothing = scores_prompt and len(slot.prompt) == sequence.prompt_tokens
        return self._enqueue(slot, [TokenScore(slot.prompt[0], None)] if follows_nothing else [])

    def score(
        self, text: str | bytes, *, unknown: UnknownScore = "charge", label: str | None = None, top: int = 0
    ) -> Job:
        """Takes a text to score as ``Sampler.score`` does; when the job has ended, ``prompt_scores`` holds the result.

        An unknown character that is charged has the token -1 (``vocab.UNKNOWN``) there.

        Raises:
            UsageError, BusyError: as ``submit``.
        """
        info = self.sampler.info
        targets = self.sampler.encode_targets(text, unknown)
        known = targets[targets != UNKNOWN]
        sequence = SequenceState(
            prompt=np.concatenate([[info.first_token(label)], known]),
            prompt_tokens=len(targets),
            history=[],
            vocabulary=info.vocabulary,
            token_sampler=self._token_sampler(SamplingOptions()),
            uniforms=UniformStream(0),
            stop=StopStrings(()),
            length=0,
        )
        # How many unknown characters follow each known one; the start token counts as known.
        unknown_after = Counter(np.cumsum(targets != UNKNOWN)[targets == UNKNOWN].tolist())
        return self._enqueue(_JobSlot(sequence, check_count("top", top, least=0), True, unknown_after), [])

    # Called on any thread.

    def _batch_slots(self) -> BatchSlots[_JobSlot]:
        return BatchSlots(self.sampler.cell, self.sampler.info)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError(
                "this process was forked after the engine was made, and the engine's thread stayed in the parent; "
                "make and start an Engine after the fork"
            )

    def _token_sampler(self, options: SamplingOptions) -> TokenSampler:
        """One sampler for all requests with equal options: their tokens are sampled together."""
        if options.logit_bias or options.logits_processor is not None:
            return TokenSampler(options, self.sampler.vocabulary)
        with self._changed:
            if options not in self._token_samplers:
                if len(self._token_samplers) >= _MAX_TOKEN_SAMPLERS:
                    self._token_samplers.clear()
                self._token_samplers[options] = TokenSampler(options, self.sampler.vocabulary)
            return self._token_samplers[options]

    def _enqueue(self, slot: _JobSlot, prompt_scores: list[TokenScore]) -> Job:
        self._check_process()
        slot.job = Job(slot.sequence, on_take=partial(self._resume, slot), on_cancel=partial(self._cancel, slot))
        slot.job.prompt_scores += prompt_scores
        with self._changed:
            if self._closed:
                raise UsageError("the engine is closed; make a new one")
            if self._thread is None:
                raise UsageError("the engine is not started; use it in a with statement, or call start()")
            full = self.waiting >= self.queue + max(0, self.batch - self.active)
            if full or (self._waiting and self._waiting_tokens + len(slot.prompt) > self.queue_tokens):
                raise BusyError(f"{self.active} texts are in work and {self.waiting} wait; try again in a moment")
            self._waiting.append(slot)
            self._waiting_tokens += len(slot.prompt)
            self._changed.notify()
        return slot.job

    def _resume(self, slot: _JobSlot) -> None:
        """Resumes a paused job, since its text was taken."""
        self._check_process()
        if slot not in self._paused:
            return
        with self._changed:
            if slot in self._paused:
                self._paused.remove(slot)
                self._resuming.append(slot)
                self._changed.notify()

    def _cancel(self, slot: _JobSlot) -> None:
        if os.getpid() != self._pid:
            return
        with self._changed:
            if slot.job.ended:
                return
            slot.job.cancelled = True
            self._any_cancelled = True
            self._paused.discard(slot)
            if slot in self._waiting:
                self._waiting.remove(slot)
                self._waiting_tokens -= len(slot.prompt)
            self._changed.notify()

    # Called on the engine's thread only.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._resuming or self.active):
                    self._changed.wait()
                if self._closed:
                    return
            try:
                self._turn()
            except Exception as error:  # for example one of ONNX Runtime; it is reported to all who wait for a text
                log.exception("a batch failed")
                self._fail_all(ModelOutputError(f"the model could not be run: {error}"))

    def _turn(self) -> None:
        """Takes in new jobs, feeds some prompt tokens, samples tokens of each text, reports."""
        self._admit()
        if self._prefilling.count:
            self._prefill()
            if self._urgent:
                self._report()  # a first piece does not wait for a block
        if self._generating.count:
            self._generate()
        for slot in list(self._from_particles):
            self._step_particles(slot)
        self._report()

    def _admit(self) -> None:
        with self._changed:
            if self._any_cancelled:
                self._any_cancelled = False
                for slot in [slot for slot in self._from_particles if slot.job.cancelled]:
                    del self._from_particles[slot]
                for batch_slots in (self._prefilling, self._generating):
                    batch_slots.remove([row for row, slot in batch_slots.occupied if slot.job.cancelled])
            free = self.batch - self.active
            resumed: list[_JobSlot] = []
            new: list[_JobSlot] = []
            while free > len(resumed) and self._resuming:
                slot = self._resuming.popleft()
                if not slot.job.cancelled:
                    resumed.append(slot)
            while free > len(resumed) + len(new) and self._waiting:
                slot = self._waiting.popleft()
                self._waiting_tokens -= len(slot.prompt)
                if slot.sequence.particles > 1 and slot.sequence.length:
                    free -= 1
                    self._from_particles[slot] = generate_from_particles(self.sampler.cell, slot.sequence)
                else:
                    new.append(slot)
            # Inside the lock, so that a job is always counted in exactly one place.
            self._generating.add([(slot, slot.state) for slot in resumed])
            self._prefilling.add([(slot, None) for slot in new])
        for slot in resumed:
            slot.state = None

    def _prefill(self) -> None:
        """Feeds prompts for about as long as a block of the generated texts takes, or until one of them is complete."""
        until = time.perf_counter() + (self._block_seconds if self._generating.count else _IDLE_PREFILL_S)
        while True:
            logits = self._prefilling.step()
            self.tokens_prefilled += self._prefilling.count
            complete = []
            for row, slot in self._prefilling.occupied:
                if slot.scores_prompt:
                    slot.score_prompt(logits[row], self._charge)
                if slot.prefilled:
                    complete.append(row)
            if complete:
                self._begin(complete, logits)
                return
            if self._any_cancelled or time.perf_counter() > until:
                return

    def _begin(self, rows: list[int], logits: Logits) -> None:
        """Samples the first token of rows whose prompt is complete, and moves them to the other batch."""
        generating = []
        slots = self._prefilling.slots
        for row in rows:
            slot = slots[row]
            assert slot is not None
            if slot.sequence.length:
                generating.append(row)
            else:
                slot.job.finish_reason = "length"
                self._urgent[slot.job] = None
        self._sample(self._prefilling, generating, logits)
        staying = [row for row in generating if slots[row] is not None]
        states = self._prefilling.states(staying)
        moving = [(slot, state) for row, state in zip(staying, states, strict=True) if (slot := slots[row]) is not None]
        with self._changed:  # inside the lock, so that a job is always counted in exactly one place
            self._prefilling.remove(rows)
            self._generating.add(moving)

    def _generate(self) -> None:
        drawn = None if any(slot.top >= 0 for _, slot in self._generating.occupied) else self._draw_block()
        if drawn is None:
            begin = time.perf_counter()
            logits = self._generating.step()
            self._sample(self._generating, [row for row, _ in self._generating.occupied], logits)
            self._block_seconds = time.perf_counter() - begin
        else:
            for row, tokens in drawn:
                self._extend(row, tokens)
        self._generating.remove([])  # shrinks the batch if half of it has left

    def _step_particles(self, slot: _JobSlot) -> None:
        """One step of a text with particles; its text comes with the last one."""
        job = slot.job
        try:
            if piece := next(self._from_particles[slot]):
                job.put(piece)
        except CharrnnError as error:
            job.error = error
        if slot.sequence.finish_reason or job.error:
            del self._from_particles[slot]
            self.tokens_generated += slot.sequence.num_generated
            job.finish_reason = slot.sequence.finish_reason
            self._urgent[job] = None

    def _draw_block(self) -> list[tuple[int, list[int]]] | None:
        """Tokens of all texts from one call of the model: (row, its tokens); None if that cannot be done."""
        slots = [slot for _, slot in self._generating.occupied]
        drawer = self.sampler.cell.blocks
        most = min(slot.sequence.most_steps(drawer, len(slots)) for slot in slots) if drawer else 0
        if most < MIN_STEPS:
            return None
        # Texts that end earlier lose the rest of a block; but very short blocks would cost the others more.
        left = max(MIN_STEPS, min(slot.sequence.length - slot.sequence.num_generated for slot in slots))
        steps = min(most, left, max(1, int(_BLOCK_S / max(self._step_seconds, 1e-6))))
        begin = time.perf_counter()
        drawn = self._generating.draw(steps)
        self._block_seconds = time.perf_counter() - begin
        self._step_seconds = self._block_seconds / steps
        return drawn

    def _extend(self, row: int, tokens: list[int]) -> None:
        """Adds tokens that were drawn in a block to a text."""
        slot = self._generating.slot(row)
        before = slot.sequence.num_generated
        try:
            piece = slot.sequence.extend(tokens)
        except CharrnnError as error:
            self._fail(self._generating, row, error)
            return
        slot.last_token = tokens[-1]
        self.tokens_generated += slot.sequence.num_generated - before
        if slot.sequence.finish_reason:
            note_end(self.sampler.cell, slot.sequence)
        self._deliver(self._generating, row, piece)

    def _sample(self, batch_slots: BatchSlots[_JobSlot], rows: list[int], logits: Logits) -> None:
        """Samples a token in some rows; jobs that end or are paused leave the batch."""
        slots = batch_slots.slots
        sequences = [(row, slot.sequence) for row in rows if (slot := slots[row]) is not None]
        for row, token in sample_rows(sequences, logits):
            if isinstance(token, CharrnnError):
                self._fail(batch_slots, row, token)
                continue
            slot = batch_slots.slot(row)
            self.tokens_generated += 1
            slot.last_token = token
            if slot.top >= 0:
                slot.job.put_score(token_score(logits[row], token, slot.top))
            self._deliver(batch_slots, row, slot.sequence.append(token))

    def _fail(self, batch_slots: BatchSlots[_JobSlot], row: int, error: CharrnnError) -> None:
        job = batch_slots.slot(row).job
        batch_slots.slots[row], job.error = None, error
        self._urgent[job] = None

    def _deliver(self, batch_slots: BatchSlots[_JobSlot], row: int, piece: str) -> None:
        """Gives a piece to the job of a row; a job that has ended, or is full, leaves the batch."""
        slot = batch_slots.slot(row)
        job = slot.job
        if piece:
            job.put(piece)
            if slot.reported:
                self._updated[job] = None
            else:
                slot.reported = True
                self._urgent[job] = None
        if slot.sequence.finish_reason:
            batch_slots.slots[row], job.finish_reason = None, slot.sequence.finish_reason
            self._urgent[job] = None
        elif job.num_buffered >= self.max_buffered:
            self._pause(batch_slots, row, slot)

    def _pause(self, batch_slots: BatchSlots[_JobSlot], row: int, slot: _JobSlot) -> None:
        (slot.state,) = batch_slots.states([row])
        self._urgent[slot.job] = None
        with self._changed:
            batch_slots.slots[row] = None
            if not slot.job.cancelled:
                self._paused.add(slot)
        if slot.job.num_buffered < self.max_buffered:  # its text has been taken in the meantime
            self._resume(slot)

    def _report(self) -> None:
        now = time.perf_counter()
        if now - self._last_update >= max(self.update_interval, _UPDATE_S_PER_JOB * self.active):
            self._urgent.update(self._updated)
            self._updated.clear()
            self._last_update = now
        if self._urgent:
            jobs, self._urgent = list(self._urgent), {}
            for job in jobs:
                self._updated.pop(job, None)
            if self._on_update:
                self._on_update(jobs)

    def _fail_all(self, error: CharrnnError) -> None:
        with self._changed:
            running = [slot for batch in (self._prefilling, self._generating) for _, slot in batch.occupied]
            slots = [*self._waiting, *self._resuming, *self._paused, *running, *self._from_particles]
            self._from_particles.clear()
            for outside in (self._waiting, self._resuming, self._paused):
                outside.clear()
            self._waiting_tokens = 0
            self._prefilling, self._generating = self._batch_slots(), self._batch_slots()
        failed = [slot.job for slot in slots if not slot.job.ended]
        for job in failed:
            job.error = error
        if failed and self._on_update:
            self._on_update(failed)


class _JobSlot(Slot):
    """A job in the engine: its text, and where it stands.

    Attributes:
        top: how many of the most likely tokens are reported with each token; -1 for no scores at all.
        scores_prompt: whether the prompt's tokens are scored.
        unknown: after how many tokens of the prompt how many unknown characters stand in the text to score.
        state: the model's states, while the job is paused or resuming.
        reported: whether its first piece has been reported.
    """

    job: Job

    def __init__(self, sequence: SequenceState, top: int, scores_prompt: bool, unknown: Mapping[int, int]) -> None:
        super().__init__(sequence)
        self.top = top
        self.scores_prompt = scores_prompt
        self.unknown = unknown
        self.state: State | None = None
        self.reported = False

    def score_prompt(self, logits: NDArray[np.float32], charge: UnknownCharge) -> None:
        """Scores the next token of the prompt, and unknown characters before it, from the logits ``[vocab]``."""
        scores = self.job.prompt_scores
        if unknown := self.unknown.get(self.num_fed - 1):
            log_prob = float(charge(log_softmax(logits)[None])[0])
            scores += [TokenScore(UNKNOWN, log_prob)] * unknown
        if not self.prefilled:
            scores.append(token_score(logits, self.prompt[self.num_fed], self.top))
