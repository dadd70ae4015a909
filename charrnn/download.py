"""A file from the network: resumed where it broke off, bounded in size, checked, and whole or not there.

What has come so far lies beside the target as ``.NAME.part``; only a whole and
checked file gets its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charrnn.errors import DownloadError

TRIES = 3  # connections, as long as each brings something
_CHUNK = 1 << 20
_SECONDS = 30.0  # to wait for an answer, and for each further piece


def download(url: str, target: Path, *, sha256: str | None, limit: int) -> str:
    """Fetches a file; returns its SHA-256.

    Args:
        url: address, http or https.
        target: where it goes; its folder is made.
        sha256: what it must be; None takes what comes.
        limit: bytes that it may have.

    Raises:
        DownloadError: it cannot be fetched, is too large, or is not what was asked for.
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
                    f"cannot be downloaded ({error}); what has come is kept, and the next try goes on"
                ) from error
    found = digest(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise DownloadError(
            f"what {url} sent is not the known text: its SHA-256 is wrong ({found[:12]}…, not {sha256[:12]}…)"
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
    """One process at a time fetches a file; the others wait and find it there."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        yield


class _BrokenOff(Exception):
    """The connection failed or ended early."""


def _tag(part: Path) -> Path:
    """Beside a part: the server's name for the version that it is of."""
    return part.with_suffix(".tag")


def _continue(url: str, part: Path, limit: int) -> None:
    """Fetches what is missing of a part; all of it where the server cannot or must not go on."""
    import requests
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    version = _tag(part).read_text("utf-8") if have and _tag(part).exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if version:
        # If-Range: a file that has changed since is sent anew, and not its end behind another's beginning.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
            if answer.status_code == 416 and version:  # the part is the whole already, or longer than it
                part.unlink()
                _continue(url, part, limit)
                return
            answer.raise_for_status()
            resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            _tag(part).write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "", "utf-8")
            size = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                # Not iter_content: it fills a whole piece first, and loses it when the connection breaks.
                while piece := answer.raw.read1(_CHUNK):
                    size += len(piece)
                    if size > limit:
                        break
                    file.write(piece)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _BrokenOff(type(error).__name__) from error
    if size > limit:
        part.unlink()
        raise DownloadError(f"{url}: refused: more than the {limit:,} bytes that it may have")
