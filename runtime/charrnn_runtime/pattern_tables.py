"""Tables of the deterministic states of patterns, for the graph that draws blocks of tokens.

Each state that is known is a row. A graph looks up which tokens may be drawn there, and which row comes next. A
state that has not been made yet has no row: the row of all such states is ``UNKNOWN``. All patterns over vocabularies
of one size have their rows in the same arrays, so that texts with different patterns can be drawn together.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.forking import reset_after_fork

FREE = 0  # the row of a text without a pattern, or one that has ended: every token may be drawn
UNKNOWN = 1  # the row of a text whose state has no row: what is drawn there is of no use
_FIRST_ROWS = 16


class TableArrays(NamedTuple):
    """What a graph gets.

    Attributes:
        needed: for each row and token, how many tokens it takes to a match, itself included; the token may be drawn
            if no more than that are left. int32 ``[rows, vocab]``.
        following: the row after each token, int64 ``[rows, vocab]``.
    """

    needed: NDArray[np.int32]
    following: NDArray[np.int64]


class _Store:
    """The rows of all patterns over vocabularies of one size.

    Attributes:
        arrays: have some rows to spare. They are replaced when they are full; a graph may read them while rows and
            links are added.
        count: how many rows have ever been in use.
        free: those of them that no pattern uses any more.
    """

    def __init__(self, vocab: int) -> None:
        self.arrays = TableArrays(np.zeros((_FIRST_ROWS, vocab), np.int32), np.zeros((_FIRST_ROWS, vocab), np.int64))
        self.arrays.following[UNKNOWN] = UNKNOWN
        self.count = 2
        self.free: deque[int] = deque()
        self.lock = threading.Lock()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock."""
        self.lock = threading.Lock()

    def take(self) -> int:
        """A row that is not in use; for a caller that holds the lock."""
        if self.free:  # rows are added to it without the lock, but taken only with it
            return self.free.popleft()
        if self.count == len(self.arrays.needed):
            self.arrays = TableArrays(*(np.concatenate([array, np.zeros_like(array)]) for array in self.arrays))
        self.count += 1
        return self.count - 1


_stores: dict[int, _Store] = {}  # by size of the vocabulary


class PatternTables:
    """The rows of one pattern. Safe to use from many threads; the rows are free again when the object is deleted.

    Attributes:
        rows: their numbers.
    """

    def __init__(self, vocab: int) -> None:
        self._store = _stores.setdefault(vocab, _Store(vocab))
        self.rows: list[int] = []
        weakref.finalize(self, self._store.free.extend, self.rows).atexit = False

    @property
    def arrays(self) -> TableArrays:
        """The arrays that have all rows which exist now."""
        return self._store.arrays

    def add(self, needed: NDArray[np.int64] | int, leading: NDArray[np.bool_]) -> int:
        """Adds a row: what it needs for each token, and which tokens lead to a state, not yet known; its number."""
        with self._store.lock:
            row = self._store.take()
            self.arrays.needed[row] = needed
            np.multiply(leading, UNKNOWN, out=self.arrays.following[row])  # FREE is 0
            self.rows.append(row)
            return row

    def link(self, row: int, tokens: NDArray[np.int64], target: int) -> None:
        """Makes ``target`` the row that comes after these tokens ``[n]``."""
        with self._store.lock:
            self.arrays.following[row, tokens] = target
