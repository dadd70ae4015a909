"""Whole items from a model of items: in order, distinct, and counted."""

from __future__ import annotations

import pytest
from charrnn_runtime import Request, Sampler, Vocabulary
from charrnn_runtime.options import SamplingKwargs

from charrnn.data.item_filter import Membership
from charrnn.errors import ConfigError
from charrnn.inference import item_samples
from charrnn.inference.item_samples import ItemSampler, has_items
from tests.runtime.conftest import TinyModel

FLAT: SamplingKwargs = {"temperature": 4.0}  # so that the model of random weights samples many items


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    plain = Vocabulary.from_text("ab")
    symbols = (-1, -1, *plain.symbols)
    return Sampler(TinyModel(Vocabulary(symbols=symbols, special={"begin": 0, "end": 1})).data())


def source(sampler: Sampler, length: int, seed: int = 4, against: Membership | None = None) -> ItemSampler:
    return ItemSampler(sampler, Request(length=length, seed=seed, options=FLAT), against)


def sampled(items: ItemSampler, count: int) -> list[str]:
    texts: list[str] = []
    items.sample(count, lambda done: texts.append(done.text))
    return texts


def distinct(items: ItemSampler, count: int) -> list[str]:
    texts: list[str] = []
    items.sample_distinct(count, lambda done: texts.append(done.text))
    return texts


def test_items_come_in_the_order_of_their_numbers(sampler: Sampler) -> None:
    texts = sampled(source(sampler, 6), 40)
    assert texts == [sampler.sample(length=6, seed=4, index=i, **FLAT) for i in range(40)]


def test_the_report_counts_what_was_sampled(sampler: Sampler) -> None:
    items = source(sampler, 12)
    texts = sampled(items, 200)
    done = [sampler.generate(length=12, seed=4, index=i, **FLAT).finish_reason for i in range(200)]
    whole = [item for item, reason in zip(texts, done, strict=True) if reason != "length"]
    report = items.report
    assert (report.sampled, report.cut, report.empty) == (200, done.count("length"), whole.count(""))
    assert report.distinct == len(set(whole) - {""}) > 0
    assert report.known is None
    assert "is not known" in str(report)


def test_distinct_items_are_whole_and_end_where_there_are_no_more(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = distinct(source(sampler, 12, seed=1), 4)
    assert len(few) == len(set(few)) == 4
    monkeypatch.setattr(item_samples, "LEAST_TRIES", 200)
    items = source(sampler, 1, seed=1)
    # At most one character and an end: only "a" and "b" are whole and not empty.
    assert set(distinct(items, 10)) <= {"a", "b"}
    assert items.report.sampled == 200
    assert distinct(source(sampler, 3, seed=1), 0) == []


def test_items_of_the_training_text_are_counted(sampler: Sampler) -> None:
    texts = [a + b for a in "ab" for b in "ab"]
    items = source(sampler, 12, against=Membership.of_items(texts))
    assert items.report.known == 0
    found = set(distinct(items, 4))
    assert items.report.known == len(found & set(texts))


def test_models_of_running_text_have_no_items() -> None:
    running = Sampler(TinyModel(Vocabulary.from_text("ab")).data())
    assert not has_items(running)
    with pytest.raises(ConfigError, match="trained on running text"):
        source(running, 3)
