"""A permutation whose entries are computed one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.permutation import shuffled

if TYPE_CHECKING:
    pass


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_a_shuffle_gives_every_item_once(count: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(count), count, seed, np.full(count, epoch))
    assert np.array_equal(np.sort(order), np.arange(count))
    some = np.arange(0, count, 7)
    assert np.array_equal(shuffled(some, count, seed, np.full(len(some), epoch)), order[some])


def test_a_shuffle_looks_random() -> None:
    n = 20_000
    orders = [shuffled(np.arange(n), n, seed, np.full(n, epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    for order in orders:
        assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.03
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.03
        # Neighbours stay neighbours about as often as chance lets them (twice), not more.
        assert (np.abs(np.diff(order)) == 1).sum() < 15
    assert (orders[0] == orders[1]).sum() < 15
    assert (orders[0] == orders[2]).sum() < 15
