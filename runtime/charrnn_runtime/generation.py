"""One text being drawn, and many of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharrnnError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import StopStrings, TokenSampler, UniformStream, log_softmax
from charrnn_runtime.session import Cell, Logits, Runner, State
from charrnn_runtime.vocab import Ids, Vocabulary

_BLOCK = 64  # steps drawn before the texts get to know of it
_PREFILL_BLOCK = 256  # tokens of a long prompt that are read at once
_FEW = 8  # rows; fewer are drawn one by one as fast

FinishReason = Literal["length", "stop", "end"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A drawn text and how it came about.

    Attributes:
        text: the continuation, without the prompt and the stop string.
        finish_reason: "length", "stop" (a stop string) or "end" (the model's end token).
        seed, index: what draws the same text again.
        tokens: ids of all drawn tokens, those of a stop string or an end token included.
        log_probs: the model's own log-probability of each of them, before penalties,
            temperature and filters; float64 ``[n]``. None unless asked for.
    """

    text: str
    finish_reason: FinishReason
    seed: int
    index: int
    tokens: tuple[int, ...] = field(repr=False)
    log_probs: NDArray[np.float64] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: text, finish_reason, seed, index and, where asked for, log_probs."""
        values = {"text": self.text, "finish_reason": self.finish_reason, "seed": self.seed, "index": self.index}
        return values if self.log_probs is None else {**values, "log_probs": self.log_probs.tolist()}


@dataclass(kw_only=True)
class SequenceState:
    """One text in the making: its prompt, random numbers, decoder, stop strings and what it has drawn.

    ``keep`` says that the tokens are wanted in the end; without it a text of
    any length takes constant memory.
    """

    prompt: Ids  # tokens to feed before the first draw, at least one
    history: list[int]  # prompt without a start token, and drawn tokens where the options need them
    vocabulary: Vocabulary
    token_sampler: TokenSampler
    uniforms: UniformStream
    stop: StopStrings
    length: int
    keep: bool = False
    wants_log_probs: bool = False

    def __post_init__(self) -> None:
        self._decoder = self.vocabulary.decoder()
        self.end = self.vocabulary.special.get("end")
        self.num_generated = 0
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.finish_reason: FinishReason | None = None

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Draws the next token for the logits ``[vocab]``."""
        token = self.token_sampler.sample(logits, self.uniforms.next(), self.history, self.num_generated)
        if self.wants_log_probs:
            self.log_probs.append(float(log_softmax(logits)[token]))
        return token

    def append(self, token: int) -> str:
        """Takes a drawn token; the text that can now be given out. Sets ``finish_reason`` at the end."""
        self.num_generated += 1
        if self.keep:
            self.tokens.append(token)
        options = self.token_sampler.options
        if self.token_sampler.needs_history:
            self.history.append(token)
            if options.logits_processor is None and len(self.history) > 2 * options.penalty_window:
                del self.history[: -options.penalty_window]
        if token == self.end:
            self.finish_reason = "end"
            return self._rest()
        piece = self._decoder.decode(token)
        if self.num_generated > options.min_length:
            piece = self.stop.feed(piece)
            if self.stop.stopped:
                self.finish_reason = "stop"
                return piece
        if self.num_generated == self.length:
            self.finish_reason = "length"
            return piece + self._rest()
        return piece

    @property
    def extendable(self) -> bool:
        """Whether nothing needs a look at each token as it is drawn but its end token: see ``extend``."""
        return self.token_sampler.only_temperature and not self.stop.strings and not self.wants_log_probs

    def extend(self, tokens: list[int]) -> str:
        """``append`` for several tokens of an ``extendable`` text, at least one; an end token may only come last."""
        if self.keep:
            self.tokens += tokens[:-1]
        self.num_generated += len(tokens) - 1
        return "".join(map(self._decoder.decode, tokens[:-1])) + self.append(tokens[-1])

    def _rest(self) -> str:
        last = self.stop.feed(self._decoder.flush())
        if self.stop.stopped:
            self.finish_reason = "stop"
            return last
        return last + self.stop.flush()

    def result(self, pieces: Iterable[str]) -> Generation:
        """The finished text."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(pieces),
            finish_reason=self.finish_reason,
            seed=self.uniforms.seed,
            index=self.uniforms.index,
            tokens=tuple(self.tokens),
            log_probs=np.array(self.log_probs) if self.wants_log_probs else None,
        )


def generate_one(cell: Cell, text: SequenceState) -> Iterator[str]:
    """The pieces of one text."""
    runner = prefill(cell, cell.runner(1), text.prompt[:-1])
    step, sample, add = runner.step, text.sample, text.append
    logits = step(int(text.prompt[-1]))[0]
    while True:
        token = sample(logits)
        if piece := add(token):
            yield piece
        if text.finish_reason:
            return
        logits = step(token)[0]


def generate_batch(cell: Cell, texts: Iterator[SequenceState], batch: int) -> Iterator[tuple[int, Generation]]:
    """Draws up to ``batch`` texts side by side; a new one is taken as soon as one is finished.

    Yields:
        (number of the text in ``texts``, the finished text), in the order in which they finish.
    """
    numbered = enumerate(texts)
    rows: list[_Row | None] = []  # None: a finished row that no text has taken over
    runner: Runner | None = None
    while True:
        free = rows.count(None) + batch - len(rows)
        new = [_Row(number, text) for _, (number, text) in zip(range(free), numbered, strict=False)] if free else []
        active = [i for i, row in enumerate(rows) if row is not None]
        if not active and not new:
            return
        # Rows move only where it pays: for new texts, or when half of them have nothing left to do.
        if runner is None or new or 2 * len(active) <= len(rows):
            kept = [row for row in rows if row is not None]
            rows = [*kept, *new]
            runner = _regroup(cell, runner, active, len(new))
        finished = False
        while not finished:
            for i, drawn in _sample_block(rows, runner) or _sample_step(rows, runner):
                row = rows[i]
                assert row is not None
                row.drew(drawn)
                if row.sequence.finish_reason:
                    yield row.number, row.sequence.result(row.pieces)
                    rows[i] = None
                    finished = True


class _Row:
    """A text in its row of the batch."""

    def __init__(self, number: int, text: SequenceState) -> None:
        self.number = number
        self.sequence = text
        self.pieces: list[str] = []
        self._fed = 0
        self._last = 0

    @property
    def before_last(self) -> bool:
        """Whether the next token is fed for its state alone, and nothing is drawn after it."""
        return self._fed + 1 < len(self.sequence.prompt)

    @property
    def reading(self) -> bool:
        """Whether the prompt is not yet read."""
        return self._fed < len(self.sequence.prompt)

    def next_token(self) -> int:
        if self.reading:
            self._fed += 1
            return int(self.sequence.prompt[self._fed - 1])
        return self._last

    def drew(self, tokens: list[int]) -> None:
        self._last = tokens[-1]
        if piece := self.sequence.append(tokens[0]) if len(tokens) == 1 else self.sequence.extend(tokens):
            self.pieces.append(piece)


def _sample_step(rows: list[_Row | None], runner: Runner) -> list[tuple[int, list[int]]]:
    """One step of all rows: (row, its token) for every one whose prompt has been read."""
    logits = runner.step(np.array([0 if row is None else row.next_token() for row in rows]))
    ready = [(i, row.sequence) for i, row in enumerate(rows) if row is not None and not row.reading]
    drawn = []
    for i, token in sample_tokens(ready, logits):
        if isinstance(token, CharrnnError):
            raise token
        drawn.append((i, [token]))
    return drawn


def sample_tokens(texts: list[tuple[int, SequenceState]], logits: Logits) -> list[tuple[int, int | CharrnnError]]:
    """(row, token) for each (row, text), or why nothing can be drawn for it."""
    together: dict[int, list[tuple[int, SequenceState]]] = {}
    drawn: list[tuple[int, int | CharrnnError]] = []
    for i, text in texts:
        key = id(text.token_sampler) if text.token_sampler.only_temperature and not text.wants_log_probs else -1
        together.setdefault(key, []).append((i, text))
    for key, group in together.items():
        if key >= 0 and len(group) >= _FEW:  # below that, one by one is as fast
            rows = [i for i, _ in group]
            uniforms = np.array([text.uniforms.next() for _, text in group])
            here = logits if len(rows) == len(logits) else logits[rows]
            try:
                drawn += zip(rows, group[0][1].token_sampler.sample_rows(here, uniforms).tolist(), strict=True)
            except CharrnnError as error:
                drawn += [(i, error) for i in rows]
            continue
        for i, text in group:
            try:
                drawn.append((i, text.sample(logits[i])))
            except CharrnnError as error:
                drawn.append((i, error))
    return drawn


def _sample_block(rows: list[_Row | None], runner: Runner) -> list[tuple[int, list[int]]]:
    """Several steps at once, where all rows draw and none needs a look at its tokens: (row, its tokens).

    It ends before a row must leave. Nothing, if the rows are few or differ.
    """
    ready = [(i, row) for i, row in enumerate(rows) if row is not None]
    first = ready[0][1].sequence
    if len(ready) < _FEW or not all(
        row.sequence.extendable and row.sequence.token_sampler is first.token_sampler and not row.before_last
        for _, row in ready
    ):
        return []
    steps = min(_BLOCK, *(row.sequence.length - row.sequence.num_generated for _, row in ready))
    uniforms = np.array([row.sequence.uniforms.peek(steps) for _, row in ready]).T.copy()
    numbers = np.array([i for i, _ in ready])
    everyone = len(ready) == len(rows)
    tokens = np.zeros(len(rows), np.int64)
    tokens[numbers] = [row.next_token() for _, row in ready]
    sample_rows, end = first.token_sampler.sample_rows, first.end
    drawn = np.empty((steps, len(ready)), np.int64)
    for at in range(steps):
        logits = runner.step(tokens)
        drawn[at] = sample_rows(logits if everyone else logits[numbers], uniforms[at])
        tokens[numbers] = drawn[at]
        if end is not None and (drawn[at] == end).any():
            steps = at + 1
            break
    for _, row in ready:
        row.sequence.uniforms.skip(steps)
    return list(zip(numbers.tolist(), drawn[:steps].T.tolist(), strict=True))


def _regroup(cell: Cell, runner: Runner | None, keep: list[int], new: int) -> Runner:
    """A runner for the kept rows and, behind them, new ones from the zero state."""
    if runner is None or not keep:
        return cell.runner(len(keep) + new)
    state: State = tuple(np.concatenate([s[keep], np.zeros((new, s.shape[1]), np.float32)]) for s in runner.state())
    return cell.runner(len(keep) + new, state)


def prefill(cell: Cell, runner: Runner, tokens: Ids) -> Runner:
    """Feeds tokens ``[n]`` to one stream for its state alone; the runner to go on with."""
    sequence_runner = cell.sequence_runner(len(tokens), runner.state()) if len(tokens) else None
    if sequence_runner is None:
        for token in tokens.tolist():
            runner.step(token)
        return runner
    for begin in range(0, len(tokens), _PREFILL_BLOCK):
        sequence_runner.forward(tokens[begin : begin + _PREFILL_BLOCK])
    return cell.runner(1, sequence_runner.state())


def with_start_token(prompt: Ids, info: ModelInfo) -> Ids:
    """What is fed for a prompt ``[n]``: it alone, or behind the start token."""
    begins = "begin" in info.vocabulary.special
    return prompt if len(prompt) and not begins else np.concatenate([[info.start_token], prompt])
