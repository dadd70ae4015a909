"""Contiguous streams for truncated backpropagation through time.

Letters: T sequence length, B batch (streams), N length of the text, L length of a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.data.corpus import Corpus, split_ids
from charrnn.data.item_streams import Items, ItemStreams
from charrnn.errors import CorpusError

Ids = NDArray[np.unsignedinteger]


class Streams:
    """B readers of one text, each going round and round its stream.

    Args:
        ids: token ids ``[N]``.
        starts: where each stream begins ``[B]``.
        length: L. Streams as long as the text go round the whole text.
        position: characters that each reader has read already.
    """

    def __init__(self, ids: Ids, starts: NDArray[np.int64], length: int, position: int = 0) -> None:
        assert len(ids) >= 2
        assert 1 <= length <= len(ids)
        self.ids = ids
        self.starts_B = starts
        self.length = length
        self.position = position
        # Streams around the whole text have read it once when each has read its share.
        self._share = length / len(starts) if length == len(ids) else length

    @classmethod
    def around(cls, ids: Ids, batch_size: int) -> Streams:
        """Readers spread evenly over the whole text.

        Reader b begins at b * N / B. When it reaches the place where reader
        b + 1 began it simply reads on, so a state carried along is the state of
        the text that came before; only the jump from the end of the text to its
        beginning is none.
        """
        return cls(ids, np.arange(batch_size) * len(ids) // batch_size, len(ids))

    @property
    def epoch(self) -> float:
        """Passes over the text so far."""
        return self.position / self._share

    def rows(self, rows: slice) -> Streams:
        """Some of the readers alone; their epochs are those of all."""
        part = Streams(self.ids, self.starts_B[rows], self.length, self.position)
        part._share = self._share
        return part

    def next(self, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets, both ``[T, B]``: targets are the characters after the inputs."""
        steps_T = np.arange(self.position, self.position + seq_len) % self.length
        self.position += seq_len
        places_TB = (steps_T[:, None] + self.starts_B) % len(self.ids)
        inputs = self.ids[places_TB].astype(np.int64)
        targets = self.ids[(places_TB + 1) % len(self.ids)].astype(np.int64)
        return inputs, targets


@dataclass(frozen=True, kw_only=True)
class Split:
    """A text divided for training and validation.

    Attributes:
        train: what is trained on.
        items: the items, for a text in items; validation takes them from here.
        val: streams of validation text, read once, or None where it is ``val_ids`` in one piece.
        val_ids: the validation text in one piece; empty where it is ``val``.
        batches: batches of the whole text and of the training text, for split "streams".
    """

    train: Streams | ItemStreams
    val: Streams | None
    val_ids: Ids
    batches: tuple[int, int] | None = None
    items: Items | None = None

    @property
    def train_characters(self) -> int:
        """Characters that are trained on; of items, their ends are counted."""
        if isinstance(self.train, ItemStreams):
            return self.train.length - self.train.items.train_items
        return self.train.length * (1 if self.val is None else len(self.train.starts_B))


def split_items(corpus: Corpus, *, val_frac: float, batch_size: int, seed: int) -> Split:
    """Divides a text in items; see ``Items`` and ``ItemStreams``.

    Raises:
        CorpusError: there are too few distinct items.
    """
    items = Items(corpus, val_frac)
    return Split(train=items.streams(batch_size, seed), val=None, val_ids=corpus.ids[:0], items=items)


def split_streams(
    ids: Ids, *, kind: Literal["end", "streams"], val_frac: float, batch_size: int, seq_len: int
) -> Split:
    """Divides a text.

    "end" keeps the last ``val_frac`` of the text for validation. "streams" is
    char-rnn's way: the text is cut into B streams of whole batches, and the
    last ``val_frac`` of each stream's batches is for validation.

    Raises:
        CorpusError: the text is too short for "streams".
    """
    if kind == "end":
        train_ids, val_ids = split_ids(ids, val_frac)
        return Split(train=Streams.around(train_ids, batch_size), val=None, val_ids=val_ids)
    batches = len(ids) // (batch_size * seq_len)
    n_train = int(batches * (1 - val_frac))
    if not 0 < n_train < batches:
        raise CorpusError(
            f"{len(ids):,} characters are {batches} batches of {batch_size} × {seq_len}: too few to divide each "
            "stream; choose a smaller --batch-size or --seq-len, or --split end"
        )
    starts = np.arange(batch_size) * batches * seq_len
    return Split(
        train=Streams(ids, starts, n_train * seq_len),
        val=Streams(ids, starts + n_train * seq_len, (batches - n_train) * seq_len),
        val_ids=ids[:0],
        batches=(batches, n_train),
    )
