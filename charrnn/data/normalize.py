"""Unicode normal forms and line ends of a text that comes in pieces. The result does not depend on the pieces."""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from charrnn_runtime.vocab import NormalForm

from charrnn.errors import CorpusError

_LONGEST = 1 << 16  # longest run of characters that combine with each other; Unicode's limit for streams is 30


@dataclass(kw_only=True)
class LineEnds:
    """Number of line ends of each kind."""

    lf: int = 0
    crlf: int = 0
    cr: int = 0

    @property
    def mixed(self) -> bool:
        """Whether there is more than one kind."""
        return sum(bool(n) for n in (self.lf, self.crlf, self.cr)) > 1


def line_ends(pieces: Iterable[str], seen: LineEnds, *, fold: bool) -> Iterator[str]:
    """Counts line ends into ``seen``; with ``fold`` CRLF and single CR become LF."""
    held = ""
    for piece in pieces:
        text = held + piece
        # A CR at the end of a piece may be the first half of a CRLF: it waits for the next piece.
        held = "\r" if text.endswith("\r") else ""
        yield _counted(text[: len(text) - len(held)], seen, fold=fold)
    if held:
        yield _counted(held, seen, fold=fold)


def _counted(text: str, seen: LineEnds, *, fold: bool) -> str:
    returns, feeds = text.count("\r"), text.count("\n")
    if not returns:
        seen.lf += feeds
        return text
    both = text.count("\r\n")
    seen.crlf, seen.cr, seen.lf = seen.crlf + both, seen.cr + returns - both, seen.lf + feeds - both
    return text.replace("\r\n", "\n").replace("\r", "\n") if fold else text


def normalized(pieces: Iterable[str], form: NormalForm) -> Iterator[str]:
    """The normal form of a text that comes in pieces.

    Normalising may compose or reorder neighbouring characters. So each piece is
    cut before its last character that cannot interact with the characters before
    it, and the rest is joined with the next piece.

    Raises:
        CorpusError: a run of more than 65,536 characters can only be normalised together.
    """
    held = ""
    for piece in pieces:
        text = held + piece
        cut = _last_boundary(text)
        if len(text) - cut > _LONGEST:
            raise CorpusError(
                f"more than {_LONGEST:,} combining characters follow each other: this cannot be brought into a "
                "normal form; leave out --normalize"
            )
        held = text[cut:]
        yield unicodedata.normalize(form, text[:cut])
    yield unicodedata.normalize(form, held)


def _last_boundary(text: str) -> int:
    for at in range(len(text) - 1, -1, -1):
        # Characters below U+0300 never combine with the characters before them.
        if text[at] < "\u0300" or _begins(text[at]):
            return at
    return 0


def _begins(character: str) -> bool:
    """Whether this character never interacts with those before it, in any of the four normal forms."""
    first = unicodedata.normalize("NFKD", character)[0]
    return not (
        unicodedata.combining(character)
        or unicodedata.combining(first)
        or character in _joining()
        or first in _joining()
    )


@functools.cache
def _joining() -> frozenset[str]:
    """Characters that may compose with the one before: second in a composition, or a Hangul vowel or final."""
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(0x300, sys.maxunicode + 1))
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    return frozenset(seconds | {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))})
