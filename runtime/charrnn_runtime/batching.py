"""Continuous batching: many texts side by side in the rows of one batch, each leaving as soon as it is finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from charrnn_runtime.blocks import MAX_STEPS, MIN_STEPS, Row, draw_block
from charrnn_runtime.errors import CharrnnError
from charrnn_runtime.generation import Generation, SequenceState, note_end
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.particles import generate_one
from charrnn_runtime.session import Cell, Logits, Runner, State, Tokens

_MIN_ROWS = 8  # below that, sampling row by row is as fast as sampling all rows at once


class Slot:
    """A text in a row of a batch: which token is fed next.

    Attributes:
        sequence: the text.
        num_fed: how many tokens of its prompt have been fed.
        last_token: the token that was sampled last.
    """

    def __init__(self, sequence: SequenceState) -> None:
        self.sequence = sequence
        self.prompt: list[int] = sequence.prompt.tolist()
        self.num_fed = 0
        self.last_token = 0

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt has been fed, so that the last logits are those of the next token."""
        return self.num_fed == len(self.prompt)

    def next_token(self) -> int:
        """The token to feed now: the next one of the prompt, or the one that was sampled last."""
        if self.prefilled:
            return self.last_token
        self.num_fed += 1
        return self.prompt[self.num_fed - 1]

    @property
    def feed(self) -> list[int]:
        """The tokens to feed before the next one is sampled: the rest of the prompt, or the last one."""
        return [self.last_token] if self.prefilled else self.prompt[self.num_fed :]


S = TypeVar("S", bound=Slot)


class BatchSlots(Generic[S]):
    """The slots of one batch and the runner that holds their states. The slot of a text that has left is None.

    A row's results depend on that row alone, so texts may join, leave and change rows at any time.
    """

    def __init__(self, cell: Cell, info: ModelInfo) -> None:
        self._cell = cell
        self._sizes = [spec.size for spec in info.states]
        self._runner: Runner | None = None
        self.slots: list[S | None] = []

    @property
    def occupied(self) -> list[tuple[int, S]]:
        """(row, slot) of each text in the batch."""
        return [(row, slot) for row, slot in enumerate(self.slots) if slot is not None]

    def slot(self, row: int) -> S:
        """The slot of a text in the batch."""
        slot = self.slots[row]
        assert slot is not None
        return slot

    @property
    def count(self) -> int:
        """How many texts are in the batch."""
        return len(self.slots) - self.slots.count(None)

    def next_tokens(self) -> Tokens:
        """The next token of each row ``[rows]``; 0 for an empty row."""
        return np.array([0 if slot is None else slot.next_token() for slot in self.slots], np.int64)

    def step(self, tokens: Tokens | None = None) -> Logits:
        """Feeds ``tokens`` ``[rows]``, by default ``next_tokens()``.

        Returns:
            Logits ``[rows, vocab]``, valid until the next call.
        """
        assert self._runner is not None
        return self._runner.step(self.next_tokens() if tokens is None else tokens)

    def draw(self, steps: int) -> list[tuple[int, list[int]]] | None:
        """Feeds and draws in several steps: (row, its tokens) for each text that has any; see ``draw_block``.

        None if the model or one of the texts cannot be drawn in blocks now.
        """
        assert self._runner is not None
        drawer, rows = self._cell.blocks, list[Row | None]()
        if drawer is None:
            return None
        for slot in self.slots:
            if slot is None:
                rows.append(None)
            elif options := slot.sequence.draw_options:
                rows.append(Row(slot.feed, slot.sequence.uniforms, options, slot.sequence.pattern))
            else:
                return None
        texts = [row for row in rows if row]
        if any(row.pattern for row in texts) and any(len(row.feed) > 1 for row in texts):
            return None  # a block with patterns feeds one token, so prompts are read in steps
        block = draw_block(drawer, rows, steps, self._runner.state())
        if block is None:
            return None
        tokens, state = block
        self._runner = self._cell.runner(len(self.slots), state)
        for _, slot in self.occupied:
            slot.num_fed = min(slot.num_fed + steps, len(slot.prompt))
        return [(row, tokens[row]) for row, _ in self.occupied if tokens[row]]

    def states(self, rows: Sequence[int]) -> list[State]:
        """A copy of the states of each of these rows, each ``[1, size]``."""
        assert self._runner is not None
        whole = self._runner.state() if rows else ()
        return [tuple(s[row : row + 1].copy() for s in whole) for row in rows]

    def add(self, new: Sequence[tuple[S, State | None]]) -> None:
        """Adds texts with their states ``[1, size]`` each; None is the zero state."""
        if new:
            self._regroup(new)

    def remove(self, rows: Sequence[int]) -> None:
        """Empties rows. The batch shrinks only when half of it is empty: copying the states costs time."""
        for row in rows:
            self.slots[row] = None
        if 2 * self.count <= len(self.slots):
            self._regroup([])

    def _regroup(self, new: Sequence[tuple[S, State | None]]) -> None:
        kept = [row for row, _ in self.occupied]
        self.slots = [*(self.slots[row] for row in kept), *(slot for slot, _ in new)]
        if not self.slots:
            self._runner = None
            return
        old = self._runner.state() if self._runner else tuple(np.zeros((0, n), np.float32) for n in self._sizes)
        state: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        for number, part in enumerate(old):
            zero = np.zeros((1, part.shape[1]), np.float32)
            state.append(np.concatenate([part[kept], *(zero if s is None else s[number] for _, s in new)]))
        self._runner = self._cell.runner(len(self.slots), tuple(state))


def sample_rows(rows: Sequence[tuple[int, SequenceState]], logits: Logits) -> list[tuple[int, int | CharrnnError]]:
    """Samples the next token of each (row, text) from the row's logits.

    Returns:
        (row, its token), or (row, the reason why it cannot be sampled).
    """
    groups: dict[int, list[tuple[int, SequenceState]]] = {}
    sampled: list[tuple[int, int | CharrnnError]] = []
    for row, sequence in rows:
        together = sequence.token_sampler.direct and not sequence.wants_log_probs
        groups.setdefault(id(sequence.token_sampler) if together else -1, []).append((row, sequence))
    for key, group in groups.items():
        if key >= 0 and len(group) >= _MIN_ROWS:
            numbers = [row for row, _ in group]
            uniforms = np.array([sequence.uniforms.next() for _, sequence in group])
            here = logits if len(numbers) == len(logits) else logits[numbers]
            patterns = [] if group[0][1].pattern is None else [sequence.pattern for _, sequence in group]
            try:
                tokens = group[0][1].token_sampler.sample_rows(here, uniforms, patterns).tolist()
                sampled += zip(numbers, tokens, strict=True)
            except CharrnnError:  # row by row, to find those that it is about
                for (row, sequence), uniform in zip(group, uniforms.tolist(), strict=True):
                    sampled.append((row, _sampled(sequence, logits[row], uniform)))
            continue
        for row, sequence in group:
            sampled.append((row, _sampled(sequence, logits[row])))
    return sampled


def _sampled(sequence: SequenceState, logits: Logits, uniform: float | None = None) -> int | CharrnnError:
    """The next token from the logits ``[vocab]``, or why it cannot be sampled."""
    try:
        if uniform is None:
            return sequence.sample(logits)
        return sequence.token_sampler.sample(logits, uniform, pattern=sequence.pattern)
    except CharrnnError as error:
        return error


def generate_batch(
    cell: Cell, info: ModelInfo, sequences: Iterator[SequenceState], batch: int
) -> Iterator[list[tuple[int, Generation]]]:
    """Generates up to ``batch`` texts side by side; a new one is taken as soon as one is finished.

    Yields:
        (number of the text in ``sequences``, the finished text) for each text that one step has finished.

    Raises:
        CharrnnError: a text cannot be finished; all others are lost.
    """
    numbered = enumerate(sequences)
    batch_slots: BatchSlots[_NumberedSlot] = BatchSlots(cell, info)
    while True:
        free = batch - batch_slots.count
        new = [_NumberedSlot(*item) for _, item in zip(range(free), numbered, strict=False)] if free else []
        alone = [slot for slot in new if slot.sequence.particles > 1]
        if alone:  # the particles of each of them are a batch of their own
            yield [_generate_alone(cell, slot) for slot in alone]
            new = [slot for slot in new if slot.sequence.particles == 1]
        batch_slots.add([(slot, None) for slot in new])
        if not batch_slots.count:
            if alone:
                continue  # there may be more
            return
        finished: list[int] = []
        while not finished:
            for row in _sample(cell, batch_slots):
                sequence = batch_slots.slot(row).sequence
                if sequence.finish_reason:
                    note_end(cell, sequence)
                    finished.append(row)
        done = [batch_slots.slot(row) for row in finished]
        batch_slots.remove(finished)
        yield [(slot.number, slot.sequence.result(slot.pieces)) for slot in done]


def _generate_alone(cell: Cell, slot: _NumberedSlot) -> tuple[int, Generation]:
    pieces = list(generate_one(cell, slot.sequence))
    return slot.number, slot.sequence.result(pieces)


class _NumberedSlot(Slot):
    """A text with its number in the batch's iterable."""

    def __init__(self, number: int, sequence: SequenceState) -> None:
        super().__init__(sequence)
        self.number = number
        self.pieces: list[str] = []

    def add(self, piece: str, last_token: int) -> None:
        self.last_token = last_token
        if piece:
            self.pieces.append(piece)


def _sample(cell: Cell, batch_slots: BatchSlots[_NumberedSlot]) -> list[int]:
    """Samples one or more tokens of each text whose prompt has been fed; the rows that have new ones."""
    block = _draw_block(cell, batch_slots)
    if block is None:
        block = _sample_block(batch_slots)
    if block is not None:
        for row, tokens in block:
            slot = batch_slots.slot(row)
            slot.add(slot.sequence.extend(tokens), tokens[-1])
        return [row for row, _ in block]
    logits = batch_slots.step()
    ready = [(row, slot.sequence) for row, slot in batch_slots.occupied if slot.prefilled]
    sampled = sample_rows(ready, logits)
    for row, token in sampled:
        if isinstance(token, CharrnnError):
            raise token
        slot = batch_slots.slot(row)
        slot.add(slot.sequence.append(token), token)
    return [row for row, _ in sampled]


def _draw_block(cell: Cell, batch_slots: BatchSlots[_NumberedSlot]) -> list[tuple[int, list[int]]] | None:
    """Several steps in one call of the model: (row, its tokens); None if that cannot be done or does not pay."""
    slots = [slot for _, slot in batch_slots.occupied]
    most = min(slot.sequence.most_steps(cell.blocks, len(slots)) for slot in slots) if cell.blocks else 0
    if most < MIN_STEPS:
        return None
    return batch_slots.draw(min(most, *(len(s.feed) - 1 + s.sequence.length - s.sequence.num_generated for s in slots)))


def _sample_block(batch_slots: BatchSlots[_NumberedSlot]) -> list[tuple[int, list[int]]] | None:
    """Several steps in a row, without updating the texts in between: (row, its tokens) for each.

    The block ends when a text ends. None if there are few rows, or if their options differ.
    """
    ready = batch_slots.occupied
    first = ready[0][1].sequence
    if len(ready) < _MIN_ROWS or not all(
        slot.sequence.token_sampler is first.token_sampler
        and slot.sequence.token_sampler.only_temperature
        and not slot.sequence.wants_log_probs
        and not slot.sequence.stop.strings
        and slot.num_fed >= len(slot.prompt) - 1  # the token after the next one fed is sampled
        for _, slot in ready
    ):
        return None
    steps = min(MAX_STEPS, *(slot.sequence.length - slot.sequence.num_generated for _, slot in ready))
    uniforms = np.array([slot.sequence.uniforms.peek(steps) for _, slot in ready]).T.copy()
    rows = np.array([row for row, _ in ready])
    all_rows = len(ready) == len(batch_slots.slots)
    tokens = batch_slots.next_tokens()
    sample, end = first.token_sampler.sample_rows, first.end
    sampled = np.empty((steps, len(ready)), np.int64)
    for at in range(steps):
        logits = batch_slots.step(tokens)
        sampled[at] = sample(logits if all_rows else logits[rows], uniforms[at])
        tokens[rows] = sampled[at]
        if end is not None and (sampled[at] == end).any():
            steps = at + 1
            break
    return list(zip(rows.tolist(), sampled[:steps].T.tolist(), strict=True))
