"""Downloads a file: resumes after a lost connection, limits the size, checks the digest.

Until the file is complete, its part is kept beside the target as ``.NAME.part``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charrnn.errors import DownloadError, WriteError

TRIES = 3  # connections; another one is tried only if the last one brought some bytes
_CHUNK = 1 << 20
_SECONDS = 30.0  # timeout for the answer, and for each piece of it


def download(url: str, target: Path, *, sha256: str | None, limit: int) -> str:
    """Downloads a file and returns its SHA-256.

    Args:
        url: address, http or https.
        target: path of the file; its folder is made.
        sha256: the digest that it must have; None accepts any.
        limit: the largest size in bytes that is accepted.

    Raises:
        DownloadError: it cannot be downloaded, is too large, or has another digest.
        WriteError: it cannot be written.
        OSError: its folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    for attempt in range(TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, limit)
            break
        except _BrokenOff as error:
            now = part.stat().st_size if part.exists() else 0
            if attempt == TRIES - 1 or now <= before:
                raise DownloadError(
                    f"cannot be downloaded ({error}); its beginning is kept, and the next attempt goes on from there"
                ) from error
    found = digest(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise DownloadError(
            f"the text that {url} sent is not the known one: its SHA-256 is wrong ({found[:12]}…, not {sha256[:12]}…)"
        )
    part.replace(target)
    _tag(part).unlink(missing_ok=True)
    return found


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Holds a lock, so that one process downloads a file and the others wait for it; raises OSError."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        yield


class _BrokenOff(Exception):
    """The connection failed or ended early."""


def _tag(part: Path) -> Path:
    """The file beside a part that holds the server's name for the version of the file."""
    return part.with_suffix(".tag")


def _continue(url: str, part: Path, limit: int) -> None:
    """Downloads the rest of a part; the whole file if the server cannot resume, or has another version."""
    import requests
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    version = _tag(part).read_text("utf-8") if have and _tag(part).exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if version:
        # With If-Range, the server sends the whole file if it has changed since.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
            if answer.status_code == 416 and version:  # the part is as long as the file, or longer
                part.unlink()
                _continue(url, part, limit)
                return
            answer.raise_for_status()
            resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            size = have if resumed else 0
            with _writing(part):
                _tag(part).write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "", "utf-8")
                file = part.open("ab" if resumed else "wb", buffering=0)
            with file:
                # Not iter_content: it fills a whole piece first, and loses it when the connection breaks.
                while piece := answer.raw.read1(_CHUNK):
                    size += len(piece)
                    if size > limit:
                        break
                    with _writing(part):
                        _write_all(file, piece)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _BrokenOff(type(error).__name__) from error
    if size > limit:
        part.unlink()
        raise DownloadError(f"{url}: refused: larger than the limit of {limit:,} bytes")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns errors of the disk into WriteError. Many errors of the network are OSErrors too, and must stay apart."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
