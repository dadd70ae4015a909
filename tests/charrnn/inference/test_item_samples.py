"""Whole items from a model of items: in order, distinct, and counted."""

from __future__ import annotations

import pytest
from charrnn_runtime import Sampler, Vocabulary
from charrnn_runtime.options import SamplingKwargs

from charrnn.data.item_filter import Membership
from charrnn.errors import ConfigError
from charrnn.inference import item_samples
from charrnn.inference.item_samples import ItemSampler, has_items
from tests.runtime.conftest import TinyModel

FLAT: SamplingKwargs = {"temperature": 4.0}  # so that the model of random weights draws many items


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    plain = Vocabulary.from_text("ab")
    symbols = (-1, -1, *plain.symbols)
    return Sampler(TinyModel(Vocabulary(symbols=symbols, special={"begin": 0, "end": 1})).data())


def test_items_come_in_the_order_of_their_numbers(sampler: Sampler) -> None:
    drawn = list(ItemSampler(sampler, length=6, seed=4, options=FLAT).draw(40))
    assert drawn == [sampler.sample(length=6, seed=4, index=i, **FLAT) for i in range(40)]


def test_the_report_counts_what_was_drawn(sampler: Sampler) -> None:
    source = ItemSampler(sampler, length=12, seed=4, options=FLAT)
    drawn = list(source.draw(200))
    done = [sampler.generate(length=12, seed=4, index=i, **FLAT).finish_reason for i in range(200)]
    whole = [item for item, reason in zip(drawn, done, strict=True) if reason != "length"]
    report = source.report
    assert (report.drawn, report.cut, report.empty) == (200, done.count("length"), whole.count(""))
    assert report.distinct == len(set(whole) - {""}) > 0
    assert report.known is None
    assert "is not known" in str(report)


def test_distinct_items_are_whole_and_end_where_there_are_no_more(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = list(ItemSampler(sampler, length=12, seed=1, options=FLAT).draw_distinct(4))
    assert len(set(few)) == 4
    monkeypatch.setattr(item_samples, "LEAST_TRIES", 200)
    source = ItemSampler(sampler, length=1, seed=1, options=FLAT)
    # At most one character and an end: only "a" and "b" are whole and not empty.
    assert set(source.draw_distinct(10)) <= {"a", "b"}
    assert source.report.drawn == 200
    assert list(ItemSampler(sampler, length=3, seed=1, options=FLAT).draw_distinct(0)) == []


def test_items_of_the_training_text_are_counted(sampler: Sampler) -> None:
    texts = [a + b for a in "ab" for b in "ab"]
    against = Membership.of_items(texts)
    source = ItemSampler(sampler, length=12, seed=4, against=against, options=FLAT)
    drawn = set(source.draw_distinct(4))
    assert source.report.known == len(drawn & set(texts))


def test_models_of_running_text_have_no_items() -> None:
    running = Sampler(TinyModel(Vocabulary.from_text("ab")).data())
    assert not has_items(running)
    with pytest.raises(ConfigError, match="trained on running text"):
        ItemSampler(running, length=3, seed=1)
