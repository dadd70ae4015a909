"""GRU: the equations and parameters of ``torch.nn.GRU``, with a fast forward for the CPU.

PyTorch applies the reset gate after the recurrent product; char-rnn applied it before.

Letters: T sequence, B batch, I input, H hidden size, G gates.
"""

from __future__ import annotations

from typing import Any

import torch
from charrnn_export.cells.gru import GRUStep
from torch import _VF, Tensor, nn
from torch.nn import functional as F

from charrnn.cells import native, register_cell
from charrnn.cells.kernels import SHUT, from_half, weight_gradient
from charrnn.cells.layer import State, TorchLayer


@register_cell
class GRU(TorchLayer):
    """A layer of ``nn.GRU``; gates in the order reset r, update z, candidate n."""

    step = GRUStep
    module = nn.GRU
    function = staticmethod(_VF.gru)

    def fast_forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None) -> tuple[Tensor, State]:
        """As ``forward``, float32."""
        w, hidden = self.weights, self.hidden_size
        if native.usable(x_TBI, *state):
            # The biases of r's and z's sums are one.
            bias_G = w["bias_ih"] + F.pad(w["bias_hh"][: 2 * hidden], (0, hidden))
            gates_TBG = F.linear(x_TBI, w["weight_ih"], bias_G)
            # The recurrent rows in the order n, r, z, as the backward pass lays gradients out.
            weight_GH, bias_H = w["weight_hh"].roll(hidden, 0), w["bias_hh"][2 * hidden :]
            y_TBH: Tensor = _NativeGRU.apply(gates_TBG, state[0], weight_GH, bias_H, resets_TB)  # type: ignore[no-untyped-call]
            return y_TBH, (y_TBH[-1],)
        # The candidate's rows are doubled: tanh(x) = 2σ(2x) - 1.
        scale_G = w["weight_hh"].new_ones(3 * hidden)
        scale_G[2 * hidden :] = 2
        scale_G1 = scale_G.unsqueeze(1)
        gates_TBG = F.linear(x_TBI, w["weight_ih"] * scale_G1, w["bias_ih"] * scale_G)
        # The recurrent rows in the order n, r, z, as the backward pass lays gradients out.
        weight_GH = (w["weight_hh"] * scale_G1).roll(hidden, 0)
        bias_G = (w["bias_hh"] * scale_G).roll(hidden, 0)
        y_TBH = _GRU.apply(gates_TBG, state[0], weight_GH, bias_G, resets_TB)  # type: ignore[no-untyped-call]
        return y_TBH, (y_TBH[-1],)


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
            shut_G = gates_TBG.new_tensor([SHUT, SHUT, 0.0]).repeat_interleave(hidden)
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
        y_TBH = from_half(s_TBH)
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
        d_weight = weight_gradient(d_N4H[:, : 3 * hidden], h_BH, y_TBH)
        return d_N4H[:, hidden:].view(steps, batch, 3 * hidden), dh, d_weight, d_bias, None


class _NativeGRU(torch.autograd.Function):
    """r, z = σ(sum); n = tanh(sum + r * (recurrent + bias)); h[t] = n + z * (h[t-1] - n), in C."""

    @staticmethod
    def forward(
        ctx: Any, sums_TBG: Tensor, h_BH: Tensor, weight_GH: Tensor, bias_H: Tensor, resets_TB: Tensor | None
    ) -> Tensor:
        h_BH, bias_H = h_BH.contiguous(), bias_H.contiguous()
        y_TBH = h_BH.new_empty(len(sums_TBG), *h_BH.shape)
        gates_TBG, recurrent_TBH = torch.empty_like(sums_TBG, dtype=h_BH.dtype), torch.empty_like(y_TBH)
        arrays = (gates_TBG, recurrent_TBH, y_TBH, h_BH, weight_GH, bias_H)
        native.run("gru_forward", sums_TBG.contiguous(), y_TBH, resets_TB, *arrays)
        ctx.dtype, ctx.resets = sums_TBG.dtype, resets_TB
        ctx.save_for_backward(y_TBH, h_BH, weight_GH, gates_TBG, recurrent_TBH)
        return y_TBH

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, weight_GH, gates_TBG, recurrent_TBH = ctx.saved_tensors
        steps, batch, hidden = y_TBH.shape
        d_N4H, dh_BH = y_TBH.new_empty(steps * batch, 4 * hidden, dtype=ctx.dtype), torch.zeros_like(h_BH)
        arrays = (grad_TBH.contiguous(), gates_TBG, recurrent_TBH, y_TBH, h_BH, weight_GH, dh_BH)
        native.run("gru_backward", d_N4H, y_TBH, ctx.resets, *arrays)
        d_weight = weight_gradient(d_N4H[:, : 3 * hidden], h_BH, y_TBH)
        d_bias = d_N4H[:, :hidden].sum(0, dtype=h_BH.dtype)
        return d_N4H[:, hidden:].view(steps, batch, 3 * hidden), dh_BH, d_weight, d_bias, None
