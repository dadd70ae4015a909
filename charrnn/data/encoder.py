"""Characters to provisional token ids, while the vocabulary is still unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.data.token_buffer import Ids

_UNSEEN = np.uint32(0xFFFFFFFF)


class CharEncoder:
    """Numbers characters in the order in which they first appear, and counts them.

    Args:
        num_special: the ids below this are reserved for special tokens (begin and end of an item).
        as_bytes: the text's characters are bytes; all 256 of them are numbered at once.

    Attributes:
        symbols: code point by provisional id; -1 for special tokens.
        counts: occurrences by provisional id.
        labels: provisional ids of labels; their entries in ``symbols`` are -1 too.
    """

    def __init__(self, num_special: int, *, as_bytes: bool) -> None:
        self.num_special, self._as_bytes = num_special, as_bytes
        self._id_of = np.full(0x110000, _UNSEEN, np.uint32)
        self.symbols: list[int] = [-1] * num_special
        self.counts = np.zeros(num_special, np.int64)
        self.labels: dict[str, int] = {}
        if as_bytes:
            self._add(np.arange(256))

    def _add(self, symbols: NDArray[np.integer]) -> None:
        self._id_of[symbols] = np.arange(len(self.symbols), len(self.symbols) + len(symbols))
        self._append(symbols.tolist())

    def _append(self, symbols: list[int]) -> None:
        self.symbols += symbols
        self.counts = np.concatenate([self.counts, np.zeros(len(symbols), np.int64)])

    def encode(self, text: str) -> Ids:
        """Provisional ids ``[n]``, in the narrowest type that holds all ids so far."""
        if text.isascii() or self._as_bytes:
            codes: Ids = np.frombuffer(text.encode("latin-1"), np.uint8)
            seen = np.bincount(codes, minlength=256)
            present = np.flatnonzero(seen)
            new = present[self._id_of[present] == _UNSEEN]
            if len(new):
                self._add(new)
            self.counts[self._id_of[present]] += seen[present]
            table = self._id_of[:256].astype(self._dtype)
            return table[codes]
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        wide = self._id_of[codes]
        unseen = wide == _UNSEEN
        if unseen.any():
            self._add(np.unique(codes[unseen]))
            wide = self._id_of[codes]
        self.counts += np.bincount(wide, minlength=len(self.symbols))
        return wide.astype(self._dtype)

    def encode_items(self, items: Sequence[str], labels: Sequence[str] | None = None) -> Ids:
        """Provisional ids of items, each between the special tokens 0 (begin) and 1 (end).

        Args:
            items: texts.
            labels: the label of each, whose token begins it in place of 0; empty if it has none.
        """
        lengths = np.fromiter(map(len, items), np.int64, len(items)) + 2
        ends = np.cumsum(lengths)
        inner = self.encode("".join(items))
        for label in dict.fromkeys(labels or ()):
            if label and label not in self.labels:
                self.labels[label] = len(self.symbols)
                self._append([-1])
        ids = np.empty(int(ends[-1]), self._dtype)
        is_inner = np.ones(len(ids), np.bool_)
        is_inner[ends - 1] = is_inner[ends - lengths] = False
        ids[is_inner] = inner
        firsts = np.array([self.labels[label] if label else 0 for label in labels], np.int64) if labels else 0
        ids[ends - lengths], ids[ends - 1] = firsts, 1
        self.counts += np.bincount(ids[ends - lengths], minlength=len(self.symbols))
        self.counts[1] += len(items)
        return ids

    @property
    def _dtype(self) -> np.dtype[np.unsignedinteger]:
        # There are at most 0x110000 characters, two special tokens and some labels: four bytes always suffice.
        return np.dtype("<u1" if len(self.symbols) <= 1 << 8 else "<u2" if len(self.symbols) <= 1 << 16 else "<u4")
