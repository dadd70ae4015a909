"""LSTM: PyTorch's own, with resets.

Letters: T sequence, B batch, J input and perhaps the reset column, H hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from charrnn_export.cells.lstm import LSTMStep
from torch import _VF, Tensor, nn
from torch.nn import functional as F

from charrnn.cells import register_cell
from charrnn.cells.kernels import SHUT
from charrnn.cells.layer import State, TorchLayer


@register_cell
class LSTM(TorchLayer):
    """A layer of ``nn.LSTM``; gates in the order input, forget, candidate, output.

    The bias of the forget gate begins at 1 (Jozefowicz et al. 2015), all other biases at 0.
    """

    step = LSTMStep
    module = nn.LSTM
    fast_on_cpu = False  # PyTorch has a fused LSTM
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

    def fast_forward(self, x_TBJ: Tensor, state: State, resets_TB: Tensor | None) -> tuple[Tensor, State]:
        """PyTorch's fused LSTM. It has no resets; a further input column tells it about them.

        That input, the last, is 1 at a reset and else 0. Its weights shut the
        input, forget and output gates at a reset, so that c and h are 0 there.
        """
        assert resets_TB is not None
        if x_TBJ.shape[2] == self.input_size:
            x_TBJ = torch.cat([x_TBJ, resets_TB.unsqueeze(2).to(x_TBJ.dtype)], dim=2)
        w, hidden = self.weights, self.hidden_size
        weight_ih = F.pad(w["weight_ih"], (0, 1), value=SHUT)
        weight_ih.detach()[2 * hidden : 3 * hidden, -1] = 0  # the candidate
        parameters = [weight_ih, w["weight_hh"], w["bias_ih"], w["bias_hh"]]
        h, c = (s.unsqueeze(0) for s in state)
        y_TBH, h, c = _VF.lstm(x_TBJ, (h, c), parameters, True, 1, 0.0, True, False, False)
        return y_TBH, (h.squeeze(0).float(), c.squeeze(0).float())
