"""Files and pipes of text, read in pieces: no more than a piece of them is in memory.

what the user named ──▶ sources ──▶ bytes, unpacked ──▶ characters, a piece at a time
finder.py               sources.py  containers.py       encodings.py
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from charrnn.data import containers, encodings
from charrnn.data.items import Batch
from charrnn.errors import CorpusError

CHUNK = 1 << 20  # bytes read at a time
_SAMPLE = 1 << 16  # bytes at the beginning of a file that may tell its encoding

OnRead = Callable[[int], None]  # called with the number of bytes read since the last call


class SourceError(CorpusError):
    """A source cannot be read as text.

    Attributes:
        reason: why, in a few words: "binary", "not UTF-8".
        likely: the encoding that it is likely in; None if it is not known.
    """

    def __init__(self, message: str, reason: str, likely: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.likely = reason, likely


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file, pipe or string of text. It can be read any number of times.

    Attributes:
        name: for messages.
        path: the file; None for standard input.
        spool: the contents of a pipe, since a pipe itself can be read only once.
        pipe: a pipe whose text is given out as it arrives; such a source can be read only once, and bytes
            that cannot be decoded become U+FFFD, since the bytes before them have been used already.
        stamp: size, modification time and status change time, both in
            nanoseconds; None for a pipe. Every change of a file changes its
            stamp, since no program can set the status change time.
        optional: the source was found in a folder, and is left out if it cannot be read as text.
        text: a text that a program holds in memory.
        items: items that a program holds in memory, in batches; they can be read only once.
    """

    name: str
    path: Path | None = None
    spool: IO[bytes] | None = field(default=None, repr=False)
    pipe: IO[bytes] | None = field(default=None, repr=False)
    stamp: tuple[int, int, int] | None = None
    optional: bool = False
    text: str | None = field(default=None, repr=False)
    items: Iterator[Batch] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes, of a compressed file those of the compressed form; of a string its characters, of items 0."""
        if self.stamp is not None:
            return self.stamp[0]
        if self.spool is None:
            return len(self.text or "")
        return self.spool.seek(0, os.SEEK_END)

    @property
    def compressed(self) -> bool:
        """Whether it is unpacked when it is read, so that ``size`` says little about its length."""
        if self.pipe is not None:
            return False
        try:
            with self._open() as raw:
                return containers.kind(raw) is not None
        except (OSError, containers.NotTextError):
            return False

    def chunks(
        self, on_read: OnRead | None = None, *, as_bytes: bool = False, size: int | None = None
    ) -> Iterator[bytes]:
        """Its bytes in chunks, unpacked if it is compressed.

        Args:
            on_read: called after each chunk with how many bytes of ``size`` it has taken.
            as_bytes: unpack it only if its name ends like that of a compressed file.
            size: bytes of a chunk; 1 MB by default.

        Raises:
            SourceError: it cannot be read, is damaged, or is an archive or document without text.
        """
        keep = as_bytes and not self.name.lower().endswith(containers.SUFFIXES)
        try:
            with self._open() as raw, contextlib.nullcontext(raw) if keep else containers.unpacked(raw) as file:
                done = 0
                # read1 returns what has arrived.
                read = file.read if self.pipe is None else getattr(file, "read1", file.read)
                while chunk := read(size or CHUNK):
                    yield chunk
                    if on_read is not None and self.pipe is None:
                        done, before = raw.tell(), done
                        on_read(done - before)
        except containers.NotTextError as error:
            raise SourceError(f"{self.name}: it is {error}", error.what) from error
        except containers.DamagedError as error:
            raise SourceError(
                f"{self.name}: damaged {error.kind} file: {error}", f"damaged {error.kind} file"
            ) from error
        except OSError as error:
            reason = str(error.strerror or error)
            raise SourceError(f"{self.name}: cannot be read: {reason}", reason) from error

    def _open(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        if self.pipe is not None:
            return contextlib.nullcontext(self.pipe)
        if self.spool is not None:
            self.spool.seek(0)
            return contextlib.nullcontext(self.spool)
        assert self.path is not None
        return self.path.open("rb")


def text_pieces(
    source: Source,
    *,
    encoding: str | None = None,
    as_bytes: bool = False,
    keep_bom: bool = False,
    on_read: OnRead | None = None,
    guess: bool = True,
    chunk_size: int | None = None,
) -> Iterator[str]:
    """The characters of a source in pieces, strictly decoded unless it is a pipe that is read as it arrives.

    A byte-order mark at its beginning is dropped.

    Args:
        source: where the text is.
        encoding: its encoding. None is UTF-8, and then a text that is clearly
            in another encoding is refused even if its bytes are valid UTF-8.
        as_bytes: every byte becomes the character with its number, whatever it is.
        keep_bom: with ``as_bytes``, the byte-order mark of UTF-8 is kept.
        on_read, chunk_size: see ``Source.chunks``.
        guess: guess the likely encoding for the error message.

    Raises:
        SourceError: it cannot be read, or is not in this encoding; the message
            names the byte, its offset, and the likely encoding.
    """
    if source.text is not None:
        yield from _string_pieces(source.text, source.name, as_bytes=as_bytes, on_read=on_read)
        return
    chunks = source.chunks(on_read, as_bytes=as_bytes, size=chunk_size)
    if source.pipe is None:
        chunks = _with_head(chunks)
    if as_bytes:
        for i, chunk in enumerate(chunks):
            yield (chunk if i or keep_bom else chunk.removeprefix(codecs.BOM_UTF8)).decode("latin-1")
        return
    decoder = encodings.decoder_of(encoding or "utf-8", "strict" if source.pipe is None else "replace")
    has_bom = not encodings.removes_bom(encoding or "utf-8")
    head, total = b"", 0
    for chunk in itertools.chain(chunks, [b""]):
        if not head:
            head = chunk[:_SAMPLE]
            if encoding is None and (other := encodings.certain_encoding(head)):
                raise SourceError(
                    f"{source.name}: it is {encodings.described(other)}{_advice(head, other)}", other, other
                )
        total += len(chunk)
        try:
            text = decoder.decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            raise _wrong_encoding(source.name, encoding, error, total, head, guess=guess) from error
        except UnicodeError as error:
            raise SourceError(f"{source.name}: not {encoding}: {error}", f"not {encoding}") from error
        if text:
            yield text.removeprefix("\ufeff") if has_bom else text
            has_bom = False


def _string_pieces(text: str, name: str, *, as_bytes: bool, on_read: OnRead | None) -> Iterator[str]:
    """The pieces of a string, like those of a file that contains it in UTF-8."""
    start = 1 if text.startswith("\ufeff") else 0
    for at in range(start, len(text), CHUNK):
        piece = text[at : at + CHUNK]
        check_encodable(piece, name, at)
        yield piece.encode().decode("latin-1") if as_bytes else piece
        if on_read is not None:
            on_read(len(piece))


def check_encodable(text: str, name: str, offset: int = 0) -> None:
    """Raises SourceError for a string with halves of surrogate pairs, which no file in UTF-8 can contain."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{name}: the character U+{ord(text[error.start]):04X} at offset {offset + error.start:,} is half of a "
            "surrogate pair, and no text can contain it; remove it, or decode the text anew",
            "not Unicode",
        ) from error


def _with_head(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the first ones joined to at least four bytes, the length of the longest byte-order mark."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    if head:
        yield head
    yield from chunks


def _wrong_encoding(
    name: str, encoding: str | None, error: UnicodeDecodeError, total: int, head: bytes, *, guess: bool
) -> SourceError:
    """The error for a byte that cannot be decoded; ``total`` bytes have been given to the decoder."""
    asked = "UTF-8" if encoding is None else encoding
    # What the decoder was working on are the last of those bytes.
    offset = total - len(error.object) + error.start
    where = f"not {asked}: byte 0x{error.object[error.start]:02x} at offset {offset:,}"
    if error.reason.startswith(("unexpected end", "truncated", "incomplete")):
        return SourceError(
            f"{name}: {where}: the file ends within a character; it may have been cut short", f"not {asked}"
        )
    sample = encodings.sample_around(error.object, error.start)
    likely = encodings.likely_encoding(head, sample) if guess else None
    if likely == "utf-8":
        remedy = f"remove them (iconv -c -f UTF-8 -t UTF-8 {name})" if encoding is None else "leave out --encoding"
        state = "except for damaged bytes" if encoding is None else "as it seems"
        return SourceError(f"{name}: {where}; it is UTF-8, {state}: {remedy}", f"not {asked}")
    if likely is not None and likely != encoding:
        shown = head if encodings.is_wide(likely) else sample
        message = f"{name}: {where}; it may be {encodings.described(likely)}{_advice(shown, likely)}"
        return SourceError(message, f"not {asked}", likely)
    if b"\0" in head and not encodings.is_wide(asked):
        return SourceError(f"{name}: {where}, and it holds zero bytes: not a text; --bytes takes any file", "binary")
    message = f"{name}: {where}; name its encoding (--encoding cp1252, for example), or train on bytes: --bytes"
    return SourceError(message, f"not {asked}")


def _advice(sample: bytes, encoding: str) -> str:
    shown = encodings.snippet(sample, encoding)
    return (f" (“{shown}”)" if shown else "") + f": --encoding {encoding} reads it; --bytes takes any file as bytes"


def joined_pieces(
    sources: Iterable[Source], *, encoding: str | None = None, as_bytes: bool = False, on_read: OnRead | None = None
) -> Iterator[str]:
    """All sources as one text, in pieces; each but the last ends with a newline.

    With ``as_bytes`` they follow each other as they are.

    Raises:
        SourceError: as ``text_pieces``.
    """
    last = ""
    for source in sources:
        if last and last != "\n" and not as_bytes:
            last = "\n"
            yield last
        for piece in text_pieces(source, encoding=encoding, as_bytes=as_bytes, keep_bom=as_bytes, on_read=on_read):
            if piece:
                last = piece[-1]
                yield piece


def stamp_now(source: Source) -> tuple[int, int, int] | None:
    """The stamp that the file has now; None if it is gone, or if the source is a pipe."""
    if source.path is None:
        return None
    try:
        status = source.path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
