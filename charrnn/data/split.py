"""Divides a text into parts for training, validation and test. Only this module decides the division.

Running text is divided by position::

    split="end"        train ................ | val | test          once, over the whole text
    split="streams"    train ..... | val | test                     in each of B streams, as char-rnn did

Items are divided by the hash of their text, so that equal items are in the
same part::

    hash    0 ...... val_below .............. test_above ...... 2**64 - 1
    part        val               train                   test

``test_frac=0`` means that there is no test part.

Letters: P pieces of a text, B streams, T sequence length, M items.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.errors import CorpusError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Hashes = NDArray[np.uint64]

_HASHES = 2**64  # number of hash values
_BLOCK = 1 << 20  # hashes looked at together


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Pieces of running text, all of one length.

    Attributes:
        starts_P: position of each piece's first character, int64 ``[P]``.
        length: characters in each piece.
    """

    starts_P: NDArray[np.int64]
    length: int

    @property
    def characters(self) -> int:
        """Characters in all pieces together."""
        return len(self.starts_P) * self.length

    def positions(self, limit: int) -> NDArray[np.int64]:
        """Positions of the first ``limit`` characters, one piece after the other."""
        piece, offset = np.divmod(np.arange(min(limit, self.characters)), max(1, self.length))
        positions: NDArray[np.int64] = self.starts_P[piece] + offset
        return positions


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """Running text in its parts.

    Attributes:
        train, val, test: one piece each, or with split "streams" one for each stream; ``test`` may be empty.
        batches: batches of the whole text and of the training part, with split "streams".
    """

    train: Pieces
    val: Pieces
    test: Pieces
    batches: tuple[int, int] | None = None

    def part(self, name: Part) -> Pieces:
        """The part of this name."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def split_end(length: int, config: DataConfig) -> TextSplit:
    """Divides a text once: training part first, then validation, then test.

    Validation, and the test if there is one, have at least one character each.
    In a text too short for that, the training part is empty.
    """
    n_test = max(1, int(length * config.test_frac)) if config.test_frac else 0
    n_val = max(1, int(length * config.val_frac))
    test_start = max(0, length - n_test)
    val_start = max(0, test_start - n_val)
    bounds = (0, val_start, test_start, length)
    train, val, test = (
        Pieces(starts_P=np.array([begin]), length=end - begin) for begin, end in itertools.pairwise(bounds)
    )
    return TextSplit(train=train, val=val, test=test)


def split_streams(length: int, config: DataConfig, *, batch_size: int, seq_len: int) -> TextSplit:
    """Divides a text as char-rnn did (CharSplitLMMinibatchLoader.lua).

    The text is cut into ``batch_size`` streams of whole sequences. The first
    batches of all streams are for training, the next for validation, the last
    for the test; each part is rounded down to whole batches, and the last part
    gets the rest.

    A part predicts the characters behind those it reads, so its last target in
    each stream is the first character of the next part. That character is not
    a target of the next part.

    Raises:
        CorpusError: a part would be empty.
    """
    batches = length // (batch_size * seq_len)
    if config.test_frac:
        # Rounded: 1 - 0.1 - 0.2 is just below 0.7 in floating point.
        n_train = int(batches * round(1 - config.val_frac - config.test_frac, 12))
        n_val = int(batches * config.val_frac)
    else:
        n_train = int(batches * (1 - config.val_frac))
        n_val = batches - n_train
    n_test = batches - n_train - n_val
    if not (n_train and n_val and (n_test or not config.test_frac)):
        raise CorpusError(
            f"{length:,} characters are {batches} batches of {batch_size} × {seq_len}: too few to divide each "
            "stream; choose a smaller --batch-size or --seq-len, or --split end"
        )
    starts_B = np.arange(batch_size) * batches * seq_len
    return TextSplit(
        train=Pieces(starts_P=starts_B, length=n_train * seq_len),
        val=Pieces(starts_P=starts_B + n_train * seq_len, length=n_val * seq_len),
        test=Pieces(starts_P=starts_B + (n_train + n_val) * seq_len, length=n_test * seq_len),
        batches=(batches, n_train),
    )


def split_text(length: int, config: DataConfig, *, batch_size: int, seq_len: int) -> TextSplit:
    """Divides running text as the configuration says; see ``split_end`` and ``split_streams``.

    Raises:
        CorpusError: the text is too short to be divided into streams.
    """
    if config.split == "end":
        return split_end(length, config)
    return split_streams(length, config, batch_size=batch_size, seq_len=seq_len)


@dataclass(frozen=True, kw_only=True)
class ItemSplit:
    """Items in their parts, by hash.

    Attributes:
        val_below: an item is for validation if its hash is below this.
        test_above: an item is for the test if its hash is above this.
    """

    val_below: int
    test_above: int = _HASHES - 1

    @classmethod
    def by_fractions(cls, config: DataConfig) -> Self:
        """Each part gets its fraction of the range of hashes."""
        return cls(
            val_below=int(config.val_frac * _HASHES),
            test_above=_HASHES - 1 - int(config.test_frac * _HASHES),
        )

    @classmethod
    def of_items(cls, hashes_M: Hashes, config: DataConfig, description: str) -> Self:
        """As ``by_fractions``, but with limits moved so that every part has at least one of these items.

        Args:
            hashes_M: the items' hashes, uint64 ``[M]``; may be mapped from a file.
            config: the fractions.
            description: names the text in errors.

        Raises:
            CorpusError: there are fewer distinct items than parts.
        """
        split = cls.by_fractions(config)
        lowest, highest = int(hashes_M.min()), int(hashes_M.max())
        if lowest == highest:
            raise CorpusError(
                f"{description}: all {len(hashes_M):,} items are equal; "
                "there must be at least two, one to train on and one to validate on"
            )
        test_above = split.test_above
        if config.test_frac:
            second = min(int(block[block > lowest].min(initial=highest)) for block in _blocks(hashes_M))
            if second == highest:
                raise CorpusError(
                    f"{description}: there are only two distinct items; with --test-frac there must be at least "
                    "three, one to train on, one to validate on and one for the test"
                )
            test_above = min(max(test_above, second), highest - 1)
            highest = max(int(block[block <= test_above].max(initial=0)) for block in _blocks(hashes_M))
        return cls(val_below=min(max(split.val_below, lowest + 1), highest), test_above=test_above)

    def mask(self, hashes_M: Hashes, part: Part) -> NDArray[np.bool_]:
        """Which items are in a part, bool ``[M]``."""
        if part == "val":
            return hashes_M < np.uint64(self.val_below)
        if part == "test":
            return hashes_M > np.uint64(self.test_above)
        return (hashes_M >= np.uint64(self.val_below)) & (hashes_M <= np.uint64(self.test_above))

    def to_json(self) -> dict[str, str]:
        """Both limits, in hexadecimal: JSON readers may keep only 53 bits of a number."""
        return {"val_below": f"{self.val_below:016x}", "test_above": f"{self.test_above:016x}"}

    @classmethod
    def from_json(cls, values: Mapping[str, str]) -> Self:
        """Inverse of ``to_json``; raises KeyError, TypeError or ValueError for anything else."""
        split = cls(**{name: int(values[name], 16) for name in ("val_below", "test_above")})
        if not 0 <= split.val_below <= split.test_above < _HASHES:
            raise ValueError(f"the limits of hashes {dict(values)} are out of order")
        return split


def _blocks(hashes_M: Hashes) -> Iterator[Hashes]:
    for at in range(0, len(hashes_M), _BLOCK):
        yield hashes_M[at : at + _BLOCK]
