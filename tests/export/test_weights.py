"""The weights that the exporter takes: sizes, names, and the digest that identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch

from tests.export.conftest import Trained


def test_sizes_and_names(trained: Callable[[str, int], Trained]) -> None:
    made = trained("lstm", 2)
    weights = made.weights
    assert (weights.vocab_size, weights.hidden_size) == (len(made.vocabulary), 24)
    names = [name for name, _ in weights.named_tensors()]
    assert names[0] == "embedding"
    assert names[-2:] == ["head_weight", "head_bias"]
    assert set(names[1:-2]) == {
        f"layers.{i}.{name}" for i in (0, 1) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }


def test_the_digest_is_over_names_shapes_and_values(trained: Callable[[str, int], Trained]) -> None:
    weights = trained("gru", 1).weights
    sha = hashlib.sha256()
    for name, tensor in weights.named_tensors():
        sha.update(f"{name}{list(tensor.shape)}".encode() + tensor.detach().numpy().astype("<f4").tobytes())
    assert weights.sha256() == sha.hexdigest()
    assert replace(weights, head_bias=weights.head_bias.double()).sha256() == weights.sha256()
    changed = weights.head_bias.clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(9.0))
    assert replace(weights, head_bias=changed).sha256() != weights.sha256()
