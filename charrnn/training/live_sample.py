"""Samples from a model during training, with the runtime's sampler and the exporter's step module."""

from __future__ import annotations

import torch
from charrnn_export import StepModule
from charrnn_export.export import describe
from charrnn_runtime import Sampler, Vocabulary
from charrnn_runtime.session import BlockDrawer, Logits, SequenceRunner, State, Tokens

from charrnn.model.char_rnn import CharRNN


def sample_live(model: CharRNN, vocabulary: Vocabulary, *, length: int, seed: int) -> str:
    """A text from the model with its current weights. The model and the random state of torch are not changed.

    Args:
        model: the model, on any device; the sampling itself runs on the CPU.
        vocabulary: its vocabulary.
        length: number of characters.
        seed: seed of the sample.
    """
    step = StepModule(model.export_weights())
    return Sampler.from_cell(_TorchCell(step), describe(step, vocabulary)).sample(length=length, seed=seed)


class _TorchCell:
    """The exporter's step as a cell of the runtime, on the CPU."""

    device = "cpu"
    blocks: BlockDrawer | None = None

    def __init__(self, step: StepModule) -> None:
        self.step = step

    def runner(self, batch: int, state: State | None = None) -> _TorchRunner:
        return _TorchRunner(self.step, batch, state)

    def sequence_runner(self, _tokens: int | None, _state: State | None = None) -> SequenceRunner | None:
        return None


class _TorchRunner:
    def __init__(self, step: StepModule, batch: int, state: State | None) -> None:
        self._step = step
        if state is None:
            self._state = tuple(torch.zeros(batch, step.hidden_size) for _ in step.state_names)
        else:
            self._state = tuple(torch.from_numpy(s.copy()) for s in state)
        self._tokens = torch.zeros(batch, dtype=torch.int64)

    def step(self, tokens: Tokens | int) -> Logits:
        self._tokens[:] = torch.as_tensor(tokens)
        with torch.inference_mode():
            logits, *state = self._step(self._tokens, *self._state)
        self._state = tuple(state)
        array: Logits = logits.numpy()
        return array

    def state(self) -> State:
        return tuple(s.numpy().copy() for s in self._state)
