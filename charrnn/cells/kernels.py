"""Shared by the hand-written sequence forwards of GRU and vanilla RNN: helpers, and the value that shuts a gate.

PyTorch has a fused path on the CPU for the LSTM only. In the hand-written
forwards, the input product of the whole sequence is one matrix product. The loop
over time computes only the recurrent product and a few element-wise operations,
into memory that is allocated once. tanh is computed as a rescaled sigmoid,
which is six times as fast; the scale goes into the weights. Everything in the
backward pass that does not depend on the gradient is computed for all steps at
once.

Letters: T sequence, B batch, H hidden size, G gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHUT = -1e4  # as a gate's argument: its sigmoid is exactly 0, and bfloat16 can represent the number


def from_half(s_TBH: Tensor) -> Tensor:
    """h of s = (h + 1) / 2."""
    return torch.add(s_TBH.new_tensor(-1), s_TBH, alpha=2)


def weight_gradient(d_NG: Tensor, h_BH: Tensor, y_TBH: Tensor) -> Tensor:
    """``d.T @ h`` over all times at once, [G, H], of each step's h before it, in the precision of ``d``."""
    before_TBH = torch.empty_like(y_TBH, dtype=d_NG.dtype)
    before_TBH[0], before_TBH[1:] = h_BH, y_TBH[:-1]
    return (d_NG.t() @ before_TBH.flatten(0, 1)).to(h_BH.dtype)
