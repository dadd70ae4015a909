"""The parts of a text: disjoint, complete, none of them empty, and where char-rnn had them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data.split import PARTS, ItemSplit, Pieces, split_end, split_streams
from charrnn.errors import CorpusError

FRACTIONS = st.tuples(st.floats(0.001, 0.6), st.one_of(st.just(0.0), st.floats(0.001, 0.35)))
HASHES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 9)), min_size=2, max_size=40)


def config(val_frac: float, test_frac: float = 0.0, **more: object) -> DataConfig:
    return DataConfig(val_frac=val_frac, test_frac=test_frac, **more)  # type: ignore[arg-type]


@given(st.integers(0, 500), FRACTIONS)
def test_the_end_of_a_text_is_for_the_test_and_what_is_before_it_for_validation(
    n: int, fractions: tuple[float, float]
) -> None:
    split = split_end(n, config(*fractions))
    positions = [split.part(name).positions(n).tolist() for name in PARTS]
    assert list(itertools.chain.from_iterable(positions)) == list(range(n))
    assert [split.part(name).characters for name in PARTS] == [len(p) for p in positions]
    if n >= 3:
        assert len(positions[1]) == max(1, int(n * fractions[0]))
        assert len(positions[2]) == (max(1, int(n * fractions[1])) if fractions[1] else 0)


@given(st.integers(2, 5000), st.integers(1, 5), st.integers(1, 7), FRACTIONS)
def test_streams_are_divided_as_char_rnn_did(n: int, batch: int, seq_len: int, fractions: tuple[float, float]) -> None:
    val_frac, test_frac = fractions
    batches = n // (batch * seq_len)
    # CharSplitLMMinibatchLoader.lua, with the part for training given as a fraction of its own
    train_frac = round(1 - val_frac - test_frac, 12) if test_frac else 1 - val_frac
    n_train = math.floor(batches * train_frac)
    n_val = math.floor(batches * val_frac) if test_frac else batches - n_train
    sizes = [n_train, n_val, batches - n_train - n_val]
    settings = config(val_frac, test_frac, split="streams")
    if 0 in sizes[: 3 if test_frac else 2]:
        with pytest.raises(CorpusError, match="too few to divide each stream"):
            split_streams(n, settings, batch_size=batch, seq_len=seq_len)
        return
    split = split_streams(n, settings, batch_size=batch, seq_len=seq_len)
    assert split.batches == (batches, n_train)
    rows = np.arange(batch * batches * seq_len).reshape(batch, batches, seq_len)
    begin = 0
    for name, size in zip(PARTS, sizes, strict=True):
        assert split.part(name).positions(n).tolist() == rows[:, begin : begin + size].ravel().tolist()
        begin += size


def test_fractions_that_floating_point_does_not_hold_are_taken_as_written() -> None:
    split = split_streams(1000, config(0.1, 0.2, split="streams"), batch_size=1, seq_len=10)
    assert [split.part(name).length for name in PARTS] == [700, 100, 200]


def test_the_first_positions_of_pieces() -> None:
    pieces = Pieces(starts_P=np.array([3, 20]), length=4)
    assert pieces.positions(6).tolist() == [3, 4, 5, 6, 20, 21]
    assert Pieces(starts_P=np.array([3]), length=0).positions(6).tolist() == []


def parts_of(split: ItemSplit, hashes: list[int]) -> dict[str, set[int]]:
    array = np.array(hashes, np.uint64)
    return {name: set(array[split.mask(array, name)].tolist()) for name in PARTS}


@given(HASHES, FRACTIONS)
def test_every_part_has_an_item_and_every_item_a_part(hashes: list[int], fractions: tuple[float, float]) -> None:
    assume(len(set(hashes)) >= (3 if fractions[1] else 2))
    split = ItemSplit.of_items(np.array(hashes, np.uint64), config(*fractions), "text")
    parts = parts_of(split, hashes)
    assert sum(len(part) for part in parts.values()) == len(set(hashes))
    assert parts["val"]
    assert parts["train"]
    assert bool(parts["test"]) == bool(fractions[1])
    assert max(parts["val"]) < min(parts["train"])
    assert not parts["test"] or max(parts["train"]) < min(parts["test"])


@given(HASHES, FRACTIONS)
def test_where_the_fractions_leave_no_part_empty_they_decide(hashes: list[int], fractions: tuple[float, float]) -> None:
    def part(h: int) -> str:
        if h < int(fractions[0] * 2**64):
            return "val"
        return "test" if 2**64 - 1 - h < int(fractions[1] * 2**64) else "train"

    settings = config(*fractions)
    expected = {name: {h for h in hashes if part(h) == name} for name in PARTS}
    assert parts_of(ItemSplit.by_fractions(settings), hashes) == expected
    if all(expected[name] for name in PARTS if name != "test" or fractions[1]):
        assert parts_of(ItemSplit.of_items(np.array(hashes, np.uint64), settings, "text"), hashes) == expected


def test_a_test_part_moves_no_item_between_validation_and_the_rest() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
    without, with_test = (ItemSplit.of_items(hashes, config(0.1, frac), "text") for frac in (0.0, 0.3))
    assert np.array_equal(without.mask(hashes, "val"), with_test.mask(hashes, "val"))
    assert np.array_equal(without.mask(hashes, "train"), ~with_test.mask(hashes, "val"))
    assert 200 < with_test.mask(hashes, "test").sum() < 400


def test_hashes_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.array([7, 7, 7, 9, 7, 2**64 - 1, 7], np.uint64)
    whole = ItemSplit.of_items(hashes, config(0.1, 0.1), "text")
    monkeypatch.setattr("charrnn.data.split._BLOCK", 2)
    assert ItemSplit.of_items(hashes, config(0.1, 0.1), "text") == whole
    assert parts_of(whole, hashes.tolist()) == {"val": {7}, "train": {9}, "test": {2**64 - 1}}


@pytest.mark.parametrize(
    ("hashes", "test_frac", "message"),
    [([5, 5], 0.0, "all 2 items are equal"), ([5, 5, 8], 0.1, "only two distinct items; with --test-frac")],
)
def test_too_few_distinct_items(hashes: list[int], test_frac: float, message: str) -> None:
    with pytest.raises(CorpusError, match=f"names.txt: .*{message}"):
        ItemSplit.of_items(np.array(hashes, np.uint64), config(0.1, test_frac), "names.txt")


@given(HASHES, FRACTIONS)
def test_limits_survive_json(hashes: list[int], fractions: tuple[float, float]) -> None:
    assume(len(set(hashes)) >= 3)
    split = ItemSplit.of_items(np.array(hashes, np.uint64), config(*fractions), "text")
    assert ItemSplit.from_json(split.to_json()) == split


@pytest.mark.parametrize(
    "values",
    [{}, {"val_below": "0"}, {"val_below": 1, "test_above": 2}, {"val_below": "-1", "test_above": "f"},
     {"val_below": "2", "test_above": "1"}, {"val_below": "0", "test_above": "1" + 16 * "0"}, [], "x"],
)  # fmt: skip
def test_limits_that_are_damaged(values: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        ItemSplit.from_json(values)  # type: ignore[arg-type]
