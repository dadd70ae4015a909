"""Labels: texts that begin with the token of a label, classification by Bayes, and what is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from charrnn_runtime import ModelFileError, Request, Sampler, UnknownCharacterError, UsageError, Vocabulary
from charrnn_runtime.engine import Engine
from charrnn_runtime.model_file import seal
from charrnn_runtime.options import SamplingKwargs

from tests.runtime.conftest import TinyModel, wait_ended

SPECIAL = {"begin": 5, "end": 6, "label:Polish": 7, "label:Irish": 8, "label:end": 9}
VOCABULARY = Vocabulary(symbols=(*map(ord, "abcde"), -1, -1, -1, -1, -1), special=SPECIAL)


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel(VOCABULARY)


@pytest.fixture(scope="module")
def labelled(model: TinyModel) -> Sampler:
    return Sampler(model.data())


def test_the_labels_of_a_vocabulary() -> None:
    assert list(VOCABULARY.labels.items()) == [("Polish", 7), ("Irish", 8), ("end", 9)]
    assert VOCABULARY.label_token(" Irish") == 8
    assert Vocabulary.from_json(VOCABULARY.to_json()) == VOCABULARY
    assert VOCABULARY.start_token == 5


@pytest.mark.parametrize("label", ["Polish", "end"])
@pytest.mark.parametrize("prompt", ["", "bad"])
@pytest.mark.parametrize("pattern", [None, "[ab]+(c|de?)*[^a]"])
def test_a_text_with_a_label_follows_its_token(labelled: Sampler, label: str, prompt: str, pattern: str | None) -> None:
    """The same text in every way to ask for it, and that of the ids by hand."""
    token, length = VOCABULARY.labels[label], 40
    ids = [token, *VOCABULARY.encode(prompt).tolist()]
    sampling: SamplingKwargs = {"temperature": 1.5, "pattern": pattern}
    options: dict[str, Any] = {"length": length, "seed": 3, **sampling}
    text = labelled.sample(ids, **options)
    assert prompt or text != labelled.sample(prompt, **options)
    assert pattern is None or re.fullmatch(pattern, text)
    assert labelled.sample(prompt, label=label, **options) == text
    assert "".join(labelled.stream(prompt, label=label, **options)) == text
    assert labelled.generate(prompt, label=label, log_probs=True, **options).text == text
    assert labelled.sample_batch([prompt, "a"], label=label, **options)[0] == text
    assert labelled.start(prompt, label=label, seed=3, **sampling).sample(length) == text
    assert labelled.sample([5, *ids[1:]], label=label, **options) == text
    request = Request(prompt=prompt, label=label, length=length, seed=3, options=sampling)
    other = replace(request, label=None)
    done = dict(labelled.generate_many([request, other]))
    assert done[0].text == text
    with Engine(labelled) as engine:
        job = engine.submit(request)
        wait_ended(job)
        assert job.take()[0] == text


@pytest.mark.parametrize("prompt", ["", "bad"])
def test_a_prompt_with_a_label_is_completed_after_its_token(labelled: Sampler, prompt: str) -> None:
    ids = [VOCABULARY.labels["Irish"], *VOCABULARY.encode(prompt).tolist()]
    assert labelled.next(prompt, label="Irish") == labelled.next(ids) != labelled.next(prompt)
    options: dict[str, Any] = {"n": 4, "until": "e", "max_length": 4}
    completed = labelled.complete(prompt, label="Irish", **options)
    assert completed == labelled.complete(ids, **options) != labelled.complete(prompt, **options)


def test_a_text_is_scored_with_its_label(labelled: Sampler) -> None:
    for label, token in VOCABULARY.labels.items():
        following = [labelled.next([token, *VOCABULARY.encode(before).tolist()]) for before in ("", "b", "ba")]
        expected = [math.log(probabilities[c]) for probabilities, c in zip(following, "bad", strict=True)]
        score = labelled.score("bad", label=label)
        assert score.log_probs.tolist() == pytest.approx(expected, abs=1e-5)
        with Engine(labelled) as engine:
            job = engine.score("bad", label=label)
            wait_ended(job)
        assert [token.log_prob for token in job.prompt_scores] == pytest.approx(expected, abs=1e-5)


def test_particles_of_a_text_with_a_label(labelled: Sampler) -> None:
    sampling: SamplingKwargs = {"pattern": ".{3}b.{3}", "particles": 8}
    expected = labelled.sample([VOCABULARY.labels["Irish"]], length=9, seed=3, **sampling)
    assert labelled.sample(label="Irish", length=9, seed=3, **sampling) == expected
    with Engine(labelled) as engine:
        job = engine.submit(Request(label="Irish", length=9, seed=3, options=sampling))
        wait_ended(job)
        assert job.take()[0] == expected


def test_a_conversation_with_a_label_can_be_saved(labelled: Sampler) -> None:
    talk = labelled.start(label="Irish", seed=2, temperature=1.5)
    again = labelled.resume(talk.to_bytes(), temperature=1.5)
    assert again.sample(20) == talk.sample(20) == labelled.sample(label="Irish", seed=2, temperature=1.5, length=20)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("polich", "no label 'polich'; did you mean 'Polish'"),
        ("Xx", "no label 'Xx'; its 3 labels are 'Polish', 'Irish', 'end'"),
        ("", "no label ''"),
        (7, "a label must be a string, got 7"),
    ],
)
def test_unknown_labels(labelled: Sampler, label: str, message: str) -> None:
    for call in (
        lambda: labelled.stream(length=5, label=label),
        lambda: labelled.sample_batch(["a"], length=5, label=label),
        lambda: labelled.start(label=label),
        lambda: labelled.next(label=label),
        lambda: labelled.complete(label=label),
        lambda: labelled.score("a", label=label),
    ):
        with pytest.raises(UsageError, match=message):
            call()


COUNTS = {"Polish": 30, "Irish": 10, "end": 0}


@pytest.mark.parametrize("prior", ["training", "uniform"])
def test_classification_is_bayes(model: TinyModel, prior: Any) -> None:
    """Against the formula in float64."""
    info = model.proto({"charrnn.training": json.dumps({"labels": COUNTS})})
    sampler = Sampler(seal(info.SerializeToString()))
    texts = ["bad", "", "abcdeabcde", "e", "dd"] * 3
    found = sampler.classify_batch(texts, prior=prior)
    weights = COUNTS if prior == "training" else dict.fromkeys(COUNTS, 1)
    for text, probabilities in zip(texts, found, strict=True):
        ids = VOCABULARY.encode(text).tolist()
        joint = {}
        for label, token in VOCABULARY.labels.items():
            logits = model.logits(np.array([token, *ids]))
            logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            joint[label] = weights[label] * math.exp(logs[np.arange(len(ids) + 1), [*ids, 6]].sum())
        expected = {label: value / sum(joint.values()) for label, value in joint.items()}
        assert probabilities == pytest.approx(expected, abs=1e-5)
        assert list(probabilities) == sorted(probabilities, key=lambda label: -probabilities[label])
        assert sampler.classify(text, prior=prior) == pytest.approx(probabilities, abs=1e-6)


def test_what_cannot_be_classified(model: TinyModel, labelled: Sampler) -> None:
    assert labelled.classify_batch([]) == []
    assert labelled.classify("baX") == pytest.approx(labelled.classify("baX", prior="uniform"))  # no counts in the file
    with pytest.raises(UnknownCharacterError):
        labelled.classify("baX", unknown="error")
    with pytest.raises(UsageError, match="prior='flat'"):
        labelled.classify("a", prior="flat")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="list of texts"):
        labelled.classify_batch("ab")
    for wrong in (["Polish"], {"Polish": -1}, {"Polish": "7"}, {"Polish": 0}):
        data = seal(model.proto({"charrnn.training": json.dumps({"labels": wrong})}).SerializeToString())
        with pytest.raises(ModelFileError, match="labels must be numbers of items"):
            Sampler(data).classify("a")


def test_items_are_scored_with_their_labels(labelled: Sampler) -> None:
    items, labels = ["bad", "a", "dd"], ["Irish", "", "Polish"]
    scores = list(labelled.score_items([items], labels=[labels]))
    for score, text, label in zip(scores, items, labels, strict=True):
        first = VOCABULARY.labels.get(label, 5)
        ids = [*VOCABULARY.encode(text).tolist(), 6]
        logits = TinyModel(VOCABULARY).logits(np.array([first, *ids[:-1]]))
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert score.nats == pytest.approx(-logs[np.arange(len(ids)), ids].sum(), abs=1e-4)
        assert score.label == label


def test_a_model_without_labels(sampler: Sampler) -> None:
    assert sampler.vocabulary.labels == {}
    with pytest.raises(UsageError, match="cannot classify"):
        sampler.classify("a")
    with pytest.raises(UsageError, match="trained without labels"):
        sampler.sample(length=5, label="Polish")
