"""GRU's and RNN's own sequence forwards: values and gradients against float64 and a step-by-step autograd loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from charrnn_export import LayerWeights
from torch import Tensor, nn

from charrnn.model import recurrence


def _case(cell: str, steps: int, batch: int) -> tuple[nn.RNNBase, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    core = {"gru": nn.GRU, "rnn": nn.RNN}[cell](7, 12).double()
    x = torch.randn(steps, batch, 7, dtype=torch.float64, requires_grad=True)
    h = torch.randn(batch, 12, dtype=torch.float64).tanh().requires_grad_()
    return core, x, h, torch.randn(steps, batch, 12, dtype=torch.float64)


def _weights(core: nn.RNNBase) -> LayerWeights:
    return LayerWeights(**dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), core.all_weights[0], strict=True)))


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 3), (17, 5)])
def test_values_and_gradients_are_pytorch_s_in_float64(cell: str, steps: int, batch: int) -> None:
    core, x, h, direction = _case(cell, steps, batch)
    ours: Any = {"gru": recurrence.gru, "rnn": recurrence.rnn}[cell]
    inputs = (x, h, *core.parameters())
    y, last = core(x, h.unsqueeze(0))
    # The last state counts too: it is what the next batch begins with.
    expected = torch.autograd.grad((y * direction).sum() + last.square().sum(), inputs)
    z, own_last = ours(x, h, _weights(core))
    got = torch.autograd.grad((z * direction).sum() + own_last.square().sum(), inputs)
    torch.testing.assert_close(z, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(own_last, last[0], rtol=0, atol=1e-12)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_gradients_by_finite_differences(cell: str) -> None:
    core, x, h, _ = _case(cell, 3, 2)
    ours: Any = {"gru": recurrence.gru, "rnn": recurrence.rnn}[cell]
    weights = [p.detach().requires_grad_() for p in core.all_weights[0]]

    def forward(x: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        y: Tensor = ours(x, h, LayerWeights(**dict(zip(names, parameters, strict=True))))[0]
        return y

    assert torch.autograd.gradcheck(forward, (x, h, *weights))


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_float32_and_bfloat16_stay_near_float64(cell: str) -> None:
    core, x, h, direction = _case(cell, 17, 5)
    ours: Any = {"gru": recurrence.gru, "rnn": recurrence.rnn}[cell]
    expected = torch.autograd.grad((core(x, h.unsqueeze(0))[0] * direction).sum(), tuple(core.parameters()))
    core = core.float()
    for bf16, tolerance in ((False, 1e-5), (True, 3e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = ours(x.detach().float(), h.detach().float(), _weights(core))[0]
        assert y.dtype == torch.float32
        got = torch.autograd.grad((y * direction.float()).sum(), tuple(core.parameters()))
        for a, b in zip(got, expected, strict=True):
            assert ((a - b).norm() / b.norm()).item() < tolerance
