"""Known corpora: downloaded by name into the user's cache, and checked before each use.

A text must have the SHA-256 that ``data/catalogue.toml`` gives. If that gives
none ("unverified"), the first download is trusted, its digest is stored beside
the file, and from then on the text must have that digest.
"""

from __future__ import annotations

import functools
import importlib.resources
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from charrnn.errors import DownloadError, WriteError
from charrnn.events import to_stderr
from charrnn.files import NO_CACHE, cache_folder, temporary_folder, write_atomically

_SLACK = 2  # how many times its unverified size a text may have


_temporary: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One known corpus.

    Attributes:
        url: the address of the download.
        size: bytes of the download; a rough figure if it is unverified.
        sha256: of the download; empty if it is unverified.
        member: name of the text in the archive that is downloaded; empty if the download is the text itself.
        unpacked: bytes of that member.
    """

    name: str
    url: str
    size: int
    licence: str
    description: str
    sha256: str = ""
    member: str = ""
    unpacked: int = 0

    @property
    def file_name(self) -> str:
        """Name of the text in the cache."""
        return f"{self.name}{'.txt' if self.member else PurePosixPath(self.url).suffix}"


@functools.cache
def entries() -> dict[str, Entry]:
    """All known corpora by name."""
    text = importlib.resources.files("charrnn.data.corpora").joinpath("catalogue.toml").read_text("utf-8")
    return {name: Entry(name=name, **values) for name, values in tomllib.loads(text).items()}


def names() -> list[str]:
    """Names of the known corpora."""
    return sorted(entries())


def entry(name: str) -> Entry:
    """The known corpus of this name.

    Raises:
        DownloadError: no known corpus has this name.
    """
    try:
        return entries()[name]
    except KeyError:
        raise DownloadError(f"there is no known corpus {name!r}; known: {', '.join(names())}") from None


def cache_path(name: str) -> Path | None:
    """The path at which the cache keeps a known corpus; None if the user has no cache."""
    folder = cache_folder()
    return None if folder is None else folder / entry(name).file_name


def fetched(name: str) -> Path | None:
    """Path of a known corpus if it is in the cache, complete and unchanged."""
    path = cache_path(name)
    return path if path is not None and _is_unchanged(entry(name), path) else None


def fetch(name: str, notice: Callable[[str], None] | None = None) -> Path:
    """Path of a known corpus in the cache; downloads it if it is not there.

    Args:
        name: its name in the catalogue.
        notice: called with messages for the user; by default they go to standard error.

    Raises:
        DownloadError: it cannot be downloaded, its checksum is wrong, or the cache cannot be written.
    """
    folder = cache_folder()
    if folder is None:
        raise DownloadError(f"{name}: cannot be kept: {NO_CACHE}")
    try:
        return _fetch_into(folder, entry(name), notice or to_stderr)
    except (OSError, WriteError) as error:
        raise DownloadError(
            f"{name}: cannot be kept in {folder}: {_reason(error)}; set CHARRNN_CACHE to another folder"
        ) from error


def fetch_to_read(name: str, notice: Callable[[str], None] | None = None) -> Path:
    """As ``fetch``, but if the cache cannot be used, the text is kept until the process ends.

    Raises:
        DownloadError: it cannot be downloaded, or its checksum is wrong.
    """
    notice = notice or to_stderr
    folder = cache_folder()
    reason: object = NO_CACHE
    if folder is not None:
        try:
            return _fetch_into(folder, entry(name), notice)
        except (OSError, WriteError) as error:
            reason = f"the cache {folder} cannot be written ({_reason(error)}); set CHARRNN_CACHE to another folder"
    try:
        temporary = tempfile.TemporaryDirectory(prefix="charrnn-")
        _temporary.append(temporary)
        notice(f"{name} is downloaded for this run only: {reason}")
        return _fetch_into(Path(temporary.name), entry(name), notice)
    except (OSError, WriteError) as error:
        raise DownloadError(f"{name}: cannot be kept in {temporary_folder()}: {_reason(error)}; {reason}") from error


def _fetch_into(folder: Path, known: Entry, notice: Callable[[str], None]) -> Path:
    """Path of a known corpus in a folder; raises DownloadError, OSError and WriteError."""
    from charrnn.download import download, locked

    path = folder / known.file_name
    if _is_unchanged(known, path):  # a folder that cannot be written may hold it too
        return path
    try:
        with locked(folder, known.file_name):
            if _is_unchanged(known, path):
                return path
            came = folder / f".{known.name}.zip" if known.member else path
            wanted = known.sha256 or _remembered(came) or None
            limit = known.size if known.sha256 else _SLACK * known.size
            found = download(known.url, came, sha256=wanted, limit=limit)
            if wanted is None:
                _remember(came, found)
                notice(
                    f"{known.name}: no published checksum to compare with; this first download is trusted "
                    f"(SHA-256 {found}), and a different one will be refused"
                )
            if known.member:
                _remember(path, _unpack(known, came, path))
    except DownloadError as error:
        raise DownloadError(
            f"{known.name}: {error}. Without a network, fetch {known.url} on another machine and name the file: "
            f"charrnn train {known.file_name}"
        ) from error
    return path


def _is_unchanged(known: Entry, path: Path) -> bool:
    """Whether the text is there with the digest that it must have."""
    from charrnn.download import digest

    try:
        expected = _remembered(path) if known.member or not known.sha256 else known.sha256
        return path.is_file() and bool(expected) and digest(path) == expected
    except OSError:
        return False


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _unpack(known: Entry, archive: Path, target: Path) -> str:
    """Writes the text from the archive to its place and removes the archive; returns the SHA-256 of the text."""
    from charrnn.download import digest

    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(known.member) as member:
            data = member.read(known.unpacked + 1)  # bounded, whatever the archive says
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise DownloadError(f"{known.url}: not an archive that contains {known.member!r}: {error}") from error
    if len(data) != known.unpacked:
        archive.unlink()
        raise DownloadError(f"{known.url}: {known.member!r} in it does not have {known.unpacked:,} bytes")
    write_atomically(target, data)
    archive.unlink()
    return digest(target)


def _digest_file(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.sha256")


def _remember(path: Path, sha256: str) -> None:
    write_atomically(_digest_file(path), sha256.encode())


def _remembered(path: Path) -> str:
    try:
        return _digest_file(path).read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
