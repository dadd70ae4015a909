"""Normal forms and line ends are the same, wherever a text is cut into pieces."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.normalize import LineEnds, line_ends, normalized
from charrnn.errors import CorpusError

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


# Letters that compose, marks that change places, Hangul that joins, and things that expand.
HANGING = st.text(
    st.sampled_from("aeé\u0301\u0323\u0308\u0345 \nﬁ각\u1100\u1161\u11a8\u0344\u0b47\u0b3e\u0958Å가"), max_size=30
)


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    cuts = [0, *itertools.accumulate(sizes)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)] + [text[cuts[-1] :]]


@given(HANGING | TEXT, st.lists(st.integers(0, 4), max_size=20), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_normal_forms_across_borders(text: str, sizes: list[int], form: str) -> None:
    expected = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    assert "".join(normalized(pieces_of(text, sizes), form)) == expected  # type: ignore[arg-type]


def test_every_character_is_normalised_the_same_behind_a_border() -> None:
    heads = "a\u0301", "\u1100\u1161", "\u0b47", "e"
    for form in ("NFC", "NFKD"):
        for code in itertools.chain(range(0xD800), range(0xE000, 0x30000, 7)):
            head = heads[code % 4]
            assert "".join(normalized([head, chr(code), "x"], form)) == unicodedata.normalize(
                form, head + chr(code) + "x"
            )


def test_marks_without_end_are_refused_in_bounded_memory() -> None:
    marks = ("\u0301" * 1000 for _ in range(10**9))
    with pytest.raises(CorpusError, match="combining characters"):
        for _ in normalized(marks, "NFC"):
            pass


@given(st.text(st.sampled_from("ab\r\n"), max_size=30), st.lists(st.integers(0, 4), max_size=20))
def test_line_ends_are_folded_and_counted_across_borders(text: str, sizes: list[int]) -> None:
    seen = LineEnds()
    assert "".join(line_ends(pieces_of(text, sizes), seen, fold=True)) == text.replace("\r\n", "\n").replace("\r", "\n")
    assert seen.crlf == text.count("\r\n")
    assert (seen.cr + seen.crlf, seen.lf + seen.crlf) == (text.count("\r"), text.count("\n"))
    assert "".join(line_ends(pieces_of(text, sizes), LineEnds(), fold=False)) == text
