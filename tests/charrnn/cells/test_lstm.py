"""LSTM: the layer against its equations in numpy; how its biases begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charrnn.cells.lstm import LSTM

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def step(w: dict[str, Array], x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    h, c = state
    sums = x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]
    i, f, g, o = np.split(sums, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("resets", [False, True])
def test_the_layer_computes_the_equations(check_against: Callable[..., None], resets: bool) -> None:
    check_against("lstm", step, resets)


def test_the_forget_gate_begins_open_and_the_other_biases_at_0() -> None:
    weights = LSTM(5, 12).weights
    bias = (weights["bias_ih"] + weights["bias_hh"]).view(4, 12)  # input, forget, candidate, output
    assert torch.equal(bias[1], torch.ones(12))
    assert not bias[[0, 2, 3]].any()


@pytest.mark.parametrize("kind", ["char-rnn", "torch-rnn"])
def test_the_ancestors_set_one_of_the_forget_gate_s_biases_to_1(kind: Any) -> None:
    torch.manual_seed(0)
    layer = LSTM(5, 12)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.5)
    layer.initialise(kind)
    forget = slice(12, 24)
    assert torch.equal(layer.weights["bias_ih"][forget], torch.ones(12))
    assert torch.equal(layer.weights["bias_hh"][forget], torch.full((12,), 0.5 if kind == "char-rnn" else 0.0))
