"""``charrnn inspect`` on both kinds of model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from charrnn.runs.checkpoint import load_checkpoint
from tests.conftest import no_constant

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


def test_inspect_a_checkpoint(run: Run, charrnn: Charrnn) -> None:
    values = json.loads(charrnn("inspect", run.best, "--json").out, parse_constant=no_constant)
    checkpoint = load_checkpoint(run.best)
    assert values["kind"].startswith("checkpoint")
    assert values["model"]["parameters"] == checkpoint.build_model().num_parameters()
    assert values["model"]["hidden_size"] == 32
    assert values["train"]["steps"] == 100
    assert values["progress"]["val_loss"] == checkpoint.progress["val_loss"]
    assert values["vocabulary"]["size"] == len(set(run.text.read_text()))
    assert len(values["history"]) == len(checkpoint.history)
    shown = charrnn("inspect", run.folder).out
    assert f"parameters: {values['model']['parameters']}" in shown
    assert f"step {checkpoint.progress['step']:>8,}   train" in shown


def test_inspect_a_model_file(run: Run, charrnn: Charrnn) -> None:
    values = json.loads(charrnn("inspect", run.model, "--json").out, parse_constant=no_constant)
    checkpoint = load_checkpoint(run.best)
    assert values["kind"].startswith("model file (format 1, opset 18")
    assert values["model"]["cell"] == "lstm"
    assert values["parity"]["verified"] is True
    assert 0 < values["parity"]["one_step"] < 1e-5
    assert values["training"]["val_loss"] == pytest.approx(checkpoint.progress["val_loss"])
    of_checkpoint = json.loads(charrnn("inspect", run.best, "--json").out)
    for key in ("history", "vocabulary"):
        assert values[key] == of_checkpoint[key]
    shown = charrnn("inspect", run.model).out
    assert "parity:" in shown
    assert "history:\n  step " in shown
