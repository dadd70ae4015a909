"""Feeding many tokens in one call: a graph over a sequence, made from the weights in the model file.

A step reads every weight for every character. Over a sequence, the products of
the inputs (of layers above the first) and of the output layer are made for a
block of characters at once, and the recurrent products run inside one operator
for each layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from charrnn_runtime.forking import PerProcess
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sequence_graph import sequence_graph
from charrnn_runtime.session import Logits, State, Tokens, open_session


class OnnxSequenceRunner:
    """A runner over the graph of a ``SequenceGraph``, from states ``[1, size]``."""

    def __init__(self, session: PerProcess[Any], state: State) -> None:
        self._session = session
        self._names = [f"state_{i}" for i in range(len(state))]
        shape = session.get().get_inputs()[1].shape  # ONNX's operators have one dimension more, for the direction
        self._state: State = tuple(s.reshape(shape) for s in state)

    def forward(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""
        feeds = {"token": tokens.astype(np.int64)[:, None], **dict(zip(self._names, self._state, strict=True))}
        logits, *state = self._session.get().run(None, feeds)
        self._state = tuple(state)
        result: Logits = logits
        return result

    def state(self) -> State:
        """The states, each ``[1, size]``."""
        return tuple(s.reshape(1, -1) for s in self._state)


class SequenceGraph:
    """The sequence graph of one model file, made when it is first needed. Safe to use from many threads."""

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._info = info
        self._session: PerProcess[Any] = PerProcess(
            lambda: open_session(sequence_graph(data, info), device="cpu", threads=threads)
        )

    def sequence_runner(self, state: State | None = None) -> OnnxSequenceRunner:
        """A runner from the given state, each ``[1, size]``, or from zero.

        Raises:
            ModelFileError: the weights are not what the metadata says.
        """
        zero = tuple(np.zeros((1, spec.size), np.float32) for spec in self._info.states)
        return OnnxSequenceRunner(self._session, state or zero)
