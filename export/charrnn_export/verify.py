"""Parity: three implementations of one model must give the same logits.

Torch's sequence forward (what was trained), torch's step (what was traced)
and ONNX Runtime's step (what will be used), over chained steps.

The difference is measured by the largest logit: a float32 near 24 has steps
of 2e-6, so that even PyTorch's own forward is 1e-5 away from float64 where a
trained model is that sure of itself. Models with logits below 1 are held to
1e-5 absolute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from charrnn_runtime import ModelInfo
from charrnn_runtime.session import OnnxCell, open_session
from torch import Tensor

from charrnn_export.errors import ParityError
from charrnn_export.step import StepModule

TOLERANCE = 1e-5
STEPS = 1000
BATCHES = (1, 3)
HALF_TOLERANCE = 2e-2  # a product of float16 numbers is off by some 1e-3, and a few layers and gates lie behind it

# (tokens [T, B], states [B, H] …) → logits [T, B, V], in float32
SequenceForward = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


def check_parity(
    data: bytes, info: ModelInfo, step: StepModule, sequence: SequenceForward, *, steps: int = STEPS
) -> dict[str, Any]:
    """Compares the three over chained steps, from zero and from non-zero states.

    Returns:
        The figures that are stored in the model file: the largest difference of
        a logit, relative to the largest logit and absolute, overall and by pair.

    Raises:
        ParityError: a pair differs by more than ``TOLERANCE`` times the largest
            logit (or 1, if that is larger).
    """
    cell = OnnxCell(open_session(data, device="cpu"), info)
    threads = torch.get_num_threads()
    # Threads cost more than they give at these sizes, many times more on a busy machine.
    torch.set_num_threads(1)
    try:
        worst, scale = _worst_differences(cell, step, sequence, steps)
    finally:
        torch.set_num_threads(threads)
    # NaN and infinity must fail too, so the comparison says what is allowed
    if not (math.isfinite(scale) and all(value <= TOLERANCE * scale for value in worst.values())):
        raise ParityError(
            f"the exported model differs from the trained one in a logit by more than {TOLERANCE:.0e} of the "
            f"largest logit, {scale:.3g} ({', '.join(f'{k}: {v:.2g}' for k, v in worst.items())}); "
            "nothing was written. A model whose training diverged can do this; otherwise please report it"
        )
    figure = max(worst.values())
    return {
        "max_difference": _rounded(figure / scale),
        "max_abs_difference": _rounded(figure),
        "max_abs_logit": _rounded(scale),
        "pairs": {pair: _rounded(value) for pair, value in worst.items()},
        "steps": steps,
        "batches": list(BATCHES),
        "tolerance": TOLERANCE,
    }


def check_half(data: bytes, half: bytes, info: ModelInfo, *, steps: int = STEPS) -> float:
    """Compares a float16 file with the float32 file it comes from, both on the CPU, over chained steps from zero.

    Returns:
        The largest difference of a logit, relative to the largest logit (at least 1).

    Raises:
        ParityError: it is above ``HALF_TOLERANCE``.
    """
    generator = torch.Generator().manual_seed(1)
    tokens_TB = torch.randint(len(info.vocabulary), (steps, BATCHES[-1]), generator=generator)
    states = tuple(torch.zeros(BATCHES[-1], s.size) for s in info.states)
    whole, small = (
        _onnx_steps(OnnxCell(open_session(file, device="cpu"), info), tokens_TB, states) for file in (data, half)
    )
    figure = float(np.abs(whole - small).max() / max(1.0, float(np.abs(whole).max())))
    if not figure <= HALF_TOLERANCE:
        raise ParityError(
            f"with float16 weights a logit differs by {figure:.2g} of the largest one, more than the "
            f"{HALF_TOLERANCE:g} allowed; nothing was written. Export fp32"
        )
    return _rounded(figure)


def _worst_differences(
    cell: OnnxCell, step: StepModule, sequence: SequenceForward, steps: int
) -> tuple[dict[str, float], float]:
    """Largest absolute difference of a logit, by pair, and the largest logit, at least 1; NaN where one is NaN."""
    generator = torch.Generator().manual_seed(0)
    worst = {"sequence_step": 0.0, "step_onnx": 0.0, "sequence_onnx": 0.0}
    scale = 1.0
    for batch, zero in itertools.product(BATCHES, (True, False)):
        tokens_TB = torch.randint(step.vocab_size, (steps, batch), generator=generator)
        # tanh of normal numbers: h lies in (-1, 1), and c mostly does
        states = tuple(
            torch.zeros(batch, step.hidden_size)
            if zero
            else torch.randn(batch, step.hidden_size, generator=generator).tanh()
            for _ in step.state_names
        )
        logits = {
            "sequence": sequence(tokens_TB, states).numpy(),
            "step": _torch_steps(step, tokens_TB, states),
            "onnx": _onnx_steps(cell, tokens_TB, states),
        }
        # np.maximum passes NaN on
        scale = float(np.maximum(scale, np.abs(logits["sequence"]).max()))
        for pair in worst:
            a, b = pair.split("_")
            worst[pair] = float(np.maximum(worst[pair], np.abs(logits[a] - logits[b]).max()))
    return worst, scale


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _torch_steps(step: StepModule, tokens_TB: Tensor, states: tuple[Tensor, ...]) -> np.ndarray[Any, Any]:
    out = []
    with torch.inference_mode():
        for token in tokens_TB:
            logits, *new = step(token, *states)
            states = tuple(new)
            out.append(logits)
        return torch.stack(out).numpy()


def _onnx_steps(cell: OnnxCell, tokens_TB: Tensor, states: tuple[Tensor, ...]) -> np.ndarray[Any, Any]:
    runner = cell.runner(tokens_TB.shape[1], tuple(s.numpy() for s in states))
    return np.stack([runner.step(token).copy() for token in tokens_TB.numpy()])
