"""Contiguous streams for truncated backpropagation through time.

Letters: T sequence length, B batch (streams), N length of the text, L length of a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data.corpus import Corpus
from charrnn.data.item_streams import Items, ItemStreams
from charrnn.data.split import split_end, split_streams

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

    def summary(self) -> dict[str, Any]:
        """What a checkpoint must say so that others divide this text in the same way."""
        return {} if self.items is None else {"item_split": self.items.split.to_json()}

    @property
    def train_characters(self) -> int:
        """Characters that are trained on; of items, their ends are counted."""
        if isinstance(self.train, ItemStreams):
            return self.train.length - self.train.items.train_items
        return self.train.length * (1 if self.val is None else len(self.train.starts_B))


def divided(corpus: Corpus, config: DataConfig, *, batch_size: int, seq_len: int, seed: int) -> Split:
    """The training and the validation part of a text, ready to be read.

    Raises:
        CorpusError: the text is too short, or has too few distinct items.
    """
    ids = corpus.ids
    if config.has_items:
        items = Items(corpus, config)
        return Split(train=items.streams(batch_size, seed), val=None, val_ids=ids[:0], items=items)
    if config.split == "end":
        parts = split_end(len(ids), config)
        val_start = int(parts.val.starts_P[0])
        train = Streams.around(ids[: parts.train.length], batch_size)
        return Split(train=train, val=None, val_ids=ids[val_start : val_start + parts.val.length])
    parts = split_streams(len(ids), config, batch_size=batch_size, seq_len=seq_len)
    return Split(
        train=Streams(ids, parts.train.starts_P, parts.train.length),
        val=Streams(ids, parts.val.starts_P, parts.val.length),
        val_ids=ids[:0],
        batches=parts.batches,
    )
