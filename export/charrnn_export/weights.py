"""The weights of a trained model, as the exporter takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from charrnn_export.cells.layer import LayerWeights, StepLayer


@dataclass(frozen=True, kw_only=True)
class ModelWeights:
    """A whole model: embedding, recurrent layers of one cell, and the head that gives logits.

    V vocabulary, E embedding size, H hidden size.
    """

    cell: type[StepLayer]
    embedding: Tensor  # [V, E]
    layers: tuple[LayerWeights, ...]
    head_weight: Tensor  # [V, H]
    head_bias: Tensor  # [V]

    @property
    def hidden_size(self) -> int:
        """H; all layers have the same."""
        return self.head_weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.embedding.shape[0]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors in a fixed order."""
        yield "embedding", self.embedding
        for i, layer in enumerate(self.layers):
            for name, tensor in layer.items():
                yield f"layers.{i}.{name}", tensor
        yield "head_weight", self.head_weight
        yield "head_bias", self.head_bias

    def sha256(self) -> str:
        """SHA-256 over names, shapes and float32 values; a model file stores it to identify its weights."""
        sha = hashlib.sha256()
        for name, tensor in self.named_tensors():
            sha.update(f"{name}{list(tensor.shape)}".encode())
            sha.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return sha.hexdigest()
