"""Contiguous streams for truncated backpropagation through time.

Letters: T sequence length, B batch (streams), N length of the text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger]


class Streams:
    """B readers of one text, spread evenly over it, each going round and round.

    Reader b begins at b * N / B. When it reaches the place where reader b + 1
    began it simply reads on, so a state carried along is the state of the text
    that came before; only the jump from the end of the text to its beginning
    is none. One epoch is N / B characters of each reader.

    Args:
        ids: token ids ``[N]``, N at least 2.
        batch_size: B, at most N.
        position: characters that each reader has read already.
    """

    def __init__(self, ids: Ids, batch_size: int, position: int = 0) -> None:
        assert 1 <= batch_size <= len(ids)
        assert len(ids) >= 2
        self.ids = ids
        self.position = position
        self._starts_B = np.arange(batch_size) * len(ids) // batch_size

    @property
    def epoch(self) -> float:
        """Passes over the text so far."""
        return self.position * len(self._starts_B) / len(self.ids)

    def next(self, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets, both ``[T, B]``: targets are the characters after the inputs."""
        steps_T1 = np.arange(self.position, self.position + seq_len + 1)
        self.position += seq_len
        window = self.ids[(steps_T1[:, None] + self._starts_B) % len(self.ids)].astype(np.int64)
        return window[:-1], window[1:]
