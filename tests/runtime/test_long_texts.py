"""Long texts: the same characters in every way of drawing them, memory that stays flat, very many prompts."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import Request, Sampler, Vocabulary
from charrnn_runtime.options import Logits64, SamplingKwargs
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

LENGTH = 10_000


def test_memory_stays_flat_over_100_000_characters(sampler: Sampler) -> None:
    """A warm-up of 20,000, then 80,000 more in a batch and a stream: what is kept is each finished text alone."""
    options: SamplingKwargs = {}  # shared: each options object costs a drawer, up to a thousand of them are kept
    requests = (Request(length=250, seed=n, options=options) for n in itertools.count())
    texts = sampler.generate_many(requests, batch=16)
    stream = sampler.stream(length=10**9, seed=1, stop="漢漢漢漢漢")

    def draw(characters: int) -> int:
        for _ in itertools.islice(texts, characters // 2 // 250):
            pass
        drawn = 0
        while drawn < characters // 2:
            drawn += len(next(stream))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = draw(20_000)
        after = draw(80_000)
    finally:
        tracemalloc.stop()
    assert after - before < 50_000, "less than a byte a character"


def test_ten_thousand_prompts_of_different_lengths(sampler: Sampler) -> None:
    prompts = ["abcdefghij"[i % 10 :] * (i % 4) for i in range(10_000)]
    assert len({len(p) for p in prompts}) > 10
    texts = sampler.sample_batch(prompts, length=3, seed=1, batch=256)
    assert [len(t) for t in texts] == [3] * 10_000
    for i in (0, 1, 7, 999, 5_000, 9_999):
        assert texts[i] == sampler.sample(prompts[i], length=3, seed=1, index=i)


def test_a_callback_that_raises_in_a_batch_a_stream_and_many(sampler: Sampler) -> None:
    calls = 0

    def broken(ids: Sequence[int], logits: Logits64) -> None:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        sampler.sample_batch(["bad", "a"], length=5, logits_processor=broken)
    with pytest.raises(RuntimeError, match="mine"):
        list(sampler.stream("bad", length=5, logits_processor=broken))
    with pytest.raises(RuntimeError, match="mine"):
        list(sampler.generate_many([Request(length=9, options={"logits_processor": broken})]))
    assert sampler.sample("bad", length=9, seed=1) == sampler.sample("bad", length=9, seed=1)


def test_many_abandoned_half_way(sampler: Sampler) -> None:
    texts = sampler.generate_many((Request(length=9, seed=n) for n in itertools.count()), batch=4)
    first = dict(itertools.islice(texts, 3))
    texts.close()  # type: ignore[attr-defined]
    for n, done in first.items():
        assert done.text == sampler.sample(length=9, seed=n)


def test_stop_strings_that_contain_each_other(sampler: Sampler) -> None:
    whole = sampler.sample("a", length=300, seed=8)
    long, short = whole[100:106], whole[102:104]
    expected = whole[: min(whole.index(long), whole.index(short))]
    for stops in ([long, short], [short, long]):
        assert sampler.sample("a", length=300, seed=8, stop=stops) == expected
        assert "".join(sampler.stream("a", length=300, seed=8, stop=stops)) == expected


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.text("\n abcdefghij,.é漢", min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(0, 1000),
    st.integers(0, 30),
)
def test_stop_strings_never_leak_from_a_sampler(sampler: Sampler, stops: list[str], seed: int, min_length: int) -> None:
    whole = sampler.sample("a", length=80, seed=seed)
    behind = whole[min_length:]
    found = [behind.index(s) for s in stops if s in behind]
    expected = whole[: min_length + min(found)] if found else whole
    given_out = ""
    for piece in sampler.stream("a", length=80, seed=seed, stop=stops, min_length=min_length):
        given_out += piece
        assert expected.startswith(given_out)
    assert given_out == expected
    assert sampler.sample_batch(["a"], length=80, seed=seed, stop=stops, min_length=min_length) == [expected]


def test_frequencies_of_whole_texts_match_probabilities(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    """First characters of 20,000 texts of a batch against the model's own probabilities: chi-square."""
    tiny = tiny_of(Vocabulary.from_text("\n abcdefgh"))
    sampler = Sampler(tiny.data())
    n = 20_000
    requests = (Request(prompt="b", length=1, seed=n) for n in range(n))
    drawn = [done.tokens[0] for _, done in sampler.generate_many(requests, batch=512)]
    logits = tiny.logits(tiny.vocabulary.encode("b"))[-1]
    expected = n * np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    rare = expected < 5
    counts = np.bincount(drawn, minlength=len(logits)).astype(float)
    groups = [*zip(counts[~rare], expected[~rare], strict=True), (counts[rare].sum(), expected[rare].sum() + 1e-9)]
    statistic = sum((c - e) ** 2 / e for c, e in groups if e > 1)
    k = sum(e > 1 for _, e in groups) - 1
    # Wilson and Hilferty: about normal; the seeds are fixed, so this fails for good or never.
    assert ((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)) < 4


def test_ten_thousand_characters_in_every_way(sampler: Sampler) -> None:
    """One seed: alone, streamed, in a batch of 7, from 16 threads at once."""
    whole = sampler.sample("bad", length=LENGTH, seed=5)
    assert len(whole) == LENGTH
    assert "".join(sampler.stream("bad", length=LENGTH, seed=5)) == whole
    batch = sampler.sample_batch(["bad", "a", "", "face", "jj", "é", "漢漢漢"], length=LENGTH, seed=5)
    assert batch[0] == whole
    for i, prompt in ((2, ""), (6, "漢漢漢")):
        assert batch[i] == sampler.sample(prompt, length=LENGTH, seed=5, index=i)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: sampler.sample("bad", length=1500, seed=5), range(16))) == {whole[:1500]}
