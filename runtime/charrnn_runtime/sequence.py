"""Reading many tokens in one call: a graph over a sequence, made from the weights in the model file.

A step reads every weight for every character. Over a sequence, the products of
the inputs (of layers above the first) and of the output layer are made for a
block of characters at once, and the recurrent products run inside one operator
for each layer.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sequence_graph import sequence_graph
from charrnn_runtime.session import Logits, State, Tokens, open_session


class OnnxSequenceRunner:
    """A reader over the graph of a ``SequenceGraph``, from states ``[1, size]``."""

    def __init__(self, session: Any, state: State) -> None:
        self._session = session
        self._names = [f"state_{i}" for i in range(len(state))]
        shape = session.get_inputs()[1].shape  # ONNX's operators have a dimension more, of one direction
        self._state: State = tuple(s.reshape(shape) for s in state)

    def forward(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""
        feeds = {"token": tokens.astype(np.int64)[:, None], **dict(zip(self._names, self._state, strict=True))}
        logits, *state = self._session.run(None, feeds)
        self._state = tuple(state)
        result: Logits = logits
        return result

    def state(self) -> State:
        """The states, each ``[1, size]``."""
        return tuple(s.reshape(1, -1) for s in self._state)


class SequenceGraph:
    """The sequence graph of one model file, made when it is first asked for. Safe to use from many threads."""

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._data = data
        self._info = info
        self._threads = threads
        self._lock = threading.Lock()
        self._session: Any = None

    def sequence_runner(self, state: State | None = None) -> OnnxSequenceRunner:
        """A reader from the given state, each ``[1, size]``, or from zero.

        Raises:
            ModelFileError: the weights are not what the metadata says.
        """
        with self._lock:
            if self._session is None:
                data = sequence_graph(self._data, self._info)
                self._session = open_session(data, device="cpu", threads=self._threads)
        zero = tuple(np.zeros((1, spec.size), np.float32) for spec in self._info.states)
        return OnnxSequenceRunner(self._session, state or zero)
