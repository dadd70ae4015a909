"""Token ids while a text is read: in memory as long as they are few, then in files of a folder.

The vocabulary is known only when the whole text has been read, so characters
are numbered as they come, one byte each as long as that is enough, and
numbered anew in a second pass over the ids. That pass works in place, from the
front where ids get narrower and from the back where they get wider, so there
are never two copies, and no more than a block is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 16 << 20  # bytes of ids; a text of fewer is read again in a fraction of a second, and never stored
BLOCK = 1 << 20  # ids renumbered at a time
_NEW = np.uint32(0xFFFFFFFF)

Ids = NDArray[np.unsignedinteger]


class NoRoom(Exception):
    """The ids cannot be written to their folder; ``__cause__`` says why."""


class Tape:
    """Bytes that grow at their end and can be changed in place, in memory or in a file."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    def to_file(self, path: Path) -> None:
        """Goes on in this file.

        Raises:
            NoRoom: it cannot be written.
        """
        with _writing():
            self._file = path.open("w+b")
            self._file.write(self._data)
        self._data = bytearray()

    def append(self, data: bytes) -> None:
        """More at the end; raises NoRoom."""
        self.write(self.size, data)

    def write(self, at: int, data: bytes) -> None:
        """New bytes from ``at`` on; raises NoRoom."""
        if self._file is None:
            self._data.extend(bytes(max(0, at - len(self._data))))
            self._data[at : at + len(data)] = data
        else:
            with _writing():
                self._file.seek(at)
                self._file.write(data)
        self.size = max(self.size, at + len(data))

    def read(self, at: int, count: int) -> bytes | bytearray:
        """The bytes ``[at, at + count)``, as far as they are there."""
        if self._file is None:
            return self._data[at : at + count]
        with _writing():
            self._file.seek(at)
            return self._file.read(count)

    def truncate(self, size: int) -> None:
        """Forgets everything from ``size`` on."""
        if self._file is None:
            del self._data[size:]
        else:
            with _writing():
                self._file.truncate(size)
        self.size = size

    def sync(self) -> None:
        """Sees to it that the bytes are on the disk, and closes the file; raises NoRoom."""
        if self._file is not None:
            with _writing():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def close(self) -> None:
        """Lets go of the file, whatever became of it."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a buffer that a full disk would not take
                self._file.close()

    def array(self, dtype: str | np.dtype[np.unsignedinteger]) -> NDArray[Any]:
        """The bytes as an array, where they are in memory; the tape cannot grow any more."""
        assert self._file is None
        array = np.frombuffer(self._data, dtype=dtype)
        array.flags.writeable = False
        return array


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoRoom from error


class Draft:
    """The ids of a text as they come, and, of a text in items, the items' ends and hashes.

    Args:
        place: asked for a folder when the ids get too many for memory.
    """

    def __init__(self, place: Callable[[], Path]) -> None:
        self._place = place
        self.ids, self.items, self.hashes = Tape(), Tape(), Tape()
        self.width = 1  # bytes an id
        self.folder: Path | None = None

    def __len__(self) -> int:
        return self.ids.size // self.width

    def append(self, ids: Ids) -> None:
        """More ids; the width grows with theirs. Raises NoRoom."""
        if ids.itemsize > self.width:
            self.widen(ids.itemsize)
        self.ids.append(ids.astype(_dtype(self.width), copy=False).tobytes())
        if self.folder is None and self.ids.size > IN_MEMORY:
            self.folder = self._place()
            for name in ("ids", "items", "hashes"):
                getattr(self, name).to_file(self.folder / name)

    def widen(self, width: int) -> None:
        """The same ids in more bytes each, from the last block to the first."""
        count, old = len(self), self.width
        for at in reversed(range(0, count, BLOCK)):
            block = np.frombuffer(self.ids.read(at * old, BLOCK * old), _dtype(old))
            self.ids.write(at * width, block.astype(_dtype(width)).tobytes())
        self.width = width

    def blocks(self) -> Iterator[Ids]:
        """All ids, a block at a time."""
        for at in range(0, len(self), BLOCK):
            yield np.frombuffer(self.ids.read(at * self.width, BLOCK * self.width), _dtype(self.width))

    def renumber(self, new: NDArray[np.int64], *, size: int, end: int | None, digest: hashlib._Hash) -> None:
        """Gives every id its final number, in the narrowest type.

        Args:
            new: number by provisional id; -1 for one that is left out.
            size: of the vocabulary.
            end: the id that ends an item, where there are items; then the
                items' boundaries are written too.
            digest: told of the final ids.
        """
        width = np.min_scalar_type(size - 1).itemsize
        if width > self.width:
            self.widen(width)
        out = _dtype(width)
        dropping, written = bool((new < 0).any()), 0
        table = np.where(new < 0, 0, new).astype(out)
        if end is not None:
            self.items.append(np.zeros(1, "<i8").tobytes())
        for block in self.blocks():
            ids = table[block]
            if dropping:
                ids = ids[new[block] >= 0]
            if end is not None:
                self.items.append((np.flatnonzero(ids == end).astype("<i8") + written + 1).tobytes())
            data = ids.tobytes()
            digest.update(data)
            self.ids.write(written * width, data)
            written += len(ids)
        self.width = width
        self.ids.truncate(written * width)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the ids."""
        return _dtype(self.width)


def _dtype(width: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{width}")


class Coder:
    """Numbers characters in the order in which they come, and counts them.

    Args:
        special: numbers that are taken, from 0 on.
        as_bytes: the text's characters are bytes, and all 256 are numbered.
    """

    def __init__(self, special: int, *, as_bytes: bool) -> None:
        self.special, self._as_bytes = special, as_bytes
        self._table = np.full(0x110000, _NEW, np.uint32)
        self.symbols: list[int] = [-1] * special
        self.counts = np.zeros(special, np.int64)
        if as_bytes:
            self._add(np.arange(256))

    def _add(self, symbols: NDArray[np.integer]) -> None:
        self._table[symbols] = np.arange(len(self.symbols), len(self.symbols) + len(symbols))
        self.symbols += symbols.tolist()
        self.counts = np.concatenate([self.counts, np.zeros(len(symbols), np.int64)])

    def encode(self, text: str) -> Ids:
        """Provisional ids ``[n]``, in the narrowest type that holds all of them so far."""
        if text.isascii() or self._as_bytes:
            raw = np.frombuffer(text.encode("latin-1"), np.uint8)
            seen = np.bincount(raw, minlength=256)
            present = np.flatnonzero(seen)
            new = present[self._table[present] == _NEW]
            if len(new):
                self._add(new)
            self.counts[self._table[present]] += seen[present]
            codes: Ids = raw
            table = self._table[:256].astype(self._dtype)
            return table[codes]
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = self._table[codes]
        missing = ids == _NEW
        if missing.any():
            self._add(np.unique(codes[missing]))
            ids = self._table[codes]
        self.counts += np.bincount(ids, minlength=len(self.symbols))
        return ids.astype(self._dtype)

    def encode_items(self, items: Sequence[str]) -> Ids:
        """Provisional ids of items, each between special tokens 0 (begin) and 1 (end)."""
        lengths = np.fromiter(map(len, items), np.int64, len(items)) + 2
        ends = np.cumsum(lengths)
        inner = self.encode("".join(items))
        ids = np.empty(int(ends[-1]), inner.dtype)
        within = np.ones(len(ids), np.bool_)
        within[ends - 1] = within[ends - lengths] = False
        ids[within] = inner
        ids[ends - lengths], ids[ends - 1] = 0, 1
        self.counts[:2] += len(items)
        return ids

    @property
    def _dtype(self) -> np.dtype[np.unsignedinteger]:
        # No character is numbered more than once, so there are never more than 0x110000 and the specials.
        return np.dtype("<u1" if len(self.symbols) <= 1 << 8 else "<u2" if len(self.symbols) <= 1 << 16 else "<u4")


def item_hashes(items: Sequence[str], encoding: str) -> bytes:
    """BLAKE2b-64 of each item's text, as uint64 in little-endian bytes."""
    blake2b = hashlib.blake2b
    return b"".join([blake2b(item.encode(encoding), digest_size=8).digest() for item in items])
