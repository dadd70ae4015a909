"""Scores against a float64 reference, and the charge for characters that the model has never seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import Engine, Sampler, UnknownCharacterError, UsageError, Vocabulary
from charrnn_runtime.vocab import UNKNOWN
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

TEXTS = st.text("\n abcdefghij,.é漢XYZ☃", max_size=12)


def reference(tiny: TinyModel, text: str) -> NDArray[np.float64]:
    """Log-probabilities in float64: unknown characters get the least of all known ones, and are not fed."""
    vocabulary, scores = tiny.vocabulary, []
    fed = [vocabulary.start_token]
    plain = [i for i, symbol in enumerate(vocabulary.symbols) if symbol >= 0]
    for character in text:
        logits = tiny.logits(np.array(fed))[-1]
        log_probs = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        token = vocabulary.token(character)
        if token is None and "unknown" in vocabulary.special:
            token = vocabulary.special["unknown"]
        scores.append(log_probs[plain].min() if token is None else log_probs[token])
        fed += [] if token is None else [token]
    return np.array(scores)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(TEXTS, st.data())
def test_scores_are_the_references_however_the_text_is_cut(
    tiny: TinyModel, sampler: Sampler, text: str, data: st.DataObject
) -> None:
    expected = reference(tiny, text)
    whole = sampler.score(text)
    np.testing.assert_allclose(whole.log_probs, expected, atol=2e-5)
    assert whole.num_unknown == sum(c in "XYZ☃" for c in text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    np.testing.assert_array_equal(np.concatenate(list(sampler.score_stream(pieces))), whole.log_probs)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(TEXTS, max_size=7), st.integers(1, 4))
def test_batches_score_as_single_texts(sampler: Sampler, texts: list[str], batch: int) -> None:
    for text, score in zip(texts, sampler.score_batch(texts, batch=batch), strict=True):
        alone = sampler.score(text)
        np.testing.assert_allclose(score.log_probs, alone.log_probs, atol=1e-6)
        assert score.num_unknown == alone.num_unknown


def test_an_engine_scores_as_the_sampler(sampler: Sampler) -> None:
    with Engine(sampler) as engine:
        for text in ("", "X", "abc", "XabYZc", "aXX", "☃" * 5):
            job = engine.score(text, top=2)
            until = time.monotonic() + 5
            while not job.ended:
                assert time.monotonic() < until
                time.sleep(0.002)
            expected = sampler.score(text)
            np.testing.assert_allclose(
                [score.log_prob or 0 for score in job.prompt_scores], expected.log_probs, atol=1e-6
            )
            assert [score.token == UNKNOWN for score in job.prompt_scores] == [c in "XYZ☃" for c in text]
            assert job.prompt_tokens == len(text)
        with pytest.raises(UnknownCharacterError):
            engine.score("aX", unknown="error")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text("\n abcdefghij,.é漢", min_size=1, max_size=12), st.data())
def test_a_strange_character_never_makes_a_text_cheaper(sampler: Sampler, text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    whole = sampler.score(text)
    inserted = sampler.score(text[:at] + "☃" + text[at:])
    assert inserted.nats > whole.nats
    assert inserted.log_probs[at] <= (whole.log_probs[at] if at < len(text) else 0) + 1e-9
    assert inserted.log_probs[at] < -math.log(len(sampler.vocabulary)), "less likely than an average character"


def test_special_tokens_are_not_the_least_likely_character(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    """A begin token is never predicted, so that its probability says nothing about characters."""
    vocabulary = Vocabulary(symbols=(-1, *map(ord, "\n abcdefghij,.é漢")), special={"begin": 0})
    tiny = tiny_of(vocabulary)
    tiny.weights["b"][0] = -80.0
    sampler = Sampler(tiny.data())
    score = sampler.score("aXb")
    np.testing.assert_allclose(score.log_probs, reference(tiny, "aXb"), atol=2e-5)
    assert score.log_probs[1] > -60


def test_a_model_with_a_token_for_unknown_characters_predicts_it(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    vocabulary = Vocabulary(symbols=(*map(ord, "\n abcdefghij,.é漢"), -1), special={"unknown": 16})
    tiny = tiny_of(vocabulary)
    score = Sampler(tiny.data()).score("aXbYZ")
    np.testing.assert_allclose(score.log_probs, reference(tiny, "aXbYZ"), atol=2e-5)
    assert score.num_unknown == 3


def test_unknown_characters_can_be_an_error_but_not_be_left_out(sampler: Sampler) -> None:
    with pytest.raises(UnknownCharacterError) as caught:
        sampler.score("abXcY", unknown="error")
    assert (caught.value.character, caught.value.position) == ("X", 2)
    for unknown in ("skip", None):
        with pytest.raises(UsageError, match="'charge' or 'error'"):
            sampler.score("a", unknown=unknown)  # type: ignore[arg-type]


def test_figures_of_a_score(sampler: Sampler) -> None:
    score = sampler.score("bad face")
    assert score.nats == pytest.approx(-score.log_probs.sum())
    assert score.bits == pytest.approx(score.nats / math.log(2))
    assert score.nats_per_char == pytest.approx(score.nats / 8)
    assert score.perplexity == pytest.approx(2**score.bits_per_char)
    assert math.isnan(sampler.score("").nats_per_char)


def test_bytes_are_scored_as_they_are(tiny_of: Callable[[Vocabulary], TinyModel], sampler: Sampler) -> None:
    bytewise = Sampler(tiny_of(Vocabulary.from_text("", kind="bytes")).data())
    assert len(bytewise.score(b"caf\xe9").log_probs) == 4
    np.testing.assert_array_equal(bytewise.score("é漢".encode()).log_probs, bytewise.score("é漢").log_probs)
    with pytest.raises(UsageError, match="decode the bytes first"):
        sampler.score(b"abc")
