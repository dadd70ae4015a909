"""Penalties, bias, allowed characters, typical_p and processors, against plain loops in Python's floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from charrnn_runtime import Sampler, SamplingOptions, UnknownCharacterError, UsageError, Vocabulary
from charrnn_runtime.options import Logits64, Range, SamplingKwargs
from charrnn_runtime.sampling import TokenSampler, UniformStream, filtered_weights, sample_token
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

LETTERS = Vocabulary(symbols=(-1, *map(ord, "abcdef")), special={"end": 0})
steady = settings(derandomize=True, deadline=None, max_examples=300)
rows = st.lists(st.floats(-20, 20, width=32), min_size=7, max_size=7)
histories = st.lists(st.integers(0, 6), max_size=30)


def plain_adjusted(logits: list[float], history: list[int], drawn: int, options: SamplingOptions) -> list[float]:
    """The README's step 0, with loops."""
    out = list(logits)
    recent = history[-options.penalty_window :]
    for i in range(len(out)):
        count = recent.count(i)
        if count:
            out[i] = out[i] / options.repetition_penalty if out[i] > 0 else out[i] * options.repetition_penalty
            out[i] -= options.frequency_penalty * count + options.presence_penalty
        symbol = "" if i == 0 else LETTERS.decode([i])
        out[i] += (options.logit_bias or {}).get(symbol, 0.0)
        if options.allowed is not None and symbol and symbol not in options.allowed:
            out[i] = -math.inf
    if drawn < options.min_length:
        out[0] = -math.inf
    return out


@steady
@given(
    rows,
    histories,
    st.integers(0, 9),
    st.builds(
        SamplingOptions,
        repetition_penalty=st.floats(0.5, 2),
        frequency_penalty=st.floats(-1, 1),
        presence_penalty=st.floats(-1, 1),
        penalty_window=st.integers(1, 40),
        logit_bias=st.none() | st.dictionaries(st.sampled_from("abcdef"), st.floats(-5, 5), max_size=3),
        allowed=st.none() | st.text("abcdef", min_size=1, max_size=4),
        min_length=st.integers(0, 9),
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_adjusted_logits(
    row: list[float], history: list[int], drawn: int, options: SamplingOptions, uniform: float
) -> None:
    logits = np.array(row, np.float32)
    token_sampler = TokenSampler(options, LETTERS)
    expected = plain_adjusted(row, history, drawn, options)
    adjusted = token_sampler._adjusted(logits, history)
    token_sampler._forbid(adjusted, drawn, None)
    np.testing.assert_allclose(adjusted, expected, atol=1e-9)
    token = token_sampler.sample(logits, uniform, history, drawn)
    assert expected[token] > -math.inf
    weights = np.exp(np.array(expected) - max(expected))
    before, upto = weights[:token].sum() / weights.sum(), weights[: token + 1].sum() / weights.sum()
    assert before - 1e-9 <= uniform <= upto + 1e-9


@steady
@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12), st.floats(0.01, 0.999))
def test_typical_p_keeps_what_its_definition_says(row: list[float], typical_p: float) -> None:
    logits = np.array(row, np.float32)
    kept = np.flatnonzero(filtered_weights(logits, SamplingOptions(typical_p=typical_p)))
    p = np.exp(np.array(row) - max(row))
    p /= p.sum()
    distance = np.abs(-np.log(p) + (p * np.log(p)).sum())
    left_out = np.setdiff1d(np.arange(len(p)), kept)
    assert p[kept].sum() >= typical_p - 1e-9
    if len(left_out):
        assert distance[kept].max() <= distance[left_out].min() + 1e-9
    if len(kept) > 1:  # one fewer would not do
        assert p[kept].sum() - p[kept[np.argmax(distance[kept])]] <= typical_p + 1e-9 or len(set(row)) < len(row)


@steady
@given(st.lists(rows, min_size=1, max_size=6), st.sampled_from([1.0, 0.5, 1.7]), st.integers(0, 1000))
def test_rows_drawn_together_are_the_rows_drawn_alone(batch: list[list[float]], temperature: float, seed: int) -> None:
    token_sampler = TokenSampler(SamplingOptions(temperature=temperature), LETTERS)
    logits = np.array(batch, np.float32)
    stream = UniformStream(seed)
    uniforms = [stream.next() for _ in batch]
    alone = [token_sampler.sample(row, u) for row, u in zip(logits, uniforms, strict=True)]
    assert token_sampler.only_temperature
    assert token_sampler.sample_rows(logits, np.array(uniforms)).tolist() == alone
    assert alone == [sample_token(row, token_sampler.options, u) for row, u in zip(logits, uniforms, strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3, "penalty_window": 20},
        {"frequency_penalty": 0.4, "presence_penalty": 0.2},
        {"typical_p": 0.7},
        {"logit_bias": {"a": 3.0, "b": -math.inf}},
        {"allowed": "abc"},
        {"min_length": 30, "stop": "a"},
        {"logits_processor": lambda ids, logits: logits.__setitem__(ids[-1] if ids else 0, -math.inf)},
    ],
    ids=lambda o: next(iter(o)),
)
def test_every_option_in_single_batch_and_stream(sampler: Sampler, options: dict[str, Any]) -> None:
    plain = sampler.sample("bad", length=120, seed=5)
    single = sampler.sample("bad", length=120, seed=5, **options)
    assert single != plain
    assert "".join(sampler.stream("bad", length=120, seed=5, **options)) == single
    assert sampler.sample_batch(["bad", "a", "", "face"], length=120, seed=5, **options)[0] == single
    if "allowed" in options:
        assert set(single) <= set("abc")
    if "logit_bias" in options:
        assert "b" not in single
        assert single.count("a") > plain.count("a")
    if "min_length" in options:
        assert single.startswith(plain[:30])
        assert "a" not in single[30:]
    if "logits_processor" in options:
        assert all(x != y for x, y in zip("d" + single, single, strict=False))


def test_greedy_obeys_the_other_options(sampler: Sampler) -> None:
    text = sampler.sample("bad", length=40, temperature=0, allowed="fg", repetition_penalty=2.0)
    assert set(text) <= set("fg")


def test_min_length_forbids_the_end_token() -> None:
    token_sampler = TokenSampler(SamplingOptions(min_length=2), LETTERS)
    logits = np.array([50, 0, 0, 0, 0, 0, 0], np.float32)
    assert [token_sampler.sample(logits, 0.5, (), drawn) == 0 for drawn in range(4)] == [False, False, True, True]


def test_a_processor_sees_the_text_and_its_errors_come_through(tiny: TinyModel, sampler: Sampler) -> None:
    seen: list[list[int]] = []

    def watch(ids: Sequence[int], logits: Logits64) -> None:
        assert logits.dtype == np.float64
        seen.append(list(ids))

    text = sampler.sample("bad", length=5, seed=1, logits_processor=watch)
    assert text == sampler.sample("bad", length=5, seed=1)
    whole = tiny.vocabulary.encode("bad" + text).tolist()
    assert seen == [whole[: 3 + n] for n in range(5)]

    def broken(ids: Sequence[int], logits: Logits64) -> None:
        raise RuntimeError("mine")

    for call in (sampler.sample, sampler.generate):
        with pytest.raises(RuntimeError, match="mine"):
            call("bad", length=5, logits_processor=broken)
    assert sampler.sample("bad", length=5, seed=1) == text


def test_nothing_left_to_draw(sampler: Sampler) -> None:
    everything = dict.fromkeys("\n abcdefghij,.é漢", -math.inf)
    with pytest.raises(UsageError, match="leave no character"):
        sampler.sample("a", length=3, logit_bias=everything)

    def poison(ids: Sequence[int], logits: Logits64) -> None:
        logits[0] = math.nan

    with pytest.raises(UsageError, match="logits_processor left NaN"):
        sampler.sample("a", length=3, logits_processor=poison)


def test_characters_in_options_must_be_known(sampler: Sampler) -> None:
    for options in (SamplingKwargs(allowed="aX"), SamplingKwargs(logit_bias={"X": 1.0})):
        (name,) = options
        with pytest.raises(UnknownCharacterError, match=f"'X'.* of {name}; leave it out$") as caught:
            sampler.stream("a", length=3, **options)
        assert caught.value.option == name


def test_every_option_says_what_it_does_and_which_numbers_it_takes() -> None:
    for f in fields(SamplingOptions):
        assert SamplingOptions.help(f.name).endswith("."), f.name
        is_number = f.name not in ("logit_bias", "logits_processor", "allowed", "pattern", "fill")
        assert (f.metadata["range"] is not None) == is_number
        for value in ("1", True, math.nan, [1]) if is_number else ():
            with pytest.raises(UsageError, match=f"^{f.name} must be a "):
                SamplingOptions(**{f.name: value})  # type: ignore[arg-type]


@steady
@given(st.builds(Range, st.booleans(), *[st.none() | st.integers(-5, 5)] * 3), st.integers(-6, 6) | st.floats(-6, 6))
def test_ranges(range: Range, value: float) -> None:
    inside = (
        (not range.whole or isinstance(value, int))
        and (range.least is None or value >= range.least)
        and (range.above is None or value > range.above)
        and (range.most is None or value <= range.most)
    )
    try:
        range.check("it", value)
    except UsageError:
        assert not inside
    else:
        assert inside


@pytest.mark.parametrize(
    "arguments",
    [
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"repetition_penalty": math.inf},
        {"frequency_penalty": math.nan},
        {"presence_penalty": "1"},
        {"penalty_window": 0},
        {"min_length": -1},
        {"logit_bias": {"ab": 1.0}},
        {"logit_bias": {"a": math.nan}},
        {"logit_bias": {"a": math.inf}},
        {"allowed": ""},
        {"logits_processor": 3},
    ],
)
def test_options_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        SamplingOptions(**arguments)


def test_options_and_their_keywords_are_the_same() -> None:
    assert SamplingOptions.names() == tuple(SamplingKwargs.__annotations__)
