"""Generations: how they end, and scores of many texts."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import Sampler, UsageError, Vocabulary
from charrnn_runtime.sampling import UniformStream

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


def test_generation_tells_how_it_came_about(tiny: TinyModel, sampler: Sampler) -> None:
    done = sampler.generate(length=50, log_probs=True, temperature=0.5, top_k=4)
    assert done.finish_reason == "length"
    assert done.text == sampler.sample(length=50, seed=done.seed, temperature=0.5, top_k=4)
    assert tiny.vocabulary.decode(done.tokens) == done.text
    assert done.log_probs is not None
    # The model's own probabilities: those of score(), whatever the options.
    np.testing.assert_allclose(done.log_probs, sampler.score(done.text).log_probs, atol=1e-5)
    assert sampler.generate("bad", length=5).log_probs is None


def test_finish_reasons(sampler: Sampler, tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    whole = sampler.sample("a", length=100, seed=3)
    stopped = sampler.generate("a", length=100, seed=3, stop=whole[40:43])
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(whole[40:43])]
    assert len(stopped.tokens) == len(stopped.text) + 3
    ending = tiny_of(Vocabulary(symbols=(-1, 97, 98), special={"end": 0}))
    done = Sampler(ending.data()).generate("a", length=10_000, seed=1)
    assert done.finish_reason == "end"
    assert done.tokens[-1] == 0
    assert len(done.text) == len(done.tokens) - 1


def test_scores_of_many_and_of_pieces(sampler: Sampler) -> None:
    texts = ["face", "", "a", "bad, bead. " * 30, "\n\n", "jig"]
    for batch in (1, 2, 64):
        for got, text in zip(sampler.score_batch(texts, batch=batch), texts, strict=True):
            np.testing.assert_allclose(got.log_probs, sampler.score(text).log_probs, atol=1e-5)
    pieces = sampler.score_stream(["fa", "", "ce, b", "ad"])
    np.testing.assert_allclose(np.concatenate(list(pieces)), sampler.score("face, bad").log_probs, atol=1e-6)
    assert sampler.score_batch([]) == []
    assert math.isnan(sampler.score_batch([""])[0].nats_per_char)
    with pytest.raises(UsageError, match="list of texts"):
        sampler.score_batch("abc")


def test_memory_is_flat(sampler: Sampler) -> None:
    """A stream, and a score in pieces, hold no more after 20,000 characters than after 5,000."""
    stream = sampler.stream("a", length=10**9, seed=1, repetition_penalty=1.1)
    scores = sampler.score_stream(itertools.repeat("bad face", 10**9))
    tracemalloc.start()
    sizes = []
    for count in (5_000, 15_000):
        for _ in itertools.islice(stream, count):
            pass
        for _ in itertools.islice(scores, count // 10):
            pass
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 20_000


def test_uniform_numbers_looked_at_ahead_are_those_that_come() -> None:
    ahead, one_by_one = UniformStream(5, 2, 3), UniformStream(5, 2, 3)
    for count in (1, 200, 64, 64, 300, 7):
        shown = ahead.peek(count)
        ahead.skip(count - 1)
        assert shown == [one_by_one.next() for _ in range(count - 1)] + [ahead.next()]
        one_by_one.next()
        assert ahead.position == one_by_one.position
