"""What the step layers of all cells share: the interface, and building blocks whose weights are constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Parameters of one recurrent layer by name. PyTorch's cells have weight_ih [G*H, I], weight_hh [G*H, H],
# bias_ih [G*H] and bias_hh [G*H], gates in PyTorch's order; another cell may have others.
LayerWeights = Mapping[str, Tensor]


class StepLayer(nn.Module):
    """One layer of one cell: ``(x, states [B, H] …) → new states [B, H] …``, float32; the first state is the output h.

    ``x`` is the output of the layer below, [B, H]. In layer 0 it is the token
    id [B], and the layer is given the embedding: see ``Table``.

    The elements of h must lie in [-1, 1]: int8 export relies on it. Names of
    submodules and parameters become names in the ONNX file.

    Attributes:
        name: of the cell, as in ``--cell`` and in the model file.
        states: names of a layer's states, h first.
    """

    name: ClassVar[str]
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:  # noqa: ARG002
        super().__init__()


class Affine(nn.Module):
    """``x @ weight.T + bias``; the matrix is stored transposed."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = constant(weight.T)
        self.bias = constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, I] → [B, O]."""
        return torch.addmm(self.bias, x, self.weight)


class Table(nn.Module):
    """The input product of layer 0 as a table, [V, G*H]: a row for each token, computed in float64 at export.

    So layer 0 has no input product at run time.
    """

    def __init__(self, embedding: Tensor, weight_ih: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.rows = constant(embedding.double() @ weight_ih.double().T + bias.double())

    def forward(self, token: Tensor) -> Tensor:
        """[B] → [B, G*H]."""
        return F.embedding(token, self.rows)


class SummedLayer(StepLayer):
    """A layer that adds the input product, the recurrent product and both biases before anything else.

    Layers above the first take [x, h] in one product.
    """

    def __init__(self, weights: LayerWeights, embedding: Tensor | None = None) -> None:
        super().__init__(weights, embedding)
        weight_ih, weight_hh = weights["weight_ih"], weights["weight_hh"]
        bias = weights["bias_ih"].double() + weights["bias_hh"].double()
        self.input: Table | None = None
        if embedding is not None:
            self.input = Table(embedding, weight_ih, bias)
            self.weight = constant(weight_hh.T)
        else:
            self.weight = constant(torch.cat([weight_ih, weight_hh], dim=1).T)
            self.bias = constant(bias)

    def gate_sums(self, x: Tensor, h: Tensor) -> Tensor:
        """[B, G*H]: the arguments of the gates' non-linearities."""
        if self.input is not None:
            return torch.addmm(self.input(x), h, self.weight)
        return torch.addmm(self.bias, torch.cat([x, h], dim=1), self.weight)


def constant(value: Tensor) -> nn.Parameter:
    """A float32 copy on the CPU that becomes a tensor of the ONNX file."""
    return nn.Parameter(value.detach().to("cpu", torch.float32).contiguous().clone(), requires_grad=False)
