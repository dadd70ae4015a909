"""What the exporter takes: the weights of a trained model, named and shaped as PyTorch names them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Gates stacked in a layer's matrices, in PyTorch's order, and the states of a layer.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": ("h", "c"), "gru": ("h",), "rnn": ("h",)}


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One recurrent layer, as ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` hold it; G gates, H hidden, I input."""

    weight_ih: Tensor  # [G*H, I]
    weight_hh: Tensor  # [G*H, H]
    bias_ih: Tensor  # [G*H]
    bias_hh: Tensor  # [G*H]


@dataclass(frozen=True, kw_only=True)
class ModelWeights:
    """A whole model: embedding, recurrent layers, and the head that gives logits."""

    cell: str
    embedding: Tensor  # [V, E]
    layers: tuple[LayerWeights, ...]
    head_weight: Tensor  # [V, H]
    head_bias: Tensor  # [V]

    @property
    def hidden_size(self) -> int:
        """H, the same in all layers."""
        return self.layers[0].weight_hh.shape[1]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.embedding.shape[0]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors in a fixed order."""
        yield "embedding", self.embedding
        for i, layer in enumerate(self.layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                yield f"layers.{i}.{name}", getattr(layer, name)
        yield "head_weight", self.head_weight
        yield "head_bias", self.head_bias

    def sha256(self) -> str:
        """SHA-256 over names, shapes and float32 values: which weights a model file was made from."""
        sha = hashlib.sha256()
        for name, tensor in self.named_tensors():
            sha.update(f"{name}{list(tensor.shape)}".encode())
            sha.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return sha.hexdigest()
