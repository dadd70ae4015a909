"""Muon, AdamW and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, TrainConfig
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import on_cpu
from charrnn.training.optim import MUON_LR_RATIO, Muon, Optimizers, schedule


def model_and(cell: str = "lstm", **train: Any) -> tuple[CharRNN, Optimizers]:
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(cell=cell, hidden_size=24, embedding_size=16, num_layers=2), 9)
    return model, Optimizers(model, TrainConfig(**train))


def give_gradients(model: CharRNN, seed: int = 0, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = scale * torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("width", [4, 8, 20], ids=["tall", "square", "wide"])
@pytest.mark.parametrize("gates", [1, 3, 4])
def test_muon_updates_are_orthogonal_gate_by_gate(gates: int, width: int) -> None:
    torch.manual_seed(2)
    p = torch.zeros(gates * 8, width)
    p.grad = torch.randn(gates * 8, width)
    p.grad[:8] *= 1e4  # one gate's large gradient takes nothing from the others'
    Muon([p], gates=gates, lr=1.0).step()
    for gate in p.view(gates, 8, width):
        values = torch.linalg.svdvals(gate)
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.4


def test_muon_goes_down() -> None:
    torch.manual_seed(2)
    p = torch.zeros(8, 8)
    p.grad = torch.randn(8, 8)
    Muon([p], gates=2, lr=0.1).step()
    assert float((p * p.grad).sum()) < 0


def test_muon_without_a_gradient_changes_nothing() -> None:
    p, q = torch.ones(4, 4), torch.ones(4, 4)
    q.grad = torch.zeros(4, 4)
    Muon([p, q], gates=1, lr=1.0).step()
    assert torch.equal(p, torch.ones(4, 4))
    assert torch.equal(q, torch.ones(4, 4)), "a gradient of zeros must not become NaN"


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_muon_takes_the_recurrent_matrices_and_adamw_the_rest(cell: str, gates: int) -> None:
    model, optimizers = model_and(cell)
    (adamw, adamw_lr), (muon, muon_lr) = optimizers._optimizers
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert of_muon == {id(p) for n, p in model.named_parameters() if n.startswith("layers.") and ".weight_" in n}
    of_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert not of_adamw & of_muon
    assert len(of_adamw | of_muon) == len(list(model.parameters()))
    assert muon.param_groups[0]["gates"] == gates
    assert muon_lr == MUON_LR_RATIO * adamw_lr


def test_biases_do_not_decay() -> None:
    for optimizer in ("muon", "adamw"):
        _, optimizers = model_and(optimizer=optimizer, weight_decay=0.5)
        for each, _ in optimizers._optimizers:
            for group in each.param_groups:
                assert group["weight_decay"] == (0.5 if group["params"][0].ndim > 1 else 0.0)


def test_the_gradient_is_clipped_by_its_norm() -> None:
    moved = []
    for scale in (100.0, 1e6):
        model, optimizers = model_and(optimizer="adamw", grad_clip=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        give_gradients(model, scale=scale)
        norm = optimizers.step(1.0)
        assert float(norm) > 100
        assert all(p.grad is None for p in model.parameters())
        moved.append([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
    for small, large in zip(*moved, strict=True):
        torch.testing.assert_close(small, large, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_optimizer_goes_on_as_the_first_would(optimizer: str) -> None:
    model, first = model_and(optimizer=optimizer)
    for seed in range(3):
        give_gradients(model, seed)
        first.step(1.0)
    other, second = model_and(optimizer=optimizer)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(on_cpu(first.state_dict()))  # a copy: torch would share the tensors
    for m, o in ((model, first), (other, second)):
        give_gradients(m, 7)
        o.step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_restored_optimizer_keeps_settings_newly_given() -> None:
    _, before = model_and(weight_decay=0.01)
    _, after = model_and(weight_decay=0.3)
    after.load_state_dict(before.state_dict())
    for optimizer, _ in after._optimizers:
        assert optimizer.param_groups[0]["weight_decay"] == 0.3


def test_optimizers_of_another_kind_do_not_fit() -> None:
    _, muon = model_and(optimizer="muon")
    _, adamw = model_and(optimizer="adamw")
    for ours, theirs in ((adamw, muon), (muon, adamw)):
        with pytest.raises(ValueError):  # noqa: PT011  # torch's own words
            ours.load_state_dict(theirs.state_dict())


def rate(fraction: float, step: int, warmup: int, epoch: float = 0.0, **settings: Any) -> float:
    return schedule(TrainConfig(warmup_steps=warmup, **settings), fraction=fraction, epoch=epoch, step=step)


@given(st.floats(0, 1.5), st.integers(0, 10_000), st.integers(0, 1000), st.floats(0, 100))
def test_the_rate_stays_between_0_and_its_peak(progress: float, step: int, warmup: int, epoch: float) -> None:
    assert 0 <= rate(progress, step, warmup) <= 1
    assert 0 < rate(progress, step, warmup, epoch, schedule="decay") <= 1


def test_char_rnn_s_rate_falls_after_each_epoch_from_the_tenth_on() -> None:
    decay = {"schedule": "decay", "lr_decay": 0.97, "lr_decay_every": 1.0, "lr_decay_after": 9.0}
    # Rates in force while the epochs 1, 10, 11 and 26 are read.
    epochs = [0.5, 9.5, 10.5, 25.5]
    assert [rate(0.3, 1000, 0, e, **decay) for e in epochs] == pytest.approx([1, 1, 0.97, 0.97**16])


def test_a_boost_is_over_after_a_hundred_steps() -> None:
    assert [rate(0.0, step, 0, lr_boost=3) for step in (0, 50, 100, 5000)] == [3.0, 2.0, 1.0, 1.0]
    assert rate(0.0, 1, 4, lr_boost=3) == pytest.approx(0.5 * 2.98)
    assert rate(1.0, 0, 0, lr_boost=3) == pytest.approx(0.0)


def test_the_rate_rises_and_then_falls_as_a_cosine() -> None:
    assert [rate(0.0, step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(0.0, 0, 0) == 1.0
    falling = [rate(i / 20, 1000, 10) for i in range(21)]
    assert falling == sorted(falling, reverse=True)
    assert falling[10] == pytest.approx(0.5)
    assert falling[20] == pytest.approx(0.0)
    assert falling[5] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rate(7.0, 1000, 10) == pytest.approx(0.0)
