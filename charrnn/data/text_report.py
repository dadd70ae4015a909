"""Messages about a text before training."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from charrnn_runtime import Vocabulary

if TYPE_CHECKING:
    from charrnn.config import DataConfig
    from charrnn.data.encoder import CharEncoder
    from charrnn.data.items import ItemCounts
    from charrnn.data.normalize import LineEnds

_SHOWN = 6  # of the rarest characters
_LABELS = 30  # the most frequent ones, which a table lists
_NULS = 0.01  # part of a text; a larger part suggests that the file is not a text


def vocabulary_report(vocabulary: Vocabulary, counts: Sequence[int]) -> str:
    """Size of the vocabulary, its rarest characters, and their share of the text; empty for bytes."""
    special = set(vocabulary.special.values())
    plain = [(n, s) for i, (n, s) in enumerate(zip(counts, vocabulary.symbols, strict=False)) if n and i not in special]
    if vocabulary.kind == "bytes" or not plain:
        return ""
    total = sum(n for n, _ in plain) + sum(n for i, n in enumerate(counts) if i == vocabulary.special.get("unknown"))
    rarest = sorted(plain)[:_SHOWN]
    named = ", ".join(f"{name(symbol)} {count:,}×" for count, symbol in rarest)
    rare = sum(n for n, _ in rarest)
    text = (
        f"{len(vocabulary):,} tokens; the {len(rarest)} rarest characters are {share(rare, total)} of the text: {named}"
    )
    if "unknown" in vocabulary.special and (unknown := counts[vocabulary.special["unknown"]]):
        text += f"; rarer ones become one unknown character, {share(unknown, total)} of the text"
    return text


def label_table(counts: Mapping[str, int]) -> str:
    """The labels with their numbers of items and shares, the most frequent first; empty without labels."""
    if not counts:
        return ""
    total, in_order = sum(counts.values()), sorted(counts.items(), key=lambda entry: -entry[1])
    shown = in_order[:_LABELS]
    width, digits = max(len(label) for label, _ in shown), len(f"{shown[0][1]:,}")
    lines = [f"  {label:{width}}  {n:>{digits},}  {share(n, total)}" for label, n in shown]
    if rest := in_order[_LABELS:]:
        lines.append(f"  and {len(rest):,} more labels with {sum(n for _, n in rest):,} items")
    return "\n".join([f"{len(counts):,} labels:", *lines])


def name(symbol: int) -> str:
    """A character in a form that any terminal can show: in quotes, or as its number and Unicode name."""
    character = chr(symbol)
    if 0x20 <= symbol < 0x7F or character in "\n\r\t":
        return repr(character)
    if called := unicodedata.name(character, ""):
        return f"U+{symbol:04X} {called}"
    return f"U+{symbol:04X}"


def share(part: int, total: int) -> str:
    """A part in per cent; small parts have more decimals."""
    percent = 100 * part / total
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1g} %" if percent >= 1e-4 else "less than 0.0001 %"


def text_notes(config: DataConfig, ends: LineEnds, counts: ItemCounts, encoder: CharEncoder) -> list[str]:
    """Sentences on line ends, items and NUL characters."""
    notes = []
    if config.has_items:
        told = f"{counts.items:,} items"
        if counts.empty:
            told += f"; {counts.empty:,} empty ones are left out"
        if counts.unlabelled:
            told += f"; {counts.unlabelled:,} have no label"
        if counts.short_rows:
            told += f"; {counts.short_rows:,} rows without the column are left out"
        if counts.long_rows:
            told += (
                f"; {counts.long_rows:,} rows have more fields than the header: are fields with delimiters in quotes, "
                "and is it the right delimiter (--delimiter)?"
            )
        notes.append(told)
    returns = ends.crlf + ends.cr
    if returns and config.newlines == "lf":
        notes.append(f"{ends.crlf:,} CRLF and {ends.cr:,} single CR became LF")
    elif not config.bytes and config.column is None and (ends.mixed if config.lines else returns):
        # If items are lines, LF and CRLF both end an item, and neither is part of it.
        what = "line ends are mixed" if ends.mixed else "lines do not end in LF"
        advice = "" if config.lines and not ends.cr else "; --newlines lf makes all of them LF"
        notes.append(f"{what}: {ends.crlf:,} CRLF, {ends.cr:,} CR, {ends.lf:,} LF, kept as they are{advice}")
    if not config.bytes and 0 in encoder.symbols:
        nuls = int(encoder.counts[encoder.symbols.index(0)])
        if nuls > _NULS * encoder.counts.sum():
            notes.append(f"{nuls:,} NUL characters: is this a text? (--bytes takes any file as it is)")
    return notes
