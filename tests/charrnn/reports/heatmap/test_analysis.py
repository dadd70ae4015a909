"""A model run over a text: correlations against numpy, and figures against what the model computes step by step."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_runtime import Sampler, UsageError, Vocabulary

from charrnn.reports.heatmap.analysis import analyse, correlations, read_text, token_labels
from charrnn.reports.heatmap.features import text_features

if TYPE_CHECKING:
    from tests.conftest import Run


def test_correlations_are_numpys() -> None:
    draw = np.random.default_rng(3)
    activations = draw.normal(3.0, 2.0, (20_000, 5))
    activations[:, 4] = 7.0
    features = np.stack([activations[:, 0] + draw.normal(size=20_000), -activations[:, 1]])
    got = correlations(activations, features)
    expected = np.corrcoef(activations[:, :4].T, features)[:4, 4:]
    np.testing.assert_allclose(got[:4], expected, atol=1e-9)
    assert got[4].tolist() == [0.0, 0.0]


def test_analysis_is_what_the_sampler_computes(run: Run) -> None:
    sampler = Sampler(run.model)
    text = run.text.read_text()[:700]
    found = analyse(sampler, read_text(sampler.vocabulary, text), units=6, names=["c_0[5]"])
    assert found.shown == text
    np.testing.assert_allclose(found.bits, -sampler.score(text).log_probs / math.log(2), rtol=1e-5, atol=1e-6)
    state = sampler.initial_state()
    logits, state = sampler.step([sampler.info.start_token], state)
    names = [s.input for s in sampler.info.states]
    for i, token in enumerate(sampler.vocabulary.encode(text[:50])):
        logits, state = sampler.step([token], state)
        for unit in found.units:
            assert unit.values[i] == pytest.approx(state[names.index(unit.state)][0, unit.index], abs=2e-3, rel=2e-3)
        row = logits[0].astype(np.float64)
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        order = np.argsort(-probabilities, kind="stable")[:5]
        assert found.guesses[i].tolist() == order.tolist()
        np.testing.assert_allclose(found.probabilities[i], probabilities[order], rtol=1e-4)
    assert len(found.units) == 7
    assert "c_0[5]" in [c.name for c in found.units]
    assert {c.state for c in found.units} == {"c_0"}
    strengths = [abs(c.best[1]) for c in found.units]
    assert strengths == sorted(strengths, reverse=True)
    best = found.units[0]
    plain = np.corrcoef(best.values, text_features(text)[best.best[0]])[0, 1]
    assert best.best[1] == pytest.approx(plain, abs=1e-6)


def test_bytes_are_shown_as_characters() -> None:
    vocabulary = Vocabulary.from_text("", kind="bytes")
    read = read_text(vocabulary, "aé€".encode() + b"\xff")
    assert read.shown == "aé€\N{REPLACEMENT CHARACTER}"
    assert read.ends.tolist() == [0, 2, 5, 6]
    assert token_labels(vocabulary)[0xE9] == "\\xe9"
    assert all(token_labels(vocabulary))


@pytest.mark.parametrize(("names", "states"), [(["c_0[32]"], []), (["c_9[0]"], []), (["c_0"], []), ([], ["x_0"])])
def test_unknown_cells_and_states_are_named(run: Run, names: list[str], states: list[str]) -> None:
    sampler = Sampler(run.model)
    with pytest.raises(UsageError, match=re.escape((names or states)[0])):
        analyse(sampler, read_text(sampler.vocabulary, "the cat"), names=names, states=states)
