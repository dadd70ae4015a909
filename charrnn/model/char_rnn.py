"""The model: one set of weights with explicit state, as a sequence forward.

Its other face, the single step, is ``charrnn_export.StepModule``, made from
``CharRNN.export_weights``. Letters: T sequence, B batch, V vocabulary,
E embedding, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from charrnn_export import STATES, LayerWeights, ModelWeights
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import ModelConfig
from charrnn.model import recurrence

State = tuple[Tensor, ...]  # float32 [B, H] each: h_0, c_0, h_1, c_1 … (LSTM) or h_0, h_1 …


# oneDNN has a training path for the LSTM alone.
_FAST = {"gru": recurrence.gru, "rnn": recurrence.rnn}


class Layer(nn.Module):
    """One recurrent layer with explicit state: ``(x [T, B, I], states [B, H] …) → (y [T, B, H], states)``."""

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.cell = cell
        self.core: nn.RNNBase = kind(input_size, hidden_size)
        if cell == "lstm":
            with torch.no_grad():
                bias = torch.zeros(4, hidden_size)
                bias[1] = 1.0  # gates stand in the order input, forget, candidate, output
                self.weights.bias_ih.copy_(bias.flatten())
                self.weights.bias_hh.zero_()

    @property
    def weights(self) -> LayerWeights:
        """The parameters, under the names that PyTorch gives them."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.core.all_weights[0]
        return LayerWeights(weight_ih=weight_ih, weight_hh=weight_hh, bias_ih=bias_ih, bias_hh=bias_hh)

    def forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        """Outputs and new states; where ``resets`` is true the output is zero, and so is the state that follows."""
        if self.cell != "lstm" and (resets_TB is not None or x_TBI.device.type == "cpu"):
            y_TBH, h_BH = _FAST[self.cell](x_TBI, state[0], self.weights, resets_TB)
            return y_TBH, (h_BH,)
        if resets_TB is not None:
            if x_TBI.shape[2] == self.core.input_size:
                x_TBI = torch.cat([x_TBI, resets_TB.unsqueeze(2).to(x_TBI.dtype)], dim=2)
            return recurrence.lstm(x_TBI, state, self.weights)
        own = tuple(s.unsqueeze(0) for s in state)
        y_TBH, last = self.core(x_TBI, own if len(own) > 1 else own[0])
        # float(): under autocast the states come back in bfloat16
        return y_TBH, tuple(s.squeeze(0).float() for s in (last if len(own) > 1 else (last,)))


class CharRNN(nn.Module):
    """Embedding, recurrent layers, output layer: ``(tokens [T, B], state) → (logits [T, B, V], state)``.

    Dropout acts between layers and before the output layer. The bias of an
    LSTM's forget gate begins at 1 (Jozefowicz et al. 2015). GRU's reset gate
    acts on the recurrent product, as in PyTorch (char-rnn's acted before it).
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
        # One module a layer: dropout between them is ours, and each layer's state stands alone.
        self.layers = nn.ModuleList(Layer(config.cell, sizes[i], config.hidden_size) for i in range(config.num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def initial_state(self, batch: int) -> State:
        """Zeros ``[B, H]`` for each state."""
        count = len(STATES[self.config.cell]) * self.config.num_layers
        return tuple(torch.zeros(batch, self.config.hidden_size, device=self.device) for _ in range(count))

    def forward(self, tokens_TB: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        """Logits ``[T, B, V]`` and the new state; the gradient flows through both.

        Where ``resets`` (bool ``[T, B]``) is true, the states that follow are
        zero, as at the beginning of a text, and the logits mean nothing.
        """
        if resets_TB is not None and self.config.cell == "lstm":
            # The table is smaller than the sequence: here the flag that a layer wants (recurrence.lstm) is cheap.
            x_TBE = F.embedding(tokens_TB, F.pad(self.embedding.weight, (0, 1)))
            x_TBE.detach()[:, :, -1] = resets_TB
        else:
            x_TBE = self.embedding(tokens_TB)
        kinds = len(STATES[self.config.cell])
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x_TBE, last = layer(x_TBE, state[i * kinds : (i + 1) * kinds], resets_TB)
            new += last
            x_TBE = self.dropout(x_TBE)
        return self.head(x_TBE), tuple(new)

    def export_weights(self) -> ModelWeights:
        """The weights as the exporter takes them."""
        return ModelWeights(
            cell=self.config.cell,
            embedding=self.embedding.weight,
            layers=tuple(layer.weights for layer in self.layers if isinstance(layer, Layer)),
            head_weight=self.head.weight,
            head_bias=self.head.bias,
        )

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def initialise(self, kind: str) -> None:
        """Draws the weights anew as an ancestor did; "default" leaves PyTorch's.

        "char-rnn": everything uniform in ±0.08. "torch-rnn": matrices of a
        recurrent layer normal with variance 1 / (inputs + hidden), biases 0.
        Both: the bias of an LSTM's forget gate 1.
        """
        if kind == "default":
            return
        if kind == "char-rnn":
            for p in self.parameters():
                if p.requires_grad:
                    p.uniform_(-0.08, 0.08)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            weights = layer.weights
            if kind == "torch-rnn":
                deviation = (weights.weight_ih.shape[1] + self.config.hidden_size) ** -0.5
                for matrix in (weights.weight_ih, weights.weight_hh):
                    matrix.normal_(std=deviation)
                for bias in (weights.bias_ih, weights.bias_hh):
                    bias.zero_()
            if self.config.cell == "lstm":
                # char-rnn set one of the two biases to 1 and left the other as drawn.
                weights.bias_ih[self.config.hidden_size : 2 * self.config.hidden_size] = 1.0

    def sequence_logits(self, tokens_TB: Tensor, state: State) -> Tensor:
        """Float32 logits ``[T, B, V]`` in evaluation mode, no gradient: the reference of the parity check."""
        with self.evaluating():
            logits: Tensor = self(tokens_TB, state)[0]
            return logits.float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; the mode before comes back."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(training)
