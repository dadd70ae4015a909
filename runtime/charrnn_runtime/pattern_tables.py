"""Tables of a pattern's deterministic states, for the graph that draws blocks of tokens.

Each state that is known is a row. A graph looks up which tokens may be drawn there, and which row comes next.
A state that has not been made yet has no row: the row of all such states is ``UNKNOWN``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.forking import reset_after_fork

FREE = 0  # the row of a text without a pattern, or one that has ended: every token may be drawn
UNKNOWN = 1  # the row of a text whose state has no row: what is drawn there is of no use
_FIRST_ROWS = 16
_MAX_JOINED = 4 << 20  # bytes: larger tables take too much time to join for each block


class TableArrays(NamedTuple):
    """What a graph gets.

    Attributes:
        needed: for each row and token, how many tokens it takes to a match, itself included; the token may be drawn
            if no more than that are left. int32 ``[rows, vocab]``.
        following: the row after each token, int64 ``[rows, vocab]``.
    """

    needed: NDArray[np.int32]
    following: NDArray[np.int64]


class PatternTables:
    """The tables of one pattern, which grow. Safe to use from many threads.

    Attributes:
        arrays: have some rows to spare. They are replaced when they are full; a graph may read them while rows and
            links are added.
        count: how many rows are in use.
    """

    def __init__(self, vocab: int) -> None:
        self.arrays = TableArrays(np.zeros((_FIRST_ROWS, vocab), np.int32), np.zeros((_FIRST_ROWS, vocab), np.int64))
        self.arrays.following[UNKNOWN] = UNKNOWN
        self.count = 2
        self._lock = threading.Lock()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock."""
        self._lock = threading.Lock()

    def add(self, needed: NDArray[np.int64] | int, leading: NDArray[np.bool_]) -> int:
        """Adds a row: what it needs for each token, and which tokens lead to a state, not yet known; its number."""
        with self._lock:
            if self.count == len(self.arrays.needed):
                self.arrays = TableArrays(*(np.concatenate([array, np.zeros_like(array)]) for array in self.arrays))
            row = self.count
            self.arrays.needed[row] = needed
            np.multiply(leading, UNKNOWN, out=self.arrays.following[row])  # FREE is 0
            self.count += 1  # last: a fork in between leaves no half of a row
            return row

    def link(self, row: int, tokens: NDArray[np.int64], target: int) -> None:
        """Makes ``target`` the row that comes after these tokens ``[n]``."""
        with self._lock:
            self.arrays.following[row, tokens] = target


def join_tables(tables: Sequence[PatternTables]) -> tuple[TableArrays, list[int]] | None:
    """One table of several: the arrays, and what is added to the row numbers of each. None if it would be large."""
    if len(tables) == 1:
        return tables[0].arrays, [0]
    parts = [(table.count, table.arrays) for table in tables]
    if sum(count * (arrays.needed[0].nbytes + arrays.following[0].nbytes) for count, arrays in parts) > _MAX_JOINED:
        return None
    needed, following, shifts, shift = [parts[0][1].needed[:2]], [parts[0][1].following[:2]], list[int](), 0
    for count, arrays in parts:
        own = arrays.following[2:count]
        needed.append(arrays.needed[2:count])
        # A row that another thread has added meanwhile is not in this copy.
        following.append(np.where(own < 2, own, np.where(own < count, own + shift, UNKNOWN)))
        shifts.append(shift)
        shift += count - 2
    return TableArrays(np.concatenate(needed), np.concatenate(following)), shifts
