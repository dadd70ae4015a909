"""Streams of items: in a new order every epoch, one item after the other, never cut and never mixed.

A stream reads ``[begin] c … c [end] [begin] c …``. After an end token there is
nothing to predict, and the state becomes zero: see ``TrainingText.resets``.
An item with a label begins with the token of the label in place of ``[begin]``;
every n-th item of the order is read without its label: see ``DataConfig.label_dropout``.

Letters: T sequence length, B batch (one stream for each row), M items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.config import DataConfig
from charrnn.data.corpus import Corpus
from charrnn.data.permutation import shuffled
from charrnn.data.split import ItemSplit
from charrnn.errors import CorpusError

NO_TARGET = -100  # cross_entropy ignores targets of this value
VALIDATION_TOKENS = 1 << 20  # enough to know a loss to about 0.002 nats, whatever the size of the text
MAX_VALIDATED_ITEM = 1 << 16  # of a longer item, validation reads only the beginning
_BLOCK = 1 << 20  # items looked at together
_BUFFERED = 1 << 16  # tokens that all streams together hold in their buffers


class Items:
    """The items of a corpus, divided into parts by their hashes; see ``ItemSplit``.

    Args:
        corpus: a text in items.
        config: what part of the items is for validation and for the test, and what part is read without labels.

    Attributes:
        label_counts: how many training items have each label.

    Raises:
        CorpusError: a part is empty, or hardly any item is left for training.
    """

    def __init__(self, corpus: Corpus, config: DataConfig) -> None:
        assert corpus.items is not None
        assert corpus.hashes is not None
        # As plain arrays, which are faster to index than memmaps.
        self.ids: NDArray[np.unsignedinteger] = np.asarray(corpus.ids)
        self.bounds: NDArray[np.int64] = np.asarray(corpus.items)
        self.hashes: NDArray[np.uint64] = np.asarray(corpus.hashes)
        self.end = corpus.vocabulary.special["end"]
        self.begin = corpus.vocabulary.special["begin"]
        self.labels = corpus.vocabulary.labels
        self.label_dropout = config.label_dropout if self.labels else 0.0
        counts = np.zeros(len(corpus.vocabulary), np.int64)
        self.split = ItemSplit.of_items(self.hashes, config, corpus.description)
        self.train_tokens = self.val_tokens = self.train_items = 0
        for at in range(0, len(self), _BLOCK):
            hashes = self.hashes[at : at + _BLOCK]
            lengths = np.diff(self.bounds[at : at + len(hashes) + 1])
            train = self.split.mask(hashes, "train")
            self.train_items += int(train.sum())
            self.train_tokens += int(lengths[train].sum())
            self.val_tokens += int(lengths[self.split.mask(hashes, "val")].sum())
            if self.labels:
                counts += np.bincount(self.ids[self.bounds[at : at + len(hashes)][train]], minlength=len(counts))
        self.label_counts = {label: int(counts[token]) for label, token in self.labels.items()}
        if self.train_items < len(self) * (1 - config.val_frac - config.test_frac) / 100:
            raise CorpusError(
                f"{corpus.description}: only {self.train_items:,} of {len(self):,} items are left for training, "
                "since equal items stay together and nearly all are equal; leave out repetitions (sort -u)"
            )

    def __len__(self) -> int:
        return len(self.hashes)

    def train_hashes(self) -> Iterator[NDArray[np.uint64]]:
        """Hashes of the training items, in blocks."""
        for at in range(0, len(self), _BLOCK):
            hashes = self.hashes[at : at + _BLOCK]
            yield np.asarray(hashes[self.split.mask(hashes, "train")])

    def validation_items(self, max_tokens: int = VALIDATION_TOKENS) -> NDArray[np.int64]:
        """Indices of validation items: all of them, or if they have more than ``max_tokens``, those of lowest hash."""
        split = self.split
        if self.val_tokens > max_tokens:
            below = int(float(split.val_below) * (max_tokens / self.val_tokens))
            split = replace(split, val_below=max(below, int(self.hashes.min()) + 1))
        found = [
            at + np.flatnonzero(split.mask(self.hashes[at : at + _BLOCK], "val")) for at in range(0, len(self), _BLOCK)
        ]
        return np.concatenate(found)

    def streams(self, batch_size: int, seed: int, rows: range | None = None) -> ItemStreams:
        """Streams over the training items; see ``ItemStreams``."""
        return ItemStreams(self, batch_size, seed, rows)


class ItemStreams:
    """B readers of shuffled items. Reader b reads items b, b + B, b + 2B, … of the order.

    The position of a reader depends only on the seed and on how much it has
    read, so the readers can be divided among processes. Every epoch has its own
    order. At the end of an epoch the readers do not wait for each other.

    Args:
        items: the items. Those that are not for training are skipped.
        batch_size: B, of all processes together.
        seed: seed of the order.
        rows: which of the B readers to make; all of them by default.

    Attributes:
        length: number of training tokens.
        position: number of tokens that each reader has read.
    """

    def __init__(self, items: Items, batch_size: int, seed: int, rows: range | None = None) -> None:
        self.items = items
        self.batch_size, self.seed = batch_size, seed
        self._rows = rows or range(batch_size)
        self.length = items.train_tokens
        self.position = 0
        self._turn_B = np.zeros(len(self._rows), np.int64)  # items that each reader has passed, skipped ones included
        self._offset_B = np.zeros(len(self._rows), np.int64)  # tokens from the start of the current item to the buffer
        self._buffer_NB = np.zeros((1, len(self._rows)), np.int64)  # one more token than inputs: the last target
        self._used = 0  # tokens of the buffer that have been inputs

    @property
    def epoch(self) -> float:
        """Number of passes over the training items so far."""
        return self.position * self.batch_size / self.length

    def rows(self, rows: slice) -> ItemStreams:
        """Some of the readers. ``epoch`` still counts the passes of all readers."""
        return ItemStreams(self.items, self.batch_size, self.seed, self._rows[rows])

    def row_state(self) -> tuple[Tensor, ...]:
        """Item and offset of each reader, int64 ``[B, 2]``."""
        return (torch.from_numpy(np.stack([self._turn_B, self._offset_B + self._used], axis=1)),)

    def load_state(self, position: int, row_state: Sequence[Tensor]) -> None:
        """Sets where the readers are; raises ValueError if the state is that of another reader."""
        shapes = [(state.dtype, tuple(state.shape)) for state in row_state]
        if shapes != [(torch.int64, (len(self._rows), 2))] or bool((row_state[0] < 0).any()):
            raise ValueError(f"the positions of {len(self._rows)} streams of items are {shapes}")
        self.position = position
        self._turn_B, self._offset_B = (column.copy() for column in row_state[0].numpy().T)
        self._buffer_NB, self._used = self._buffer_NB[:1], 0

    def next(self, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next inputs and targets, both ``[T, B]``. The target of an end token is ``NO_TARGET``."""
        if self._used + seq_len >= len(self._buffer_NB):
            self._offset_B += self._used
            self._fill_buffer(max(seq_len, min(64 * seq_len, _BUFFERED // len(self._rows))))
        at, self._used = self._used, self._used + seq_len
        self.position += seq_len
        inputs = self._buffer_NB[at : at + seq_len]
        targets = self._buffer_NB[at + 1 : at + seq_len + 1].copy()
        targets[inputs == self.items.end] = NO_TARGET
        return inputs, targets

    def _fill_buffer(self, count: int) -> None:
        """Reads the next ``count`` tokens of each reader, and one more."""
        items, lengths, unlabelled = self._upcoming(int(self._offset_B.max()) + count + 1)
        # One row a reader: where its items begin and end, counted from the beginning of the first one.
        ends = lengths.cumsum(axis=1)
        begins = ends - lengths
        first, last = self._offset_B[:, None], self._offset_B[:, None] + count + 1
        parts = (np.minimum(ends, last) - np.maximum(begins, first)).clip(0)
        starts = self.items.bounds[items] + np.maximum(first - begins, 0)
        # Each row of parts adds up to count + 1, so all of them together are the buffer, row by row.
        sizes = parts.ravel()
        positions = np.arange(sizes.sum()) + np.repeat(starts.ravel() - (sizes.cumsum() - sizes), sizes)
        tokens = self.items.ids[positions].astype(np.int64)
        if self.items.label_dropout:
            begins_here = ((parts > 0) & (begins >= first) & unlabelled).ravel()
            tokens[(sizes.cumsum() - sizes)[begins_here]] = self.items.begin
        self._buffer_NB = np.ascontiguousarray(tokens.reshape(len(self._rows), count + 1).T)
        # Drop the items that end before the buffer.
        done = (ends <= first).sum(axis=1)
        row = np.arange(len(self._rows))
        self._offset_B = self._offset_B - begins[row, done]
        self._turn_B = self._turn_B + done
        self._used = 0

    def _upcoming(self, min_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The next items of each reader, their lengths, and which are read without label, all ``[B, n]``.

        There are at least ``min_tokens`` tokens a reader. An item that is not for training has the length 0.
        """
        # Every n-th item of the order, which is another item in every epoch; no random numbers are needed.
        dropout = self.items.label_dropout
        total = len(self.items)
        mean = int(self.items.bounds[-1]) / total
        count = 2 + int(1.2 * min_tokens / mean * total / self.items.train_items)
        while True:
            turns = self._turn_B[:, None] + np.arange(count)
            numbers = turns * self.batch_size + np.asarray(self._rows)[:, None]
            epochs, places = np.divmod(numbers.ravel(), total)
            items = shuffled(places, total, self.seed, epochs).reshape(numbers.shape)
            lengths = self.items.bounds[items + 1] - self.items.bounds[items]
            lengths[~self.items.split.mask(self.items.hashes[items], "train")] = 0
            if int(lengths.sum(axis=1).min()) >= min_tokens:
                unlabelled = np.floor((numbers + 1) * dropout) > np.floor(numbers * dropout)
                return items, lengths, unlabelled
            count *= 2


def packed(items: Items, indices: NDArray[np.int64], batch_size: int, seq_len: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Reads the given items once, in ``batch_size`` streams of similar length: inputs and targets ``[T, B]``.

    Of an item longer than ``MAX_VALIDATED_ITEM`` tokens, only the beginning is read.
    """
    lengths = np.minimum(items.bounds[indices + 1] - items.bounds[indices], MAX_VALIDATED_ITEM)
    ends = lengths.cumsum()
    # Stream b ends with the item in which b + 1 of B equal parts of all tokens have been reached.
    cuts = np.searchsorted(ends, (np.arange(batch_size) + 1) * ends[-1] / batch_size)
    bounds = np.concatenate([[0], np.maximum.accumulate(np.minimum(cuts + 1, len(indices)))])
    firsts = np.concatenate([[0], ends])[bounds]
    for at in range(0, int(np.diff(firsts).max()), seq_len):
        x_TB = np.full((seq_len, batch_size), items.end, np.int64)
        y_TB = np.full((seq_len, batch_size), NO_TARGET, np.int64)
        for b in range(batch_size):
            offsets = np.arange(firsts[b] + at, min(firsts[b] + at + seq_len, firsts[b + 1]))
            if not len(offsets):
                continue
            item = np.searchsorted(ends, offsets, side="right")
            within = offsets - (ends[item] - lengths[item])
            positions = items.bounds[indices[item]] + within
            has_next = within < lengths[item] - 1
            # The state is reset after the last token that is read of an item, even if the item goes on.
            x_TB[: len(offsets), b] = np.where(has_next, items.ids[positions], items.end)
            y_TB[: len(offsets), b][has_next] = items.ids[positions[has_next] + 1]
        yield torch.from_numpy(x_TB), torch.from_numpy(y_TB)
