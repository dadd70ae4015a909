"""The step of a model: one token in, logits and new states out, in operators that trace to a small graph.

Letters: B batch, V vocabulary, H hidden size. The layers are in ``charrnn_export.cells``.
"""

from __future__ import annotations

from torch import Tensor, nn

from charrnn_export.cells.layer import Affine
from charrnn_export.weights import ModelWeights


class StepModule(nn.Module):
    """``(token [B], states [B, H] …) → (logits [B, V], new states …)``, float32.

    The states are ordered by layer: h_0, c_0, h_1, c_1 … for an LSTM, h_0, h_1 … for a cell with one state.
    """

    def __init__(self, weights: ModelWeights) -> None:
        super().__init__()
        self.cell = weights.cell
        self.num_layers = len(weights.layers)
        self.hidden_size = weights.hidden_size
        self.vocab_size = weights.vocab_size
        # layer_0, layer_1 …, head: these names become the names in the ONNX file.
        for i, layer in enumerate(weights.layers):
            self.add_module(f"layer_{i}", self.cell(layer, weights.embedding if i == 0 else None))
        self.head = Affine(weights.head_weight, weights.head_bias)
        self.eval().requires_grad_(False)

    @property
    def state_names(self) -> list[str]:
        """Names of the states, in the order of ``forward``'s arguments and results."""
        return [f"{kind}_{i}" for i in range(self.num_layers) for kind in self.cell.states]

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Logits and new states."""
        per_layer = len(self.cell.states)
        x = token
        new: list[Tensor] = []
        for i in range(self.num_layers):
            layer_state = states[i * per_layer : (i + 1) * per_layer]
            new += self.get_submodule(f"layer_{i}")(x, *layer_state)
            x = new[-per_layer]  # h comes first
        return (self.head(x), *new)
