"""Token ids of a text that is still being read: in memory while they are few, then in files of a folder.

The vocabulary is known only when the whole text has been read. Until then each
character has a provisional id (see ``encoder``), stored in as few bytes as
possible. A second pass over the ids replaces them by the final ones. The
pass works in place, from the front where ids become narrower and from the back
where they become wider, so the ids are never stored twice and only a block of
them is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Bytes of ids that are kept in memory. A text with fewer ids is read again in a fraction of a second and never stored.
IN_MEMORY = 16 << 20
BLOCK = 1 << 20  # ids that are renumbered at a time

Ids = NDArray[np.unsignedinteger]


class NoSpaceError(Exception):
    """The ids cannot be written to their folder; ``__cause__`` is the system's error."""


class Tape:
    """Bytes that grow at their end and can be changed in place, in memory or in a file.

    Every method that writes to or reads from the file raises ``NoSpaceError`` if that fails.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    def move_to(self, path: Path) -> None:
        """Moves the bytes into a new file; from then on the tape is that file."""
        with _no_space():
            self._file = path.open("w+b")
            self._file.write(self._data)
        self._data = bytearray()

    def append(self, data: bytes) -> None:
        """Adds bytes at the end."""
        self.write(self.size, data)

    def write(self, at: int, data: bytes) -> None:
        """Replaces the bytes from ``at`` on; the tape grows where they reach beyond its end."""
        if self._file is None:
            self._data.extend(bytes(max(0, at - len(self._data))))
            self._data[at : at + len(data)] = data
        else:
            with _no_space():
                self._file.seek(at)
                self._file.write(data)
        self.size = max(self.size, at + len(data))

    def read(self, at: int, count: int) -> bytes | bytearray:
        """The bytes ``[at, at + count)``, fewer at the end of the tape."""
        if self._file is None:
            return self._data[at : at + count]
        with _no_space():
            self._file.seek(at)
            return self._file.read(count)

    def truncate(self, size: int) -> None:
        """Removes everything from ``size`` on."""
        if self._file is None:
            del self._data[size:]
        else:
            with _no_space():
                self._file.truncate(size)
        self.size = size

    def sync(self) -> None:
        """Flushes the bytes to the disk and closes the file."""
        if self._file is not None:
            with _no_space():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def close(self) -> None:
        """Closes the file; errors are ignored, since its contents are no longer needed."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
                self._file.close()

    def array(self, dtype: str | np.dtype[np.unsignedinteger]) -> NDArray[Any]:
        """The bytes in memory as a read-only array; the tape cannot grow any more."""
        assert self._file is None
        array = np.frombuffer(self._data, dtype=dtype)
        array.flags.writeable = False
        return array


@contextmanager
def _no_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoSpaceError from error


class TokenBuffer:
    """The ids of a text in the order of reading and, for a text of items, the items' boundaries and hashes.

    Every method that writes raises ``NoSpaceError`` if the folder cannot be written.

    Attributes:
        ids: the ids, ``width`` bytes each.
        items: after ``renumber``, the items' boundaries, int64 ``[M + 1]``; empty for plain text.
        hashes: the items' hashes, uint64 ``[M]``; empty for plain text.
        folder: the folder of the three files, or None while everything is in memory.
    """

    def __init__(self) -> None:
        self.ids, self.items, self.hashes = Tape(), Tape(), Tape()
        self.width = 1
        self.folder: Path | None = None

    def __len__(self) -> int:
        return self.ids.size // self.width

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type of the ids."""
        return _dtype(self.width)

    @property
    def too_large(self) -> bool:
        """Whether the ids are in memory and should be moved into a folder."""
        return self.folder is None and self.ids.size > IN_MEMORY

    def move_to(self, folder: Path) -> None:
        """Moves everything into files of an empty folder, and goes on there."""
        self.folder = folder
        for name in ("ids", "items", "hashes"):
            getattr(self, name).move_to(folder / name)

    def append(self, ids: Ids) -> None:
        """Adds ids; if theirs are wider, all ids are widened first."""
        if ids.itemsize > self.width:
            self.widen(ids.itemsize)
        self.ids.append(ids.astype(self.dtype, copy=False).tobytes())

    def widen(self, width: int) -> None:
        """Stores the same ids in more bytes each, from the last block to the first."""
        count, old = len(self), self.width
        for at in reversed(range(0, count, BLOCK)):
            block = np.frombuffer(self.ids.read(at * old, BLOCK * old), _dtype(old))
            self.ids.write(at * width, block.astype(_dtype(width)).tobytes())
        self.width = width

    def blocks(self) -> Iterator[Ids]:
        """All ids, a block at a time."""
        for at in range(0, len(self), BLOCK):
            yield np.frombuffer(self.ids.read(at * self.width, BLOCK * self.width), self.dtype)

    def renumber(self, new: NDArray[np.int64], *, size: int, end: int | None, digest: hashlib._Hash) -> None:
        """Replaces every id by its final one, in the narrowest type.

        Args:
            new: final id by provisional id; -1 removes an id.
            size: size of the vocabulary.
            end: the final id of the token that ends an item, or None for plain
                text. With it, the items' boundaries are written too.
            digest: updated with the final ids.
        """
        width = np.min_scalar_type(size - 1).itemsize
        if width > self.width:
            self.widen(width)
        out = _dtype(width)
        removing, written = bool((new < 0).any()), 0
        table = np.where(new < 0, 0, new).astype(out)
        if end is not None:
            self.items.append(np.zeros(1, "<i8").tobytes())
        for block in self.blocks():
            ids = table[block]
            if removing:
                ids = ids[new[block] >= 0]
            if end is not None:
                self.items.append((np.flatnonzero(ids == end).astype("<i8") + written + 1).tobytes())
            data = ids.tobytes()
            digest.update(data)
            self.ids.write(written * width, data)
            written += len(ids)
        self.width = width
        self.ids.truncate(written * width)

    def close(self) -> None:
        """Closes the files, if there are any."""
        for tape in (self.ids, self.items, self.hashes):
            tape.close()


def _dtype(width: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{width}")
