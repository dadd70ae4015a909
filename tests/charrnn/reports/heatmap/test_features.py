"""What a unit may follow: each feature of a text against its plain definition."""

from __future__ import annotations

import pytest

from charrnn.reports.heatmap.features import text_features


def marks(text: str, name: str) -> str:
    return "".join(str(int(v)) for v in text_features(text)[name])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", "a \"b\" 'c'", "001100110"),
        ('inside "…"', 'x"\\""y', "011100"),
        ("inside '…'", "don't 'go'", "0000001110"),
        ("inside '…'", "x = r'ab'\n", "0000011100"),
        ("inside '…'", "'a\nb'c", "110011"),
        ("inside triple quotes", "'''a'b\n'''c", "00111111100"),
        ("comment", "a # b\nc '#'", "00111000000"),
        ("bracket depth", "a([b])c)(", "012210001"),
        ("bracket depth", "((\n\na", "12200"),
        ("inside ( )", "(a[b]c)d", "11111100"),
        ("inside [ ]", "(a[b]c)d", "00110000"),
        ("inside < >", "a<b>c<d\ne", "011001100"),
        ("position in line", "ab\ncd", "12012"),
        ("position in word", "ab_1 c", "123401"),
        ("position in sentence", "ab. c\n\nd", "12012301"),
        ("indentation", "  a b\n\tc", "12222044"),
        ("leading blanks", "  a b\n c", "11000110"),
        ("line with a capital first", " Ab\nc", "01100"),
        ("capital letter", "aBc", "010"),
        ("digit", "a1b", "010"),
    ],
)
def test_features(name: str, text: str, expected: str) -> None:
    assert marks(text, name) == expected


def test_features_that_do_not_vary_are_left_out() -> None:
    assert "digit" not in text_features("abc def")
    assert text_features("") == {}
    assert all(len(v) == 7 for v in text_features("abc def").values())
