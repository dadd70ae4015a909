"""Text to ids and back, with buffers so small that their borders fall everywhere, in memory and in files."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import containers, sources, token_buffer
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.finder import read_text
from charrnn.errors import CorpusError

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@contextmanager
def buffers(chunk: int, in_memory: int, block: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", chunk)
        patch.setattr(token_buffer, "IN_MEMORY", in_memory)
        patch.setattr(token_buffer, "BLOCK", block)
        yield


SIZES = st.tuples(st.integers(1, 7), st.sampled_from([0, 5, 1000]), st.integers(1, 9))


def ingest(data: bytes, folder: Path, **config: object) -> Corpus:
    path = folder / "text"
    path.write_bytes(data)
    return read_corpus([str(path)], DataConfig(**config))  # type: ignore[arg-type]


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.ids.tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ingest")


@given(TEXT, SIZES)
@example("👩‍👩‍👧‍👦 e\u0301 क्षि 🏳️‍🌈" + "\u0301" * 9, (1, 0, 1))
@example("".join(map(chr, range(300))) + "😀", (3, 5, 4))  # ids widen on the way
@example("ab\0\0c", (1, 5, 2))
@example("\ufeff\ufeffab", (2, 0, 3))
def test_any_text_survives_and_equals_the_plain_way(folder: Path, text: str, sizes: tuple[int, int, int]) -> None:
    kept = text.removeprefix("\ufeff")
    with buffers(*sizes):
        if len(set(kept)) < 2:
            with pytest.raises(CorpusError, match=r"no text|one distinct"):
                ingest(text.encode(), folder, encoding="utf-8")
            return
        corpus = ingest(text.encode(), folder, encoding="utf-8")
        assert text_of(corpus) == kept
        assert corpus.vocabulary.symbols == tuple(sorted(map(ord, set(kept))))
        assert corpus.ids.dtype == np.min_scalar_type(len(corpus.vocabulary) - 1)
        assert corpus.counts == tuple(kept.count(chr(s)) for s in corpus.vocabulary.symbols)
        digest = corpus.sha256
    assert ingest(text.encode(), folder, encoding="utf-8").sha256 == digest


@given(st.binary(min_size=2, max_size=60), SIZES)
def test_any_bytes_survive(folder: Path, data: bytes, sizes: tuple[int, int, int]) -> None:
    if len(set(data)) < 2:
        data += bytes([data[0] ^ 1])
    with buffers(*sizes):
        assert ingest(data, folder, bytes=True).ids.tobytes() == data


@given(st.binary(max_size=40), st.integers(1, 7))
def test_bytes_that_are_no_utf8_are_named_with_their_place(folder: Path, data: bytes, chunk: int) -> None:
    (folder / "raw").write_bytes(data)
    with buffers(chunk, 1000, 9):
        try:
            expected = data.decode("utf-8")
        except UnicodeDecodeError as error:
            # UTF-16, archives and the like are recognised before a byte is found that is not UTF-8.
            with pytest.raises(
                CorpusError,
                match=rf"raw: (not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}[;:,]|it is |damaged )",
            ):
                read_text([str(folder / "raw")])
        else:
            assume(not is_container(data))
            assert read_text([str(folder / "raw")], encoding="utf-8") == expected.removeprefix("\ufeff")


def is_container(data: bytes) -> bool:
    """Whether bytes begin like a compressed file or an archive, though they are UTF-8 as well."""
    try:
        return containers.kind(io.BytesIO(data)) is not None
    except containers.NotTextError:
        return True


@pytest.mark.parametrize(
    ("data", "options", "text", "note"),
    [
        (b"a\r\nb\r\n", {}, "a\r\nb\r\n", "lines do not end in LF: 2 CRLF, 0 CR, 0 LF, kept"),
        (b"a\r\nb\nc\r", {}, "a\r\nb\nc\r", "line ends are mixed: 1 CRLF, 1 CR, 1 LF, kept as they are; --newlines lf"),
        (b"a\r\nb\nc\r", {"newlines": "lf"}, "a\nb\nc\n", "1 CRLF and 1 single CR became LF"),
        (b"a\nb\n", {}, "a\nb\n", None),
        (b"ab\0cde\0" * 9, {}, "ab\0cde\0" * 9, "18 NUL characters: is this a text"),
        (b"a\0b\0" * 9, {"encoding": "utf-8"}, "a\0b\0" * 9, "18 NUL characters: is this a text"),
    ],
)
def test_what_is_said_of_a_text(
    tmp_path: Path, data: bytes, options: dict[str, str], text: str, note: str | None
) -> None:
    corpus = ingest(data, tmp_path, **options)
    assert text_of(corpus) == text
    assert [note in n for n in corpus.notes if note] == ([True] if note else [])


def test_line_ends_are_folded_in_bytes_too(tmp_path: Path) -> None:
    assert ingest(b"a\xff\r\nb", tmp_path, bytes=True, newlines="lf").ids.tobytes() == b"a\xff\nb"


def test_gzip_is_streamed(tmp_path: Path) -> None:
    text = "many words. " * 5000
    (tmp_path / "a.gz").write_bytes(gzip.compress(text.encode()))
    with buffers(1000, 5000, 999):
        assert text_of(read_corpus([str(tmp_path / "a.gz")], DataConfig())) == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"from a pipe"])
    writer.start()
    corpus = read_corpus([str(tmp_path / "pipe")], DataConfig())
    writer.join()
    assert text_of(corpus) == "from a pipe"
