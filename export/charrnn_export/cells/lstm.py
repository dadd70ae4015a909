"""LSTM, by the equations in the documentation of ``torch.nn.LSTM``."""

from __future__ import annotations

from torch import Tensor, nn

from charrnn_export.cells.layer import LayerWeights, SummedLayer


class LSTMStep(SummedLayer):
    """Gates in the order input, forget, candidate, output."""

    name = "lstm"
    states = ("h", "c")

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__(weights, embedding)
        # Modules, though stateless: their names become the nodes' names.
        self.input_gate, self.forget_gate, self.output_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()
        self.candidate, self.squashed_c = nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gate_sums(x, h).chunk(4, dim=1)
        c = self.forget_gate(f) * c + self.input_gate(i) * self.candidate(g)
        return self.output_gate(o) * self.squashed_c(c), c
