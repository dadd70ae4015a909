"""Streams: every character is read, in its order, and a position can be taken up again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.streams import Streams

LAYOUTS = st.tuples(st.integers(2, 300), st.integers(1, 16), st.integers(1, 20)).filter(lambda x: x[1] <= x[0])


def places(n: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """A text whose every id is its own place."""
    return np.arange(n, dtype=np.uint16)


@given(LAYOUTS)
def test_targets_are_the_characters_after_the_inputs(layout: tuple[int, int, int]) -> None:
    n, batch, seq_len = layout
    streams = Streams.around(places(n), batch)
    for _ in range(3):
        x, y = streams.next(seq_len)
        assert x.shape == y.shape == (seq_len, batch)
        assert x.dtype == y.dtype == np.int64
        assert np.array_equal((x + 1) % n, y)


@given(LAYOUTS)
def test_each_reader_goes_round_the_whole_text(layout: tuple[int, int, int]) -> None:
    n, batch, seq_len = layout
    streams = Streams.around(places(n), batch)
    y = np.concatenate([streams.next(seq_len)[1] for _ in range(-(-n // seq_len))])[:n]
    for reader in y.T:
        assert sorted(reader.tolist()) == list(range(n))


@given(st.integers(1, 40), st.integers(1, 16))
def test_in_one_epoch_every_character_is_a_target_once(share: int, batch: int) -> None:
    n = max(2, share * batch)
    streams = Streams.around(places(n), batch)
    targets = [streams.next(1)[1] for _ in range(n // batch)]
    if n == share * batch:  # the text divides evenly
        assert sorted(np.concatenate(targets).ravel().tolist()) == list(range(n))
        assert streams.epoch == 1.0


@given(LAYOUTS)
def test_readers_are_spread_evenly_and_read_on_where_the_next_one_began(layout: tuple[int, int, int]) -> None:
    n, batch, _ = layout
    inputs = Streams.around(places(n), batch).next(n)[0]  # row t: what each reader reads at time t
    begins = inputs[0].tolist()
    assert begins[0] == 0
    distances = np.diff([*begins, n])
    assert distances.max() - distances.min() <= 1
    for reader in range(batch - 1):
        distance = distances[reader]
        follows = inputs[distance:, reader]
        assert np.array_equal(follows, inputs[: n - distance, reader + 1])
    # Nothing is jumped over, so that a carried state belongs to the text before; the end of the text excepted.
    steps = np.diff(inputs, axis=0)
    assert set(np.unique(steps).tolist()) <= {1, 1 - n}


@given(LAYOUTS, st.integers(0, 5), st.integers(0, 3))
def test_a_position_can_be_taken_up_again(layout: tuple[int, int, int], before: int, after: int) -> None:
    n, batch, seq_len = layout
    straight = Streams.around(places(n), batch)
    for _ in range(before):
        straight.next(seq_len)
    resumed = Streams.around(places(n), batch)
    resumed.load_state(straight.position, straight.row_state())
    assert resumed.epoch == straight.epoch
    for _ in range(after + 1):
        for ours, theirs in zip(straight.next(seq_len), resumed.next(seq_len), strict=True):
            assert np.array_equal(ours, theirs)


def test_a_text_longer_than_its_ids_are_wide() -> None:
    streams = Streams.around(np.zeros(70_000, np.uint8), 3)
    streams.position = 10**12  # years of training
    x, _ = streams.next(4)
    assert x.shape == (4, 3)
    assert streams.epoch == pytest.approx((10**12 + 4) * 3 / 70_000)
