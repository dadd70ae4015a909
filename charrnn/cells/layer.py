"""The interface of the layers of all cells, and the base class of the cells that PyTorch has.

Letters: T sequence, B batch, I input, H hidden size, G gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from charrnn_export import LayerWeights, StepLayer
from torch import Tensor, nn

State = tuple[Tensor, ...]  # [B, H] each: h_0, c_0, h_1, c_1 … (LSTM) or h_0, h_1 …


class Layer(nn.Module):
    """One recurrent layer with explicit state: ``(x [T, B, I], states [B, H] …, resets) → (y [T, B, H], states)``.

    ``resets`` is None or bool [T, B]. At a step at which it is true the output
    is zero, and so are the new states: the steps after it start from the zero
    state. Neither values nor gradients pass such a step.

    A matrix whose number of rows is a multiple of H is taken for G stacked gates,
    [G*H, …]; the Muon optimizer updates it gate by gate.

    Attributes:
        step: the same cell on the export side, with its name and its states.
        reset_column: the layer reads resets from a further column of x, the last, which is 1 at a reset and else 0.
            The model then appends that column to the embedding's table.
    """

    step: ClassVar[type[StepLayer]]
    reset_column: ClassVar[bool] = False

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size

    @property
    def weights(self) -> LayerWeights:
        """The parameters under the names that the exporter's step layer takes."""
        return dict(self.named_parameters())

    @torch.no_grad()
    def initialise(self, kind: Literal["char-rnn", "torch-rnn"]) -> None:
        """Draws initial weights as char-rnn or torch-rnn did.

        "torch-rnn": matrices normal with variance 1 / (I + H), biases 0.
        "char-rnn": the model has drawn all parameters already; a cell may change some of them.
        """
        if kind == "torch-rnn":
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=(self.input_size + self.hidden_size) ** -0.5)
            for parameter in self.parameters():
                if parameter.ndim == 1:
                    parameter.zero_()


class TorchLayer(Layer):
    """A layer around ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, with a second forward for resets and for the CPU.

    Attributes:
        module: PyTorch's class.
        function: what that class calls, ``torch._VF.lstm``, ``gru`` or ``rnn_tanh``.
    """

    module: ClassVar[type[nn.LSTM | nn.GRU | nn.RNN]]
    function: ClassVar[Callable[..., tuple[Tensor, ...]]]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.core: nn.RNNBase = self.module(input_size, hidden_size)

    @property
    def weights(self) -> LayerWeights:
        """The parameters under PyTorch's names, without the layer's number."""
        return dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), self.core.all_weights[0], strict=True))

    @property
    def fast_on_cpu(self) -> bool:
        """Whether ``fast_forward`` is faster than PyTorch's module on this CPU, in the present precision."""
        return True

    def fast_forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None) -> tuple[Tensor, State]:
        """The second forward: the same values; it takes resets."""
        raise NotImplementedError

    def forward(self, x_TBI: Tensor, state: State, resets_TB: Tensor | None = None) -> tuple[Tensor, State]:
        """Outputs and new states."""
        # References are computed in float64, by PyTorch's own modules, which define the cells.
        fast = self.fast_on_cpu and x_TBI.device.type == "cpu" and x_TBI.dtype != torch.float64
        if resets_TB is not None or fast:
            return self.fast_forward(x_TBI, state, resets_TB)
        own = tuple(s.unsqueeze(0) for s in state)
        # What the module calls, which itself would ignore parameters that are replaced for this call.
        parameters = list(self.weights.values())
        y_TBH, *last = self.function(
            x_TBI, own if len(own) > 1 else own[0], parameters, True, 1, 0.0, self.training, False, False
        )
        # Under autocast the states come back in bfloat16.
        return y_TBH, tuple(s.squeeze(0).to(state[0].dtype) for s in last)
