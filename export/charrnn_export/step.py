"""The step: one token in, logits and new states out, in plain operators that trace to a small graph.

Letters: B batch, V vocabulary, H hidden size, G gates of the cell.

Equations as in the documentation of torch.nn.LSTM, GRU and RNN. PyTorch's GRU
applies the reset gate after the recurrent product; char-rnn applied it before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn_export.weights import STATES, LayerWeights, ModelWeights


class StepModule(nn.Module):
    """``(token [B], states [B, H] …) → (logits [B, V], new states …)``, float32.

    The states stand layer by layer: h_0, c_0, h_1, c_1 … for an LSTM, h_0, h_1 … otherwise.
    """

    def __init__(self, weights: ModelWeights) -> None:
        super().__init__()
        self.cell = weights.cell
        self.num_layers = len(weights.layers)
        self.hidden_size = weights.hidden_size
        self.vocab_size = weights.vocab_size
        first, *rest = weights.layers
        layer_type = _LAYERS[weights.cell]
        # layer_0, layer_1 …, head: these names become the names in the ONNX file.
        self.add_module("layer_0", layer_type(first, embedding=weights.embedding))
        for i, layer in enumerate(rest, start=1):
            self.add_module(f"layer_{i}", layer_type(layer))
        self.head = _Affine(weights.head_weight, weights.head_bias)
        self.eval().requires_grad_(False)

    @property
    def state_names(self) -> list[str]:
        """Names of the states, in the order in which ``forward`` takes and gives them."""
        return [f"{kind}_{i}" for i in range(self.num_layers) for kind in STATES[self.cell]]

    def sequence_weights(self) -> dict[str, Any]:
        """``charrnn.sequence``: which of the file's tensors an ONNX operator over a sequence is made from."""
        names = {"0.input": "layer_0.input.rows"}
        for i in range(self.num_layers):
            layer = f"layer_{i}"
            if self.cell == "gru":
                names |= {
                    f"{i}.recurrent": f"{layer}.recurrent.weight",
                    f"{i}.recurrent_bias": f"{layer}.recurrent.bias",
                }
                names |= {f"{i}.input": f"{layer}.input.weight", f"{i}.input_bias": f"{layer}.input.bias"} if i else {}
            else:
                key = f"{i}.weight" if i else "0.recurrent"
                names |= {key: f"{layer}.weight"}
                names |= {f"{i}.bias": f"{layer}.bias"} if i else {}
        names |= {"head.weight": "head.weight", "head.bias": "head.bias"}
        return {"operator": self.cell.upper(), "weights": names}

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        per_layer = len(STATES[self.cell])
        x = token
        new: list[Tensor] = []
        for i in range(self.num_layers):
            layer_state = states[i * per_layer : (i + 1) * per_layer]
            new += self.get_submodule(f"layer_{i}")(x, *layer_state)
            x = new[-per_layer]  # h comes first
        return (self.head(x), *new)


class _Affine(nn.Module):
    """x @ weight.T + bias, the matrix stored ready for the product."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = _constant(weight.T)
        self.bias = _constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class _Layer(nn.Module):
    """One layer. For layer 0 the input is a token, and its input product is a row of a table.

    embedding @ weight_ih.T + biases, [V, G*H], computed once in float64: layer
    0 costs no input product at all. Other layers take [x, h] in one product.
    """

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__()
        bias = weights.bias_ih.double() + weights.bias_hh.double()
        self.input: _Table | None = None
        if embedding is not None:
            self.input = _Table(embedding.double() @ weights.weight_ih.double().T + bias)
            self.weight = _constant(weights.weight_hh.T)
        else:
            self.weight = _constant(torch.cat([weights.weight_ih, weights.weight_hh], dim=1).T)
            self.bias = _constant(bias)

    def gate_sums(self, x: Tensor, h: Tensor) -> Tensor:
        """[B, G*H]: what goes into the gates' non-linearities."""
        if self.input is not None:
            return torch.addmm(self.input(x), h, self.weight)
        return torch.addmm(self.bias, torch.cat([x, h], dim=1), self.weight)


class _LSTM(_Layer):
    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__(weights, embedding)
        # Modules, though stateless: their names become the nodes' names.
        self.input_gate, self.forget_gate, self.output_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()
        self.candidate, self.squashed_c = nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gate_sums(x, h).chunk(4, dim=1)
        c = self.forget_gate(f) * c + self.input_gate(i) * self.candidate(g)
        return self.output_gate(o) * self.squashed_c(c), c


class _RNN(_Layer):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor]:
        return (self.gate_sums(x, h).tanh(),)


class _GRU(nn.Module):
    """The reset gate acts on the recurrent product alone, so the two products of the candidate stay apart."""

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__()
        self.sizes = [2 * weights.weight_hh.shape[1], weights.weight_hh.shape[1]]
        self.recurrent = _Affine(weights.weight_hh, weights.bias_hh)
        self.input: nn.Module
        if embedding is not None:
            self.input = _Table(embedding.double() @ weights.weight_ih.double().T + weights.bias_ih.double())
        else:
            self.input = _Affine(weights.weight_ih, weights.bias_ih)
        self.gates, self.candidate = nn.Sigmoid(), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor]:
        input_rz, input_n = self.input(x).split(self.sizes, dim=1)
        recurrent_rz, recurrent_n = self.recurrent(h).split(self.sizes, dim=1)
        r, z = self.gates(input_rz + recurrent_rz).chunk(2, dim=1)
        n = self.candidate(input_n + r * recurrent_n)
        return (n + z * (h - n),)


class _Table(nn.Module):
    """A row for each token."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = _constant(rows)

    def forward(self, token: Tensor) -> Tensor:
        return F.embedding(token, self.rows)


_LAYERS: dict[str, type[nn.Module]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to("cpu", torch.float32).contiguous().clone(), requires_grad=False)
