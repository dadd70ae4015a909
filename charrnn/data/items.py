"""A text as items: one a line, between separators, or the column of a CSV table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from charrnn.errors import CorpusError

LONGEST = 1_000_000  # characters of an item: what is longer is no name, molecule or log line
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # str.splitlines divides in more places
_BATCH = 10_000  # rows of a table that are handed on together


@dataclass(kw_only=True)
class ItemCounts:
    """What was met on the way."""

    items: int = 0
    empty: int = 0  # left out
    short_rows: int = 0  # rows of a table without the column, left out


def by_line(pieces: Iterable[str], name: str) -> Iterator[list[str]]:
    """Lines that end in LF or CRLF, in batches.

    Raises:
        CorpusError: a line is too long.
    """
    for batch in _divided(pieces, "\n", name, "line"):
        yield [line.removesuffix("\r") for line in batch]


def by_separator(pieces: Iterable[str], separator: str, name: str) -> Iterator[list[str]]:
    """What stands between the separators, in batches; the newline at the very end of the text is none of it.

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
            raise CorpusError(
                f"{name}: {what} {before + at + 1:,} is longer than {LONGEST:,} characters, the limit of an item; "
                "divide the text in another way (--separator), or train on it as one text, without --lines"
            )
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


def by_column(pieces: Iterable[str], column: str, name: str, counts: ItemCounts) -> Iterator[list[str]]:
    """A column of a CSV table with a header, in batches; fields may hold quotes and line breaks.

    Raises:
        CorpusError: there is no such column, a field is too long, or quotes do not match.
    """
    with _field_limit(LONGEST):
        reader = csv.reader(_physical_lines(pieces, name), strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            if column not in header:
                there = ", ".join(map(repr, header[:30])) + (" …" if len(header) > 30 else "")
                raise CorpusError(f"{name}: no column {column!r}; there are {there}")
            at = header.index(column)
            batch: list[str] = []
            for row in reader:
                if len(row) > at:
                    batch.append(row[at])
                elif row:
                    counts.short_rows += 1
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            yield batch
        except csv.Error as error:
            raise CorpusError(
                f"{name}: line {reader.line_num:,}: no CSV table: {error} (fields with quotes, commas or line breaks "
                f"stand in quotes, quotes within are doubled, and none is longer than {LONGEST:,} characters)"
            ) from error


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _physical_lines(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Lines with their ends (LF, CRLF, CR) as they are: what the csv module wants."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        # A CR at the very end may be half of a CRLF.
        lines = _LINE.findall(text)
        rest = lines.pop() if lines and (not lines[-1].endswith("\n")) else ""
        if len(rest) > 4 * LONGEST:
            raise CorpusError(f"{name}: a line of more than {4 * LONGEST:,} characters is no row of a CSV table")
        yield from lines
    if rest:
        yield rest
