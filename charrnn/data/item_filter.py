"""Which items a model was trained on: their hashes, sorted, 8 bytes a distinct item, beside the checkpoint.

A hash is 64 bits of BLAKE2b over the item's text in UTF-8. The filter never
misses an item that was there. An item that was not there is taken for one with
a chance of M / 2**64: for a million items about 5 in 10**14.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import CorpusError, WriteError

_BLOCK = 1 << 20

Hashes = NDArray[np.uint64]


def item_hashes(items: Sequence[str], encoding: str = "utf-8") -> bytes:
    """The hash of each item: BLAKE2b-64 of its text in ``encoding``, as little-endian uint64."""
    return b"".join([_hash(item.encode(encoding, "surrogatepass")) for item in items])


def item_hash(item: str | bytes) -> int:
    """The hash of one item, of a text of bytes that of its bytes."""
    return int.from_bytes(item_hashes([item]) if isinstance(item, str) else _hash(item), "little")


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()


class Membership:
    """The set of the training items, by their hashes. It is exact unless two hashes are equal by chance.

    Args:
        hashes: sorted, uint64 ``[M]``; may be mapped from a file.
    """

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, item: str | bytes) -> bool:
        value = np.uint64(item_hash(item))
        at = int(np.searchsorted(self._hashes, value))
        return at < len(self._hashes) and self._hashes[at] == value

    @classmethod
    def of_items(cls, items: Iterable[str | bytes]) -> Membership:
        """The filter of some items."""
        return cls(np.unique(np.fromiter(map(item_hash, items), np.uint64)))

    @classmethod
    def load(cls, path: Path) -> Membership:
        """The filter in a file that ``save`` wrote; it is mapped, and nothing in it is executed.

        Raises:
            CorpusError: it cannot be read, or is not such a file.
        """
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorpusError(f"{path}: not a filter of training items, or a damaged one: {error}") from error
        if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise CorpusError(f"{path}: not a filter of training items")
        for at in range(0, len(hashes), _BLOCK):
            part = hashes[at : at + _BLOCK + 1]
            if bool((part[1:] <= part[:-1]).any()):
                raise CorpusError(f"{path}: a damaged filter of training items: its hashes are not in order")
        return cls(np.asarray(hashes))


def file_name(corpus_sha256: str) -> str:
    """The filter's name in a run folder: it belongs to one text."""
    return f"items-{corpus_sha256[:16]}.npy"


def find(model: Path, corpus_sha256: object) -> Path | None:
    """The path of the filter in a run folder, or beside a checkpoint or model file; None if it does not exist."""
    if not isinstance(corpus_sha256, str) or not corpus_sha256.isalnum():
        return None
    path = (model if model.is_dir() else model.parent) / file_name(corpus_sha256)
    return path if path.is_file() else None


def save(path: Path, blocks: Iterable[Hashes], count: int) -> None:
    """Writes the filter of ``count`` hashes that come in blocks, whole or not at all; sorted in files, not in memory.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    sorting, writing = (path.with_name(f".{path.name}.{step}.tmp") for step in ("sorting", "writing"))
    try:
        hashes = np.lib.format.open_memmap(sorting, mode="w+", dtype=np.uint64, shape=(count,))
        at = 0
        for block in blocks:
            hashes[at : at + len(block)] = block
            at += len(block)
        assert at == count
        hashes.sort()
        distinct = sum(int(keep.sum()) for _, keep in _distinct(hashes))
        with writing.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<u8", "fortran_order": False, "shape": (distinct,)})
            for block, keep in _distinct(hashes):
                file.write(block[keep].astype("<u8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for temporary in (sorting, writing):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _distinct(hashes: Hashes) -> Iterator[tuple[Hashes, NDArray[np.bool_]]]:
    """Blocks of sorted hashes, and which of each are the first of their kind."""
    for at in range(0, len(hashes), _BLOCK):
        block = np.asarray(hashes[at : at + _BLOCK])
        keep = np.ones(len(block), np.bool_)
        keep[1:] = block[1:] != block[:-1]
        keep[0] = at == 0 or block[0] != hashes[at - 1]
        yield block, keep
