"""One set of weights, four computations: sequence forward, step, ONNX, and the equations in numpy float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from charrnn_export import Exported, StepModule
from charrnn_runtime import Sampler
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.export.conftest import Trained

CELLS = ("lstm", "gru", "rnn")
T = 25
TOLERANCE = 1e-5


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_sequence_step_onnx_and_reference_agree(
    cell: str,
    layers: int,
    trained: Callable[[str, int], Trained],
    exported: Callable[[str, int], Exported],
    numpy_reference: Callable[..., NDArray[np.float64]],
) -> None:
    made = trained(cell, layers)
    step = StepModule(made.weights)
    sampler = Sampler(exported(cell, layers).data)
    rng = np.random.default_rng(layers)
    for batch in (1, 5):
        tokens_TB = rng.integers(len(made.vocabulary), size=(T, batch))
        for zero in (True, False):
            shape = (batch, made.weights.hidden_size)
            states = tuple(
                np.zeros(shape, np.float32) if zero else np.tanh(rng.standard_normal(shape)).astype(np.float32)
                for _ in step.state_names
            )
            torch_states = tuple(map(torch.from_numpy, states))
            logits: dict[str, Any] = {
                "sequence": made.model.sequence_forward()(torch.from_numpy(tokens_TB), torch_states)[0].numpy(),
                "step": [],
                "onnx": [],
            }
            with torch.inference_mode():
                now = torch_states
                for token_B in tokens_TB:
                    out, *new = step(torch.from_numpy(token_B), *now)
                    now = tuple(new)
                    logits["step"].append(out.numpy())
            here = states
            for token_B in tokens_TB:
                out, here = sampler.step(token_B, here)
                logits["onnx"].append(out)
            expected = numpy_reference(made.weights, tokens_TB, states)
            assert np.abs(expected).max() > 0.1  # logits worth comparing
            for name, got in logits.items():
                np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_a_batch_do_not_touch_each_other(cell: str, exported: Callable[[str, int], Exported]) -> None:
    sampler = Sampler(exported(cell, 2).data)
    rng = np.random.default_rng(3)
    state = tuple(rng.standard_normal(s.shape).astype(np.float32) for s in sampler.initial_state(4))
    tokens = np.array([1, 5, 9, 0])
    logits, new = sampler.step(tokens, state)
    order = [2, 0, 3, 1]
    shuffled, new_shuffled = sampler.step(tokens[order], tuple(s[order] for s in state))
    np.testing.assert_allclose(shuffled, logits[order], atol=1e-6)
    for a, b in zip(new_shuffled, new, strict=True):
        np.testing.assert_allclose(a, b[order], atol=1e-6)


def test_the_reference_tells_the_two_gru_formulas_apart(
    trained: Callable[[str, int], Trained], numpy_reference: Callable[..., NDArray[np.float64]]
) -> None:
    """char-rnn's GRU resets before the recurrent product; a model of PyTorch's kind must not pass for one."""
    made = trained("gru", 1)
    w = made.weights.layers[0]
    rng = np.random.default_rng(0)
    h = np.tanh(rng.standard_normal((1, made.weights.hidden_size)))
    token = np.array([[4]])
    x = made.weights.embedding.detach().double().numpy()[token[0]]
    ih, hh = (w[n].detach().double().numpy() for n in ("weight_ih", "weight_hh"))
    bi, bh = (w[n].detach().double().numpy() for n in ("bias_ih", "bias_hh"))
    H = made.weights.hidden_size
    r, z = np.split(1 / (1 + np.exp(-(x @ ih[: 2 * H].T + bi[: 2 * H] + h @ hh[: 2 * H].T + bh[: 2 * H]))), 2, axis=1)
    n = np.tanh(x @ ih[2 * H :].T + bi[2 * H :] + (r * h) @ hh[2 * H :].T + bh[2 * H :])
    head, bias = made.weights.head_weight.detach().double().numpy(), made.weights.head_bias.detach().double().numpy()
    before = ((1 - z) * n + z * h) @ head.T + bias
    assert np.abs(numpy_reference(made.weights, token, (h,))[0] - before).max() > 100 * TOLERANCE
