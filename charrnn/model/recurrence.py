"""Sequence forwards of GRU and vanilla RNN that are fast on a CPU, with hand-written backwards; resets for all cells.

PyTorch has a fused path on the CPU for the LSTM only. Here the input product
of the whole sequence is one matrix product, the loop over time holds nothing
but the recurrent product and a few element-wise operations into memory that
is there already (tanh as a rescaled sigmoid, which is six times as fast and
whose scale goes into the weights), and everything in the backward pass that does not depend on
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
    hidden = h_BH.shape[1]
    # The candidate's rows are doubled: tanh(x) = 2σ(2x) - 1.
    scale_G = weights.weight_hh.new_ones(3 * hidden)
    scale_G[2 * hidden :] = 2
    scale_G1 = scale_G.unsqueeze(1)
    gates_TBG = F.linear(x_TBI, weights.weight_ih * scale_G1, weights.bias_ih * scale_G)
    # The recurrent rows in the order n, r, z, as the backward pass lays gradients out.
    weight_GH = (weights.weight_hh * scale_G1).roll(hidden, 0)
    bias_G = (weights.bias_hh * scale_G).roll(hidden, 0)
    y_TBH: Tensor = _GRU.apply(gates_TBG, h_BH, weight_GH, bias_G, resets_TB)  # type: ignore[no-untyped-call]
    return y_TBH, y_TBH[-1]


def rnn(x_TBI: Tensor, h_BH: Tensor, weights: LayerWeights, resets_TB: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``(x [T, B, I], h [B, H], resets bool [T, B]) → (y [T, B, H], last h [B, H])``, float32."""
    sums_TBH = F.linear(x_TBI, 2 * weights.weight_ih, 2 * (weights.bias_ih + weights.bias_hh))
    y_TBH: Tensor = _RNN.apply(sums_TBH, h_BH, 2 * weights.weight_hh, resets_TB)  # type: ignore[no-untyped-call]
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
        y_TBH = _from_half(s_TBH)
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
        d_weight = _weight_gradient(d_sums_TBH.flatten(0, 1), h_BH, y_TBH)
        return d_sums_TBH, dh, d_weight, None


class _GRU(torch.autograd.Function):
    """r, z = σ(input + recurrent); n = tanh((input + r * recurrent) / 2); h[t] = n + z * (h[t-1] - n).

    At a reset r and z are shut and the input of n is 0: h[t] = n = 0. The
    inputs come in the order r, z, n, the recurrent weights in the order n, r, z.
    """

    @staticmethod
    def forward(
        ctx: Any, gates_TBG: Tensor, h_BH: Tensor, weight_GH: Tensor, bias_G: Tensor, resets_TB: Tensor | None
    ) -> Tensor:
        steps, batch, hidden = gates_TBG.shape[0], gates_TBG.shape[1], h_BH.shape[1]
        # As above with s = (h + 1) / 2 and the candidate as m = (n + 1) / 2: s[t] = m + z * (s[t-1] - m).
        transposed = 2 * weight_GH.t().contiguous()
        to_n, to_rz = torch.split(transposed, [hidden, 2 * hidden], dim=1)
        to_n, to_rz = to_n.contiguous(), to_rz.contiguous()
        shift_n, shift_rz = torch.split(bias_G - weight_GH.sum(1), [hidden, 2 * hidden])
        ctx.dtype = gates_TBG.dtype
        gates_TBG = gates_TBG.to(h_BH.dtype, copy=True)  # overwritten by r, z and m step by step
        rz_TBG, n_TBH = torch.split(gates_TBG, [2 * hidden, hidden], dim=2)
        rz_TBG += shift_rz
        where_N = None if resets_TB is None else resets_TB.flatten().nonzero().squeeze(1)
        if where_N is not None:
            shut_G = gates_TBG.new_tensor([_SHUT, _SHUT, 0.0]).repeat_interleave(hidden)
            gates_TBG.view(steps * batch, 3 * hidden)[where_N] = shut_G
        s_TBH = h_BH.new_empty(steps, batch, hidden)
        recurrent_TBH = torch.empty_like(s_TBH)  # the candidate's, before r
        r_TBH, z_TBH = torch.split(rz_TBG, hidden, dim=2)
        before = (h_BH + 1) / 2
        views = (rz_TBG, r_TBH, z_TBH, n_TBH, recurrent_TBH, s_TBH)
        for rz, r, z, n, recurrent, s in zip(*(v.unbind() for v in views), strict=True):
            rz.addmm_(before, to_rz).sigmoid_()
            torch.addmm(shift_n, before, to_n, out=recurrent)
            n.addcmul_(r, recurrent).sigmoid_()
            before = torch.lerp(n, before, z, out=s)
        y_TBH = _from_half(s_TBH)
        ctx.save_for_backward(y_TBH, h_BH, weight_GH, gates_TBG, recurrent_TBH, where_N)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_GH, gates_TBG, recurrent_TBH, where_N = ctx.saved_tensors
        steps, batch, hidden = y_TBH.shape
        r, z, m = torch.split(gates_TBG, hidden, dim=2)
        # Each gradient is dh times a factor that is known before the loop, and takes its place there: of the
        # candidate's recurrent product, r, z and the candidate. The first three belong to the recurrent
        # weights, the last three to the input's.
        d_TB4H = y_TBH.new_empty(steps, batch, 4, hidden)
        d_recurrent, d_r, d_z, d_n = d_TB4H.unbind(2)
        slope = torch.addcmul(m, m, m, value=-1)
        torch.addcmul(slope, slope, z, value=-1, out=d_n).mul_(2)  # (1 - z) 2m (1 - m)
        torch.mul(d_n, r, out=d_recurrent)
        torch.mul(d_recurrent, recurrent_TBH, out=d_r)
        d_r.addcmul_(d_r, r, value=-1)
        torch.sub(y_TBH[:-1], m[1:], alpha=2, out=d_z[1:])
        torch.sub(h_BH, m[0], alpha=2, out=d_z[0])
        d_z.add_(1).mul_(torch.addcmul(z, z, z, value=-1))  # (h[t-1] - n) z (1 - z)
        if where_N is not None:
            d_TB4H.view(steps * batch, 4, hidden)[where_N, 3] = 0
        grads = (torch.zeros_like(h_BH), *grad_TBH[:-1].unbind())
        factors, z_all = d_TB4H.unbind(), z.unbind()
        to_weight = d_TB4H.view(steps, batch, 4 * hidden)[:, :, : 3 * hidden].unbind()
        dh = grad_TBH[-1]
        for t in range(steps - 1, -1, -1):
            factors[t].mul_(dh.unsqueeze(1))
            dh = torch.addcmul(grads[t], dh, z_all[t]).addmm_(to_weight[t], weight_GH)
        d_N4H = d_TB4H.view(steps * batch, 4 * hidden)
        d_bias = d_N4H[:, : 3 * hidden].sum(0)
        d_N4H = d_N4H.to(ctx.dtype)
        d_weight = _weight_gradient(d_N4H[:, : 3 * hidden], h_BH, y_TBH)
        return d_N4H[:, hidden:].view(steps, batch, 3 * hidden), dh, d_weight, d_bias, None


def _from_half(s_TBH: Tensor) -> Tensor:
    """h of s = (h + 1) / 2."""
    return torch.add(s_TBH.new_tensor(-1), s_TBH, alpha=2)


def _weight_gradient(d_NG: Tensor, h_BH: Tensor, y_TBH: Tensor) -> Tensor:
    """``d.T @ h`` over all times at once, [G, H], of each step's h before it, in the precision of ``d``."""
    before_TBH = torch.cat([h_BH.unsqueeze(0).to(d_NG.dtype), y_TBH[:-1].to(d_NG.dtype)])
    return (d_NG.t() @ before_TBH.flatten(0, 1)).to(h_BH.dtype)
