"""Models in the export tests: random weights in the trainer's model, and the mathematics written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from charrnn_export import Exported, ModelWeights, export_model
from charrnn_runtime import Vocabulary
from numpy.typing import NDArray

from charrnn.config import ModelConfig
from charrnn.model.char_rnn import CharRNN

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def reference(weights: ModelWeights, tokens_TB: NDArray[np.int64], states: tuple[Array, ...]) -> Array:
    """Logits float64 [T, B, V]: the equations in the documentation of nn.LSTM, GRU and RNN, gate by gate.

    States stand layer by layer, [B, H] each: h_0, c_0, h_1, c_1 … or h_0, h_1 …
    """
    H = weights.hidden_size
    kinds = 2 if weights.cell.name == "lstm" else 1
    now = [np.array(s, np.float64) for s in states]

    def f64(tensor: torch.Tensor) -> Array:
        return tensor.detach().double().numpy()

    def part(layer: int, gate: int, x: Array, name: str) -> Array:
        """One gate's share of one product, x [B, I] → [B, H]: name is "ih" or "hh"."""
        rows = slice(gate * H, (gate + 1) * H)
        matrix = f64(weights.layers[layer][f"weight_{name}"])[rows]
        bias = f64(weights.layers[layer][f"bias_{name}"])[rows]
        product: Array = x @ matrix.T + bias
        return product

    logits = []
    for tokens_B in tokens_TB:
        x = f64(weights.embedding)[tokens_B]
        for layer in range(len(weights.layers)):
            h = now[layer * kinds]
            if weights.cell.name == "lstm":
                i = sigmoid(part(layer, 0, x, "ih") + part(layer, 0, h, "hh"))
                f = sigmoid(part(layer, 1, x, "ih") + part(layer, 1, h, "hh"))
                g = np.tanh(part(layer, 2, x, "ih") + part(layer, 2, h, "hh"))
                o = sigmoid(part(layer, 3, x, "ih") + part(layer, 3, h, "hh"))
                c = f * now[layer * kinds + 1] + i * g
                h = o * np.tanh(c)
                now[layer * kinds + 1] = c
            elif weights.cell.name == "gru":
                r = sigmoid(part(layer, 0, x, "ih") + part(layer, 0, h, "hh"))
                z = sigmoid(part(layer, 1, x, "ih") + part(layer, 1, h, "hh"))
                n = np.tanh(part(layer, 2, x, "ih") + r * part(layer, 2, h, "hh"))
                h = (1 - z) * n + z * h
            else:
                h = np.tanh(part(layer, 0, x, "ih") + part(layer, 0, h, "hh"))
            now[layer * kinds] = h
            x = h
        logits.append(x @ f64(weights.head_weight).T + f64(weights.head_bias))
    return np.array(logits)


@dataclass
class Trained:
    """A model with random weights and a vocabulary, and its export."""

    model: CharRNN
    vocabulary: Vocabulary

    @property
    def weights(self) -> ModelWeights:
        return self.model.export_weights()

    def export(self, *, steps: int = 20, **settings: Any) -> Exported:
        """``export_model`` with these settings of its own: opset, dtype, validation, max_loss_increase."""
        return export_model(
            self.weights,
            self.vocabulary,
            self.model.sequence_forward(),
            training={"corpus": "none"},
            producer={"tests": "1"},
            parity_steps=steps,
            **settings,
        )


def make(cell: str, layers: int, hidden: int = 24) -> Trained:
    vocabulary = Vocabulary.from_text("\n abcdefghijklmnop.,")
    torch.manual_seed(layers)
    config = ModelConfig(cell=cell, num_layers=layers, hidden_size=hidden, embedding_size=10, dropout=0.2)
    model = CharRNN(config, len(vocabulary))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:  # every bias counts, those that begin at zero too
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return Trained(model, vocabulary)


@pytest.fixture(scope="session")
def trained() -> Callable[[str, int], Trained]:
    """The model of a cell and a number of layers, made once."""
    made: dict[tuple[str, int], Trained] = {}

    def get(cell: str, layers: int) -> Trained:
        if (cell, layers) not in made:
            made[cell, layers] = make(cell, layers)
        return made[cell, layers]

    return get


@pytest.fixture(scope="session")
def exported(trained: Callable[[str, int], Trained]) -> Callable[[str, int], Exported]:
    """Its model file, made once."""
    made: dict[tuple[str, int], Exported] = {}

    def get(cell: str, layers: int) -> Exported:
        if (cell, layers) not in made:
            made[cell, layers] = trained(cell, layers).export()
        return made[cell, layers]

    return get


@pytest.fixture(scope="session")
def numpy_reference() -> Callable[[ModelWeights, NDArray[np.int64], tuple[Array, ...]], Array]:
    return reference
