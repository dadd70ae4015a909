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
        # tanh(x) = 2σ(2x) - 1, so s = (h + 1) / 2 obeys s[t] = σ(2 sums[t] + 2 (2 s[t-1] - 1) @ weight.T).
        transposed = 4 * weight_HH.t().contiguous()
        s_TBH = torch.empty_like(sums_TBH)
        kept_TB1 = None if resets_TB is None else (~resets_TB).unsqueeze(2).to(s_TBH.dtype)
        kept = None if kept_TB1 is None else list(zip(kept_TB1.unbind(), ((1 - kept_TB1) / 2).unbind(), strict=True))
        s = (h_BH + 1) / 2
        for t, (sums, out) in enumerate(zip((2 * (sums_TBH - weight_HH.sum(1))).unbind(), s_TBH.unbind(), strict=True)):
            s = torch.addmm(sums, s, transposed, out=out).sigmoid_()
            if kept is not None:
                s.mul_(kept[t][0]).add_(kept[t][1])  # 1/2 is an h of 0
        y_TBH = s_TBH.mul_(2).sub_(1)
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
        dh, nothing = grads[-1], torch.zeros_like(h_BH)
        for t in range(len(grads) - 1, -1, -1):
            torch.mul(dh, slope_TBH[t], out=targets[t])
            dh = torch.addmm(grads[t - 1] if t else nothing, targets[t], weight_HH)
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
        # As above with s = (h + 1) / 2 and the candidate as m = (n + 1) / 2: s[t] = m + z * (s[t-1] - m).
        scale_G = weight_GH.new_ones(3 * hidden)
        scale_G[2 * hidden :] = 2
        transposed = 2 * (weight_GH * scale_G.unsqueeze(1)).t().contiguous()
        shift_G = (bias_G - weight_GH.sum(1)) * scale_G
        s_TBH = h_BH.new_empty(steps, batch, hidden)
        # r, z and twice the candidate's recurrent product, kept for the backward pass
        kept_TBG = torch.empty_like(gates_TBG)
        m_TBH = torch.empty_like(s_TBH)
        where_N = None if resets_TB is None else resets_TB.flatten().nonzero().squeeze(1)
        if where_N is not None:
            shut_G = gates_TBG.new_tensor([_SHUT, _SHUT, 0.0]).repeat_interleave(hidden)
            gates_TBG = gates_TBG.contiguous()
            gates_TBG.view(steps * batch, 3 * hidden)[where_N] = shut_G
        inputs_rz = gates_TBG[:, :, : 2 * hidden].unbind()
        inputs_m = (2 * gates_TBG[:, :, 2 * hidden :]).unbind()
        kept_rz, kept_m = (part.unbind() for part in torch.split(kept_TBG, [2 * hidden, hidden], dim=2))
        r_all, z_all = (part.unbind() for part in torch.split(kept_TBG, hidden, dim=2)[:2])
        kept, m_all, s_all = kept_TBG.unbind(), m_TBH.unbind(), s_TBH.unbind()
        s = (h_BH + 1) / 2
        for t in range(steps):
            torch.addmm(shift_G, s, transposed, out=kept[t])
            kept_rz[t].add_(inputs_rz[t]).sigmoid_()
            m = torch.addcmul(inputs_m[t], r_all[t], kept_m[t], out=m_all[t]).sigmoid_()
            s = torch.lerp(m, s, z_all[t], out=s_all[t])
        y_TBH = s_TBH.mul_(2).sub_(1)
        ctx.dtype = _dtype(h_BH)
        ctx.save_for_backward(y_TBH, h_BH, weight_GH, kept_TBG, m_TBH.mul_(2).sub_(1), where_N)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_GH, kept_TBG, n_TBH, where_N = ctx.saved_tensors
        steps, batch, hidden = y_TBH.shape
        r, z, twice_recurrent_n = torch.split(kept_TBG, hidden, dim=2)
        before_TBH = torch.cat([h_BH.unsqueeze(0), y_TBH[:-1]])
        # Each gate's gradient is dh times a factor that is known before the loop.
        to_n = (1 - z) * (1 - n_TBH * n_TBH)
        to_r = to_n * twice_recurrent_n * (r * (1 - r) / 2)
        factors_TBGH = torch.stack([to_r, (before_TBH - n_TBH) * z * (1 - z), to_n * r], 2)
        d_recurrent_TBGH = torch.empty_like(factors_TBGH)
        # dh[t] is the gradient of h[t]; one more in front is for the state that came in.
        dh_TBH = torch.empty_like(torch.cat([h_BH.unsqueeze(0), y_TBH]))
        dh_TBH[-1] = grad_TBH[-1]
        nothing = torch.zeros_like(h_BH)
        grads = (nothing, *grad_TBH[:-1].unbind())
        factors, targets = factors_TBGH.unbind(), d_recurrent_TBGH.unbind()
        targets_BG = d_recurrent_TBGH.view(steps, batch, 3 * hidden).unbind()
        z_all, dh_all, dh_all_B1H = z.unbind(), dh_TBH.unbind(), dh_TBH.unsqueeze(2).unbind()
        for t in range(steps - 1, -1, -1):
            torch.mul(dh_all_B1H[t + 1], factors[t], out=targets[t])
            torch.addcmul(grads[t], dh_all[t + 1], z_all[t], out=dh_all[t]).addmm_(targets_BG[t], weight_GH)
        d_gates_TBGH = d_recurrent_TBGH.clone()
        torch.mul(dh_TBH[1:], to_n, out=d_gates_TBGH[:, :, 2])
        if where_N is not None:
            d_gates_TBGH.view(steps * batch, 3, hidden)[where_N] = 0
        flat = d_recurrent_TBGH.view(steps * batch, 3 * hidden)
        d_weight = _weight_gradient(flat, before_TBH.flatten(0, 1), ctx.dtype)
        return d_gates_TBGH.view(steps, batch, 3 * hidden), dh_TBH[0], d_weight, flat.sum(0), None


def _weight_gradient(d_NG: Tensor, h_NH: Tensor, dtype: torch.dtype) -> Tensor:
    """``d.T @ h`` over all times at once, [G, H], in the precision of the autocast region of the forward."""
    return (d_NG.to(dtype).t() @ h_NH.to(dtype)).to(d_NG.dtype)


def _dtype(h: Tensor) -> torch.dtype:
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else h.dtype
