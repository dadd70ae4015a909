"""Features of a text, a number for each character, that a unit may correlate with.

A value at a character depends on the text up to and including that character,
because that is what the model has read when its state is recorded. So an opening
quote counts as inside, and the closing quote does not. Features that are constant
in a text are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Codes = NDArray[np.uint32]

_OPEN, _CLOSE = "([{", ")]}"
_SINGLE, _DOUBLE, _TRIPLE = 1, 2, 3


def text_features(text: str) -> dict[str, Values]:
    """All features that are not constant in the text: name → float32 ``[n]``.

    - position in line: characters since the last newline; 0 at the newline
    - position in word: letters, digits and underscores in a row; 0 elsewhere
    - position in sentence: characters since the last ``.``, ``!``, ``?`` or empty line
    - indentation: blanks at the beginning of the line so far; a tab counts 4
    - leading blanks: 1 as long as the line has only blanks so far, 0 after that; the newline is 1
    - bracket depth: opened brackets ``([{`` minus closed ones, at least 0; an empty line closes all
    - inside ( ), [ ], { }: the same for brackets of one kind
    - inside < >: 1 from ``<`` to before ``>``, or to the end of the line
    - inside quotes, "…", '…', triple quotes: 1 from the opening quote to before the closing one.
      A quote after a backslash does not count. A single quote after a letter or digit is an
      apostrophe. A double quote that is not closed ends at an empty line, a single one at the end
      of its line.
    - comment: 1 from ``#`` outside quotes to the end of the line
    - capital letter, small letter, digit, blank, punctuation, vowel: 1 at such a character
    - line with a capital first: 1 in a line whose first character after blanks is a capital
    """
    codes = np.array([ord(c) for c in text], np.uint32)
    brackets = {kind: _depth(codes, kind[0], kind[1]) for kind in ("()", "[]", "{}")}
    quotes, comment = _quotes(text)
    angle = _between(text, "<", ">\n")
    found: dict[str, Values | NDArray[np.bool_]] = {
        "inside quotes": quotes > 0,
        'inside "…"': quotes == _DOUBLE,
        "inside '…'": quotes == _SINGLE,
        "inside triple quotes": quotes == _TRIPLE,
        "comment": comment,
        "bracket depth": sum(brackets.values(), np.zeros(len(text), np.float32)),
        "inside ( )": brackets["()"],
        "inside [ ]": brackets["[]"],
        "inside { }": brackets["{}"],
        "inside < >": angle,
        "position in line": _since(codes == ord("\n")),
        "position in word": _since(~_class(text, lambda c: c.isalnum() or c == "_")),
        "position in sentence": _since(np.isin(codes, [ord(c) for c in ".!?"]) | _empty_line(codes)),
        **_indentation(text),
        "capital letter": _class(text, str.isupper),
        "small letter": _class(text, str.islower),
        "digit": _class(text, str.isdigit),
        "blank": _class(text, str.isspace),
        "punctuation": _class(text, lambda c: not c.isalnum() and not c.isspace()),
        "vowel": _class(text, lambda c: c in "aeiouAEIOU"),
    }
    return {name: v.astype(np.float32) for name, v in found.items() if len(v) and v.min() != v.max()}


def _class(text: str, test: Callable[[str], bool]) -> NDArray[np.bool_]:
    """The test's result for each character. Each distinct character is tested once."""
    known = {c: test(c) for c in set(text)}
    return np.fromiter((known[c] for c in text), np.bool_, len(text))


def _since(resets: NDArray[np.bool_]) -> Values:
    """Number of characters since the last reset; 0 at a reset. The first character is 1 unless it is a reset."""
    places = np.arange(1, len(resets) + 1)
    return (places - np.maximum.accumulate(np.where(resets, places, 0))).astype(np.float32)


def _empty_line(codes: Codes) -> NDArray[np.bool_]:
    """Newlines that follow a newline."""
    newline = codes == ord("\n")
    empty: NDArray[np.bool_] = newline & np.concatenate([[False], newline[:-1]])[: len(codes)]
    return empty


def _depth(codes: Codes, opening: str, closing: str) -> Values:
    depth, depths = 0, np.empty(len(codes), np.float32)
    empty = _empty_line(codes)
    for i, change in enumerate((codes == ord(opening)).astype(np.int8) - (codes == ord(closing))):
        depth = 0 if empty[i] else max(0, depth + int(change))
        depths[i] = depth
    return depths


def _between(text: str, opening: str, closing: str) -> NDArray[np.bool_]:
    inside, values = False, np.empty(len(text), np.bool_)
    for i, c in enumerate(text):
        inside = c not in closing and (inside or c == opening)
        values[i] = inside
    return values


def _indentation(text: str) -> dict[str, Values]:
    width, leading, capital = 0, True, False
    widths, leadings, capitals = (np.empty(len(text), np.float32) for _ in range(3))
    for i, c in enumerate(text):
        if c == "\n":
            width, leading, capital = 0, True, False
        elif leading and c in " \t":
            width += 4 if c == "\t" else 1
        elif leading:
            leading, capital = False, c.isupper()
        widths[i], leadings[i], capitals[i] = width, leading, capital
    return {"indentation": widths, "leading blanks": leadings, "line with a capital first": capitals}


# Comments and quotations. A quotation that is not closed ends as the docstring of text_features says.
_QUOTED = re.compile(
    r"""
    (?P<comment> \# .* )
  | (?P<triple> (?P<mark> \"{3} | '{3} ) (?: \\(?s:.) | [^\\] )*? (?: (?P<closed_3> (?P=mark) ) | \\?\Z ) )
  | (?P<double> " (?: \\.? | [^"\\\n] | (?<!\n)\n )* (?P<closed_2> ")? )
    # After a letter or digit it is an apostrophe, unless that is a prefix as of r'…'.
  | (?P<single> (?: (?<!\w) | (?<=\b[rbfuRBFU]) | (?<=\b[rbfuRBFU]{2}) )
                ' (?: \\.? | [^'\\\n] )* (?P<closed_1> ')? )
    """,
    re.VERBOSE,
)


def _quotes(text: str) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """The kind of quotation that each character is in (0: none), and whether it is in a comment."""
    kinds, comments = np.zeros(len(text), np.int8), np.zeros(len(text), np.bool_)
    for found in _QUOTED.finditer(text):
        begin, end = found.span()
        if found["comment"]:
            comments[begin:end] = True
            continue
        kind = _TRIPLE if found["triple"] else _DOUBLE if found["double"] else _SINGLE
        # Of three quotes, the third one opens or closes the quotation.
        begin += 2 if kind == _TRIPLE else 0
        end -= 1 if found[f"closed_{kind}"] else 0
        kinds[begin:end] = kind
    return kinds, comments
