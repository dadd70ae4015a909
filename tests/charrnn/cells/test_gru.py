"""GRU: the layer against its equations in numpy; the reset gate acts after the recurrent product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def step(w: dict[str, Array], x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    (h,) = state
    input_r, input_z, input_n = np.split(x @ w["weight_ih"].T + w["bias_ih"], 3, axis=1)
    recurrent_r, recurrent_z, recurrent_n = np.split(h @ w["weight_hh"].T + w["bias_hh"], 3, axis=1)
    r, z = sigmoid(input_r + recurrent_r), sigmoid(input_z + recurrent_z)
    n = np.tanh(input_n + r * recurrent_n)
    return ((1 - z) * n + z * h,)


@pytest.mark.parametrize("resets", [False, True])
def test_the_layer_computes_the_equations(check_against: Callable[..., None], resets: bool) -> None:
    check_against("gru", step, resets)
