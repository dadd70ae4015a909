"""What holds for the layer of every cell."""

from __future__ import annotations

import pytest
import torch
from charrnn_export import LayerWeights

from charrnn.cells import cell_layer, cell_names
from charrnn.cells.layer import Layer

CELLS = cell_names()


def layer_of(cell: str) -> Layer:
    torch.manual_seed(1)
    return cell_layer(cell)(6, 8)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_the_layer_s_own_parameters_under_the_names_that_its_step_takes(cell: str) -> None:
    layer = layer_of(cell)
    weights: LayerWeights = layer.weights
    assert [id(w) for w in weights.values()] == [id(p) for p in layer.parameters()]
    step = layer.step(weights, torch.randn(4, 6))
    states = tuple(torch.randn(2, 8).tanh() for _ in layer.step.states)
    assert [s.shape for s in step(torch.tensor([1, 3]), *states)] == [(2, 8)] * len(states)


@pytest.mark.parametrize("cell", CELLS)
def test_matrices_are_stacks_of_gates(cell: str) -> None:
    matrices = [p for p in layer_of(cell).parameters() if p.ndim == 2]
    assert matrices
    assert all(p.shape[0] % 8 == 0 for p in matrices)


@pytest.mark.parametrize("cell", CELLS)
def test_torch_rnn_s_weights(cell: str) -> None:
    torch.manual_seed(0)
    layer = cell_layer(cell)(60, 140)
    layer.initialise("torch-rnn")
    for name, w in layer.weights.items():
        if w.ndim == 2:
            assert w.std().item() == pytest.approx(200**-0.5, rel=0.05)
        else:
            assert set(w.tolist()) <= ({0.0, 1.0} if (cell, name) == ("lstm", "bias_ih") else {0.0})


@pytest.mark.parametrize("cell", CELLS)
def test_no_value_and_no_gradient_passes_a_reset(cell: str) -> None:
    layer = layer_of(cell)
    x = torch.randn(6, 1, 6, requires_grad=True)
    resets = torch.tensor([[0], [0], [1], [0], [0], [0]]).bool()
    wild = tuple(3 * torch.ones(1, 8) for _ in layer.step.states)
    wild = tuple(s.requires_grad_() for s in wild)
    y, _ = layer(x, wild, resets)
    assert not y[2].any()
    alone, _ = layer(x[3:], tuple(torch.zeros(1, 8) for _ in wild), resets[3:])
    torch.testing.assert_close(y[3:], alone, rtol=0, atol=1e-6)
    gradient, *states = torch.autograd.grad(y[3:].square().sum(), (x, *wild), retain_graph=True)
    assert not gradient[:3].any()
    assert gradient[3:].any()
    assert not any(s.any() for s in states)
    before, *states = torch.autograd.grad(y[:2].square().sum(), (x, *wild))
    assert before[:2].any()
    assert all(s.any() for s in states)
