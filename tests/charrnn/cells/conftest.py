"""Layers with every weight non-zero, in float64, and inputs with resets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charrnn.cells import cell_layer
from charrnn.cells.layer import Layer

Array = NDArray[np.float64]
I, H, T, B = 5, 7, 9, 3  # noqa: E741


@dataclass(frozen=True)
class Case:
    """A layer, what goes in, and what came out, all float64."""

    layer: Layer
    weights: dict[str, Array]
    x_TBI: Array
    state: tuple[Array, ...]
    resets_TB: NDArray[np.bool_]
    y_TBH: Array
    last: tuple[Array, ...]


def run_layer(cell: str, *, resets: bool) -> Case:
    torch.manual_seed(5)
    layer = cell_layer(cell)(I, H).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(T, B, I, dtype=torch.float64)
    state = tuple(torch.randn(B, H, dtype=torch.float64).tanh() for _ in layer.step.states)
    resets_TB = torch.zeros(T, B, dtype=torch.bool)
    if resets:
        resets_TB[3, 0] = resets_TB[0, 1] = resets_TB[5, 1] = resets_TB[T - 1, 2] = True
    with torch.no_grad():
        y, last = layer(x, state, resets_TB if resets else None)
    return Case(
        layer=layer,
        weights={name: w.detach().numpy() for name, w in layer.weights.items()},
        x_TBI=x.numpy(),
        state=tuple(s.numpy() for s in state),
        resets_TB=resets_TB.numpy(),
        y_TBH=y.numpy(),
        last=tuple(s.double().numpy() for s in last),
    )


Step = Callable[[dict[str, Array], Array, tuple[Array, ...]], tuple[Array, ...]]


@pytest.fixture
def check_against() -> Callable[[str, Step, bool], None]:
    """Compares a cell's layer with one step of it in numpy: ``(weights, x [B, I], states) → states``, h first."""

    def check(cell: str, step: Step, resets: bool) -> None:
        case = run_layer(cell, resets=resets)
        state = case.state
        for t in range(T):
            state = tuple(
                np.where(case.resets_TB[t, :, None], 0.0, s) for s in step(case.weights, case.x_TBI[t], state)
            )
            np.testing.assert_allclose(case.y_TBH[t], state[0], rtol=0, atol=1e-12)
        for got, expected in zip(case.last, state, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)  # states are float32 in training

    return check
