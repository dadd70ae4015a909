"""Continuous batching: every text of a batch is what it is alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import Request, Sampler, UsageError, Vocabulary
from charrnn_runtime.options import SamplingKwargs

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_many_at_once_are_what_each_is_alone(sampler: Sampler, batch: int) -> None:
    options: list[SamplingKwargs] = [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"repetition_penalty": 1.2}]
    requests = [
        Request(
            prompt="abcdefghij"[: n % 7],
            length=5 + 13 * n % 70,
            seed=n,
            index=n % 3,
            stop="ab" if n % 4 == 1 else (),
            log_probs=n % 5 == 0,
            options=options[n % 4],
        )
        for n in range(17)
    ]
    done = dict(sampler.generate_many(iter(requests), batch=batch))
    assert sorted(done) == list(range(17))
    for n, r in enumerate(requests):
        alone = sampler.generate(
            r.prompt, length=r.length, seed=r.seed, index=r.index, stop=r.stop, log_probs=r.log_probs, **r.options
        )
        assert (done[n].text, done[n].finish_reason, done[n].tokens) == (alone.text, alone.finish_reason, alone.tokens)
        if r.log_probs:
            np.testing.assert_allclose(done[n].log_probs, alone.log_probs, atol=1e-4)  # type: ignore[arg-type]


def test_requests_are_taken_only_when_there_is_room(sampler: Sampler) -> None:
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        for n in itertools.count():
            taken = n + 1
            yield Request(prompt="a", length=20 + n % 5, seed=n)

    done = list(itertools.islice(sampler.generate_many(endless(), batch=4), 30))
    assert len({n for n, _ in done}) == 30
    assert taken <= 30 + 4


def test_many_prompts_of_different_lengths(sampler: Sampler) -> None:
    prompts = ["abcdefghij"[i % 10 :] * (i % 4) for i in range(2_000)]
    texts = sampler.sample_batch(prompts, length=4, seed=1)
    for i in (0, 1, 7, 999, 1_999):
        assert texts[i] == sampler.sample(prompts[i], length=4, seed=1, index=i)


def test_wrong_batches(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="batch"):
        sampler.sample_batch(["a"], length=3, batch=0)
    with pytest.raises(UsageError, match="batch"):
        sampler.generate_many([], batch=0)
    with pytest.raises(UsageError, match="temperature"):
        list(sampler.generate_many([Request(length=3, options={"temperature": -1})]))


@pytest.mark.parametrize("special", [{}, {"end": 0}])
def test_texts_drawn_in_blocks_of_steps_are_what_each_is_alone(
    tiny_of: Callable[[Vocabulary], TinyModel], special: dict[str, int]
) -> None:
    symbols = (-1, *range(97, 110)) if special else tuple(range(96, 110))
    sampler = Sampler(tiny_of(Vocabulary(symbols=symbols, special=special)).data())
    options: SamplingKwargs = {"temperature": 0.9}
    requests = [
        Request(prompt="abc"[: n % 4], length=3 + 67 * n % 230, seed=4, index=n, options=options) for n in range(30)
    ]
    done = dict(sampler.generate_many(requests, batch=12))
    for n, r in enumerate(requests):
        alone = sampler.generate(r.prompt, length=r.length, seed=4, index=n, **options)
        assert (done[n].text, done[n].tokens, done[n].finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
    assert {d.finish_reason for d in done.values()} == ({"end", "length"} if special else {"length"})
