"""Finding texts and reading them in pieces, however large they are.

    what the user named ──▶ sources ──▶ bytes ──▶ characters, a piece at a time

Nothing here holds more than a piece of a text.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import gzip
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from charrnn.errors import CorpusError

CHUNK = 1 << 20  # bytes read at a time
_BOM = b"\xef\xbb\xbf"
_HEAD = 8192  # bytes looked at to tell text from binary
_SPOOL = 8 << 20  # bytes of a pipe that stay in memory

OnRead = Callable[[int], None]  # called with the number of bytes read since the last call


@dataclass(frozen=True, kw_only=True)
class Source:
    """One piece of text, where it was found. It can be read any number of times.

    Attributes:
        name: for messages.
        path: the file, or None where the text came through a pipe.
        spool: what came through the pipe.
        stamp: size, time of the last change of the contents and of the file's
            entry, both in nanoseconds; None where it came through a pipe. Any
            change of a file changes its stamp, since no program can set the
            last of the three.
    """

    name: str
    path: Path | None = None
    spool: IO[bytes] | None = field(default=None, repr=False)
    stamp: tuple[int, int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes as they lie there (compressed, in a .gz)."""
        if self.stamp is not None:
            return self.stamp[0]
        assert self.spool is not None
        return self.spool.seek(0, os.SEEK_END)

    def chunks(self, on_read: OnRead | None = None) -> Iterator[bytes]:
        """Its bytes, unpacked, in chunks; ``on_read`` is called with how many bytes of ``size`` each has taken.

        Raises:
            CorpusError: it cannot be read, or is a damaged .gz.
        """
        try:
            with self._open() as raw:
                file: IO[bytes] = gzip.GzipFile(fileobj=raw) if self._zipped else raw  # type: ignore[assignment]
                done = 0
                while chunk := file.read(CHUNK):
                    yield chunk
                    if on_read is not None:
                        done, before = raw.tell(), done
                        on_read(done - before)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorpusError(f"{self.name}: damaged gzip file: {error}") from error
        except OSError as error:
            raise CorpusError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    @property
    def _zipped(self) -> bool:
        return self.path is not None and self.path.suffix == ".gz"

    def _open(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        if self.spool is not None:
            self.spool.seek(0)
            return contextlib.nullcontext(self.spool)
        assert self.path is not None
        return self.path.open("rb")

    def looks_like_text(self) -> bool:
        """Whether its beginning holds no NUL."""
        return b"\0" not in next(self.chunks(), b"")[:_HEAD]


def text_pieces(
    source: Source, *, as_bytes: bool = False, keep_bom: bool = False, on_read: OnRead | None = None
) -> Iterator[str]:
    """The characters of a source as strict UTF-8, in pieces; a byte-order mark at its beginning is dropped.

    With ``as_bytes`` every byte becomes the character of its number (Latin-1), whatever it is.

    Raises:
        CorpusError: it cannot be read, or is no UTF-8; names byte and offset.
    """
    head, begun, offset = b"", False, 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    for chunk in source.chunks(on_read):
        if not begun:
            head += chunk
            if len(head) < len(_BOM) and _BOM.startswith(head):
                continue
            begun, chunk = True, head
            if chunk.startswith(_BOM) and not keep_bom:
                chunk, offset = chunk[len(_BOM) :], len(_BOM)
        yield chunk.decode("latin-1") if as_bytes else _decoded(decoder, chunk, offset, source)
        offset += len(chunk)
    # A source shorter than the mark, or one that ends within a character.
    rest = b"" if begun or (head == _BOM and not keep_bom) else head
    yield rest.decode("latin-1") if as_bytes else _decoded(decoder, rest, offset, source, final=True)


def _decoded(
    decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, source: Source, *, final: bool = False
) -> str:
    held = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{source.name}: no UTF-8: byte 0x{error.object[error.start]:02x} at offset "
            f"{offset - held + error.start:,}; convert the file (iconv -f LATIN1 -t UTF-8), or train on bytes: --bytes"
        ) from error


def joined_pieces(sources: Sequence[Source], *, as_bytes: bool = False, on_read: OnRead | None = None) -> Iterator[str]:
    """All sources as one text, in pieces; each but the last ends with a newline.

    With ``as_bytes`` they follow each other as they are.

    Raises:
        CorpusError: as ``text_pieces``.
    """
    last = ""
    for source in sources:
        if last and last != "\n" and not as_bytes:
            last = "\n"
            yield last
        for piece in text_pieces(source, as_bytes=as_bytes, keep_bom=as_bytes, on_read=on_read):
            if piece:
                last = piece[-1]
                yield piece


def read_text(arguments: Sequence[str]) -> str:
    """All that was named as one string: for prompts, and other short texts.

    Raises:
        CorpusError: as ``find_sources`` and ``text_pieces``.
    """
    return "".join(joined_pieces(find_sources(arguments)[1]))


def read_bytes(arguments: Sequence[str]) -> bytes:
    """All that was named as it is, one behind the other.

    Raises:
        CorpusError: as ``find_sources`` and ``Source.chunks``.
    """
    return b"".join(chunk for source in find_sources(arguments)[1] for chunk in source.chunks())


def find_sources(arguments: Sequence[str]) -> tuple[str, list[Source]]:
    """Description and places of what was named: files, folders, globs, known names, ``-``.

    Nothing means the standard library's source.

    Raises:
        CorpusError: something cannot be found or read.
    """
    if not arguments:
        files = _standard_library()
        description = f"the Python {sys.version_info.major}.{sys.version_info.minor} standard library's own source"
        return f"{description} ({len(files)} files)", [_source(f) for f in files]
    sources = [source for argument in arguments for source in _expand(argument)]
    described = arguments[0] if len(arguments) == 1 else f"{arguments[0]} and {len(arguments) - 1} more"
    if len(sources) > 1:
        described += f" ({len(sources)} files)"
    return described, sources


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"))
    if not files:
        raise CorpusError(f"this Python has no source of its own in {folder}; name a text: charrnn train FILE")
    return files


def _expand(argument: str) -> list[Source]:
    if argument == "-":
        return [_spooled("standard input", sys.stdin.buffer)]
    path = Path(argument)
    try:
        path.exists()
    except OSError as error:  # a text in the place of its name is too long for one
        raise CorpusError(f"{argument[:60]}…: cannot be read: {error.strerror or error}; name a file") from error
    if path.is_dir():
        found = [source for source in map(_source, _files_below(path)) if source.looks_like_text()]
        if not found:
            raise CorpusError(f"{argument}: a folder without text files")
        return found
    if path.exists():
        return [_source(path)]
    if glob.has_magic(argument):
        matches = [Path(m) for m in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = [m for m in matches if m.is_file()]
        if not files:
            raise CorpusError(f"{argument}: no file has a name like this")
        return [_source(f) for f in files]
    # Importing pooch costs, and most texts are files.
    from charrnn.data import catalogue

    if argument in catalogue.names():
        return [_source(catalogue.fetch(argument))]
    raise CorpusError(
        f"{argument}: no such file or folder, and no known corpus of this name (known: {', '.join(catalogue.names())})"
    )


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder in a fixed order, without hidden files and folders."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(files)


def _source(path: Path) -> Source:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a named pipe, or a shell's <(command), can be read only once
            with path.open("rb") as pipe:
                return _spooled(str(path), pipe)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Source(name=str(path), path=path, stamp=(status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def stamp_now(source: Source) -> tuple[int, int, int] | None:
    """The stamp that the file has now; None where it is gone or there is none."""
    if source.path is None:
        return None
    try:
        status = source.path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _spooled(name: str, pipe: IO[bytes]) -> Source:
    """What comes through a pipe, kept in memory or, if it is long, in a file without a name."""
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115  # lives as long as its source
    try:
        shutil.copyfileobj(pipe, spool, CHUNK)
    except OSError as error:
        raise CorpusError(
            f"{name}: cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}; "
            "let TMPDIR name a folder with room, or write the text to a file and name that"
        ) from error
    return Source(name=name, spool=spool)
