"""Texts as token ids, kept between runs, so that a large text is read and encoded only once.

    corpora/
      entries/NAME/   ids, items, hashes: plain little-endian arrays; header.json: what they are
      index/KEY.json  which entry belongs to these files and options
      building/KEY/   an incomplete entry; the process that writes it holds the lock
      locks/KEY.lock

An entry is named by the digest of its contents. Hashing gigabytes at every
start would take long, so the index key is made of the path, the size, and the
modification and status change times of every source, in nanoseconds. Every
change that a program can make to a file changes the key, unless it keeps the
size and happens within the clock tick in which the file was read. Therefore
nothing is kept of files that were modified within the last 0.1 s. If the times
of a file changed but its contents did not, the text is read again, and the
result is the entry that is already there.

An entry is renamed to its name when it is complete. Before use, the checksum of
its header, the lengths of its arrays, and the digest of blocks spread over the
ids are checked. A damaged entry is removed, and the text is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.data.token_buffer import NoSpaceError, TokenBuffer
from charrnn.errors import WriteError
from charrnn.files import NO_CACHE, cache_folder, write_atomically

FORMAT = 1
YOUNG = 0.1  # seconds; the clocks of file systems tick every 10 ms or faster
_SAMPLES, _SAMPLE = 256, 4096  # blocks of the ids that are checked before use, and bytes of each
_ARRAYS = {"ids": None, "items": "<i8", "hashes": "<u8"}

Notice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A text as arrays, mapped from files or in memory.

    Attributes:
        ids: ``[n]``.
        items: boundaries ``[M + 1]`` int64, or None.
        hashes: ``[M]`` uint64, or None.
        facts: what was found while reading the text: vocabulary, counts, digest, notes.
    """

    ids: NDArray[np.unsignedinteger]
    items: NDArray[np.int64] | None
    hashes: NDArray[np.uint64] | None
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One text in the cache."""

    name: str
    description: str
    tokens: int
    size: int  # bytes
    made: float  # seconds since 1970
    folder: Path


def folder() -> Path | None:
    """The folder of this cache: ``corpora`` in ``files.cache_folder()``; None if there is no such folder."""
    parent = cache_folder()
    return None if parent is None else parent / "corpora"


def key_of(stamps: object, options: object) -> str:
    """The index key of these files, read with these options."""
    return hashlib.sha256(json.dumps([FORMAT, stamps, options], sort_keys=True).encode()).hexdigest()[:32]


def find(key: str, notice: Notice) -> Stored | None:
    """The text stored under a key, or None; a damaged entry is reported and removed."""
    root = folder()
    if root is None:
        return None
    try:
        name = json.loads((root / "index" / f"{key}.json").read_text("utf-8"))["entry"]
        # The name is checked before it becomes a path, since a damaged entry is deleted.
        if not re.fullmatch("[0-9a-f]{32}", name) or not (place := root / "entries" / name).is_dir():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        return _open(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notice(f"the cached token ids of this text are damaged ({error}): the text is read again")
        shutil.rmtree(place, ignore_errors=True)
        return None


class Building:
    """Reads one text into ``buffer``, with a folder for it when it outgrows memory.

    Leaving the context removes the folder, unless ``finish`` moved it into the cache.

    Args:
        key: index key of the text, or None to use the system's temporary folder and keep nothing.
        notice: called with messages for the user.
    """

    def __init__(self, key: str | None, notice: Notice) -> None:
        self._key, self._notice = key, notice
        self._lock: contextlib.AbstractContextManager[object] | None = None
        self._folder: Path | None = None
        self.buffer = TokenBuffer()

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        self.buffer.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.__exit__(None, None, None)

    def move_to_disk(self) -> Stored | None:
        """Moves the buffer into a folder of its own; waits while another process reads the same text.

        Returns:
            The stored text, if the other process has completed it: then there
            is no more to read. None otherwise.

        Raises:
            NoSpaceError: the folder cannot be made or written.
        """
        try:
            if self._key is None:
                self._folder = Path(tempfile.mkdtemp(prefix="charrnn-"))
            else:
                root = folder()
                if root is None:
                    raise OSError(NO_CACHE)
                for name in ("entries", "index", "building", "locks"):
                    (root / name).mkdir(parents=True, exist_ok=True)
                self._lock = _locked(root, self._key, self._notice)
                if (stored := find(self._key, lambda _: None)) is not None:
                    return stored
                _remove_abandoned(root, self._key)
                self._folder = root / "building" / self._key
                self._folder.mkdir()
        except OSError as error:
            raise NoSpaceError from error
        self.buffer.move_to(self._folder)
        return None

    def finish(self, facts: Mapping[str, Any], *, description: str, keep: bool) -> Stored:
        """The arrays of the complete buffer; with ``keep``, those in files are moved into the cache.

        Raises:
            NoSpaceError: they cannot be written.
        """
        buffer = self.buffer
        has_items = buffer.items.size > 0
        arrays = [name for name in _ARRAYS if has_items or name == "ids"]
        if buffer.folder is None:
            found = {name: getattr(buffer, name).array(_ARRAYS[name] or buffer.dtype) for name in arrays}
            return Stored(**{"items": None, "hashes": None, **found}, facts=dict(facts))
        for name in _ARRAYS:
            getattr(buffer, name).sync()
        body = {
            "format": FORMAT,
            "description": description,
            "dtype": buffer.dtype.str,
            "sizes": {name: getattr(buffer, name).size for name in arrays},
            "samples": _sampled(buffer.folder / "ids", buffer.ids.size),
            "facts": dict(facts),
        }
        place = buffer.folder
        if keep and self._key is not None:
            try:
                place = _publish(place, body, self._key)
            except (OSError, WriteError) as error:
                self._notice(f"the token ids of this text cannot be kept for the next run: {error}")
        return _mapped(place, body)


def _publish(built: Path, body: Mapping[str, Any], key: str) -> Path:
    """Renames a complete entry into its place, and adds it to the index; returns its folder."""
    root = built.parents[1]
    data = json.dumps(body, sort_keys=True)
    header = {"body": body, "sha256": hashlib.sha256(data.encode()).hexdigest()}
    write_atomically(built / "header.json", json.dumps(header).encode())
    # The name depends on the contents alone, so a copy of the text in another file shares the entry.
    content = {k: v for k, v in body["facts"].items() if k != "name"}
    name = hashlib.sha256(json.dumps([FORMAT, content], sort_keys=True).encode()).hexdigest()[:32]
    place = root / "entries" / name
    try:
        _open(place)  # a copy of the text has been stored before
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(FileExistsError):
            built.rename(place)
    write_atomically(root / "index" / f"{key}.json", json.dumps({"entry": name}).encode())
    return place


def _open(place: Path) -> Stored:
    """Checks an entry and maps it; raises OSError, ValueError, KeyError or the like if it is damaged."""
    header = json.loads((place / "header.json").read_text("utf-8"))
    body = header["body"]
    if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != header["sha256"]:
        raise ValueError("the header's checksum is wrong")
    if body["format"] != FORMAT:
        raise ValueError(f"it is of format {body['format']}")
    for name, size in body["sizes"].items():
        there = (place / name).stat().st_size
        if there != size:
            raise ValueError(f"{name} has {there:,} bytes of {size:,}")
    if _sampled(place / "ids", body["sizes"]["ids"]) != body["samples"]:
        raise ValueError("the checksum is wrong")
    return _mapped(place, body)


def _mapped(place: Path, body: Mapping[str, Any]) -> Stored:
    arrays: dict[str, Any] = {"items": None, "hashes": None}
    for name in body["sizes"]:
        mapped = np.memmap(place / name, dtype=np.dtype(_ARRAYS[name] or body["dtype"]), mode="r")
        arrays[name] = mapped.view(np.ndarray)  # a memmap's own indexing is slow
    return Stored(**arrays, facts=dict(body["facts"]))


def _sampled(path: Path, size: int) -> str:
    """Digest of blocks spread evenly over a file, its first and last among them."""
    sha = hashlib.sha256()
    last = max(0, size - _SAMPLE)
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(last * i // (_SAMPLES - 1))
            sha.update(file.read(_SAMPLE))
    return sha.hexdigest()


def _locked(root: Path, key: str, notice: Notice) -> contextlib.AbstractContextManager[object]:
    """Acquires the lock of a key; the system releases it when the process ends, however it ends."""
    import filelock

    lock = filelock.FileLock(root / "locks" / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        notice("another process is reading the same text: waiting for it")
        lock.acquire()
    return lock


def _remove_abandoned(root: Path, own: str) -> int:
    """Removes incomplete entries of killed processes; returns their bytes. The caller holds the lock of ``own``."""
    import filelock

    freed = 0
    for left in (root / "building").iterdir():
        with contextlib.suppress(filelock.Timeout, OSError):
            if left.name == own:
                freed += _size(left)
                shutil.rmtree(left)
                continue
            with filelock.FileLock(root / "locks" / f"{left.name}.lock").acquire(timeout=0):
                freed += _size(left)
                shutil.rmtree(left)
    return freed


def young(times_ns: tuple[int, ...]) -> bool:
    """Whether a file changed so recently that its next change might leave its times the same."""
    return time.time() - max(times_ns) / 1e9 < YOUNG


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir() if path.is_file())


def _all() -> Iterator[tuple[Path, int]]:
    root = folder()
    place = root / "entries" if root else None
    for path in sorted(place.iterdir()) if place and place.is_dir() else ():
        with contextlib.suppress(OSError):
            yield path, _size(path)


def entries() -> list[Entry]:
    """The texts in the cache, newest first; the description of a damaged one is "damaged"."""
    found = []
    for path, size in _all():
        try:
            body = json.loads((path / "header.json").read_text("utf-8"))["body"]
            tokens = int(body["sizes"]["ids"]) // np.dtype(body["dtype"]).itemsize
            name, description = str(body["facts"]["name"]), str(body["description"])
        except (OSError, ValueError, KeyError, TypeError):
            name, description, tokens = path.name, "damaged", 0
        with contextlib.suppress(OSError):
            made = path.stat().st_mtime
            found.append(Entry(name=name, description=description, tokens=tokens, size=size, made=made, folder=path))
    return sorted(found, key=lambda entry: -entry.made)


def clear() -> tuple[int, int]:
    """Empties the cache, except for entries that another process is writing.

    Runs that use an entry are not disturbed: a deleted file exists until the last mapping of it is closed.

    Returns:
        Number of texts removed, and their bytes.

    Raises:
        WriteError: an entry cannot be removed.
    """
    root = folder()
    count, freed = 0, 0
    if root is None:
        return count, freed
    try:
        for path, size in list(_all()):
            shutil.rmtree(path)
            count, freed = count + 1, freed + size
        if (root / "building").is_dir():
            freed += _remove_abandoned(root, "")
        for path in (root / "index").glob("*.json"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{root}: cannot be cleared: {error.strerror or error}") from error
    return count, freed
