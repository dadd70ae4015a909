"""The syntax of patterns: a regular expression as a tree, see "Patterns" in ``runtime/README.md``.

The syntax is the part of Python's ``re`` that describes regular languages; what a pattern means is what
``re.fullmatch`` says of it. Everything else is refused by its name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from charrnn_runtime.errors import PatternError

Ranges = tuple[tuple[int, int], ...]  # first and last code point of each range, in order, with gaps between them

MAX_PATTERN = 10_000  # characters
MAX_REPEAT = 100_000
_MAX_DEPTH = 50
_LAST = sys.maxunicode
_DIGITS = frozenset("0123456789")
_ESCAPES = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_ANCHORS_BEFORE, _ANCHORS_AFTER = ("^", "\\A"), ("$", "\\Z")
_REFUSED_GROUPS = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<": "look-behind",
    "(?P=": "a back-reference",
    "(?(": "a conditional group",
    "(?>": "an atomic group",
    "(?#": "a comment",
}


@dataclass(frozen=True)
class CharacterSet:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Concatenation:
    """One part after the other; none at all is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternation:
    """One of the parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repetition:
    """A part from ``least`` to ``most`` times; ``most`` is None for any number of times."""

    part: Node
    least: int
    most: int | None


Node = CharacterSet | Concatenation | Alternation | Repetition


def parse_pattern(pattern: str) -> Node:
    """The tree of a pattern.

    Raises:
        PatternError: it is not a regular expression, or has a part that this syntax does not know, such as
            look-around or a back-reference; the message names it and its position.
    """
    if not isinstance(pattern, str):
        raise PatternError(f"pattern must be a string, got {type(pattern).__name__}")
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"pattern: {len(pattern):,} characters are too many; at most {MAX_PATTERN:,}")
    return _parse(pattern)


def pattern_of_fill(fill: str) -> str:
    r"""The pattern of a text with gaps: ``?`` is a gap, ``.+``; ``\?`` and ``\\`` are the characters themselves.

    Raises:
        PatternError: it is not a string, or has no gap.
    """
    if not isinstance(fill, str):
        raise PatternError(f"fill must be a string, got {type(fill).__name__}")
    parts = re.findall(r"\\[?\\]|[^?]|\?", fill, re.DOTALL)
    if "?" not in parts:
        raise PatternError(rf"fill {fill!r:.80} has no gap; write ? for a gap and \? for a question mark")
    return "".join(".+" if part == "?" else re.escape(part[-1]) for part in parts)


@lru_cache(maxsize=16)
def _parse(pattern: str) -> Node:
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._names: set[str] = set()

    def parse(self) -> Node:
        node = self._alternation()
        if self._at < len(self._pattern):
            raise self._error("')' without '('")
        return node

    def _error(self, problem: str, at: int | None = None) -> PatternError:
        shown = self._pattern if len(self._pattern) <= 60 else self._pattern[:57] + "..."
        return PatternError(f"pattern {shown!r}: {problem} at position {self._at if at is None else at}")

    def _refused(self, what: str, at: int, remedy: str = "") -> PatternError:
        return self._error(f"{what} is not supported{remedy},", at)

    def _next_is(self, *candidates: str) -> str:
        """Which of the candidates the rest begins with, or the empty string."""
        return next((c for c in candidates if self._pattern.startswith(c, self._at)), "")

    def _take(self, *candidates: str) -> str:
        found = self._next_is(*candidates)
        self._at += len(found)
        return found

    def _alternation(self) -> Node:
        parts = [self._concatenation()]
        while self._take("|"):
            parts.append(self._concatenation())
        return parts[0] if len(parts) == 1 else Alternation(tuple(parts))

    def _concatenation(self) -> Node:
        # The whole text must match anyway, so anchors at its ends change nothing.
        while self._depth == 0 and self._take(*_ANCHORS_BEFORE):
            pass
        parts = []
        while self._at < len(self._pattern) and not self._next_is("|", ")"):
            begin = self._at
            if anchor := self._take(*_ANCHORS_BEFORE, *_ANCHORS_AFTER):
                while self._depth == 0 and anchor in _ANCHORS_AFTER and self._take(*_ANCHORS_AFTER):
                    pass
                ends = self._at == len(self._pattern) or self._next_is("|")
                if self._depth or anchor not in _ANCHORS_AFTER or not ends:
                    raise self._refused(f"an anchor ({anchor}) inside a pattern", begin)
                break
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _quantified(self, part: Node) -> Node:
        bounds = self._quantifier()
        if bounds is None:
            return part
        begin = self._at
        if self._take("+"):
            raise self._refused("a possessive quantifier", begin)
        self._take("?")  # a lazy quantifier matches the same texts
        begin = self._at
        if self._quantifier() is not None:
            raise self._error("a quantifier after a quantifier; put a group (?:...) around the first one", begin)
        return Repetition(part, *bounds)

    def _quantifier(self) -> tuple[int, int | None] | None:
        begin = self._at
        if simple := self._take("*", "+", "?"):
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[simple]
        found = re.compile(r"\{(?!\})([0-9]*)(,?)([0-9]*)\}").match(self._pattern, begin)
        if not found or not (found[1] or found[2]):  # a brace that stands for itself
            return None
        if max(len(found[1]), len(found[3])) > 9:
            raise self._error(f"more than {MAX_REPEAT:,} repetitions", begin)
        least = int(found[1] or 0)
        most = None if found[2] and not found[3] else int(found[3]) if found[2] else least
        if most is not None and most < least:
            raise self._error("at most fewer repetitions than at least", begin)
        if max(least, most or 0) > MAX_REPEAT:
            raise self._error(f"more than {MAX_REPEAT:,} repetitions", begin)
        self._at = found.end()
        return least, most

    def _atom(self) -> Node:
        begin = self._at
        if self._quantifier() is not None:
            raise self._error("a quantifier with nothing to repeat", begin)
        if self._next_is("("):
            return self._group()
        if self._take("["):
            return CharacterSet(self._class(begin))
        if self._take("."):
            return CharacterSet(_complement(((10, 10),)))
        if self._next_is("\\"):
            return CharacterSet(self._escape(in_class=False))
        self._at += 1
        return _single(self._pattern[begin])

    def _group(self) -> Node:
        begin = self._at
        if refused := self._next_is(*_REFUSED_GROUPS):
            raise self._refused(_REFUSED_GROUPS[refused], begin)
        if self._take("(?P<"):
            end = self._pattern.find(">", self._at)
            name = self._pattern[self._at : end]
            if end < 0 or not name.isidentifier() or name in self._names:
                raise self._error("a group name that is missing, malformed or given twice", begin)
            self._names.add(name)
            self._at = end + 1
        elif not self._take("(?:"):
            self._take("(")
            if self._next_is("?"):
                raise self._refused("a flag or another extension (?...)", begin)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"groups nested more than {_MAX_DEPTH} deep", begin)
        node = self._alternation()
        self._depth -= 1
        if not self._take(")"):
            raise self._error("'(' without ')'", begin)
        return node

    def _class(self, begin: int) -> Ranges:
        negated = bool(self._take("^"))
        ranges: list[tuple[int, int]] = []
        first = True
        while first or not self._take("]"):
            first = False
            least = self._class_item(begin)
            if self._next_is("-") and not self._next_is("-]"):
                at = self._at
                self._take("-")
                most = self._class_item(begin)
                # A class such as \d may be a single range, but cannot begin or end one.
                if not (_is_single(least) and _is_single(most)) or least[0][0] > most[0][0]:
                    raise self._error("a bad character range", at)
                ranges.append((least[0][0], most[0][0]))
            else:
                ranges += least
        return _complement(_merged(ranges)) if negated else _merged(ranges)

    def _class_item(self, begin: int) -> Ranges:
        if self._at >= len(self._pattern):
            raise self._error("'[' without ']'", begin)
        if self._next_is("\\"):
            return self._escape(in_class=True)
        self._at += 1
        return _single(self._pattern[self._at - 1]).ranges

    def _escape(self, *, in_class: bool) -> Ranges:
        begin = self._at
        self._take("\\")
        letter = self._pattern[self._at : self._at + 1]
        self._at += 1
        if letter.lower() in ("d", "s", "w") and letter:
            ranges = category(letter.lower())
            return ranges if letter.islower() else _complement(ranges)
        if letter in _HEX_LENGTHS:
            digits = self._pattern[self._at : self._at + _HEX_LENGTHS[letter]]
            self._at += len(digits)
            if len(digits) < _HEX_LENGTHS[letter] or not re.fullmatch("[0-9a-fA-F]+", digits):
                raise self._error(f"an incomplete escape \\{letter}", begin)
            if int(digits, 16) > _LAST:
                raise self._error(f"no such character: \\{letter}{digits}", begin)
            return ((int(digits, 16),) * 2,)
        if letter in _ESCAPES:
            return ((_ESCAPES[letter],) * 2,)
        if letter == "b" and in_class:
            return ((8, 8),)
        if letter in ("b", "B") and not in_class:
            raise self._refused(f"a word boundary (\\{letter})", begin)
        if letter in _DIGITS and letter:
            what = "an octal escape" if in_class or letter == "0" else "a back-reference"
            raise self._refused(what, begin, "; a character by its number is \\xhh" if what[3] == "o" else "")
        if not letter or (letter.isascii() and letter.isalpha()):
            raise self._error(f"an unknown escape \\{letter}", begin)
        return _single(letter).ranges


def _single(character: str) -> CharacterSet:
    return CharacterSet(((ord(character), ord(character)),))


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same set, with ranges in order and gaps between them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def _complement(ranges: Ranges) -> Ranges:
    result = []
    begin = 0
    for first, last in ranges:
        if first > begin:
            result.append((begin, first - 1))
        begin = last + 1
    if begin <= _LAST:
        result.append((begin, _LAST))
    return tuple(result)


@cache
def category(letter: str) -> Ranges:
    r"""The characters of ``\d``, ``\s`` or ``\w``: those that ``re`` takes."""
    text = np.arange(_LAST + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return tuple((m.start(), m.end() - 1) for m in re.finditer(rf"\{letter}+", text))
