"""LSTM: PyTorch's own, with resets, and a loop over time in C for CPUs with matrix instructions.

Letters: T sequence, B batch, J input and perhaps the reset column, H hidden size, G gates.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from charrnn_export.cells.lstm import LSTMStep
from torch import _VF, Tensor, nn
from torch.nn import functional as F

from charrnn.cells import native, register_cell
from charrnn.cells.kernels import SHUT, weight_gradient
from charrnn.cells.layer import State, TorchLayer


@register_cell
class LSTM(TorchLayer):
    """A layer of ``nn.LSTM``; gates in the order input, forget, candidate, output.

    The bias of the forget gate begins at 1 (Jozefowicz et al. 2015), all other biases at 0.
    """

    step = LSTMStep
    module = nn.LSTM
    function = staticmethod(_VF.lstm)
    reset_column = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            bias = torch.zeros(4, hidden_size)
            bias[1] = 1.0
            self.weights["bias_ih"].copy_(bias.flatten())
            self.weights["bias_hh"].zero_()

    @torch.no_grad()
    def initialise(self, kind: Literal["char-rnn", "torch-rnn"]) -> None:
        """Both ancestors: the forget gate's bias 1. char-rnn set one of the two biases and left the other as drawn."""
        super().initialise(kind)
        self.weights["bias_ih"][self.hidden_size : 2 * self.hidden_size] = 1.0

    @property
    def fast_on_cpu(self) -> bool:
        """In bfloat16 with matrix instructions. Else PyTorch's fused LSTM is as fast."""
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return bf16 and native.has_tiles()

    def fast_forward(self, x_TBJ: Tensor, state: State, resets_TB: Tensor | None) -> tuple[Tensor, State]:
        """The loop in C, or PyTorch's fused LSTM. That has no resets; a further input column tells it about them.

        That input, the last, is 1 at a reset and else 0. Its weights shut the
        input, forget and output gates at a reset, so that c and h are 0 there.
        """
        w, hidden = self.weights, self.hidden_size
        if x_TBJ.device.type == "cpu" and self.fast_on_cpu:
            weight_ih = w["weight_ih"]
            if x_TBJ.shape[2] > self.input_size:
                weight_ih = F.pad(weight_ih, (0, 1))  # the reset column has no effect
            sums_TBG = F.linear(x_TBJ, weight_ih, w["bias_ih"] + w["bias_hh"])
            y_TBH, c = _NativeLSTM.apply(sums_TBG, *state, w["weight_hh"], resets_TB)  # type: ignore[no-untyped-call]
            return y_TBH, (y_TBH[-1].float(), c)
        assert resets_TB is not None
        if x_TBJ.shape[2] == self.input_size:
            x_TBJ = torch.cat([x_TBJ, resets_TB.unsqueeze(2).to(x_TBJ.dtype)], dim=2)
        weight_ih = F.pad(w["weight_ih"], (0, 1), value=SHUT)
        weight_ih.detach()[2 * hidden : 3 * hidden, -1] = 0  # the candidate
        parameters = [weight_ih, w["weight_hh"], w["bias_ih"], w["bias_hh"]]
        h, c = (s.unsqueeze(0) for s in state)
        y_TBH, h, c = _VF.lstm(x_TBJ, (h, c), parameters, True, 1, 0.0, True, False, False)
        return y_TBH, (h.squeeze(0).float(), c.squeeze(0).float())


class _NativeLSTM(torch.autograd.Function):
    """i, f, o = σ(sum); g = tanh(sum); c[t] = f * c[t-1] + i * g; h[t] = o * tanh(c[t]), in C.

    Outputs: all h, the last c.
    """

    @staticmethod
    def forward(
        ctx: Any, sums_TBG: Tensor, h_BH: Tensor, c_BH: Tensor, weight_GH: Tensor, resets_TB: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        h_BH, c_BH = h_BH.contiguous(), c_BH.contiguous()
        c_TBH = c_BH.new_empty(len(sums_TBG), *c_BH.shape)
        gates_TBG, y_TBH = torch.empty_like(sums_TBG), torch.empty_like(c_TBH, dtype=sums_TBG.dtype)
        arrays = (gates_TBG, c_TBH, y_TBH, h_BH, c_BH, weight_GH.contiguous())
        native.run("lstm_forward", sums_TBG.contiguous(), y_TBH, resets_TB, *arrays)
        ctx.resets = resets_TB
        ctx.save_for_backward(y_TBH, h_BH, c_BH, weight_GH, gates_TBG, c_TBH)
        return y_TBH, c_TBH[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor, d_c_BH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        y_TBH, h_BH, c_BH, weight_GH, gates_TBG, c_TBH = ctx.saved_tensors
        d_TBG, d_h_BH, d_c_BH = torch.empty_like(gates_TBG), torch.empty_like(h_BH), d_c_BH.clone()
        arrays = (grad_TBH.contiguous(), gates_TBG, c_TBH, c_BH, weight_GH.contiguous(), d_h_BH, d_c_BH)
        native.run("lstm_backward", d_TBG, y_TBH, ctx.resets, *arrays)
        return d_TBG, d_h_BH, d_c_BH, weight_gradient(d_TBG.flatten(0, 1), h_BH, y_TBH), None
