"""The network for whole sequences, with its state as an argument.

``charrnn_export.StepModule`` is the same network for one token at a time, made
from ``CharRNN.export_weights``. Letters: T sequence, B batch, V vocabulary,
E embedding, H hidden.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from charrnn_export import ModelWeights
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.cells import cell_layer
from charrnn.cells.layer import Layer, State
from charrnn.config import ModelConfig


def dropped(values: Tensor, rate: float) -> Tensor:
    """Dropout; on a CPU with random bytes for a mask, which takes a quarter of the time of PyTorch's.

    There, the rate is rounded to a multiple of 1/256, 255 of them at most.
    """
    if values.device.type != "cpu":
        return F.dropout(values, rate)
    below = min(round(rate * 256), 255)
    words = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: values.numel()].view(values.shape) >= below
    return values * kept.to(values.dtype).mul_(256 / (256 - below))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by ``dropped``."""

    def forward(self, input: Tensor) -> Tensor:
        """Shape as the input's."""
        return dropped(input, self.p) if self.training and self.p else input


class CharRNN(nn.Module):
    """Embedding, recurrent layers, output layer: ``(tokens [T, B], state) → (logits [T, B, V], state)``.

    Dropout acts between layers and before the output layer; weight dropout on the parameters of the layers whose name
    contains ``weight_hh`` (Merity et al. 2017, arXiv:1708.02182). The cells are in ``charrnn.cells``.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        # One-hot input is an embedding that is the identity and is not trained.
        self.embedding = nn.Embedding(vocab_size, config.embedding_size or vocab_size)
        if not config.embedding_size:
            self.embedding.weight.requires_grad_(False).copy_(torch.eye(vocab_size))
        sizes = [self.embedding.embedding_dim] + [config.hidden_size] * config.num_layers
        # One module for each layer, so that dropout can act between them and each layer has its own state.
        self.cell = cell_layer(config.cell)
        self.layers = nn.ModuleList(self.cell(sizes[i], config.hidden_size) for i in range(config.num_layers))
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, vocab_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embedding.weight.device

    def initial_state(self, batch: int) -> State:
        """Zeros ``[B, H]`` for each state."""
        count = len(self.cell.step.states) * self.config.num_layers
        return tuple(torch.zeros(batch, self.config.hidden_size, device=self.device) for _ in range(count))

    def forward(self, tokens_TB: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        """Logits ``[T, B, V]`` and the new state; the gradient flows through both.

        Where ``resets`` (bool ``[T, B]``) is true, the states that follow are
        zero, as at the beginning of a text, and the logits have no meaning.
        """
        if resets_TB is not None and self.cell.reset_column:
            # The table is smaller than the sequence, so the column costs less here than in the layer.
            x_TBE = F.embedding(tokens_TB, F.pad(self.embedding.weight, (0, 1)))
            x_TBE.detach()[:, :, -1] = resets_TB
        else:
            x_TBE = self.embedding(tokens_TB)
        kinds = len(self.cell.step.states)
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x_TBE, last = self._through(layer, x_TBE, state[i * kinds : (i + 1) * kinds], resets_TB)
            new += last
            x_TBE = self.dropout(x_TBE)
        return self.head(x_TBE), tuple(new)

    def _through(self, layer: nn.Module, *inputs: Any) -> tuple[Tensor, State]:
        """The layer's outputs and states, in training with dropped weights."""
        if not (self.training and self.config.weight_dropout):
            return layer(*inputs)  # type: ignore[no-any-return]
        replaced = {
            name: dropped(parameter, self.config.weight_dropout)
            for name, parameter in layer.named_parameters()
            if "weight_hh" in name
        }
        with warnings.catch_warnings():
            # cuDNN wants all weights of a layer in one piece of memory, and copies them there.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
            return torch.func.functional_call(layer, replaced, inputs)  # type: ignore[no-any-return]

    def export_weights(self) -> ModelWeights:
        """The weights as the exporter takes them."""
        return ModelWeights(
            cell=self.cell.step,
            embedding=self.embedding.weight,
            layers=tuple(layer.weights for layer in self.layers if isinstance(layer, Layer)),
            head_weight=self.head.weight,
            head_bias=self.head.bias,
        )

    def num_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def initialise(self, kind: Literal["default", "char-rnn", "torch-rnn"]) -> None:
        """Draws initial weights as char-rnn or torch-rnn did; "default" keeps PyTorch's.

        "char-rnn": everything uniform in ±0.08. "torch-rnn": only the recurrent
        layers. See ``Layer.initialise`` for what the cells do.
        """
        if kind == "default":
            return
        if kind == "char-rnn":
            for p in self.parameters():
                if p.requires_grad:
                    p.uniform_(-0.08, 0.08)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.initialise(kind)

    def sequence_forward(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """``forward`` in evaluation mode, without gradient, in the type of the states: float32 or float64.

        This is the reference of the parity check. The float64 weights are a copy, made now.
        """
        exact = copy.deepcopy(self).double()

        def forward(tokens_TB: Tensor, state: State) -> tuple[Tensor, State]:
            model = exact if state[0].dtype == torch.float64 else self
            with model.evaluating():
                logits_TBV, new = model(tokens_TB, state)
            return logits_TBV, new

        return forward

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; afterwards, the former mode is restored."""
        training = self.training
        if training:
            self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if training:
                self.train()
