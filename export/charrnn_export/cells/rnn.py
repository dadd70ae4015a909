"""Vanilla RNN with tanh, by the equation in the documentation of ``torch.nn.RNN``."""

from __future__ import annotations

from torch import Tensor

from charrnn_export.cells.layer import SummedLayer


class RNNStep(SummedLayer):
    """h = tanh of the sums."""

    name = "rnn"

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor]:
        return (self.gate_sums(x, h).tanh(),)
