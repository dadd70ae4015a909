"""Vanilla RNN: the layer against its equation in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]


def step(w: dict[str, Array], x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
    (h,) = state
    return (np.tanh(x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"]),)


@pytest.mark.parametrize("resets", [False, True])
def test_the_layer_computes_the_equations(check_against: Callable[..., None], resets: bool) -> None:
    check_against("rnn", step, resets)
