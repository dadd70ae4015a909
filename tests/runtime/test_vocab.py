from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from charrnn_runtime import UnknownCharacterError, UsageError, Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

any_text = st.text(st.characters(), max_size=60)  # surrogates included
steady = settings(derandomize=True, deadline=None, max_examples=200)


@steady
@given(any_text.filter(bool))
def test_characters_come_back(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.symbols == tuple(sorted({ord(c) for c in text}))
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert vocabulary.decode(ids) == text
    assert [vocabulary.token(c) for c in text] == ids.tolist()


@steady
@given(st.text(max_size=60))
def test_bytes_come_back(text: str) -> None:
    vocabulary = Vocabulary.from_text("", kind="bytes")
    ids = vocabulary.encode(text)
    assert ids.tolist() == list(text.encode())
    assert vocabulary.decode(ids) == text


@steady
@given(st.lists(st.integers(0, 255), max_size=40))
def test_byte_decoder_agrees_with_python_on_any_bytes(values: list[int]) -> None:
    vocabulary = Vocabulary.from_text("", kind="bytes")
    assert vocabulary.decode(values) == bytes(values).decode("utf-8", "replace")


@steady
@given(any_text.filter(bool), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_normal_form_is_applied_before_encoding(text: str, form: str) -> None:
    normal = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    vocabulary = Vocabulary.from_text(text, normalize=form)  # type: ignore[arg-type]
    assert vocabulary.decode(vocabulary.encode(text)) == normal


@steady
@given(any_text.filter(bool), st.permutations(["begin", "end", "unknown"]), st.integers(0, 3))
def test_json_comes_back(text: str, names: list[str], count: int) -> None:
    plain = Vocabulary.from_text(text)
    special = {name: i for i, name in enumerate(names[:count])}
    vocabulary = Vocabulary(symbols=(-1,) * count + plain.symbols, special=special)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.decode(again.encode(text)) == text


def test_special_tokens() -> None:
    vocabulary = Vocabulary(symbols=(-1, 97, -1, 98), special={"begin": 0, "unknown": 2})
    assert vocabulary.start_token == 0
    assert vocabulary.encode("axb").tolist() == [1, 2, 3]
    assert vocabulary.decode([0, 1, 2, 3]) == "ab"


@pytest.mark.parametrize(("text", "start"), [("ab\n ", "\n"), ("ab ", " "), ("ab", "a")])
def test_start_token_of_a_plain_vocabulary(text: str, start: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.decode([vocabulary.start_token]) == start


def test_unknown_characters_are_named_or_skipped() -> None:
    vocabulary = Vocabulary.from_text("abc")
    with pytest.raises(UnknownCharacterError) as caught:
        vocabulary.encode("ab漢c!")
    assert (caught.value.character, caught.value.position) == ("漢", 2)
    assert "U+6F22" in str(caught.value)
    assert "2 such characters" in str(caught.value)
    assert vocabulary.encode("ab漢c!", unknown="skip").tolist() == [0, 1, 2]
    assert vocabulary.encode("", unknown="skip").shape == (0,)
    with pytest.raises(UsageError, match="'error', 'skip' or 'charge'"):
        vocabulary.encode("a", unknown="ignore")  # type: ignore[arg-type]


def test_ids_from_outside_are_checked() -> None:
    vocabulary = Vocabulary.from_text("abc")
    for ids in ([2, 0], (2, 0), np.array([2, 0], np.uint8), range(2, -1, -2)):
        checked = vocabulary.check_ids(ids)  # type: ignore[arg-type]
        assert checked.tolist() == [2, 0]
        assert checked.dtype == np.int64
    assert vocabulary.check_ids([]).tolist() == []
    for wrong in ([3], [-1], [2**63]):
        with pytest.raises(UsageError, match=f"no token {wrong[0]}; its ids are 0 to 2"):
            vocabulary.check_ids(wrong)
    for other in (None, 5, 1.5, [1.0], ["a"], [True], [[1]], [1, [2]], [2**70], b"ab", {"a": 1}, {1}):
        with pytest.raises(UsageError, match="a text or a sequence of token ids"):
            vocabulary.check_ids(other)  # type: ignore[arg-type]


def test_decoder_holds_back_unfinished_characters() -> None:
    decoder = Vocabulary.from_text("", kind="bytes").decoder()
    assert [decoder.decode(b) for b in "é!".encode()] == ["", "é", "!"]
    assert decoder.flush() == ""
    assert decoder.decode(0xC3) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be an object"),
        ({"kind": "characters", "tokens": "abc"}, "not a list"),
        ({"kind": "characters", "tokens": []}, "at least one token"),
        ({"kind": "characters", "tokens": ["a", "a"]}, "each token only once"),
        ({"kind": "characters", "tokens": ["ab"]}, "token 0"),
        ({"kind": "characters", "tokens": [97]}, "token 0"),
        ({"kind": "words", "tokens": [1]}, "unknown kind"),
        ({"kind": "bytes", "tokens": [256]}, "token 0"),
        ({"kind": "bytes", "tokens": [10**30]}, "token 0"),
        ({"kind": "bytes", "tokens": [True]}, "token 0"),
        ({"kind": "bytes", "tokens": [-1]}, "token 0"),
        ({"kind": "characters", "tokens": ["a"], "special": {"begin": "0"}}, "names to ids"),
        ({"kind": "characters", "tokens": ["a"], "special": {"begin": 7}}, "ids of their own"),
        ({"kind": "characters", "tokens": ["a", "b"], "special": {"begin": 0, "end": 0}}, "ids of their own"),
        ({"kind": "characters", "tokens": ["a"], "normalize": "NFX"}, "normal form"),
    ],
)
def test_json_that_describes_no_vocabulary(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Vocabulary.from_json(value)


def test_symbols_out_of_range() -> None:
    with pytest.raises(UsageError, match="is not a character"):
        Vocabulary(symbols=(0x110000,))
    with pytest.raises(UsageError, match="do not match"):
        Vocabulary(symbols=(-1, 97))
