"""Vanilla RNN with tanh: the equation and parameters of ``torch.nn.RNN``, with a fast forward for the CPU.

Letters: T sequence, B batch, I input, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from charrnn_export.cells.rnn import RNNStep
from torch import _VF, Tensor, nn
from torch.nn import functional as F

from charrnn.cells import native, register_cell
from charrnn.cells.kernels import from_half, weight_gradient
from charrnn.cells.layer import State, TorchLayer


@register_cell
class RNN(TorchLayer):
    """A layer of ``nn.RNN``."""

    step = RNNStep
    module = nn.RNN
    function = staticmethod(_VF.rnn_tanh)

    def fast_forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None) -> tuple[Tensor, State]:
        """As ``forward``; states are float32."""
        w = self.weights
        if native.usable(x_TBI, *state):
            sums_TBH = F.linear(x_TBI, w["weight_ih"], w["bias_ih"] + w["bias_hh"])
            y_TBH: Tensor = _NativeRNN.apply(sums_TBH, state[0], w["weight_hh"], resets_TB)  # type: ignore[no-untyped-call]
            return y_TBH, (y_TBH[-1].float(),)
        sums_TBH = F.linear(x_TBI, 2 * w["weight_ih"], 2 * (w["bias_ih"] + w["bias_hh"]))
        y_TBH = _RNN.apply(sums_TBH, state[0], 2 * w["weight_hh"], resets_TB)  # type: ignore[no-untyped-call]
        return y_TBH, (y_TBH[-1],)


class _RNN(torch.autograd.Function):
    """h[t] = tanh((sums[t] + h[t-1] @ weight.T) / 2), or 0 at a reset."""

    @staticmethod
    def forward(ctx: Any, sums_TBH: Tensor, h_BH: Tensor, weight_HH: Tensor, resets_TB: Tensor | None) -> Tensor:
        # tanh(x / 2) = 2σ(x) - 1, so s = (h + 1) / 2 obeys s[t] = σ(sums[t] + (2 s[t-1] - 1) @ weight.T).
        transposed = 2 * weight_HH.t().contiguous()
        s_TBH = sums_TBH.to(h_BH.dtype) - weight_HH.sum(1)  # the sums, overwritten by s step by step
        kept_TB1 = None if resets_TB is None else (~resets_TB).unsqueeze(2).to(s_TBH.dtype)
        kept = None if kept_TB1 is None else list(zip(kept_TB1.unbind(), ((1 - kept_TB1) / 2).unbind(), strict=True))
        before = (h_BH + 1) / 2
        for t, s in enumerate(s_TBH.unbind()):
            s.addmm_(before, transposed).sigmoid_()
            if kept is not None:
                s.mul_(kept[t][0]).add_(kept[t][1])  # 1/2 is an h of 0
            before = s
        y_TBH = from_half(s_TBH)
        ctx.dtype = sums_TBH.dtype
        ctx.save_for_backward(y_TBH, h_BH, weight_HH, kept_TB1)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_HH, kept_TB1 = ctx.saved_tensors
        # The slope of each step, overwritten by the gradient of its sums.
        d_sums_TBH = torch.addcmul(y_TBH.new_tensor(0.5), y_TBH, y_TBH, value=-0.5)
        if kept_TB1 is not None:
            d_sums_TBH.mul_(kept_TB1)
        slopes, grads = d_sums_TBH.unbind(), grad_TBH.unbind()
        dh, nothing = grads[-1], torch.zeros_like(h_BH)
        for t in range(len(grads) - 1, -1, -1):
            dh = torch.addmm(grads[t - 1] if t else nothing, slopes[t].mul_(dh), weight_HH)
        d_sums_TBH = d_sums_TBH.to(ctx.dtype)
        d_weight = weight_gradient(d_sums_TBH.flatten(0, 1), h_BH, y_TBH)
        return d_sums_TBH, dh, d_weight, None


class _NativeRNN(torch.autograd.Function):
    """h[t] = tanh(sums[t] + h[t-1] @ weight.T), or 0 at a reset, in C."""

    @staticmethod
    def forward(ctx: Any, sums_TBH: Tensor, h_BH: Tensor, weight_HH: Tensor, resets_TB: Tensor | None) -> Tensor:
        h_BH, y_TBH = h_BH.contiguous(), torch.empty_like(sums_TBH)
        native.run("rnn_forward", sums_TBH.contiguous(), y_TBH, resets_TB, y_TBH, h_BH, weight_HH.contiguous())
        ctx.resets = resets_TB
        ctx.save_for_backward(y_TBH, h_BH, weight_HH)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_HH = ctx.saved_tensors
        d_TBH, d_h_BH = torch.empty_like(y_TBH), torch.empty_like(h_BH)
        arrays = (grad_TBH.contiguous(), y_TBH, weight_HH.contiguous(), d_h_BH)
        native.run("rnn_backward", d_TBH, y_TBH, ctx.resets, *arrays)
        return d_TBH, d_h_BH, weight_gradient(d_TBH.flatten(0, 1), h_BH, y_TBH), None
