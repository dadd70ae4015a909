"""Sequence forwards of GRU and vanilla RNN that are fast on a CPU, with hand-written backwards; resets for all cells.

PyTorch has a fused path on the CPU for the LSTM only. Here the input product
of the whole sequence is one matrix product, the loop over time holds nothing
but the recurrent product and a few element-wise operations into memory that
is there already, and everything in the backward pass that does not depend on
the gradient is computed for all times at once.

Letters: T sequence, B batch, I input, H hidden, G gates. Equations and
parameters are those of torch.nn.GRU and torch.nn.RNN (tanh).

A step at which ``resets`` is true gives zeros, and so a text behind it begins
with the zero state; no value and no gradient gets past it. LSTM and GRU need
no step more for it: a gate whose input is -10,000 is exactly 0.
"""

from __future__ import annotations

from typing import Any

import torch
from charrnn_export import LayerWeights
from torch import _VF, Tensor
from torch.nn import functional as F

_SHUT = -1e4  # as a gate's input: its sigmoid is exactly 0, and bfloat16 holds the number


def gru(x_TBI: Tensor, h_BH: Tensor, weights: LayerWeights, resets_TB: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``(x [T, B, I], h [B, H], resets bool [T, B]) → (y [T, B, H], last h [B, H])``, float32."""
    gates_TBG = F.linear(x_TBI, weights.weight_ih, weights.bias_ih).to(h_BH.dtype)
    y_TBH: Tensor = _GRU.apply(gates_TBG, h_BH, weights.weight_hh, weights.bias_hh, resets_TB)  # type: ignore[no-untyped-call]
    return y_TBH, y_TBH[-1]


def rnn(x_TBI: Tensor, h_BH: Tensor, weights: LayerWeights, resets_TB: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``(x [T, B, I], h [B, H], resets bool [T, B]) → (y [T, B, H], last h [B, H])``, float32."""
    sums_TBH = F.linear(x_TBI, weights.weight_ih, weights.bias_ih + weights.bias_hh).to(h_BH.dtype)
    y_TBH: Tensor = _RNN.apply(sums_TBH, h_BH, weights.weight_hh, resets_TB)  # type: ignore[no-untyped-call]
    return y_TBH, y_TBH[-1]


def lstm(x_TBJ: Tensor, state: tuple[Tensor, ...], weights: LayerWeights) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``(x [T, B, I + 1], (h, c) [B, H]) → (y [T, B, H], (h, c))``: PyTorch's own LSTM, with resets.

    The fused kernels cannot be stopped in the middle. But a further input, the
    last, that is 1 at a reset and else 0 shuts the input, forget and output
    gates there: c and h are 0.
    """
    hidden = weights.weight_hh.shape[1]
    weight_ih = F.pad(weights.weight_ih, (0, 1), value=_SHUT)
    weight_ih.detach()[2 * hidden : 3 * hidden, -1] = 0  # the candidate, third of the four
    parameters = [weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh]
    h, c = (s.unsqueeze(0) for s in state)
    y_TBH, h, c = _VF.lstm(x_TBJ, (h, c), parameters, True, 1, 0.0, True, False, False)
    return y_TBH, (h.squeeze(0).float(), c.squeeze(0).float())


class _RNN(torch.autograd.Function):
    """h[t] = tanh(sums[t] + h[t-1] @ weight.T), or 0 at a reset."""

    @staticmethod
    def forward(ctx: Any, sums_TBH: Tensor, h_BH: Tensor, weight_HH: Tensor, resets_TB: Tensor | None) -> Tensor:
        transposed = weight_HH.t().contiguous()
        y_TBH = torch.empty_like(sums_TBH)
        kept_TB1 = None if resets_TB is None else (~resets_TB).unsqueeze(2).to(y_TBH.dtype)
        kept = None if kept_TB1 is None else kept_TB1.unbind()
        h = h_BH
        for t, (sums, y) in enumerate(zip(sums_TBH.unbind(), y_TBH.unbind(), strict=True)):
            torch.addmm(sums, h, transposed, out=y)
            h = _tanh_(y)
            if kept is not None:
                h.mul_(kept[t])
        ctx.dtype = _dtype(h_BH)
        ctx.save_for_backward(y_TBH, h_BH, weight_HH, kept_TB1)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_HH, kept_TB1 = ctx.saved_tensors
        slopes_TBH = 1 - y_TBH * y_TBH
        slope_TBH = (slopes_TBH if kept_TB1 is None else slopes_TBH.mul_(kept_TB1)).unbind()
        d_sums_TBH = torch.empty_like(y_TBH)
        targets, grads = d_sums_TBH.unbind(), grad_TBH.unbind()
        dh = grads[-1]
        for t in range(len(grads) - 1, -1, -1):
            torch.mul(dh, slope_TBH[t], out=targets[t])
            dh = torch.addmm(grads[t - 1], targets[t], weight_HH) if t else targets[0] @ weight_HH
        before_TBH = torch.cat([h_BH.unsqueeze(0), y_TBH[:-1]])
        d_weight = _weight_gradient(d_sums_TBH.flatten(0, 1), before_TBH.flatten(0, 1), ctx.dtype)
        return d_sums_TBH, dh, d_weight, None


class _GRU(torch.autograd.Function):
    """r, z = σ(input + recurrent); n = tanh(input + r * recurrent); h[t] = n + z * (h[t-1] - n).

    At a reset r and z are shut and the input of n is 0: h[t] = n = 0. The
    gates are overwritten there.
    """

    @staticmethod
    def forward(
        ctx: Any, gates_TBG: Tensor, h_BH: Tensor, weight_GH: Tensor, bias_G: Tensor, resets_TB: Tensor | None
    ) -> Tensor:
        steps, batch, hidden = gates_TBG.shape[0], gates_TBG.shape[1], h_BH.shape[1]
        transposed = weight_GH.t().contiguous()
        y_TBH = h_BH.new_empty(steps, batch, hidden)
        # r, z and the candidate's recurrent product, kept for the backward pass
        kept_TBG = torch.empty_like(gates_TBG)
        n_TBH = torch.empty_like(y_TBH)
        where_N = None if resets_TB is None else resets_TB.flatten().nonzero().squeeze(1)
        if where_N is not None:
            shut_G = gates_TBG.new_tensor([_SHUT, _SHUT, 0.0]).repeat_interleave(hidden)
            gates_TBG = gates_TBG.contiguous()
            gates_TBG.view(steps * batch, 3 * hidden)[where_N] = shut_G
        inputs_rz, inputs_n = (part.unbind() for part in torch.split(gates_TBG, [2 * hidden, hidden], dim=2))
        kept_rz, kept_n = (part.unbind() for part in torch.split(kept_TBG, [2 * hidden, hidden], dim=2))
        kept, n_all, y_all = kept_TBG.unbind(), n_TBH.unbind(), y_TBH.unbind()
        h = h_BH
        for t in range(steps):
            torch.addmm(bias_G, h, transposed, out=kept[t])
            rz = kept_rz[t].add_(inputs_rz[t]).sigmoid_()
            n = _tanh_(torch.addcmul(inputs_n[t], rz[:, :hidden], kept_n[t], out=n_all[t]))
            h = torch.lerp(n, h, rz[:, hidden:], out=y_all[t])
        ctx.dtype = _dtype(h_BH)
        ctx.save_for_backward(y_TBH, h_BH, weight_GH, kept_TBG, n_TBH, where_N)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_GH, kept_TBG, n_TBH, where_N = ctx.saved_tensors
        steps, batch, hidden = y_TBH.shape
        r, z, recurrent_n = kept_TBG.split(hidden, dim=2)
        before_TBH = torch.cat([h_BH.unsqueeze(0), y_TBH[:-1]])
        # Each gate's gradient is dh times a factor that is known before the loop.
        to_n = (1 - z) * (1 - n_TBH * n_TBH)
        factors_TBGH = torch.stack([to_n * recurrent_n * r * (1 - r), (before_TBH - n_TBH) * z * (1 - z), to_n * r], 2)
        d_recurrent_TBGH = torch.empty_like(factors_TBGH)
        dh_TBH = torch.empty_like(y_TBH)
        factors, targets = factors_TBGH.unbind(), d_recurrent_TBGH.unbind()
        targets_BG = d_recurrent_TBGH.view(steps, batch, 3 * hidden).unbind()
        z_all, dh_all, grads = z.unbind(), dh_TBH.unbind(), grad_TBH.unbind()
        dh = torch.zeros_like(h_BH)
        for t in range(steps - 1, -1, -1):
            dh = torch.add(grads[t], dh, out=dh_all[t])
            torch.mul(dh.unsqueeze(1), factors[t], out=targets[t])
            dh = torch.addmm(dh * z_all[t], targets_BG[t], weight_GH)
        d_gates_TBGH = d_recurrent_TBGH.clone()
        torch.mul(dh_TBH, to_n, out=d_gates_TBGH[:, :, 2])
        if where_N is not None:
            d_gates_TBGH.view(steps * batch, 3, hidden)[where_N] = 0
        flat = d_recurrent_TBGH.view(steps * batch, 3 * hidden)
        d_weight = _weight_gradient(flat, before_TBH.flatten(0, 1), ctx.dtype)
        return d_gates_TBGH.view(steps, batch, 3 * hidden), dh, d_weight, flat.sum(0), None


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 2σ(2x) - 1: torch's tanh takes six times as long as its sigmoid on a CPU."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _weight_gradient(d_NG: Tensor, h_NH: Tensor, dtype: torch.dtype) -> Tensor:
    """``d.T @ h`` over all times at once, [G, H], in the precision of the autocast region of the forward."""
    return (d_NG.to(dtype).t() @ h_NH.to(dtype)).to(d_NG.dtype)


def _dtype(h: Tensor) -> torch.dtype:
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else h.dtype
