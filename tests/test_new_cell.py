"""A cell that the package does not have: two classes are all that training, export and sampling need of it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from charrnn_export.cells.layer import SummedLayer
from charrnn_runtime import Sampler
from torch import Tensor, nn

from charrnn import cells
from charrnn.cells.layer import Layer, State
from charrnn.config import ModelConfig, TrainConfig
from charrnn.errors import ConfigError
from charrnn.inference.models import export_checkpoint
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.finetune import grown_weights
from charrnn.training.memory import parameters
from charrnn.training.optim import MUON_LR_RATIO, Optimizers

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer

# --- the export side -------------------------------------------------------------------------------------------------


class MinimalStep(SummedLayer):
    """h + f * (n - h) with one gate f and a candidate n, after Zhou et al. (2016), "Minimal gated unit"."""

    name = "minimal"

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor]:
        f, n = self.gate_sums(x, h).chunk(2, dim=1)
        return (torch.lerp(h, n.tanh(), f.sigmoid()),)


# --- the training side -----------------------------------------------------------------------------------------------


class Minimal(Layer):
    """The same over a sequence."""

    step = MinimalStep

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for name, shape in (("ih", (2 * hidden_size, input_size)), ("hh", (2 * hidden_size, hidden_size))):
            self.register_parameter(f"weight_{name}", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(shape[0])))
        self.initialise("torch-rnn")

    def forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        w, h, out = self.weights, state[0], []
        for t, sums in enumerate(nn.functional.linear(x_TBI, w["weight_ih"], w["bias_ih"] + w["bias_hh"]).unbind()):
            f, n = (sums + h @ w["weight_hh"].T).chunk(2, dim=1)
            h = torch.lerp(h, n.tanh(), f.sigmoid())
            if resets_TB is not None:
                h = torch.where(resets_TB[t].unsqueeze(1), 0.0, h)
            out.append(h)
        return torch.stack(out), (h,)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_registered", dict(cells._registered))
    cells.register_cell(Minimal)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("arguments", [{"num_layers": 2}, {"lines": True}], ids=["running text", "items"])
def test_it_trains_exports_and_samples(
    arguments: dict[str, object], make_trainer: MakeTrainer, charrnn: Charrnn, tmp_path: Path
) -> None:
    trainer = make_trainer(cell="minimal", steps=60, **arguments)
    trainer.train()
    history = load_checkpoint(tmp_path / "made" / "best.pt").history
    assert history[-1]["val_loss"] < 2.6 < math.log(24), "the made-up sentences have 24 characters"
    exported = tmp_path / "minimal.onnx"
    outcome = charrnn("export", tmp_path / "made" / "best.pt", exported)
    assert outcome.code == 0, outcome.err
    sampler = Sampler(exported)
    assert sampler.info.cell == "minimal"
    assert sampler.info.parity["verified"]
    assert 0 < sampler.info.parity["one_step"] < 1e-5
    text = sampler.sample("the", length=100, seed=3)
    sample = charrnn("sample", tmp_path / "made" / "best.pt", "--prompt", "the", "--length", 100, "--seed", 3)
    assert sample.out == f"the{text}\n"


@pytest.mark.usefixtures("_registered")
def test_its_int8_and_float16_files(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(cell="minimal", steps=20, num_layers=2).train()
    checkpoint = load_checkpoint(tmp_path / "made" / "last.pt")
    scores = {}
    for dtype in ("float32", "int8", "float16"):
        out = export_checkpoint(checkpoint, dtype=dtype, parity_steps=20, max_loss_increase=math.inf)
        assert out.info.dtype == dtype
        scores[dtype] = Sampler(out.data).score("the cat sat on a mat " * 30).log_probs
    np.testing.assert_allclose(scores["int8"], scores["float32"], atol=0.2)
    np.testing.assert_allclose(scores["float16"], scores["float32"], atol=0.02)
    assert not np.array_equal(scores["int8"], scores["float32"])


@pytest.mark.usefixtures("_registered")
def test_muon_updates_its_two_gates_one_by_one() -> None:
    torch.manual_seed(0)
    config = ModelConfig(cell="minimal", hidden_size=16, embedding_size=8, num_layers=2)
    model = CharRNN(config, 9)
    optimizers = Optimizers(model, TrainConfig(lr=1 / MUON_LR_RATIO, weight_decay=0.0, grad_clip=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
        p.grad[:16] *= 1e4  # one gate's large gradient takes nothing from the other's
    optimizers.step(1.0)
    updated = [n for n in before if n.startswith("layers.") and ".weight_" in n]
    assert len(updated) == 4
    for name, p in model.named_parameters():
        if name in updated:
            for gate in (p.detach() - before[name]).view(2, 16, -1):
                values = torch.linalg.svdvals(gate)
                assert 0.5 < float(values.min()) <= float(values.max()) < 1.4


@pytest.mark.usefixtures("_registered")
def test_its_parameters_are_counted_and_grow_with_new_characters(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    config = ModelConfig(cell="minimal", hidden_size=16, embedding_size=8, num_layers=2)
    assert parameters(config, 9) == 9 * 8 + 2 * 16 * (8 + 16 + 2) + 2 * 16 * (16 + 16 + 2) + 9 * (16 + 1)
    make_trainer(cell="minimal", embedding_size=0, num_layers=2, steps=2).train()
    checkpoint = load_checkpoint(tmp_path / "made" / "last.pt")
    known = len(checkpoint.vocabulary)
    grown = dataclasses.replace(checkpoint.vocabulary, symbols=(*checkpoint.vocabulary.symbols, ord("€")))
    weights = grown_weights(checkpoint, grown)
    assert weights["layers.0.weight_ih"].shape == (64, known + 1)
    torch.testing.assert_close(weights["layers.0.weight_ih"][:, -1], checkpoint.weights["layers.0.weight_ih"].mean(1))
    CharRNN(checkpoint.model_config, known + 1).load_state_dict(weights)


def test_it_is_unknown_until_it_is_registered() -> None:
    with pytest.raises(ConfigError, match="unknown cell 'minimal'; known: gru, lstm, rnn"):
        ModelConfig(cell="minimal")


def test_it_takes_less_than_sixty_lines() -> None:
    assert len(inspect.getsource(MinimalStep).splitlines() + inspect.getsource(Minimal).splitlines()) < 60
