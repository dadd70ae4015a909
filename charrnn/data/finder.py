"""Finding the texts that the user named: files, folders, globs, names of known corpora, standard input."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from charrnn_runtime import Vocabulary

from charrnn.data import containers, encodings, sources
from charrnn.data.sources import Source, SourceError, joined_pieces, text_pieces
from charrnn.errors import ConfigError, CorpusError
from charrnn.files import temporary_folder

CHECKED = 1 << 16  # characters of a file in a folder that are checked before the reading begins
_HEAD = 8192  # characters at the beginning of a file that show whether it is text
_IN_MEMORY = 8 << 20  # bytes of a pipe that stay in memory
_NAMED = 3  # files that are named for each reason
_NAME_LENGTH = 60  # characters of such a name, from its end


class LeftOut:
    """The files of folders that are left out, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._hint = ""

    def add(self, name: str, reason: str) -> None:
        """Leaves out a file or folder."""
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(name if len(name) <= _NAME_LENGTH else f"…{name[-_NAME_LENGTH:]}")
        self._counts[reason] = self._counts.get(reason, 0) + 1

    def check(self, source: Source, *, encoding: str | None, as_bytes: bool, limit: int | None = None) -> bool:
        """Returns whether a source can be read as text; if not, leaves it out. Reads only ``limit`` characters."""
        # Guessing takes a fraction of a second, so it is done for the first file only.
        guess = not self._hint
        try:
            checked = 0
            for piece in text_pieces(source, encoding=encoding, as_bytes=as_bytes, guess=guess, chunk_size=limit):
                if "\0" in piece[: max(0, _HEAD - checked)]:
                    raise SourceError(f"{source.name}: binary", "binary")
                checked += len(piece)
                if limit is not None and checked >= limit:
                    break
        except SourceError as error:
            self.add(source.name, error.reason)
            if error.likely is not None:
                self._hint = (
                    f"{source.name} is likely {encodings.described(error.likely)}; --encoding {error.likely} reads "
                    "a folder of such files, and files that differ from the rest must be converted to UTF-8"
                )
            return False
        return True

    def include(self, other: LeftOut) -> None:
        """Adds what another one has."""
        for reason, names in other._names.items():
            self._names[reason] = (self._names.get(reason, []) + names)[:_NAMED]
            self._counts[reason] = self._counts.get(reason, 0) + other._counts[reason]
        self._hint = self._hint or other._hint

    @property
    def notes(self) -> list[str]:
        """A sentence of bounded length about what is left out; empty if that is nothing."""
        parts = [
            f"{self._counts[reason]:,} {reason} ({', '.join(names)}{', …' * (self._counts[reason] > len(names))})"
            for reason, names in self._names.items()
        ]
        return [f"left out: {', '.join(parts)}" + (f"; {self._hint}" if self._hint else "")] if parts else []


@dataclass(frozen=True, kw_only=True)
class FoundText:
    """What the user named.

    Attributes:
        description: in words.
        sources: the files and pipes, in order.
        left_out: the files of folders that are not among them.
    """

    description: str
    sources: list[Source]
    left_out: LeftOut


def read_text(arguments: Sequence[str], *, encoding: str | None = None) -> str:
    """The text that the arguments name, as one string: for prompts and other short texts.

    Raises:
        CorpusError: as ``find_sources`` and ``text_pieces``.
    """
    return "".join(joined_pieces(find_sources(arguments, encoding=encoding).sources, encoding=encoding))


def read_bytes(arguments: Sequence[str]) -> bytes:
    """The files that the arguments name, one after the other, as they are.

    Raises:
        CorpusError: as ``find_sources`` and ``Source.chunks``.
    """
    found = find_sources(arguments, as_bytes=True).sources
    return b"".join(chunk for source in found for chunk in source.chunks(as_bytes=True))


def read_for(vocabulary: Vocabulary, argument: str, *, encoding: str | None = None) -> str | bytes:
    """A prompt or another short text, named as for training: bytes as they are for a model of bytes, else text.

    Raises:
        ConfigError: an encoding is given for a model of bytes.
        CorpusError: as ``find_sources`` and ``text_pieces``.
    """
    if vocabulary.kind != "bytes":
        return read_text([argument], encoding=encoding)
    if encoding is not None:
        raise ConfigError("the model takes bytes as they are: leave out --encoding")
    return read_bytes([argument])


def find_sources(
    arguments: Sequence[str], *, encoding: str | None = None, as_bytes: bool = False, live: bool = False
) -> FoundText:
    """Finds what was named: files, folders, globs, names of known corpora, ``-`` for standard input.

    Without arguments it is the standard library's source. Files of a folder
    that cannot be read as text are left out.

    Args:
        arguments: what was named.
        encoding, as_bytes: see ``sources.text_pieces``; they decide which files of a folder can be read.
        live: standard input is not kept, but given out as it arrives, once (unless it is compressed).

    Raises:
        CorpusError: something cannot be found or read.
    """
    left_out = LeftOut()
    if not arguments:
        files = _standard_library()
        description = f"the Python {sys.version_info.major}.{sys.version_info.minor} standard library's own source"
        found = [_source(file) for file in files]
        return FoundText(description=f"{description} ({len(files)} files)", sources=found, left_out=left_out)
    found = [source for argument in arguments for source in _expand(argument, encoding, as_bytes, live, left_out)]
    description = arguments[0] if len(arguments) == 1 else f"{arguments[0]} and {len(arguments) - 1} more"
    if len(found) > 1:
        description += f" ({len(found)} files)"
    return FoundText(description=description, sources=found, left_out=left_out)


def absolute(argument: str) -> str:
    """The same argument with an absolute path, so that it names the same text in another folder."""
    if argument != "-" and (os.path.exists(argument) or glob.has_magic(argument)):  # noqa: PTH110  # Path.exists raises for a long name
        return os.path.abspath(argument)  # noqa: PTH100  # Path.absolute leaves ".." in it
    return argument


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"))
    if not files:
        raise CorpusError(f"this Python has no source of its own in {folder}; name a text: charrnn train FILE")
    return files


def _expand(argument: str, encoding: str | None, as_bytes: bool, live: bool, left_out: LeftOut) -> list[Source]:
    if argument == "-":
        return [_live("standard input", sys.stdin.buffer) if live else _spooled("standard input", sys.stdin.buffer)]
    path = Path(argument)
    try:
        path.exists()
    except OSError as error:  # a text instead of its name is too long for a name
        raise CorpusError(f"{argument[:60]}…: cannot be read: {error.strerror or error}; name a file") from error
    if path.is_dir():
        return _in_folder(path, encoding, as_bytes, left_out)
    if path.exists():
        return [_source(path)]
    if glob.has_magic(argument):
        matches = [Path(m) for m in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = [m for m in matches if m.is_file()]
        if not files:
            raise CorpusError(f"{argument}: no file has a name like this")
        return [_source(f) for f in files]
    # The catalogue is imported only if it is needed, since most texts are files.
    from charrnn.data import catalogue

    if argument in catalogue.names():
        return [_source(catalogue.fetch_to_read(argument))]
    raise CorpusError(
        f"{argument}: no such file or folder, and no known corpus of this name (known: {', '.join(catalogue.names())})"
    )


def _in_folder(folder: Path, encoding: str | None, as_bytes: bool, left_out: LeftOut) -> list[Source]:
    """The text files below a folder in a fixed order, without hidden files and folders."""
    found, own = [], LeftOut()
    for path in _files_below(folder, own):
        try:
            source = replace(_source(path), optional=True)
        except SourceError as error:
            own.add(str(path), error.reason)
            continue
        if own.check(source, encoding=encoding, as_bytes=as_bytes, limit=CHECKED):
            found.append(source)
    if not found:
        raise CorpusError(f"{folder}: a folder without text files" + "".join(f" ({note})" for note in own.notes))
    left_out.include(own)
    return found


def _files_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """All files below a folder, sorted, without hidden ones."""

    def unreadable(error: OSError) -> None:
        left_out.add(str(Path(error.filename)), "unreadable folder")

    files = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (link := Path(place, name)).is_symlink():
                left_out.add(str(link), "linked folder")
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.is_file():
                files.append(path)
            else:
                left_out.add(str(path), "broken link" if path.is_symlink() else "special file")
    return sorted(files)


def _source(path: Path) -> Source:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a named pipe, or a shell's <(command), can be read only once
            with path.open("rb") as pipe:
                return _spooled(str(path), pipe)
    except OSError as error:
        reason = str(error.strerror or error)
        raise SourceError(f"{path}: cannot be read: {reason}", reason) from error
    return Source(name=str(path), path=path, stamp=(status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def _live(name: str, pipe: IO[bytes]) -> Source:
    """A pipe that is read as it arrives; one that is compressed is kept, since some forms are read from their end."""
    try:
        compressed = containers.kind(pipe) is not None
    except containers.NotTextError:
        compressed = True  # reading it raises the error
    except OSError as error:
        raise CorpusError(f"{name}: cannot be read: {error.strerror or error}") from error
    return _spooled(name, pipe) if compressed else Source(name=name, pipe=pipe)


def _spooled(name: str, pipe: IO[bytes]) -> Source:
    """The contents of a pipe, kept in memory or, if they are long, in a temporary file."""
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # lives as long as its source
    try:
        shutil.copyfileobj(pipe, spool, sources.CHUNK)
    except OSError as error:
        raise CorpusError(
            f"{name}: cannot be kept in {temporary_folder()}: {error.strerror or error}; "
            "set TMPDIR to a folder with enough space, or write the text to a file and name that"
        ) from error
    return Source(name=name, spool=spool)
