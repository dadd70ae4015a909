"""``Engine``: texts for many callers at once, side by side in one batch; submitted and given up at any time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from charrnn_runtime.errors import BusyError, CharrnnError, ModelOutputError, UsageError
from charrnn_runtime.generation import SequenceState, sample_tokens
from charrnn_runtime.jobs import BatchSlots, Job, token_score
from charrnn_runtime.options import SamplingOptions, check_count, new_seed
from charrnn_runtime.sampler import Request, Sampler
from charrnn_runtime.sampling import StopStrings, TokenSampler, UniformStream
from charrnn_runtime.session import Logits
from charrnn_runtime.vocab import Unknown

log = logging.getLogger("charrnn_runtime")

_IDLE_READ = 0.02  # seconds of reading between two looks at the queue, where nobody waits for a character
_MAX_TOKEN_SAMPLERS = 256  # sets of options whose tables are kept


class Engine:
    """Draws texts that are submitted one by one, at any time and from any thread, side by side.

    Each text is the one that ``Sampler.generate`` gives for its request alone.
    Prompts are read in a batch of their own, a little between two characters of
    the others, so that a long one holds nobody up. A job whose text nobody takes
    is paused and costs no time until somebody does.

        with Engine(sampler) as engine:
            job = engine.submit(Request(prompt="ROMEO:", length=200, seed=7))

    Args:
        sampler: the model.
        batch: how many texts are in work at a time.
        queue: how many more may wait or be paused.
        queue_tokens: how many prompt tokens they may have together.
        max_buffered: how many pieces of a job may lie there untaken before it is paused.
        update_interval: seconds between two announcements of the same job; a first piece
            and an end are announced at once. With many jobs it grows.
        on_update: called on the engine's thread with jobs that have something to
            take. It must return at once and raise nothing.
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
        # Guards what callers and the engine both change: the three collections below and the jobs' flags.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._waiting_tokens = 0
        self._resuming: deque[Job] = deque()  # paused jobs whose text was taken
        self._paused = 0
        self._cancelled = False  # whether a row may belong to a cancelled job
        self._reading = self._rows()
        self._drawing = self._rows()
        self._updated: dict[Job, None] = {}
        self._urgent: dict[Job, None] = {}
        self._announced_at = 0.0
        self._turn = 0.0  # seconds that the last characters took
        self._token_samplers: dict[SamplingOptions, TokenSampler] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def active(self) -> int:
        """How many texts are in work."""
        return self._reading.count + self._drawing.count

    @property
    def waiting(self) -> int:
        """How many wait for a place, or are paused."""
        return len(self._waiting) + self._paused + len(self._resuming)

    def submit(self, request: Request, *, top: int = 0, scores_prompt: bool = False) -> Job:
        """Takes a request; its text begins as soon as there is a place.

        Args:
            request: as for ``Sampler.generate_many``; a length of 0 only reads the prompt.
            top: how many of the likeliest tokens to report at each token, where ``request.log_probs`` asks for scores.
            scores_prompt: score the tokens of the prompt too.

        Raises:
            UsageError: the request cannot be served, or the engine is closed.
            BusyError: the queue is full.
        """
        token_sampler = self._token_sampler(SamplingOptions(**request.options))
        vocabulary, info = self.sampler.vocabulary, self.sampler.info
        ids = vocabulary.encode(request.prompt, unknown=request.unknown)
        begins = "begin" in vocabulary.special or not len(ids)
        text = SequenceState(
            prompt=np.concatenate([[info.start_token], ids]) if begins else ids,
            history=ids.tolist() if token_sampler.needs_history else [],
            vocabulary=vocabulary,
            token_sampler=token_sampler,
            uniforms=UniformStream(new_seed() if request.seed is None else request.seed, request.index),
            stop=StopStrings(request.stop),
            length=check_count("length", request.length, least=0),
            wants_log_probs=False,  # scored here, with the likeliest tokens beside it
        )
        return self._enqueue(
            Job(self, text, len(ids), check_count("top", top, least=0) if request.log_probs else -1, scores_prompt)
        )

    def score(self, text: str, *, unknown: Unknown = "error", top: int = 0) -> Job:
        """Takes a text to score as ``Sampler.score`` does: its ``prompt_scores`` are there when it has ended.

        Raises:
            UsageError, BusyError: as ``submit``.
        """
        ids = self.sampler.vocabulary.encode(text, unknown=unknown)
        fed = SequenceState(
            prompt=np.concatenate([[self.sampler.info.start_token], ids]),
            history=[],
            vocabulary=self.sampler.vocabulary,
            token_sampler=self._token_sampler(SamplingOptions()),
            uniforms=UniformStream(0),
            stop=StopStrings(()),
            length=0,
        )
        return self._enqueue(Job(self, fed, len(ids), check_count("top", top, least=0), True))

    def start(self) -> None:
        """Starts the engine's thread; ``with`` does it too."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="charrnn-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread; texts in work and in the queue are given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._fail_all(UsageError("the engine was closed"))

    def step(self) -> bool:
        """One turn: takes in new jobs, reads some of their prompts, draws one character of each text.

        For the engine's thread, or for a caller that has not started it.

        Returns:
            Whether there was anything to do.
        """
        self._admit()
        if self._reading.count:
            self._prefill()
        if self._drawing.count:
            begin = time.perf_counter()
            self._generate()
            self._turn = time.perf_counter() - begin
        self._announce()
        return bool(self.active)

    def _rows(self) -> BatchSlots:
        return BatchSlots(self.sampler._cell, [s.size for s in self.sampler.info.states])

    # From any thread.

    def _token_sampler(self, options: SamplingOptions) -> TokenSampler:
        """One token_sampler for all requests with equal options: they are drawn together."""
        if options.logit_bias or options.logits_processor is not None:
            return TokenSampler(options, self.sampler.vocabulary)
        with self._changed:
            if options not in self._token_samplers:
                if len(self._token_samplers) >= _MAX_TOKEN_SAMPLERS:
                    self._token_samplers.clear()
                self._token_samplers[options] = TokenSampler(options, self.sampler.vocabulary)
            return self._token_samplers[options]

    def _enqueue(self, job: Job) -> Job:
        with self._changed:
            if self._closed:
                raise UsageError("the engine is closed")
            full = self.waiting >= self.queue + max(0, self.batch - self.active)
            if full or (self._waiting and self._waiting_tokens + len(job._ids) > self.queue_tokens):
                raise BusyError(f"{self.active} texts are in work and {self.waiting} wait; try again in a moment")
            self._waiting.append(job)
            self._waiting_tokens += len(job._ids)
            self._changed.notify()
        return job

    def resume(self, job: Job) -> None:
        """Takes a paused job up again; ``Job.take`` calls it."""
        with self._changed:
            if job._paused and not job._gone:
                job._paused = False
                self._paused -= 1
                self._resuming.append(job)
                self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Gives a job up, as ``Job.cancel`` does."""
        with self._changed:
            if job.ended:
                return
            job._gone = True
            self._cancelled = True
            if job._paused:
                job._paused = False
                self._paused -= 1
            elif job in self._waiting:
                self._waiting.remove(job)
                self._waiting_tokens -= len(job._ids)
            self._changed.notify()

    # On the engine's thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._resuming or self.active):
                    self._changed.wait()
                if self._closed:
                    return
            try:
                self.step()
            except Exception as error:  # ONNX Runtime's own; whoever waits must hear of it
                log.exception("a batch failed")
                self._fail_all(ModelOutputError(f"the model could not be run: {error}"))

    def _admit(self) -> None:
        with self._changed:
            if self._cancelled:
                self._cancelled = False
                for rows in (self._reading, self._drawing):
                    rows.drop([i for i, job in enumerate(rows.jobs) if job is not None and job._gone])
            free = self.batch - self.active
            back: list[Job] = []
            new: list[Job] = []
            while free > len(back) and self._resuming:
                job = self._resuming.popleft()
                if not job._gone:
                    back.append(job)
            while free > len(back) + len(new) and self._waiting:
                job = self._waiting.popleft()
                self._waiting_tokens -= len(job._ids)
                new.append(job)
            # Inside the lock: a job is always in exactly one place.
            self._drawing.join([(job, job._state) for job in back])
            self._reading.join([(job, None) for job in new])
        for job in back:
            job._state = None

    def _prefill(self) -> None:
        """Reads prompts for as long as the last characters took, or until one is at its end."""
        until = time.perf_counter() + (self._turn if self._drawing.count else _IDLE_READ)
        rows = self._reading
        while True:
            tokens = rows.tokens
            for i, job in enumerate(rows.jobs):
                if job is not None:
                    tokens[i] = job._ids[job._fed]
                    job._fed += 1
            logits = rows.step()
            self.tokens_prefilled += rows.count
            done = []
            for i, job in enumerate(rows.jobs):
                if job is None:
                    continue
                if job._fed == len(job._ids):
                    done.append(i)
                elif job._scores_prompt:
                    job.prompt_scores.append(token_score(logits[i], job._ids[job._fed], job._top))
            if done:
                return self._begin(done, logits)
            if self._cancelled or time.perf_counter() > until:
                return None

    def _begin(self, done: list[int], logits: Logits) -> None:
        """Draws the first token of rows whose prompt has been read, and moves them over."""
        rows = self._reading
        first = []
        for i in done:
            job = rows.jobs[i]
            assert job is not None
            if job._sequence.length:
                first.append(i)
            else:
                job.finish_reason = "length"
                self._urgent[job] = None
        self._sample_rows(rows, first, logits)
        staying = [i for i in first if rows.jobs[i] is not None]
        moving = [(job, state) for i, state in rows.states(staying) if (job := rows.jobs[i]) is not None]
        for i in done:
            rows.jobs[i] = None
        with self._changed:  # nobody may see the texts in neither place
            rows.drop([])
            self._drawing.join(moving)

    def _generate(self) -> None:
        rows = self._drawing
        for i, job in enumerate(rows.jobs):
            if job is not None:
                rows.tokens[i] = job._last
        logits = rows.step()
        self._sample_rows(rows, [i for i, job in enumerate(rows.jobs) if job is not None], logits)
        rows.drop([])

    def _sample_rows(self, rows: BatchSlots, which: list[int], logits: Logits) -> None:
        """Draws a token in some rows; those that end or are paused leave."""
        texts = [(i, job._sequence) for i in which if (job := rows.jobs[i]) is not None]
        for i, token in sample_tokens(texts, logits):
            job = rows.jobs[i]
            assert job is not None
            if isinstance(token, CharrnnError):
                rows.jobs[i], job.error = None, token
                self._urgent[job] = None
                continue
            self.tokens_generated += 1
            job._last = token
            if job._top >= 0:
                job._scores.append(token_score(logits[i], token, job._top))
            if piece := job._sequence.append(token):
                job._pieces.append(piece)
                if job._announced:
                    self._updated[job] = None
                else:
                    job._announced = True
                    self._urgent[job] = None
            if job._sequence.finish_reason:
                rows.jobs[i], job.finish_reason = None, job._sequence.finish_reason
                self._urgent[job] = None
            elif len(job._pieces) >= self.max_buffered:
                self._pause(rows, i, job)

    def _pause(self, rows: BatchSlots, i: int, job: Job) -> None:
        ((_, job._state),) = rows.states([i])
        self._urgent[job] = None
        with self._changed:
            rows.jobs[i] = None
            if not job._gone:
                job._paused = True
                self._paused += 1
        if len(job._pieces) < self.max_buffered:  # taken in the meantime, by a caller who saw no paused job
            self.resume(job)

    def _announce(self) -> None:
        now = time.perf_counter()
        if now - self._announced_at >= max(self.update_interval, 0.0004 * self.active):
            self._urgent.update(self._updated)
            self._updated.clear()
            self._announced_at = now
        if self._urgent:
            for job in self._urgent:
                self._updated.pop(job, None)
            told, self._urgent = list(self._urgent), {}
            if self._on_update:
                self._on_update(told)

    def _fail_all(self, error: CharrnnError) -> None:
        with self._changed:
            jobs = [*self._waiting, *self._resuming, *self._reading.jobs, *self._drawing.jobs]
            self._waiting.clear()
            self._resuming.clear()
            self._waiting_tokens = 0
            self._reading, self._drawing = self._rows(), self._rows()
        failed = [job for job in jobs if job is not None and not job.ended]
        for job in failed:
            job.error = error
        if failed and self._on_update:
            self._on_update(failed)
