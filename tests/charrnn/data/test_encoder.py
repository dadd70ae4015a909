"""Characters become provisional ids in the order in which they first appear."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.encoder import CharEncoder

PIECES = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=6)


@given(PIECES, st.sampled_from([0, 2]))
def test_ids_and_counts_are_those_of_the_characters(pieces: list[str], num_special: int) -> None:
    encoder = CharEncoder(num_special, as_bytes=False)
    ids = [token for piece in pieces for token in encoder.encode(piece).tolist()]
    text = "".join(pieces)
    assert "".join(chr(encoder.symbols[token]) for token in ids) == text
    assert encoder.symbols[:num_special] == [-1] * num_special
    assert set(encoder.symbols[num_special:]) == set(map(ord, text))
    assert len(encoder.symbols) == num_special + len(set(text))
    counts = Counter(text)
    assert encoder.counts.tolist() == [0] * num_special + [counts[chr(s)] for s in encoder.symbols[num_special:]]


def test_bytes_have_their_ids_from_the_beginning() -> None:
    encoder = CharEncoder(0, as_bytes=True)
    assert encoder.encode("b\xffb").tolist() == [98, 255, 98]
    assert len(encoder.symbols) == 256
    assert (encoder.counts[98], encoder.counts[255], encoder.counts.sum()) == (2, 1, 3)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=8))
def test_each_item_stands_between_begin_and_end(items: list[str]) -> None:
    encoder = CharEncoder(2, as_bytes=False)
    ids = encoder.encode_items(items).tolist()
    expected: list[int] = []
    for item in items:
        expected += [0, *(encoder.symbols.index(ord(character)) for character in item), 1]
    assert ids == expected
    assert encoder.counts[:2].tolist() == [len(items)] * 2


@pytest.mark.parametrize(("distinct", "dtype"), [(256, np.uint8), (257, np.uint16), (65_536, np.uint16)])
def test_ids_are_as_narrow_as_they_can_be(distinct: int, dtype: type[np.unsignedinteger]) -> None:
    codes = [code for code in range(70_000) if not 0xD800 <= code < 0xE000][:distinct]
    ids = CharEncoder(0, as_bytes=False).encode("".join(map(chr, codes)))
    assert ids.dtype == dtype
    assert np.array_equal(ids, np.arange(distinct))
