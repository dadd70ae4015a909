"""Particles, against the exact distribution of all texts that match and a plain loop of the specification."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from charrnn_runtime import Engine, Request, Sampler, UsageError, Vocabulary
from charrnn_runtime.options import SamplingKwargs
from charrnn_runtime.sampling import UniformStream

from tests.runtime.conftest import TinyModel, wait_ended

LENGTH = 8
VOCABULARIES = {
    "endless": Vocabulary.from_text("abcd"),
    "end": Vocabulary(symbols=(97, 98, -1, 99, 100), special={"end": 2}),
}
CORNERS = "[ab]{5}c*d|[cd]+b?"  # after [ab] comes what the small model finds improbable


def probabilities(sampler: Sampler, text: str) -> dict[str, float]:
    """The probability of each text that matches: of its characters, and of its end."""
    vocabulary = sampler.vocabulary
    end = vocabulary.special.get("end")
    plain = {chr(s): i for i, s in enumerate(vocabulary.symbols) if s >= 0}
    all_words = (w for n in range(LENGTH + 1) for w in map("".join, itertools.product(plain, repeat=n)))
    matching = {word for word in all_words if re.fullmatch(text, word)}
    beginnings = {word[:n] for word in matching for n in range(len(word) + 1)}
    result = {}

    def follow(drawn: str, probability: float, state: Any, token: int) -> None:
        logits, state = sampler.step([token], state)
        after = np.exp(logits[0].astype(np.float64))
        after /= after.sum()
        going = [c for c in plain if drawn + c in beginnings]
        if drawn in matching:
            ending = 1.0 if len(drawn) == LENGTH else 1 - sum(after[plain[c]] for c in going)
            result[drawn] = probability * (ending if end is None or len(drawn) == LENGTH else after[end])
        for character in going:
            follow(drawn + character, probability * after[plain[character]], state, plain[character])

    follow("", 1.0, sampler.initial_state(), sampler.info.start_token)
    total = sum(result.values())
    return {word: probability / total for word, probability in result.items()}


def unlikeliness(counts: Counter[str], expected: dict[str, float]) -> float:
    """Pearson's chi-square as a standard normal number (Wilson and Hilferty 1931); rare texts are one class."""
    total = counts.total()
    rare = [word for word in expected if total * expected[word] < 5]
    pairs = [(counts[word], total * p) for word, p in expected.items() if word not in rare]
    pairs.append((sum(counts[word] for word in rare), max(1e-9, total * sum(expected[word] for word in rare))))
    square = sum((got - want) ** 2 / want for got, want in pairs)
    free = len(pairs) - 1
    return float(((square / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free)))


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_particles_draw_from_the_exact_distribution_and_masks_alone_do_not(
    tiny_of: Callable[[Vocabulary], TinyModel], kind: str
) -> None:
    sampler = Sampler(tiny_of(VOCABULARIES[kind]).data())
    expected = probabilities(sampler, CORNERS)
    assert len(expected) > 30

    def draw(particles: int) -> Counter[str]:
        return Counter(sampler.sample_batch([""] * 500, length=LENGTH, seed=5, pattern=CORNERS, particles=particles))

    assert unlikeliness(draw(1), expected) > 10
    assert unlikeliness(draw(64), expected) < 3.5


def test_particles_1_is_the_plain_text(sampler: Sampler) -> None:
    for seed in range(5):
        plain = sampler.sample("a", length=20, seed=seed, pattern="[a-e]+, [f-j]+")
        assert sampler.sample("a", length=20, seed=seed, pattern="[a-e]+, [f-j]+", particles=1) == plain


def reference(sampler: Sampler, prompt: str, length: int, seed: int, count: int, options: dict[str, Any]) -> str:
    """ "Particles" of the specification, one particle after the other."""
    draws, choices = UniformStream(seed, lane=1), UniformStream(seed, lane=2)
    token_sampler = sampler._token_sampler(cast("SamplingKwargs", {"particles": count, **options}))
    vocabulary, end = sampler.vocabulary, sampler.vocabulary.special.get("end")
    state = sampler.initial_state()
    *before, last = vocabulary.encode(prompt).tolist()
    for token in before:
        state = sampler.step([token], state)[1]
    temperature = options.get("temperature", 1.0)
    start = token_sampler.start_pattern(length)
    assert start is not None
    texts: list[dict[str, Any]] = [
        {"state": state, "last": last, "ids": [], "ended": False, "pattern": start.copy()} for _ in range(count)
    ]
    weights = [1.0] * count
    while not all(text["ended"] for text in texts):
        for k, text in enumerate(texts):
            uniform = draws.next()
            if text["ended"]:
                continue
            logits, text["state"] = sampler.step([text["last"]], text["state"])
            history = [*before, last, *text["ids"]]
            adjusted = token_sampler._adjusted(logits[0], history)
            w = np.exp((adjusted - adjusted.max()) / temperature)
            token = token_sampler.sample(logits[0], uniform, history, len(text["ids"]), text["pattern"])
            token_sampler._forbid(adjusted, len(text["ids"]), text["pattern"])
            weights[k] *= sum(w[adjusted > -np.inf].tolist()) / sum(w.tolist())
            if token == end or not text["pattern"].advance(token):
                text["ended"] = True
                continue
            text["ids"].append(token)
            text["last"] = token
            text["ended"] = len(text["ids"]) == length or text["pattern"].complete
        weights = [weight / max(weights) for weight in weights]
        total = sum(weights)
        if total**2 < count / 2 * sum(weight**2 for weight in weights):
            uniform = choices.next()
            copies = [pick(weights, (j + uniform) / count * total) for j in range(count)]
            texts = [{**texts[i], "ids": list(texts[i]["ids"]), "pattern": texts[i]["pattern"].copy()} for i in copies]
            weights = [1.0] * count
    return vocabulary.decode(texts[pick(weights, choices.next() * sum(weights))]["ids"])


def pick(weights: list[float], point: float) -> int:
    reached = 0.0
    for i, weight in enumerate(weights):
        reached += weight
        if reached > point:
            return i
    return len(weights) - 1


OPTIONS: list[SamplingKwargs] = [
    {"pattern": "[a-e]+, [f-j]{2,}"},
    {"pattern": "(ab|[c-j ]+)*", "temperature": 0.7},
    {"pattern": r"\w+( \w+)?", "allowed": "abcde ", "frequency_penalty": 0.3},
    {"pattern": "[^é]*é", "top_k": 5, "temperature": 1.3},
    {"pattern": "a?[a-j]*", "min_length": 6, "logit_bias": {"b": 1.5}},
]


@pytest.mark.parametrize("special", [{}, {"end": 5}], ids=["endless", "end"])
def test_particles_are_drawn_as_specified_everywhere(
    tiny_of: Callable[[Vocabulary], TinyModel], special: dict[str, int]
) -> None:
    letters = sorted(map(ord, "\n abcdefghij,.é漢"))
    symbols = tuple(letters[:5] + [-1] * len(special) + letters[5:])
    sampler = Sampler(tiny_of(Vocabulary(symbols=symbols, special=special)).data())
    requests = []
    for number, given in enumerate(OPTIONS):
        for count in (2, 7):
            requests.append(
                Request(prompt="bad", length=7 + number, seed=number, options={**given, "particles": count})
            )
            requests.append(Request(prompt="bad", length=9, seed=number))
    alone = [sampler.generate(r.prompt, length=r.length, seed=r.seed, **r.options) for r in requests]
    for request, done in zip(requests, alone, strict=True):
        if request.options:
            options: dict[str, Any] = dict(request.options)
            count = options.pop("particles")
            expected = reference(sampler, "bad", request.length, request.seed or 0, count, options)
            assert done.text == expected, options
            assert re.fullmatch(str(options["pattern"]), done.text)
            assert sampler.vocabulary.decode(done.tokens).startswith(done.text)
    many = dict(sampler.generate_many(requests, batch=3))
    with Engine(sampler, batch=3) as engine:
        jobs = [engine.submit(request) for request in requests]
        cancelled = engine.submit(Request(length=10**6, options={"pattern": "(?:.|\n)*", "particles": 4}))
        cancelled.cancel()
        for number, (request, done, job) in enumerate(zip(requests, alone, jobs, strict=True)):
            assert (many[number].text, many[number].finish_reason) == (done.text, done.finish_reason)
            assert many[number].tokens == done.tokens
            assert "".join(sampler.stream_request(request)) == done.text
            wait_ended(job, 20)
            assert (job.take()[0], job.finish_reason, job.error) == (done.text, done.finish_reason, None)
    assert cancelled.ended


def test_log_probs_and_bytes(tiny_of: Callable[[Vocabulary], TinyModel]) -> None:
    sampler = Sampler(tiny_of(Vocabulary.from_text("", kind="bytes")).data())
    done = sampler.generate("é", length=12, seed=2, pattern="[é漢]{3,4}", particles=8, log_probs=True, stop="x")
    assert re.fullmatch("[é漢]{3,4}", done.text)
    plain = sampler.generate("é", length=12, seed=2, pattern=re.escape(done.text), log_probs=True)
    assert done.log_probs is not None
    assert plain.log_probs is not None
    shared = min(len(done.log_probs), len(plain.log_probs), len(done.text.encode()))
    np.testing.assert_allclose(done.log_probs[:shared], plain.log_probs[:shared], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"particles": 0, "pattern": "a"}, "particles must be at least 1 and at most 1024"),
        ({"particles": 10_000, "pattern": "a"}, "at most 1024"),
        ({"particles": 4, "pattern": "a", "temperature": 0}, "temperature above 0"),
        ({"particles": 4}, "give a pattern"),
    ],
)
def test_arguments_that_are_refused(sampler: Sampler, options: SamplingKwargs, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        sampler.sample(length=5, **options)


def test_where_particles_are_refused(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="leave them out"):
        sampler.start(pattern="a", particles=4)
    with Engine(sampler) as engine, pytest.raises(UsageError, match="log-probabilities"):
        engine.submit(Request(length=5, log_probs=True, options={"pattern": "a", "particles": 4}))
