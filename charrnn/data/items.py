"""Divides a text into items: lines, or what stands between separators. For columns of tables see ``tables``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from charrnn.errors import CorpusError

LONGEST = 1_000_000  # characters in an item at most; names, molecules and log lines are shorter


class Batch(NamedTuple):
    """Some items of a text.

    Attributes:
        items: their texts.
        labels: the label of each, empty if it has none; None if the text has no labels.
    """

    items: list[str]
    labels: list[str] | None = None


@dataclass(kw_only=True)
class ItemCounts:
    """What was found while dividing a text.

    Attributes:
        items: items that are kept.
        empty: empty ones, which are left out.
        short_rows: rows of a table without the column, which are left out.
        long_rows: rows with more fields than the header.
        unlabelled: items without a label, in a text with labels.
    """

    items: int = 0
    empty: int = 0
    short_rows: int = 0
    long_rows: int = 0
    unlabelled: int = 0


def by_line(pieces: Iterable[str], name: str) -> Iterator[list[str]]:
    """Lines that end in LF or CRLF, in batches.

    Raises:
        CorpusError: a line is too long.
    """
    for batch in _divided(pieces, "\n", name, "line"):
        yield [line.removesuffix("\r") for line in batch]


def by_separator(pieces: Iterable[str], separator: str, name: str) -> Iterator[list[str]]:
    """What stands between the separators, in batches, without the newline at the very end of the text.

    Raises:
        CorpusError: an item is too long.
    """
    yield from _divided(_without_last_newline(pieces), separator, name, "item")


def _divided(pieces: Iterable[str], separator: str, name: str, what: str) -> Iterator[list[str]]:
    rest, before = "", 0
    for piece in pieces:
        *batch, rest = (rest + piece).split(separator)
        longest = max(map(len, (*batch, rest)))
        if longest > LONGEST:
            at = next(i for i, item in enumerate((*batch, rest)) if len(item) > LONGEST)
            item = (*batch, rest)[at]
            remedy = "divide the text in another way (--separator), or train on it as one text, without --lines"
            if separator == "\n" and "\r" in item:
                remedy = "its lines seem to end in carriage returns: --newlines lf"
            where = f"{name}: {what} {before + at + 1:,}"
            raise CorpusError(f"{where} is longer than {LONGEST:,} characters, the limit of an item; {remedy}")
        before += len(batch)
        if batch:
            yield batch
    if rest:
        yield [rest]


def _without_last_newline(pieces: Iterable[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        if piece:
            text = held + piece
            # A CRLF may be cut in two.
            keep = 2 if text.endswith("\r\n") else 1 if text.endswith(("\r", "\n")) else 0
            held = text[len(text) - keep :]
            yield text[: len(text) - keep]
    yield held if held == "\r" else ""
