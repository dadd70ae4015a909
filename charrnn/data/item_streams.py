"""Items in streams: shuffled anew every epoch, one after the other, never cut and never mixed.

A stream reads ``[begin] c … c [end] [begin] c …``. Where the input is the end
token there is nothing to predict, and the state that follows it is zero: the
model is told by ``resets``. Letters: T sequence length, B batch (streams), M
items, N length of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
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

NO_TARGET = -100  # what torch's cross_entropy leaves out
VALIDATION_TOKENS = 1 << 20  # a loss is known to about 0.002 nats from so many, whatever the size of the text
LONGEST_VALIDATED = 1 << 16  # tokens of an item that are looked at in a validation
_BLOCK = 1 << 20  # items looked at together
_AHEAD = 1 << 16  # tokens that all streams together have ready


class Items:
    """The items of a corpus, divided into parts by their hashes; see ``ItemSplit``.

    Args:
        corpus: a text in items.
        config: what part of the items is for validation and for the test.

    Raises:
        CorpusError: a part is empty, or nearly nothing is left for training.
    """

    def __init__(self, corpus: Corpus, config: DataConfig) -> None:
        assert corpus.items is not None
        assert corpus.hashes is not None
        # Plain views: a memmap is slow to index.
        self.ids: NDArray[np.unsignedinteger] = np.asarray(corpus.ids)
        self.bounds: NDArray[np.int64] = np.asarray(corpus.items)
        self.hashes: NDArray[np.uint64] = np.asarray(corpus.hashes)
        self.end = corpus.vocabulary.special["end"]
        self.split = ItemSplit.of_items(self.hashes, config, corpus.description)
        self.train_tokens = self.val_tokens = self.train_items = 0
        for at in range(0, len(self), _BLOCK):
            hashes = self.hashes[at : at + _BLOCK]
            lengths = np.diff(self.bounds[at : at + len(hashes) + 1])
            train = self.split.mask(hashes, "train")
            self.train_items += int(train.sum())
            self.train_tokens += int(lengths[train].sum())
            self.val_tokens += int(lengths[self.split.mask(hashes, "val")].sum())
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
    """B readers of shuffled items: reader b takes every B-th item of the order, beginning with the b-th.

    Where a reader stands depends on nothing but the seed, so readers may be
    divided among processes. Every epoch has an order of its own; the readers
    are not told to wait for each other at its end.

    Args:
        items: the items; those for validation are passed over.
        batch_size: B, of all processes together.
        seed: of the order.
        rows: which of the readers are here; all of them by default.
    """

    def __init__(self, items: Items, batch_size: int, seed: int, rows: range | None = None) -> None:
        self.items = items
        self.batch_size, self.seed = batch_size, seed
        self._rows = rows or range(batch_size)
        self.length = items.train_tokens
        self.position = 0  # tokens that each reader has read
        self._turn_B = np.zeros(len(self._rows), np.int64)  # items that each reader has taken, passed over or not
        self._offset_B = np.zeros(len(self._rows), np.int64)  # where it stands, from the beginning of the next one
        self._buffer_NB = np.zeros((1, len(self._rows)), np.int64)  # a token more than can be read: the last target
        self._used = 0

    @property
    def epoch(self) -> float:
        """Passes over the items so far."""
        return self.position * self.batch_size / self.length

    def rows(self, rows: slice) -> ItemStreams:
        """Some of the readers alone; their epochs are those of all."""
        return ItemStreams(self.items, self.batch_size, self.seed, self._rows[rows])

    @property
    def places(self) -> Tensor:
        """Where each reader here stands, int64 ``[B, 2]``: for a checkpoint."""
        return torch.from_numpy(np.stack([self._turn_B, self._offset_B + self._used], axis=1))

    @places.setter
    def places(self, value: Tensor) -> None:
        if value.dtype != torch.int64 or value.shape != (len(self._rows), 2) or bool((value < 0).any()):
            raise ValueError(f"the places of {len(self._rows)} streams are {value.dtype} {tuple(value.shape)}")
        self._turn_B, self._offset_B = (column.copy() for column in value.numpy().T)
        self._buffer_NB, self._used = self._buffer_NB[:1], 0

    def next(self, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets, both ``[T, B]``; the target is ``NO_TARGET`` where the input is the end token."""
        if self._used + seq_len >= len(self._buffer_NB):
            self._offset_B += self._used
            self._read(max(seq_len, min(64 * seq_len, _AHEAD // len(self._rows))))
        at, self._used = self._used, self._used + seq_len
        self.position += seq_len
        inputs = self._buffer_NB[at : at + seq_len]
        targets = self._buffer_NB[at + 1 : at + seq_len + 1].copy()
        targets[inputs == self.items.end] = NO_TARGET
        return inputs, targets

    def _read(self, count: int) -> None:
        """Makes ready the next ``count`` tokens of each reader, and the one behind them."""
        items, lengths = self._take(int(self._offset_B.max()) + count + 1)
        # One row a reader: where its items begin and end, counted from the first one's beginning.
        ends = lengths.cumsum(axis=1)
        begins = ends - lengths
        first, last = self._offset_B[:, None], self._offset_B[:, None] + count + 1
        parts = (np.minimum(ends, last) - np.maximum(begins, first)).clip(0)
        starts = self.items.bounds[items] + np.maximum(first - begins, 0)
        # Each row of parts adds up to count + 1, so all of them together are the buffer, row by row.
        sizes = parts.ravel()
        places = np.arange(sizes.sum()) + np.repeat(starts.ravel() - (sizes.cumsum() - sizes), sizes)
        tokens = self.items.ids[places].astype(np.int64)
        self._buffer_NB = np.ascontiguousarray(tokens.reshape(len(self._rows), count + 1).T)
        # Items that were left behind are forgotten.
        here = (ends <= first).sum(axis=1)
        row = np.arange(len(self._rows))
        self._offset_B = self._offset_B - begins[row, here]
        self._turn_B = self._turn_B + here
        self._used = 0

    def _take(self, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next items of each reader, ``[B, n]`` for some n, and their lengths: at least so many tokens for each.

        An item of another part has the length 0.
        """
        total = len(self.items)
        mean = int(self.items.bounds[-1]) / total
        wanted = 2 + int(1.2 * tokens / mean * total / self.items.train_items)
        while True:
            turns = self._turn_B[:, None] + np.arange(wanted)
            numbers = turns * self.batch_size + np.asarray(self._rows)[:, None]
            epochs, places = np.divmod(numbers.ravel(), total)
            items = shuffled(places, total, self.seed, epochs).reshape(numbers.shape)
            lengths = self.items.bounds[items + 1] - self.items.bounds[items]
            lengths[~self.items.split.mask(self.items.hashes[items], "train")] = 0
            if int(lengths.sum(axis=1).min()) >= tokens:
                return items, lengths
            wanted *= 2


def packed(items: Items, numbers: NDArray[np.int64], batch: int, seq_len: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The given items once, in ``batch`` streams of about the same length: inputs and targets ``[T, B]``, in turn.

    Of an item that is longer than 65,536 tokens only that beginning is read.
    """
    lengths = np.minimum(items.bounds[numbers + 1] - items.bounds[numbers], LONGEST_VALIDATED)
    ends = lengths.cumsum()
    # Stream b ends with the item in which b + 1 parts of all tokens are reached.
    cuts = np.searchsorted(ends, (np.arange(batch) + 1) * ends[-1] / batch)
    bounds = np.concatenate([[0], np.maximum.accumulate(np.minimum(cuts + 1, len(numbers)))])
    firsts = np.concatenate([[0], ends])[bounds]
    for at in range(0, int(np.diff(firsts).max()), seq_len):
        x_TB = np.full((seq_len, batch), items.end, np.int64)
        y_TB = np.full((seq_len, batch), NO_TARGET, np.int64)
        for b in range(batch):
            places = np.arange(firsts[b] + at, min(firsts[b] + at + seq_len, firsts[b + 1]))
            if not len(places):
                continue
            item = np.searchsorted(ends, places, side="right")
            within = places - (ends[item] - lengths[item])
            where = items.bounds[numbers[item]] + within
            has_next = within < lengths[item] - 1
            # An item that was cut ends here too.
            x_TB[: len(places), b] = np.where(has_next, items.ids[where], items.end)
            y_TB[: len(places), b][has_next] = items.ids[where[has_next] + 1]
        yield torch.from_numpy(x_TB), torch.from_numpy(y_TB)
