"""The filter of training items: exact, sorted, whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import item_filter
from charrnn.data.corpus import read_corpus
from charrnn.data.item_filter import Membership, item_hash
from charrnn.errors import CorpusError, WriteError


@given(st.sets(st.text(), max_size=50), st.sets(st.text(), max_size=50))
def test_what_was_there_is_found_and_nothing_else(there: set[str], others: set[str]) -> None:
    known = Membership.of_items(there)
    assert len(known) == len(there)
    assert all(item in known for item in there)
    assert not any(item in known for item in others - there)


def test_the_hash_is_the_corpus_s(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("naïve\nüber\n")
    corpus = read_corpus([str(tmp_path / "t")], DataConfig(lines=True))
    assert corpus.hashes is not None
    assert corpus.hashes.tolist() == [item_hash("naïve"), item_hash("über")]


def test_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_filter, "_BLOCK", 7)
    words = [f"w{n % 40}" for n in range(100)]
    hashes = np.array([item_hash(w) for w in words], np.uint64)
    path = tmp_path / item_filter.file_name("ab" * 32)
    item_filter.save(path, (hashes[at : at + 9] for at in range(0, 100, 9)), 100)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing else is left behind
    known = Membership.load(path)
    assert len(known) == 40
    assert all(w in known for w in words)
    assert "w40" not in known
    assert item_filter.find(tmp_path, "ab" * 32) == item_filter.find(tmp_path / "best.pt", "ab" * 32) == path
    assert item_filter.find(tmp_path, "cd" * 32) is None
    assert item_filter.find(tmp_path, None) is None
    assert item_filter.find(tmp_path, "../../etc/passwd") is None
    with pytest.raises(WriteError, match="cannot be written"):
        item_filter.save(tmp_path / "missing" / "x.npy", iter([hashes]), 100)


@pytest.mark.parametrize("damage", ["cut", "text", "floats", "objects", "unsorted"])
def test_a_damaged_filter_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npy"
    hashes = np.array([1, 5, 9], np.uint64)
    np.save(path, hashes)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "text":
        path.write_text("a filter")
    elif damage == "floats":
        np.save(path, np.zeros(3))
    elif damage == "objects":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        np.save(path, hashes[::-1])
    with pytest.raises(CorpusError, match="filter of training items"):
        Membership.load(path)
