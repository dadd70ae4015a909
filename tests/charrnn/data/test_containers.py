"""Compressed files: unpacked under any name and from a pipe, as streams; other archives are named with a remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.config import DataConfig
from charrnn.data import containers, sources
from charrnn.data.corpus import corpus_name, read_corpus
from charrnn.data.finder import find_sources, read_bytes, read_text
from charrnn.errors import CorpusError

zstd = pytest.importorskip("backports.zstd") if sys.version_info < (3, 14) else pytest.importorskip("compression.zstd")

TEXT = "many words, and then some more. " * 2000


def zipped(data: bytes, *, method: int = zipfile.ZIP_DEFLATED, names: tuple[str, ...] = ("text.txt",)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.mkdir("folder")
        archive.writestr("__MACOSX/._text.txt", b"\0\1")
        for name in names:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("text.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "zst": zstd.compress,
    "zip": zipped,
    "stored.zip": lambda data: zipped(data, method=zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", ["text.{}", "TEXT.{}", "no suffix", "wrong.png"])
@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_text_is_read_under_any_name(tmp_path: Path, packer: str, name: str) -> None:
    name = name.format(packer)
    path = tmp_path / (name.upper() if name.startswith("TEXT") else name)
    path.write_bytes(PACKERS[packer](TEXT.encode()))
    assert read_text([str(path)]) == TEXT
    corpus = read_corpus([str(path)], DataConfig())
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == TEXT


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_text_on_standard_input(packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PACKERS[packer](TEXT.encode()))))
    assert read_text(["-"]) == TEXT


@pytest.mark.parametrize("packer", PACKERS)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, packer: str) -> None:
    path = tmp_path_factory.mktemp("packed") / "x"

    @settings(max_examples=15)
    @given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(1, 9))
    def survives(text: str, chunk: int) -> None:
        path.write_bytes(PACKERS[packer](text.encode()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "CHUNK", chunk)
            assert read_text([str(path)], encoding="utf-8") == text.removeprefix("\ufeff")

    survives()


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_a_damaged_file_is_named_and_never_a_traceback(tmp_path: Path, packer: str, kind: str) -> None:
    data = PACKERS[packer](b"some text, long enough to be cut anywhere, " * 4)
    path = tmp_path / "x"
    for at in range(0, len(data), 1 + len(data) // 150):
        path.write_bytes(data[:at] if kind == "cut" else data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            read_text([str(path)])
        except CorpusError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017


@pytest.mark.parametrize("packer", PACKERS)
def test_memory_stays_bounded_however_much_is_inside(tmp_path: Path, packer: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(PACKERS[packer](random.Random(1).randbytes(3 << 20).hex().encode()))
    (source,) = find_sources([str(path)]).sources
    tracemalloc.start()
    try:
        assert sum(map(len, source.chunks(size=1 << 16))) == 6 << 20
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


DOCUMENTS = {
    "a tar archive; unpack it first (tar -xf) and name the folder": tarred(b"text"),
    "a zip archive of 2 files; unpack it first (unzip) and name the folder": zipped(b"x", names=("a", "b")),
    "a zip archive of 0 files": zipped(b"x", names=()),
    "an Office document or an e-book; save it as plain text first": zipped(
        b"x", names=("[Content_Types].xml", "word/a")
    ),
    "a PDF document; convert it to text first (pdftotext)": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a 7-Zip archive; unpack it first": b"7z\xbc\xaf\x27\x1c\0\4",
    "a RAR archive; unpack it first": b"Rar!\x1a\x07\x01\0",
    "an lz4 file; unpack it first": b"\x04\x22\x4d\x18\x64",
    "a file of compress; unpack it first": b"\x1f\x9d\x90",
    "an old Office document; save it as plain text first": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_an_archive_or_document_is_named_with_a_remedy(tmp_path: Path, what: str) -> None:
    (tmp_path / "x").write_bytes(DOCUMENTS[what])
    with pytest.raises(CorpusError, match=re.escape(f"x: it is {what}")):
        read_text([str(tmp_path / "x")])
    assert read_bytes([str(tmp_path / "x")]) == DOCUMENTS[what]  # a byte model may be trained on anything


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_archive(tmp_path: Path, mode: str) -> None:
    (tmp_path / "x").write_bytes(tarred(b"text", mode))
    with pytest.raises(CorpusError, match="x: it is a tar archive"):
        read_text([str(tmp_path / "x")])


def test_a_zip_archive_with_a_password(tmp_path: Path) -> None:
    data = bytearray(zipped(b"text"))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            (flags,) = struct.unpack_from("<H", data, at + offset)
            struct.pack_into("<H", data, at + offset, flags | 1)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CorpusError, match=r"cannot be unpacked here; unpack it first: .*password"):
        read_text([str(tmp_path / "x")])


def test_a_compression_that_would_need_any_amount_of_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(zipped(b"text", method=zipfile.ZIP_LZMA))
    with pytest.raises(CorpusError, match=r"cannot be unpacked here; unpack it first: .*without a limit"):
        read_text([str(tmp_path / "x")])


def test_zstandard_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(zstd.compress(b"text"))
    monkeypatch.setitem(sys.modules, zstd.__name__, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(CorpusError, match=r"x: it is a Zstandard file; .*\(zstd -d\), or pip install backports.zstd"):
        read_text([str(tmp_path / "x")])


@pytest.mark.parametrize("text", ["BZh is how some words begin", "BZ", "PK", "]", "7z", "{\\rtf1 text}", ""])
def test_a_text_that_begins_like_a_compressed_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_bytes(text.encode())
    assert read_text([str(tmp_path / "x")]) == text


def test_a_name_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "unpacked-by-the-browser.gz").write_text("plain text")
    assert read_text([str(tmp_path / "unpacked-by-the-browser.gz")]) == "plain text"


def test_a_byte_model_reads_compressed_bytes_only_where_the_name_says_so(tmp_path: Path) -> None:
    data = gzip.compress(b"text")
    for name, expected in (("x.gz", b"text"), ("X.GZ", b"text"), ("x.bin", data)):
        (tmp_path / name).write_bytes(data)
        assert read_bytes([str(tmp_path / name)]) == expected


@pytest.mark.parametrize("suffix", containers.SUFFIXES)
def test_the_suffix_is_not_part_of_the_name_of_the_run(suffix: str) -> None:
    assert corpus_name([f"a/book.txt{suffix}"]) == corpus_name([f"book{suffix.upper()}"]) == "book"
