"""Items: lines, separators, columns of tables; their boundaries, their hashes, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import sources, token_buffer
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.items import LONGEST, by_line, by_separator
from charrnn.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    pass

CUTS = st.lists(st.integers(0, 5), max_size=20)


def ingest(data: bytes | str, folder: Path, **config: object) -> Corpus:
    (folder / "text").write_bytes(data.encode() if isinstance(data, str) else data)
    return read_corpus([str(folder / "text")], DataConfig(**config))  # type: ignore[arg-type]


def items_of(corpus: Corpus) -> list[str]:
    assert corpus.items is not None
    begin, end = corpus.vocabulary.special["begin"], corpus.vocabulary.special["end"]
    found = []
    for i in range(len(corpus.items) - 1):
        ids = corpus.ids[corpus.items[i] : corpus.items[i + 1]].tolist()
        assert (ids[0], ids[-1]) == (begin, end)
        assert begin not in ids[1:]
        assert end not in ids[:-1]
        found.append(corpus.vocabulary.decode(ids))
    assert corpus.items[0] == 0
    assert corpus.items[-1] == len(corpus.ids)
    return found


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    cuts = [0, *itertools.accumulate(sizes)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)] + [text[cuts[-1] :]]


def hash_of(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=9), max_size=9)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 7), st.sampled_from([0, 9, 1000]))
def test_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: str, last: bool, chunk: int, memory: int
) -> None:
    lines = ["ab", *lines]
    data = newline.join(lines) + newline * last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        patch.setattr(token_buffer, "IN_MEMORY", memory)
        patch.setattr(token_buffer, "BLOCK", 7)
        corpus = ingest(data, tmp_path_factory.mktemp("lines"), lines=True)
        kept = [line for line in lines if line]
        assert items_of(corpus) == kept
        assert corpus.hashes is not None
        assert corpus.hashes.tolist() == [hash_of(line.encode()) for line in kept]
        assert corpus.vocabulary.symbols[-2:] == (-1, -1)
        empty = len(lines) - len(kept) - (not last and lines[-1] == "")
        assert any("empty" in note for note in corpus.notes) == bool(empty)


def test_each_file_ends_its_last_item_and_hashes_do_not_depend_on_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\n\ntwo")
    (tmp_path / "b").write_bytes(b"two\n\xc3\xa9\n")
    corpus = read_corpus([str(tmp_path / "a"), str(tmp_path / "b")], DataConfig(lines=True))
    assert items_of(corpus) == ["one", "two", "two", "é"]
    assert corpus.notes == ("4 items; 1 empty ones are left out",)
    raw = read_corpus([str(tmp_path / "a"), str(tmp_path / "b")], DataConfig(lines=True, bytes=True))
    assert items_of(raw) == ["one", "two", "two", "é"]
    assert raw.hashes is not None
    assert corpus.hashes is not None
    assert raw.hashes.tolist() == corpus.hashes.tolist()
    assert raw.ids.itemsize == 2  # 256 bytes, begin and end
    assert raw.vocabulary.special == {"begin": 256, "end": 257}


def test_plain_text_has_no_items(tmp_path: Path) -> None:
    corpus = ingest("ab\ncd", tmp_path)
    assert corpus.items is None
    assert corpus.hashes is None


@given(st.text(st.sampled_from("ab\n|"), max_size=30), st.sampled_from(["\n\n", "|", "aba", "||"]), CUTS)
def test_separators(text: str, separator: str, cuts: list[int]) -> None:
    batches = by_separator(pieces_of(text, cuts), separator, "x")
    expected = text.removesuffix("\n").split(separator)
    assert [i for batch in batches for i in batch if i] == [i for i in expected if i]


def test_poems_between_empty_lines_in_any_line_ends(tmp_path: Path) -> None:
    poems = ["two\nlines", "three\nlines\nhere"]
    assert items_of(ingest("\n\n".join(poems) + "\n", tmp_path, separator="\n\n")) == poems
    windows = "\r\n\r\n".join(p.replace("\n", "\r\n") for p in poems) + "\r\n"
    assert items_of(ingest(windows, tmp_path, separator="\n\n", newlines="lf")) == poems
    assert items_of(ingest("aé§b§".encode(), tmp_path, separator="§", bytes=True)) == ["aé", "b"]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("\n\r\n\n", {"lines": True}, "there is no item in it"),
        ("aaa\naa\n" * 9, {"lines": True}, "one distinct character only"),
        (
            "ok\n" + "long" * (LONGEST // 4 + 1) + "\n",
            {"lines": True},
            r"line 2 is longer than 1,000,000 .*--separator",
        ),
        ("ok;" + "x" * (LONGEST + 1), {"separator": ";"}, "item 2 is longer than 1,000,000 characters"),
        (
            "ok\r" * (LONGEST // 3 + 1),
            {"lines": True},
            "item|line 1 is longer .* seem to end in carriage returns: --newlines",
        ),
        ("one\rtwo\rthree\r", {"lines": True}, "lines end in carriage returns, .* one item; --newlines lf makes"),
        (b"ab\n\xed\xa0\x80\n", {"lines": True}, "not UTF-8: byte 0xed at offset 3"),  # a lone surrogate
    ],
)
def test_what_is_refused(tmp_path: Path, data: str | bytes, options: dict[str, object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        ingest(data, tmp_path, **options)


@pytest.mark.parametrize("way", ["line", "separator"])
def test_an_item_without_end_is_refused_in_bounded_memory(way: str) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "x" * 100_000

    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"longer than|more than|larger than"):
            for _ in by_line(endless(), "x") if way == "line" else by_separator(endless(), ";", "x"):
                pass
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_carriage_returns_become_lines_on_request(tmp_path: Path) -> None:
    assert items_of(ingest("one\rtwo\rthree\r", tmp_path, lines=True, newlines="lf")) == ["one", "two", "three"]
    assert items_of(ingest("one\rtwo\nthree\r", tmp_path, lines=True)) == ["one\rtwo", "three"]  # not that kind of text


def test_nul_and_a_million_equal_lines_are_no_error(tmp_path: Path) -> None:
    corpus = ingest("ab\n" * 1_000_000, tmp_path, lines=True)
    assert corpus.items is not None
    assert len(corpus.items) == 1_000_001
    assert corpus.hashes is not None
    assert (corpus.hashes == hash_of(b"ab")).all()
    assert items_of(ingest("a\0b\n\0\n", tmp_path, lines=True)) == ["a\0b", "\0"]


def test_items_are_normalised(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", 1)
        corpus = ingest("e\u0301\n\u0301a\n", tmp_path, lines=True, normalize="NFC")
    assert items_of(corpus) == ["é", "\u0301a"]
    assert corpus.hashes is not None
    assert corpus.hashes[0] == hash_of("é".encode())


@pytest.mark.parametrize(
    "options",
    [
        {"lines": True, "separator": ";"},
        {"separator": ";", "column": "a"},
        {"separator": ""},
        {"column": ""},
        {"delimiter": ";"},
        {"column": "a", "delimiter": ""},
        {"column": "a", "delimiter": ";;"},
        {"column": "a", "delimiter": '"'},
        {"column": "a", "delimiter": "\n"},
        {"column": "a", "delimiter": "§", "bytes": True},
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--"):
        DataConfig(**options)  # type: ignore[arg-type]
