"""``charrnn eval`` on both kinds of model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime.text_scores import UnknownCharacters

from charrnn.inference.evaluation import TextScore
from tests.conftest import no_constant, refused

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


def test_both_kinds_of_model_give_the_same_figure(run: Run, charrnn: Charrnn) -> None:
    outcomes = [charrnn("eval", model, run.text, "--split", "val") for model in (run.best, run.model)]
    assert {outcome.code for outcome in outcomes} == {0}
    assert outcomes[0].out == outcomes[1].out
    nats, _, bits, _, _, perplexity, characters, _ = outcomes[0].out.split()
    assert float(bits) == pytest.approx(float(nats) / math.log(2), abs=1e-3)
    assert float(perplexity) == pytest.approx(math.exp(float(nats)), rel=1e-3)
    assert int(characters.replace(",", "")) == int(len(run.text.read_text()) * 0.1)


def test_eval_refuses_nonsense(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    refused(charrnn("eval", run.model, run.text, "--split", "dev"), 2, "known: all, train, val, test")
    refused(charrnn("eval", run.model, run.text, "--split", "test"), 2, "kept no text for a test", "--test-frac")
    refused(charrnn("eval", run.model, run.text, "--window", 0), 2, "window must be at least 1")
    refused(charrnn("eval", run.model, run.text, "--unknown", "skip"), 2, "'charge', 'error'")
    (tmp_path / "strange.txt").write_text("The Δ cat")
    refused(
        charrnn("eval", run.model, tmp_path / "strange.txt", "--unknown", "error"), 2, "'Δ' (U+0394)", "strange.txt"
    )
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("a")
    for options in ((), ("--window", 5), ("--split", "val")):
        refused(charrnn("eval", run.model, tmp_path / "empty.txt", *options), 1, "nothing to score")
    refused(charrnn("eval", run.model, tmp_path / "one.txt", "--window", 5), 1, "nothing to score")
    refused(charrnn("eval", run.model, tmp_path / "one.txt", "--split", "train"), 1, "nothing to score")
    assert charrnn("eval", run.model, tmp_path / "one.txt").code == 0
    refused(charrnn("eval", run.model, tmp_path / "none.txt"), 1, "no such file")


def test_eval_of_a_hopeless_model_is_a_number_too(run: Run, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    hopeless = TextScore(5000.0, 10, UnknownCharacters())
    monkeypatch.setattr("charrnn.inference.evaluation.evaluate_text", lambda *_, **__: hopeless)
    outcome = charrnn("eval", run.model, run.text, "--json")
    assert json.loads(outcome.out, parse_constant=no_constant)["nats_per_char"] == 5000.0
    assert charrnn("eval", run.model, run.text).out.startswith("5000.0000 nats/char")
