"""GRU, by the equations in the documentation of ``torch.nn.GRU``.

PyTorch applies the reset gate after the recurrent product; char-rnn applied it before.
"""

from __future__ import annotations

from torch import Tensor, nn

from charrnn_export.cells.layer import Affine, LayerWeights, StepLayer, Table


class GRUStep(StepLayer):
    """Gates in the order reset, update, candidate.

    The reset gate is applied to the recurrent product only, so the candidate's two products are kept apart.
    """

    name = "gru"

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__(weights, embedding)
        hidden = weights["weight_hh"].shape[1]
        self.sizes = [2 * hidden, hidden]
        self.recurrent = Affine(weights["weight_hh"], weights["bias_hh"])
        weight_ih, bias_ih = weights["weight_ih"], weights["bias_ih"]
        self.input = Affine(weight_ih, bias_ih) if embedding is None else Table(embedding, weight_ih, bias_ih)
        self.gates, self.candidate = nn.Sigmoid(), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor]:
        input_rz, input_n = self.input(x).split(self.sizes, dim=1)
        recurrent_rz, recurrent_n = self.recurrent(h).split(self.sizes, dim=1)
        r, z = self.gates(input_rz + recurrent_rz).chunk(2, dim=1)
        n = self.candidate(input_n + r * recurrent_n)
        return (n + z * (h - n),)
