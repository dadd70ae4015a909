"""Compressed files and archives, recognised by their first bytes and read as streams.

gzip, bzip2, xz and a zip archive of one file are unpacked while they are read,
under any name. Zstandard is, if this Python can. Other archives and documents
are recognised, so that the error message can say what to do.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

ZIP = b"PK\x03\x04"  # of zip archives; PyTorch checkpoints are zip archives too
SUFFIXES = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".zip")

_HEAD = 512  # bytes that are looked at; a tar archive has its mark at 257
_STREAMS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"]\0\0": "lzma",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    ZIP: "zip",
    b"PK\x05\x06": "zip",  # an empty one
}
_UNREADABLE = {
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it first (7z x)"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it first (unrar x)"),
    b"\x04\x22\x4d\x18": ("an lz4 file", "unpack it first (lz4 -d)"),
    b"\x1f\x9d": ("a file of compress", "unpack it first (gzip -d)"),
    b"%PDF-": ("a PDF document", "convert it to text first (pdftotext)"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document", "save it as plain text first"),
}
_TAR = ("a tar archive", "unpack it first (tar -xf) and name the folder")
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # of data, and of the end of an empty file


class NotTextError(Exception):
    """The file is an archive or a document that cannot be read as one text."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class DamagedError(Exception):
    """A compressed file is damaged; ``kind`` names the compression."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def kind(raw: IO[bytes]) -> str | None:
    """The name of the compression that a stream begins with, or None; the stream stays where it is.

    Raises:
        NotTextError: it is an archive or a document that cannot be read.
    """
    head = _peek(raw)
    for magic, (what, remedy) in _UNREADABLE.items():
        if head.startswith(magic):
            raise NotTextError(what, remedy)
    if head[257:262] == b"ustar":
        raise NotTextError(*_TAR)
    for magic, name in _STREAMS.items():
        if head.startswith(magic):
            # "BZh" alone may well begin a text.
            return None if name == "bzip2" and head[4:10] not in _BZIP2_BLOCKS else name
    return None


@contextmanager
def unpacked(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """The contents of a stream that stands at its beginning: unpacked if it is compressed, or else the stream itself.

    Raises:
        NotTextError: it is an archive of several files, or one that this Python cannot unpack.
        DamagedError: it is damaged; this is also raised by reading within the context.
    """
    found = kind(raw)
    if found is None:
        yield raw
        return
    try:
        with _opened(raw, found) as file:
            if found != "zip" and _peek(file)[257:262] == b"ustar":
                raise NotTextError(*_TAR)
            yield file
    except (EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise DamagedError(found, str(error)) from error
    except OSError as error:
        if error.errno is not None:  # an error of the system; those of gzip and bz2 have no number
            raise
        raise DamagedError(found, str(error)) from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # its module is imported only when it is needed
            raise
        raise DamagedError(found, str(error)) from error


def _opened(raw: IO[bytes], kind: str) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if kind == "bzip2":
        return bz2.BZ2File(raw)
    if kind in ("xz", "lzma"):
        return lzma.LZMAFile(raw)
    if kind == "Zstandard":
        return _zstd().ZstdFile(raw)
    return _only_member(raw)


@contextmanager
def _only_member(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(raw) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if {"[Content_Types].xml", "mimetype"} & {m.filename for m in members}:
                raise NotTextError("an Office document or an e-book", "save it as plain text first")
            if len(members) != 1:
                raise NotTextError(
                    f"a zip archive of {len(members)} files", "unpack it first (unzip) and name the folder"
                )
            if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError("zipfile unpacks this compression without a limit to its memory")
            with archive.open(members[0]) as member:
                yield member
    except (NotImplementedError, RuntimeError) as error:  # an unknown compression or version, or a password
        raise NotTextError("a zip archive that cannot be unpacked here", f"unpack it first: {error}") from error


def _zstd() -> Any:
    """The module for Zstandard: of Python 3.14 and later, or the package that brings it to earlier ones."""
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise NotTextError("a Zstandard file", "unpack it first (zstd -d), or pip install backports.zstd")


def _peek(stream: IO[bytes]) -> bytes:
    peek = getattr(stream, "peek", None)
    if peek is not None:
        return bytes(peek(_HEAD)[:_HEAD])
    at = stream.tell()
    head = stream.read(_HEAD)
    stream.seek(at)
    return head
