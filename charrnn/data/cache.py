"""Texts as token ids, kept between runs: what a large text has become is never computed twice.

    corpora/
      entries/NAME/   ids, items, hashes: plain little-endian arrays; header.json: what they are
      index/KEY.json  which entry belongs to these files and options
      building/KEY/   an entry that is not whole yet; its writer holds the lock
      locks/KEY.lock

An entry is named by the digest of its ids. To hash gigabytes anew at every
start would take long, so the index goes by path, size, and the two times
(contents, directory entry) of every source, to the nanosecond. That notices
every change a program can make to a file, unless it keeps the size and comes
within the same tick of the clock as the reading; for files as young as that,
nothing is kept. A folder whose times changed though its contents did not is
read again, and ends at the same entry.

An entry appears under its name by a rename, whole. Before use its header's
checksum, all lengths, and a digest over blocks spread over the ids are
checked; what fails is removed and made again.
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

from charrnn.data.token_buffer import Draft, NoRoom
from charrnn.errors import WriteError
from charrnn.files import cache_folder, write_atomically

FORMAT = 1
YOUNG = 0.1  # seconds: clocks of file systems tick up to every 10 ms
_SAMPLES, _SAMPLE = 256, 4096  # blocks of the ids that are looked at before use, and their bytes
_ARRAYS = {"ids": None, "items": "<i8", "hashes": "<u8"}

Notice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A text as arrays, mapped from files or in memory.

    Attributes:
        ids: ``[n]``.
        items: boundaries ``[M + 1]`` int64, or None.
        hashes: ``[M]`` uint64, or None.
        facts: what the reader of the text put down: vocabulary, counts, digest.
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


class AlreadyThere(Exception):
    """Another process has stored the same text meanwhile."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored


def folder() -> Path:
    """Where texts are kept: ``corpora`` in ``$CHARRNN_CACHE`` or in the user's cache folder."""
    return cache_folder() / "corpora"


def key_of(stamps: object, options: object) -> str:
    """The name under which the index knows these files read in this way."""
    return hashlib.sha256(json.dumps([FORMAT, stamps, options], sort_keys=True).encode()).hexdigest()[:32]


def find(key: str, notice: Notice) -> Stored | None:
    """What the cache has under a key; a damaged entry is told of and removed."""
    root = folder()
    try:
        name = json.loads((root / "index" / f"{key}.json").read_text("utf-8"))["entry"]
        # Checked before it is a path: what is damaged may be removed.
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
    """A place for a draft that has become too large for memory; leaves nothing unless it is kept.

    Args:
        key: what the text will be known by, or None to use the system's temporary folder.
        notice: told of what the user should know.
    """

    def __init__(self, key: str | None, notice: Notice) -> None:
        self._key, self._notice = key, notice
        self._lock: contextlib.AbstractContextManager[object] | None = None
        self._folder: Path | None = None
        self._draft: Draft | None = None

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        if self._draft is not None:
            for tape in (self._draft.ids, self._draft.items, self._draft.hashes):
                tape.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.__exit__(None, None, None)

    def draft(self) -> Draft:
        """An empty draft that will come here when it grows."""
        self._draft = Draft(self._place)
        return self._draft

    def _place(self) -> Path:
        """A new folder; waits for another process that builds the same.

        Raises:
            AlreadyThere: it has done so.
            NoRoom: no folder can be made.
        """
        try:
            if self._key is None:
                self._folder = Path(tempfile.mkdtemp(prefix="charrnn-"))
                return self._folder
            root = folder()
            for name in ("entries", "index", "building", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(root, self._key, self._notice)
            if (stored := find(self._key, lambda _: None)) is not None:
                raise AlreadyThere(stored)
            _sweep(root, self._key)
            self._folder = root / "building" / self._key
            self._folder.mkdir()
        except OSError as error:
            raise NoRoom from error
        return self._folder

    def finish(self, facts: Mapping[str, Any], *, description: str, keep: bool) -> Stored:
        """The arrays of a draft that is whole; ``keep`` puts them into the cache.

        Raises:
            NoRoom: they cannot be written.
        """
        draft = self._draft
        assert draft is not None
        items = draft.items.size > 0
        arrays = [name for name in _ARRAYS if items or name == "ids"]
        if draft.folder is None:
            found = {name: getattr(draft, name).array(_ARRAYS[name] or draft.dtype) for name in arrays}
            return Stored(**{"items": None, "hashes": None, **found}, facts=dict(facts))
        for name in _ARRAYS:
            getattr(draft, name).sync()
        body = {
            "format": FORMAT,
            "description": description,
            "dtype": draft.dtype.str,
            "sizes": {name: getattr(draft, name).size for name in arrays},
            "samples": _sampled(draft.folder / "ids", draft.ids.size),
            "facts": dict(facts),
        }
        place = draft.folder
        if keep and self._key is not None:
            try:
                place = _publish(folder(), place, body, self._key)
            except (OSError, WriteError) as error:
                self._notice(f"the token ids of this text cannot be kept for the next run: {error}")
        return _mapped(place, body)


def _publish(root: Path, built: Path, body: Mapping[str, Any], key: str) -> Path:
    """Moves a whole entry to its name, and says in the index what it belongs to."""
    data = json.dumps(body, sort_keys=True)
    header = {"body": body, "sha256": hashlib.sha256(data.encode()).hexdigest()}
    write_atomically(built / "header.json", json.dumps(header).encode())
    # By what it is, not by how the files are called: the same text elsewhere finds it.
    content = {k: v for k, v in body["facts"].items() if k != "name"}
    name = hashlib.sha256(json.dumps([FORMAT, content], sort_keys=True).encode()).hexdigest()[:32]
    place = root / "entries" / name
    try:
        _open(place)  # the same text under another name
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(FileExistsError):
            built.rename(place)
    write_atomically(root / "index" / f"{key}.json", json.dumps({"entry": name}).encode())
    return place


def _open(place: Path) -> Stored:
    """Checks an entry and maps it; raises OSError, ValueError or KeyError for one that is damaged."""
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
    """The lock of a key, held; a process that dies lets go of it."""
    import filelock

    lock = filelock.FileLock(root / "locks" / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        notice("another process is reading the same text: waiting for it")
        lock.acquire()
    return lock


def _sweep(root: Path, own: str) -> int:
    """Removes what killed processes left half built; returns how many bytes. The lock of ``own`` is held."""
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
    """Whether a file changed so lately that the next change might not show in its times."""
    return time.time() - max(times_ns) / 1e9 < YOUNG


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir() if path.is_file())


def _all() -> Iterator[tuple[Path, int]]:
    place = folder() / "entries"
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        with contextlib.suppress(OSError):
            yield path, _size(path)


def entries() -> list[Entry]:
    """What is in the cache, the newest first; a damaged entry is there with a description that says so."""
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
    """Empties the cache, but for what another process is building now.

    Runs that use an entry go on: a file that is mapped lives until it is let go.

    Returns:
        How many texts were removed, and how many bytes in all.

    Raises:
        WriteError: one cannot be removed.
    """
    root = folder()
    count, freed = 0, 0
    try:
        for path, size in list(_all()):
            shutil.rmtree(path)
            count, freed = count + 1, freed + size
        if (root / "building").is_dir():
            freed += _sweep(root, "")
        for path in (root / "index").glob("*.json"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{root}: cannot be cleared: {error.strerror or error}") from error
    return count, freed
