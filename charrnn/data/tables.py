"""Tables: the formats from which one column is read as items.

A format is one class with one instance in ``FORMATS``; the first one that
recognises the beginning of a file reads it. No other module knows the formats.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from charrnn.data.items import LONGEST, Batch, ItemCounts
from charrnn.data.sources import OnRead, Source, text_pieces
from charrnn.errors import CorpusError

DELIMITERS = ",\t;|"  # tried in this order
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # str.splitlines also divides at other characters
_JSON = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*(?:\{\s*(?:[\"}]|$)|\[\s*(?:[{\[\"]|$))")
_SEPARATOR_LINE = re.compile(r"sep=([^\r\n])[\r\n]*")  # a line that Excel writes above the header
_BATCH = 10_000  # rows in a batch
_LONGEST_LINE = 8 * LONGEST  # characters of a line with all its columns
_HEAD = 1 << 16  # bytes at the beginning of a file from which its format is recognised
_SHOWN = 30  # columns that an error message lists


@dataclass(frozen=True, kw_only=True)
class Column:
    """Which column of a table is read, and how.

    Attributes:
        name: its name in the header.
        label: the name of the column with the labels; None without labels.
        delimiter: between the fields of a line; None to recognise it.
        encoding, as_bytes, on_read: see ``sources.text_pieces``.
        counts: counts rows that do not fit.
    """

    name: str
    label: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    as_bytes: bool = False
    on_read: OnRead | None = None
    counts: ItemCounts


class TableFormat(Protocol):
    """A format of tables."""

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes has this format."""

    def column(self, source: Source, column: Column) -> Iterator[Batch]:
        """A column of a table, in batches of bounded size.

        Raises:
            CorpusError: there is no such column, or the file is not such a table; names file and line.
        """


def by_column(source: Source, column: Column) -> Iterator[Batch]:
    """A column of a table in any format, in batches.

    Raises:
        CorpusError: see ``TableFormat.column``.
    """
    head = next(source.chunks(size=_HEAD, as_bytes=column.as_bytes), b"")
    chosen = next(format for format in FORMATS if format.recognises(head))
    yield from chosen.column(source, column)


class JsonLines:
    """JSON Lines: an object a line, whose keys are the columns. Values that are null or missing are left out."""

    def recognises(self, head: bytes) -> bool:
        """Whether it begins like an object, or like a list of objects; in UTF-16 and UTF-32 too."""
        return _JSON.match(head.replace(b"\0", b"")) is not None

    def column(self, source: Source, column: Column) -> Iterator[Batch]:
        """See ``TableFormat``."""
        # JSON has escape sequences of its own, so of bytes too the text is decoded first and encoded again.
        pieces = text_pieces(source, encoding=column.encoding, on_read=column.on_read)
        batch, labels = _Rows(column), column.label
        keys: dict[str, None] = {}
        found = found_label = False
        for number, line in enumerate(_lines(pieces, source.name), 1):
            if not line.strip():
                continue
            row = _object(line, f"{source.name}: line {number:,}")
            if len(keys) < _SHOWN:
                keys |= dict.fromkeys(row)
            found = found or column.name in row
            found_label = found_label or labels is None or labels in row
            value = row.get(column.name)
            if value is None:
                column.counts.short_rows += 1
                continue
            item = _text_of(value, f"{source.name}: line {number:,}: column {column.name!r}")
            label = None if labels is None else row.get(labels)
            named = "" if label is None else _text_of(label, f"{source.name}: line {number:,}: column {labels!r}")
            if full := batch.add(item.encode().decode("latin-1") if column.as_bytes else item, named):
                yield full
        if keys and not found:
            raise no_column(source.name, column.name, list(keys))
        if keys and not found_label:
            assert labels is not None
            raise no_column(source.name, labels, list(keys))
        yield batch.rest()


class _Rows:
    """Collects rows into batches."""

    def __init__(self, column: Column) -> None:
        self._has_labels = column.label is not None
        self._items: list[str] = []
        self._labels: list[str] = []

    def add(self, item: str, label: str) -> Batch | None:
        """Adds a row; returns the batch if it is full."""
        self._items.append(item)
        if self._has_labels:
            self._labels.append(label)
        return self.rest() if len(self._items) == _BATCH else None

    def rest(self) -> Batch:
        """What has been collected since the last batch."""
        batch = Batch(self._items, self._labels if self._has_labels else None)
        self._items, self._labels = [], []
        return batch


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        remedy = ""
        if line.strip() in ("{", "[") or line.lstrip().startswith("["):
            remedy = "; of another form of JSON, make lines first: jq -c '.[]' FILE"
        raise CorpusError(f"{where}: not a JSON object on a line of its own: {error}{remedy}") from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: not a JSON object; make one a line first: jq -c '.[]' FILE")
    return row


def _text_of(value: object, where: str) -> str:
    if isinstance(value, dict | list):
        raise CorpusError(f"{where} holds {'an object' if isinstance(value, dict) else 'a list'}, not a text")
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > LONGEST:
        raise CorpusError(f"{where} is longer than {LONGEST:,} characters, the limit of an item")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where} holds half of a surrogate pair (\\u{ord(text[error.start]):x})") from error
    return text


class Delimited:
    """CSV and its relatives: a header, then rows, with fields between delimiters, which may be in quotes (RFC 4180).

    The delimiter is the one under which the header has the column, and of
    several the one with the most columns. Blanks around the names in the header
    do not count; if all of its names but the first follow a blank, blanks
    behind delimiters do not count in the rows either.
    """

    def recognises(self, head: bytes) -> bool:  # noqa: ARG002  # the format of everything that no other one recognises
        """Always true: this is the last of the formats."""
        return True

    def column(self, source: Source, column: Column) -> Iterator[Batch]:
        """See ``TableFormat``."""
        pieces = text_pieces(source, encoding=column.encoding, as_bytes=column.as_bytes, on_read=column.on_read)
        lines = _lines(pieces, source.name)
        names = [name for name in (column.name, column.label) if name is not None]
        if column.as_bytes:
            names = [name.encode().decode("latin-1") for name in names]
        with _field_limit(LONGEST):
            header = _Header.read(lines, source.name, names, column.delimiter)
            if header is None:
                return
            reader = csv.reader(lines, delimiter=header.delimiter, skipinitialspace=header.spaced, strict=True)
            batch = _Rows(column)
            try:
                for row in reader:
                    full = None
                    if len(row) > header.at:
                        full = batch.add(row[header.at], row[header.label_at] if header.label_at < len(row) else "")
                    elif row:
                        column.counts.short_rows += 1
                    if len(row) > header.width:
                        column.counts.long_rows += 1
                    if full:
                        yield full
            except csv.Error as error:
                raise CorpusError(
                    f"{source.name}: line {header.lines + reader.line_num:,}: not a table with the delimiter "
                    f"{header.delimiter!r}: {error} (fields with quotes, delimiters or line breaks stand in quotes, "
                    f"quotes within are doubled, and none is longer than {LONGEST:,} characters)"
                ) from error
            yield batch.rest()


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The header of a delimited table: number of its lines and fields, places of the columns."""

    delimiter: str
    at: int
    label_at: int  # 0 if there are no labels
    width: int
    spaced: bool
    lines: int

    @classmethod
    def read(cls, lines: Iterator[str], source: str, names: Sequence[str], delimiter: str | None) -> _Header | None:
        """Takes the header from the lines; None if all lines are empty.

        Args:
            lines: of the table.
            source: its name.
            names: the column of the items and, if there are labels, theirs.
            delimiter: None to recognise it.

        Raises:
            CorpusError: it does not have a column.
        """
        name, *labels = (name.strip() for name in names)
        text, count = "", 0
        for line in lines:
            count += 1
            if not text and not line.strip("\r\n"):
                continue
            if not text and (chosen := _SEPARATOR_LINE.fullmatch(line)):
                delimiter = delimiter or chosen[1]
                continue
            text += line
            # Within quotes a field may hold line ends.
            if text.count('"') % 2 == 0 or len(text) > LONGEST:
                break
        if not text:
            return None
        tried = {d: _fields(text, d) for d in delimiter or _in_order(source)}
        having = [d for d, fields in tried.items() if name in fields]
        chosen_delimiter = max(having or tried, key=lambda d: len(tried[d]))
        fields = tried[chosen_delimiter]
        if not having:
            raise no_column(
                source, name, fields, f" with the delimiter {chosen_delimiter!r}" if len(fields) < 2 else ""
            )
        for label in labels:
            if label not in fields:
                raise no_column(source, label, fields)
        raw = _fields(text, chosen_delimiter, strip=False)
        return cls(
            delimiter=chosen_delimiter,
            at=fields.index(name),
            label_at=fields.index(labels[0]) if labels else 0,
            width=len(fields),
            spaced=len(raw) > 1 and all(field.startswith(" ") for field in raw[1:]),
            lines=count,
        )


def _in_order(source: str) -> str:
    """The delimiters to try; of equal ones the first counts."""
    return "\t" + DELIMITERS.replace("\t", "") if re.search(r"\.(?:tsv|tab)\b", source.lower()) else DELIMITERS


def _fields(text: str, delimiter: str, *, strip: bool = True) -> list[str]:
    """The names in a header."""
    try:
        fields = next(csv.reader(_LINE.findall(text), delimiter=delimiter, skipinitialspace=strip))
    except csv.Error:
        return []
    return [field.strip() for field in fields] if strip else fields


def no_column(source: str, name: str, columns: Sequence[str], remark: str = "") -> CorpusError:
    """The error for a table without the column: it names similar columns, and some of all."""
    names = {column.casefold(): column for column in columns}
    near = [names[n] for n in difflib.get_close_matches(name.casefold(), names, cutoff=0.7)]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    there = ", ".join(map(repr, columns[:_SHOWN])) + (" …" if len(columns) > _SHOWN else "")
    advice = "; name another one with --delimiter" if remark else ""
    return CorpusError(f"{source}: no column {name!r}; {hint}there are {there}{remark}{advice}")


@contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Lines of bounded length with their ends (LF, CRLF, CR) as they are, as the csv module wants them."""
    rest = ""
    for piece in pieces:
        lines = _LINE.findall(rest + piece)
        # A CR at the very end may be half of a CRLF.
        rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        if len(rest) > _LONGEST_LINE:
            raise CorpusError(f"{name}: a line of more than {_LONGEST_LINE:,} characters is not a row of a table")
        yield from lines
    if rest:
        yield rest


FORMATS: tuple[TableFormat, ...] = (JsonLines(), Delimited())
