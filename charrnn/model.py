"""The model: one set of weights with explicit state, as a sequence forward.

Its other face, the single step, is ``charrnn_export.StepModule``, made from
``CharRNN.export_weights``. Letters: T sequence, B batch, V vocabulary,
E embedding, H hidden.
"""

from __future__ import annotations

import torch
from charrnn_export import STATES, LayerWeights, ModelWeights
from torch import Tensor, nn

from charrnn.config import ModelConfig

State = tuple[Tensor, ...]  # float32 [B, H] each: h_0, c_0, h_1, c_1 … (LSTM) or h_0, h_1 …


class Layer(nn.Module):
    """One recurrent layer with explicit state: ``(x [T, B, I], states [B, H] …) → (y [T, B, H], states)``."""

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
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

    def forward(self, x_TBI: Tensor, state: State) -> tuple[Tensor, State]:
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
        self.embedding = nn.Embedding(vocab_size, config.embedding_size)
        sizes = [config.embedding_size] + [config.hidden_size] * config.num_layers
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

    def forward(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits ``[T, B, V]`` and the new state; the gradient flows through both."""
        x_TBE = self.embedding(tokens_TB)
        kinds = len(STATES[self.config.cell])
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x_TBE, last = layer(x_TBE, state[i * kinds : (i + 1) * kinds])
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
        return sum(p.numel() for p in self.parameters())

    def sequence_logits(self, tokens_TB: Tensor, state: State) -> Tensor:
        """Float32 logits ``[T, B, V]`` in evaluation mode, no gradient: the reference of the parity check."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                logits: Tensor = self(tokens_TB, state)[0]
                return logits.float()
        finally:
            self.train(training)
