"""Texts from a program's memory give the ids that the same texts in a file give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import sources
from charrnn.data.corpus import Corpus, read_corpus, remembered_arguments
from charrnn.data.in_memory import InMemory
from charrnn.errors import ConfigError, CorpusError

CONFIGS: list[dict[str, Any]] = [{}, {"bytes": True}, {"newlines": "lf"}, {"normalize": "NFC"}, {"min_count": 2}]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def same(a: Corpus, b: Corpus) -> bool:
    assert a.vocabulary == b.vocabulary
    assert a.sha256 == b.sha256
    assert a.counts == b.counts
    assert a.notes == b.notes
    assert (a.items is None) == (b.items is None)
    if a.items is not None and b.items is not None:
        assert a.hashes is not None
        assert b.hashes is not None
        return np.array_equal(a.items, b.items) and np.array_equal(a.hashes, b.hashes)
    return np.array_equal(a.ids, b.ids)


def read_both(tmp_path: Path, data: bytes, memory: InMemory, config: DataConfig) -> bool:
    """Whether the file and the text in memory are the same; that both are refused counts as well."""
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    read: list[Any] = []
    for texts in ([str(path)], memory):
        try:
            read.append(read_corpus(texts, config))
        except CorpusError as error:
            read.append(str(error).split(": ", 1)[1])
    return read[0] == read[1] if isinstance(read[0], str) else same(*read)


@given(text=TEXTS, config=st.sampled_from(CONFIGS), chunk=st.integers(1, 7))
def test_a_string_is_read_like_a_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, config: dict[str, Any], chunk: int
) -> None:
    # A file with a zero byte may be taken for UTF-16, and one that begins with PK for an archive.
    assume("\0" not in text and not text.startswith("PK"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        folder = tmp_path_factory.mktemp("memory")
        assert read_both(folder, text.encode(), InMemory(text=text), DataConfig(**config))
        assert read_both(folder, text.encode(), InMemory(text=text.encode()), DataConfig(**config))


@given(items=st.lists(TEXTS, max_size=12), config=st.sampled_from(CONFIGS))
def test_items_are_read_like_the_lines_of_a_file(
    tmp_path_factory: pytest.TempPathFactory, items: list[str], config: dict[str, Any]
) -> None:
    lines = [item for item in items if not set(item) & set("\n\r\0\ufeff") and not item.startswith("PK")]
    data = "".join(f"{line}\n" for line in lines).encode()
    settings = DataConfig(lines=True, **config)
    assert read_both(tmp_path_factory.mktemp("memory"), data, InMemory(items=iter(lines)), settings)


def test_items_may_hold_anything_and_follow_the_options(tmp_path: Path) -> None:
    corpus = read_corpus(InMemory(items=["a\r\nb", "", "\ufeffc\r"]), DataConfig(lines=True, newlines="lf"))
    assert [len(item) for item in np.split(corpus.ids, corpus.items[1:-1])] == [5, 5]  # type: ignore[index]
    assert {chr(s) for s in corpus.vocabulary.symbols if s >= 0} == {"a", "b", "c", "\n", "\ufeff"}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({}, "in one way"),
        ({"text": "a", "items": ["b"]}, "in one way"),
        ({"text": 7}, "text=… must be a string or bytes, not int"),
        ({"items": "names"}, "given as text=…"),
        ({"items": 7}, "not int"),
    ],
)
def test_other_types_are_refused(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        InMemory(**given)


@pytest.mark.parametrize(
    ("items", "part"),
    [
        (["ab", ("label", "text", "more")], "item 2 is not a string, but tuple"),
        (["ab"] * 10_001 + [None], "item 10,002 is not a string, but NoneType"),
        (["ab"] * 10_001 + ["x\ud800"], r"item 10,002: the character U\+D800 at offset 1 "),
        (["ab", "x" * 1_000_001], "item 2 is longer than 1,000,000 characters"),
    ],
)
def test_an_item_that_cannot_be_used_is_named(items: Iterable[Any], part: str) -> None:
    with pytest.raises(CorpusError, match=f"^items=…: {part}"):
        read_corpus(InMemory(items=items), DataConfig(lines=True))


def test_a_string_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"^text=…: the character U\+DC80 at offset 1,048,578 "):
        read_corpus(InMemory(text="ab" * (1 << 19) + "cd\udc80"), DataConfig())


def test_settings_for_texts_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="give text=…, not items=…"):
        read_corpus(InMemory(items=["ab"]), DataConfig())
    with pytest.raises(ConfigError, match="leave out encoding"):
        read_corpus(InMemory(text="ab"), DataConfig(encoding="cp1252"))


def test_what_a_checkpoint_remembers_about_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("ab" * 20)
    corpus = read_corpus(["a.txt", "./*.txt"], DataConfig())
    assert corpus.arguments == (str(tmp_path / "a.txt"), str(tmp_path / "*.txt"))
    assert remembered_arguments({"arguments": ["x"], "in_memory": None}, "") == ["x"]
    for summary, part in (
        ({"arguments": ["-"], "in_memory": None}, "through standard input"),
        ({"arguments": [], "in_memory": "items"}, r"by a program \(items=…\)"),
    ):
        with pytest.raises(CorpusError, match=f"{part} and cannot be read again; do this"):
            remembered_arguments(summary, "do this")
