"""Known corpora, fetched by name into the user's cache and checked before each use.

Where data/catalogue.toml has a SHA-256, nothing else is accepted. Where it has
none ("unverified"), the first download is trusted, its digest is kept beside
the file, and from then on nothing else is accepted either.
"""

from __future__ import annotations

import functools
import importlib.resources
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from charrnn.errors import DownloadError
from charrnn.files import cache_folder, write_atomically

_SLACK = 2  # an unverified size is about right


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One known corpus.

    Attributes:
        url: where it is published.
        size: bytes of what is downloaded; about, where it is unverified.
        sha256: of what is downloaded; empty where it is unverified.
        member: the text's name in the archive that is downloaded; empty where the text itself is.
        unpacked: bytes of that text.
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
        DownloadError: there is none.
    """
    try:
        return entries()[name]
    except KeyError:
        raise DownloadError(f"there is no known corpus {name!r}; known: {', '.join(names())}") from None


def fetched(name: str) -> Path | None:
    """Path of a known corpus if it is in the cache, whole and unchanged."""
    from charrnn.download import digest

    known = entry(name)
    path = cache_folder() / known.file_name
    expected = _remembered(path) if known.member or not known.sha256 else known.sha256
    return path if path.is_file() and expected and digest(path) == expected else None


def fetch(name: str, notice: Callable[[str], None] | None = None) -> Path:
    """Path of a known corpus, downloaded on first use.

    Args:
        name: its name in the catalogue.
        notice: hears of a digest that could not be checked; by default it goes to standard error.

    Raises:
        DownloadError: it cannot be fetched, or its checksum is wrong; nothing half written is used.
        WriteError: the cache cannot be written.
    """
    from charrnn.download import download, locked

    known, folder = entry(name), cache_folder()
    path = folder / known.file_name
    try:
        with locked(folder, known.file_name):
            if (there := fetched(name)) is not None:
                return there
            came = folder / f".{name}.zip" if known.member else path
            wanted = known.sha256 or _remembered(came) or None
            limit = known.size if known.sha256 else _SLACK * known.size
            found = download(known.url, came, sha256=wanted, limit=limit)
            if wanted is None:
                _remember(came, found)
                (notice or _to_stderr)(
                    f"{name}: no published checksum to compare with; this first download is trusted "
                    f"(SHA-256 {found}), and another one will be refused"
                )
            if known.member:
                _remember(path, _unpack(known, came, path))
    except DownloadError as error:
        raise DownloadError(
            f"{name}: {error}. Without a network, fetch {known.url} on another machine and name the file: "
            f"charrnn train {known.file_name}"
        ) from error
    except OSError as error:
        raise DownloadError(f"{name}: cannot be kept in {folder}: {error.strerror or error}") from error
    return path


def _unpack(known: Entry, archive: Path, target: Path) -> str:
    """Writes the archive's text to its place and removes the archive; the text's SHA-256."""
    from charrnn.download import digest

    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(known.member) as member:
            data = member.read(known.unpacked + 1)  # never more than it must have, whatever the archive says
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise DownloadError(f"{known.url}: not an archive with {known.member!r} in it: {error}") from error
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


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"note   {message}\n")
