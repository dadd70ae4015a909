"""Contiguous streams of running text, for truncated backpropagation through time.

Letters: T sequence length, B batch (one stream for each row), N length of the text, L length of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.unsignedinteger]


class Streams:
    """B readers of one text. Each reads its own stream again and again.

    Args:
        ids: token ids ``[N]``.
        starts: position at which each stream begins ``[B]``.
        length: L. If it is N, every reader goes round the whole text.
        position: number of characters that each reader has read already.

    Attributes:
        position: number of characters that each reader has read.
    """

    def __init__(self, ids: Ids, starts: NDArray[np.int64], length: int, position: int = 0) -> None:
        assert len(ids) >= 2
        assert 1 <= length <= len(ids)
        self.ids = ids
        self.starts_B = starts
        self.length = length
        self.position = position
        # If all readers go round the whole text, together they have read it once when each has read its share.
        self._share = length / len(starts) if length == len(ids) else length

    @classmethod
    def around(cls, ids: Ids, batch_size: int) -> Streams:
        """Readers that begin at evenly spaced positions and go round the whole text.

        Reader b begins at b * N / B. When it reaches the position at which
        reader b + 1 began, it reads on, so the carried state always belongs to
        the text before. The one exception is the jump from the end of the text
        to its beginning.
        """
        return cls(ids, np.arange(batch_size) * len(ids) // batch_size, len(ids))

    @property
    def epoch(self) -> float:
        """Number of passes over the text so far."""
        return self.position / self._share

    def rows(self, rows: slice) -> Streams:
        """Some of the readers. ``epoch`` still counts the passes of all readers."""
        part = Streams(self.ids, self.starts_B[rows], self.length, self.position)
        part._share = self._share
        return part

    def next(self, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next inputs and targets, both ``[T, B]``. The target is the character after the input."""
        steps_T = np.arange(self.position, self.position + seq_len) % self.length
        self.position += seq_len
        positions_TB = (steps_T[:, None] + self.starts_B) % len(self.ids)
        inputs = self.ids[positions_TB].astype(np.int64)
        targets = self.ids[(positions_TB + 1) % len(self.ids)].astype(np.int64)
        return inputs, targets

    def row_state(self) -> tuple[Tensor, ...]:
        """Empty, since ``position`` says where all readers are."""
        return ()

    def load_state(self, position: int, row_state: Sequence[Tensor]) -> None:
        """Sets where the readers are; raises ValueError if the state is that of another reader."""
        if row_state:
            raise ValueError("the position is that of a text in items")
        self.position = position
