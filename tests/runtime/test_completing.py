"""Completions and the next character, against brute force over all texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from charrnn_runtime import Completions, Sampler, UnknownCharacterError, UsageError, Vocabulary
from charrnn_runtime.session import State

from tests.runtime.conftest import TinyModel

BYTES = Vocabulary.from_text("", kind="bytes")


def brute_force(sampler: Sampler, prompt: str, until: str, max_length: int) -> list[tuple[float, str, bool]]:
    """Every continuation with its probability, the most probable first."""
    vocabulary = sampler.vocabulary
    ends = [vocabulary.special.get("end"), *map(vocabulary.token, until)]
    plain = [i for i, symbol in enumerate(vocabulary.symbols) if symbol >= 0 and i not in ends]
    found = []

    def follow(ids: list[int], probability: float, state: State, token: int) -> None:
        logits, state = sampler.step([token], state)
        after = np.exp(logits[0].astype(np.float64))
        after /= after.sum()
        if ids:
            found.append((probability * sum(after[i] for i in ends if i is not None), vocabulary.decode(ids), True))
        for i in plain:
            if len(ids) + 1 == max_length:
                found.append((probability * after[i], vocabulary.decode([*ids, i]), False))
            else:
                follow([*ids, i], probability * after[i], state, i)

    state = sampler.initial_state()
    *before, last = vocabulary.encode(prompt).tolist()
    for token in before:
        state = sampler.step([token], state)[1]
    follow([], 1.0, state, last)
    return sorted((item for item in found if item[0] > 0), key=lambda item: -item[0])


@pytest.mark.parametrize(
    ("vocabulary", "until", "max_length"),
    [
        (Vocabulary.from_text("abc "), " ", 4),
        (Vocabulary.from_text("abc "), "c ", 6),
        (Vocabulary.from_text("abcd"), "", 4),
        (Vocabulary(symbols=(97, -1, 98, 99), special={"end": 1}), "c.", 5),
    ],
    ids=["one end", "two ends", "no end", "end token"],
)
def test_completions_are_those_of_brute_force(
    tiny_of: Callable[[Vocabulary], TinyModel], vocabulary: Vocabulary, until: str, max_length: int
) -> None:
    sampler = Sampler(tiny_of(vocabulary).data())
    for prompt in ("a", "ab"):
        expected = brute_force(sampler, prompt, until, max_length)
        for n, width in ((3, 4096), (10, 4096), (1000, 4096), (3, 8)):
            got = sampler.complete(prompt, n=n, until=until, max_length=max_length, width=width)
            assert isinstance(got, Completions)
            if width == 4096:
                assert got.exact
            if got.exact:
                assert len(got) == min(n, len(expected))
                assert [(c.text, c.ended) for c in got] == [(text, ended) for _, text, ended in expected[: len(got)]]
            np.testing.assert_allclose(
                [c.probability for c in got],
                [next(p for p, text, _ in expected if text == c.text) for c in got],
                rtol=1e-5,
            )
    narrow = sampler.complete("a", n=3, until="", max_length=8, width=1)
    assert not narrow.exact
    assert narrow.width == 1


def test_the_next_character(sampler: Sampler, tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    following = sampler.next("bad")
    assert list(following.values()) == sorted(following.values(), reverse=True)
    assert set(following) == set("\n abcdefghij,.é漢")
    for character, probability in following.items():
        scored = sampler.score("bad" + str(character)).log_probs[-1]  # after the start token
        assert sampler.next("\nbad")[character] == pytest.approx(np.exp(scored), rel=1e-6)
        assert 0 < probability < 1
    assert sum(following.values()) == pytest.approx(1)
    ending = Sampler(tiny_of(Vocabulary(symbols=(-1, 97, -1), special={"end": 0, "begin": 2})).data()).next()
    assert set(ending) == {"", "a"}
    of_bytes = Sampler(tiny_of(BYTES).data())
    assert set(of_bytes.next("é")) == {bytes([i]) for i in range(256)}
    assert sum(of_bytes.next(b"\xff").values()) == pytest.approx(1)


def test_completions_of_bytes(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    sampler = Sampler(tiny_of(BYTES).data())
    got = sampler.complete("é", n=4, max_length=3)
    assert [c.probability for c in got] == sorted((c.probability for c in got), reverse=True)
    assert {type(c.text) for c in got} == {str}
    with pytest.raises(UsageError, match="only ASCII"):
        sampler.complete("é", until=" é")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"n": 0}, "n must be from 1 to 1000"),
        ({"n": 1001}, "n must be"),
        ({"max_length": 0}, "max_length"),
        ({"width": 0}, "width"),
        ({"until": None}, "until must be a string"),
        ({"until": ["a"]}, "until must be a string"),
    ],
)
def test_arguments_that_are_refused(sampler: Sampler, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        sampler.complete("a", **arguments)


def test_unknown_characters(sampler: Sampler) -> None:
    with pytest.raises(UnknownCharacterError, match="has never seen 'X'"):
        sampler.complete("aX")
    with pytest.raises(UnknownCharacterError):
        sampler.next("aX")
    assert sampler.complete("aX", unknown="skip") == sampler.complete("a", until=" \n.,X")
    assert sampler.next("aX", unknown="skip") == sampler.next("a")
