"""Drawing, against the specification in runtime/README.md and plain reimplementations of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from charrnn_runtime import ModelOutputError, SamplingOptions, UsageError, Vocabulary
from charrnn_runtime.sampling import (
    StopStrings,
    TokenSampler,
    UniformStream,
    filtered_weights,
    log_softmax,
    sample_token,
)
from hypothesis import given, settings
from hypothesis import strategies as st

README = Path(__file__).parents[2] / "runtime" / "README.md"
MASK = 2**64 - 1
steady = settings(derandomize=True, deadline=None, max_examples=300)

logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)
options_strategy = st.builds(
    SamplingOptions,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(0, 25),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
)


def philox(seed: int, index: int, n: int, lane: int = 0) -> int:
    """Word n of Philox4x64-10 in Python's integers, from the specification alone."""
    c = [n // 4 + 1, lane, 0, 0]
    k = [seed, index]
    for _ in range(10):
        hi0, lo0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        hi1, lo1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c[n % 4]


def plain_weights(logits: list[float], options: SamplingOptions) -> list[float]:
    """Steps 1 and 2 of "Drawing a token", with lists and loops."""
    largest = max(logits)
    w = [math.exp((x - largest) / options.temperature) for x in logits]
    ranked = sorted(range(len(w)), key=lambda i: (-w[i], i))
    if options.top_k:
        ranked = ranked[: options.top_k]
    if options.top_p is not None and options.top_p < 1:
        total = 0.0
        for i in ranked:
            total += w[i]
        kept, reached = [], 0.0
        for i in ranked:
            kept.append(i)
            reached += w[i]
            if reached >= options.top_p * total:
                break
        ranked = kept
    if options.min_p:
        ranked = [i for i in ranked if w[i] >= options.min_p * w[ranked[0]]]
    return [w[i] if i in ranked else 0.0 for i in range(len(w))]


def vectors() -> dict[str, Any]:
    (block,) = re.findall(r"```json\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    value: dict[str, Any] = json.loads(block)
    return value


@pytest.mark.parametrize("case", vectors()["uniforms"], ids=lambda c: f"{c['seed']}-{c['index']}-{c['first']}")
def test_uniform_vectors_of_the_readme(case: dict[str, Any]) -> None:
    seed, index, first = case["seed"], case["index"], case["first"]
    lane = case.get("lane", 0)
    stream = UniformStream(seed, index, first, lane=lane)
    for n, (word, uniform) in enumerate(zip(case["words"], case["uniforms"], strict=True), start=first):
        assert f"{philox(seed, index, n, lane):016x}" == word
        assert (int(word, 16) >> 11) * 2.0**-53 == uniform
        assert stream.next() == uniform


@pytest.mark.parametrize("case", vectors()["draws"], ids=lambda c: f"{len(c['logits'])}-{c['options']}-{c['uniform']}")
def test_draw_vectors_of_the_readme(case: dict[str, Any]) -> None:
    logits = np.array(case["logits"], np.float32)
    assert sample_token(logits, SamplingOptions(**case["options"]), case["uniform"]) == case["token"]


@pytest.mark.parametrize("case", vectors()["adjusted"], ids=lambda c: f"{c['options']}-{c['uniform']}")
def test_adjusted_vectors_of_the_readme(case: dict[str, Any]) -> None:
    vocabulary = Vocabulary(symbols=tuple(map(ord, case["tokens"])))
    token_sampler = TokenSampler(SamplingOptions(**case["options"]), vocabulary)
    assert token_sampler.sample(np.array(case["logits"], np.float32), case["uniform"], case["history"]) == case["token"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, MASK), st.integers(0, MASK), st.integers(0, 3000))
def test_any_place_of_any_stream(seed: int, index: int, position: int) -> None:
    stream = UniformStream(seed, index, position)
    for n in range(position, position + 6):
        assert stream.position == n
        assert stream.next() == (philox(seed, index, n) >> 11) * 2.0**-53


def test_a_stream_is_the_same_from_every_position() -> None:
    whole = UniformStream(3, 1)
    numbers = [whole.next() for _ in range(1100)]
    for position in (1, 255, 256, 257, 1023, 1024):
        assert UniformStream(3, 1, position).next() == numbers[position]
    assert len(set(numbers)) == len(numbers)


@steady
@given(logit_lists, options_strategy)
def test_filters_keep_what_their_definitions_say(logits: list[float], options: SamplingOptions) -> None:
    got = filtered_weights(np.array(logits, np.float32), options)
    expected = np.array(plain_weights(logits, options))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-300)
    assert ((got > 0) == (expected > 0)).all()
    assert got.max() == 1.0  # the likeliest token is never filtered out


@steady
@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=12), options_strategy)
def test_ties_go_to_the_lowest_ids(logits: list[float], options: SamplingOptions) -> None:
    kept = filtered_weights(np.array(logits, np.float32), options) > 0
    for value in set(logits):
        of_equals = [bool(kept[i]) for i, x in enumerate(logits) if x == value]
        assert of_equals == sorted(of_equals, reverse=True)


@steady
@given(logit_lists, options_strategy, st.floats(0, 1, exclude_max=True))
def test_threshold_rule(logits: list[float], options: SamplingOptions, uniform: float) -> None:
    array = np.array(logits, np.float32)
    token = sample_token(array, options, uniform)
    weights = filtered_weights(array, options).tolist()
    sums, running = [], 0.0
    for w in weights:
        running += w
        sums.append(running)
    threshold = uniform * sums[-1]
    assert weights[token] > 0
    assert sums[token] > threshold or sums[token] == sums[-1]
    assert token == 0 or sums[token - 1] <= threshold


def test_the_largest_uniform_never_runs_over_the_end() -> None:
    logits = np.array([0, 0, -745, -math.inf], np.float32)  # e**-745 is the smallest float64 above 0
    assert sample_token(logits, SamplingOptions(), 1 - 2**-53) == 1


def chi_square(counts: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The statistic in standard deviations above its mean (Wilson and Hilferty), about normal."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    k = len(counts) - 1
    return (math.pow(statistic / k, 1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(temperature=0.6),
        SamplingOptions(temperature=1.4, top_k=12),
        SamplingOptions(top_p=0.8),
        SamplingOptions(min_p=0.05),
        SamplingOptions(temperature=1.2, top_k=15, top_p=0.95, min_p=0.01),
    ],
    ids=str,
)
def test_frequencies_match_probabilities(options: SamplingOptions) -> None:
    logits = np.random.default_rng(1).standard_normal(20).astype(np.float32) * 1.5
    stream = UniformStream(11)
    n = 20_000
    counts = np.bincount([sample_token(logits, options, stream.next()) for _ in range(n)], minlength=20)
    weights = np.array(plain_weights([float(x) for x in logits], options))
    kept = weights > 0
    assert counts[~kept].sum() == 0
    # Five deviations: the seed is fixed, so this fails for good or never.
    assert abs(chi_square(counts[kept], n * weights[kept] / weights.sum())) < 5


def test_uniform_numbers_are_uniform() -> None:
    stream = UniformStream(12345, 678)
    numbers = np.array([stream.next() for _ in range(50_000)])
    assert abs(chi_square(np.histogram(numbers, 50, (0, 1))[0], np.full(50, 1000.0))) < 5
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert sample_token(np.array([1, 3, 3, 2], np.float32), SamplingOptions(temperature=0), 0.99) == 1


@pytest.mark.parametrize("temperature", [1e-6, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([1, 3, 2.99, 2], np.float32)
    assert sample_token(logits, SamplingOptions(temperature=temperature), 0.999) == 1


def test_minus_infinity_is_never_drawn() -> None:
    logits = np.array([-math.inf, 0, -math.inf], np.float32)
    assert {sample_token(logits, SamplingOptions(), u) for u in (0.0, 0.5, 1 - 2**-53)} == {1}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [[0, math.nan], [math.inf, 0], [-math.inf, -math.inf]])
def test_logits_that_nothing_can_be_drawn_from(temperature: float, bad: list[float]) -> None:
    with pytest.raises(ModelOutputError, match="NaN" if math.isnan(sum(bad)) else "infinite"):
        sample_token(np.array(bad, np.float32), SamplingOptions(temperature=temperature), 0.5)


@steady
@given(st.lists(st.lists(st.floats(-80, 80, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_log_softmax(rows: list[list[float]]) -> None:
    got = log_softmax(np.array(rows, np.float32))
    for row, values in zip(got, rows, strict=True):
        total = math.log(math.fsum(math.exp(v - max(values)) for v in values)) + max(values)
        np.testing.assert_allclose(row, [v - total for v in values], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": True},
        {"temperature": "1"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_k": True},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 1.5},
    ],
)
def test_options_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        SamplingOptions(**arguments)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "7"])
def test_seeds_out_of_range(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        UniformStream(seed)


def expected_text(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    """The specification read literally: look for every stop string after every piece."""
    text = ""
    for piece in pieces:
        text += piece
        found = [text.index(s) for s in stops if s in text]
        if found:
            return text[: min(found)], True
    return text, False


@settings(derandomize=True, deadline=None, max_examples=800)
@given(
    st.lists(st.text("ab", min_size=0, max_size=3), max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_never_leak(pieces: list[str], stops: list[str]) -> None:
    watcher = StopStrings(stops)
    given_out, fed = "", ""
    expected, stopped = expected_text(pieces, stops)
    for piece in pieces:
        fed += piece
        given_out += watcher.feed(piece)
        assert expected.startswith(given_out)
        if watcher.stopped:
            break
        # No more is held back than a stop string could still claim.
        held = fed[len(given_out) :]
        assert not held or any(s.startswith(held) for s in stops)
    given_out += watcher.flush()
    assert (given_out, watcher.stopped) == (expected, stopped)


@pytest.mark.parametrize("strings", ["", ["a", ""], [b"a"], [1]])
def test_stop_strings_that_are_none(strings: Any) -> None:
    with pytest.raises(UsageError, match="at least one character"):
        StopStrings(strings)
