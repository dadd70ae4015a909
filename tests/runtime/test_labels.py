"""Labels: texts that begin with the token of a label, classification by Bayes, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from charrnn_runtime import Request, Sampler, UsageError, Vocabulary
from charrnn_runtime.engine import Engine

from tests.runtime.conftest import TinyModel

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
def test_a_text_with_a_label_follows_its_token(labelled: Sampler, label: str, prompt: str) -> None:
    """The same text in every way to ask for it, and that of the ids by hand."""
    token, length = VOCABULARY.labels[label], 40
    ids = [token, *VOCABULARY.encode(prompt).tolist()]
    text = labelled.sample(ids, length=length, seed=3, temperature=1.5)
    assert prompt or text != labelled.sample(prompt, length=length, seed=3, temperature=1.5)
    options: dict[str, Any] = {"length": length, "seed": 3, "temperature": 1.5}
    assert labelled.sample(prompt, label=label, **options) == text
    assert "".join(labelled.stream(prompt, label=label, **options)) == text
    assert labelled.generate(prompt, label=label, log_probs=True, **options).text == text
    assert labelled.sample_batch([prompt, "a"], label=label, **options)[0] == text
    assert labelled.start(prompt, label=label, seed=3, temperature=1.5).sample(length) == text
    assert labelled.sample([5, *ids[1:]], label=label, **options) == text
    request = Request(prompt=prompt, label=label, length=length, seed=3, options={"temperature": 1.5})
    other = replace(request, label=None)
    done = dict(labelled.generate_many([request, other]))
    assert done[0].text == text
    with Engine(labelled) as engine:
        job = engine.submit(request)
        while not job.ended:
            time.sleep(0.001)
        assert job.take()[0] == text


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
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_a_model_without_labels(sampler: Sampler) -> None:
    assert sampler.vocabulary.labels == {}
    with pytest.raises(UsageError, match="trained without labels"):
        sampler.sample(length=5, label="Polish")
