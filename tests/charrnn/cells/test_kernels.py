"""GRU's and RNN's own sequence forwards: values and gradients against PyTorch's modules in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from charrnn.cells import cell_layer
from charrnn.cells.layer import TorchLayer


def _case(cell: str, steps: int, batch: int) -> tuple[TorchLayer, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    layer = cell_layer(cell)(7, 12).double()
    assert isinstance(layer, TorchLayer)
    x = torch.randn(steps, batch, 7, dtype=torch.float64, requires_grad=True)
    h = torch.randn(batch, 12, dtype=torch.float64).tanh().requires_grad_()
    return layer, x, h, torch.randn(steps, batch, 12, dtype=torch.float64)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 3), (17, 5)])
def test_values_and_gradients_are_pytorch_s_in_float64(cell: str, steps: int, batch: int) -> None:
    layer, x, h, direction = _case(cell, steps, batch)
    inputs = (x, h, *layer.parameters())
    y, last = layer.core(x, h.unsqueeze(0))
    # The last state counts too: it is what the next batch begins with.
    expected = torch.autograd.grad((y * direction).sum() + last.square().sum(), inputs)
    z, (own_last,) = layer.fast_forward(x, (h,), None)
    got = torch.autograd.grad((z * direction).sum() + own_last.square().sum(), inputs)
    torch.testing.assert_close(z, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(own_last, last[0], rtol=0, atol=1e-12)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_gradients_by_finite_differences(cell: str) -> None:
    layer, x, h, _ = _case(cell, 3, 2)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def forward(x: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, (h,)))[0]
        return y

    assert torch.autograd.gradcheck(forward, (x, h, *weights))


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_float32_and_bfloat16_stay_near_float64(cell: str) -> None:
    layer, x, h, direction = _case(cell, 17, 5)
    expected = torch.autograd.grad((layer.core(x, h.unsqueeze(0))[0] * direction).sum(), tuple(layer.parameters()))
    layer = layer.float()
    for bf16, tolerance in ((False, 1e-5), (True, 3e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x.detach().float(), (h.detach().float(),))[0]
        got = torch.autograd.grad((y * direction.float()).sum(), tuple(layer.parameters()))
        for a, b in zip(got, expected, strict=True):
            assert ((a - b).norm() / b.norm()).item() < tolerance
