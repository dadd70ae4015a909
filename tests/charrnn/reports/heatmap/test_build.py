"""From a model and a text to the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from charrnn_runtime import Sampler, UnknownCharacterError, UsageError, Vocabulary

from charrnn.errors import CorpusError
from charrnn.reports.heatmap.build import build_heatmap, model_title
from tests.runtime.conftest import TinyModel


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(TinyModel(Vocabulary.from_text("\n abcdefghij,.é漢")).data())


def test_the_page_shows_the_beginning_of_the_text_and_says_so(sampler: Sampler) -> None:
    text = "abc, def. " * 10
    made = build_heatmap(sampler, text, title="T", text_name="the text", length=40, units=3)
    assert made.left_out == 60
    assert made.analysis.shown == text[:40]
    assert len(made.analysis.units) == 3
    assert "40 (the first, of 100)" in made.page
    # The first character is scored too, so the figure is that of the sampler.
    assert made.analysis.bits.mean() == pytest.approx(sampler.score(text[:40]).bits_per_char, rel=1e-4)
    assert "the first, of" not in build_heatmap(sampler, text, title="T", text_name="the text", units=3).page


def test_a_text_is_read_with_its_label() -> None:
    special = {"begin": 5, "end": 6, "label:Polish": 7, "label:Irish": 8}
    labelled = Sampler(TinyModel(Vocabulary(symbols=(*map(ord, "abcde"), -1, -1, -1, -1), special=special)).data())
    for label in (None, "Polish", "Irish"):
        made = build_heatmap(labelled, "badcabde", title="T", text_name="t", units=2, label=label)
        score = labelled.score("badcabde", label=label)
        assert made.analysis.bits.mean() == pytest.approx(score.bits_per_char, rel=1e-4)
        assert ('"label:"' in made.page) == (label is not None)
        assert label is None or f'["label:","{label}"]' in made.page
    with pytest.raises(UsageError, match="did you mean 'Irish'"):
        build_heatmap(labelled, "bad", title="T", text_name="t", label="irisch")


def test_what_is_refused(sampler: Sampler) -> None:
    for length in (0, 10**9):
        with pytest.raises(UsageError, match="length must be from 1"):
            build_heatmap(sampler, "abc", title="T", text_name="t", length=length)
    with pytest.raises(CorpusError):
        build_heatmap(sampler, "", title="T", text_name="t")
    with pytest.raises(UnknownCharacterError):
        build_heatmap(sampler, "abX" * 9, title="T", text_name="t")
    skipped = build_heatmap(sampler, "abX" * 9, title="T", text_name="t", units=2, unknown="skip")
    assert skipped.analysis.shown == "ab" * 9


def test_the_title_names_the_model(tmp_path: Path) -> None:
    assert model_title(tmp_path / "book.onnx") == "Heat map of book.onnx"
