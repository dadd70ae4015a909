"""The step module: names and order of states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from charrnn_export import ModelWeights, StepModule
from numpy.typing import NDArray

from tests.export.conftest import Trained

Reference = Callable[[ModelWeights, NDArray[np.int64], tuple[NDArray[np.float64], ...]], NDArray[np.float64]]


@pytest.mark.parametrize(
    ("cell", "names"),
    [("lstm", ["h_0", "c_0", "h_1", "c_1"]), ("gru", ["h_0", "h_1"]), ("rnn", ["h_0", "h_1"])],
)
def test_states_are_ordered_by_layer_and_steps_follow_the_equations(
    trained: Callable[[str, int], Trained], numpy_reference: Reference, cell: str, names: list[str]
) -> None:
    weights = trained(cell, 2).weights
    step = StepModule(weights)
    assert step.state_names == names
    tokens = np.arange(12).reshape(4, 3) % weights.vocab_size
    states = tuple(torch.zeros(3, step.hidden_size) for _ in names)
    expected = numpy_reference(weights, tokens, tuple(s.double().numpy() for s in states))
    for row, expected_BV in zip(tokens, expected, strict=True):
        logits, *new = step(torch.from_numpy(row), *states)
        states = tuple(new)
        np.testing.assert_allclose(logits.numpy(), expected_BV, atol=1e-5)


def test_no_gradients_are_computed(trained: Callable[[str, int], Trained]) -> None:
    step = StepModule(trained("lstm", 1).weights)
    assert not any(p.requires_grad for p in step.parameters())
    assert not step.training
