"""Known corpora, fetched by name into the user's cache and checked against a SHA-256."""

from __future__ import annotations

import functools
import importlib.resources
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from charrnn.errors import DownloadError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One known corpus."""

    name: str
    url: str
    size: int  # bytes
    sha256: str
    licence: str
    description: str


@functools.cache
def entries() -> dict[str, Entry]:
    """All known corpora by name."""
    text = importlib.resources.files("charrnn.data").joinpath("catalogue.toml").read_text("utf-8")
    return {name: Entry(name=name, **values) for name, values in tomllib.loads(text).items()}


def names() -> list[str]:
    """Names of the known corpora."""
    return sorted(entries())


def cache_folder() -> Path:
    """Where fetched corpora are kept: ``$CHARRNN_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("CHARRNN_CACHE") or pooch.os_cache("charrnn"))


def fetch(name: str) -> Path:
    """Path of a known corpus, downloaded on first use.

    Raises:
        DownloadError: it cannot be fetched, or its checksum is wrong; nothing half written is left.
    """
    import pooch
    import requests

    entry = entries()[name]
    folder = cache_folder()
    file_name = f"{name}{Path(entry.url).suffix}"
    try:
        # pooch writes beside and renames, and checks the digest before it does.
        path = pooch.retrieve(
            entry.url, known_hash=f"sha256:{entry.sha256}", fname=file_name, path=folder, progressbar=False
        )
    except (requests.exceptions.RequestException, OSError) as error:
        raise DownloadError(
            f"{name}: cannot be downloaded ({type(error).__name__}). Without a network, fetch {entry.url} "
            f"on another machine and name the file: charrnn train {file_name}"
        ) from error
    except ValueError as error:
        raise DownloadError(f"{name}: what {entry.url} sent is not the known text: its SHA-256 is wrong") from error
    return Path(path)
