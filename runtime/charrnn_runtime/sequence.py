"""Feeding many tokens in one call, with the results of the steps: see ``sequence_graph.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from charrnn_runtime.forking import PerProcess
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sequence_graph import input_names, output_names, sequence_graph
from charrnn_runtime.session import Logits, State, Tokens, open_session


class OnnxSequenceRunner:
    """A runner over the graph of a ``SequenceGraph``, from states ``[1, size]``."""

    def __init__(self, session: PerProcess[Any], info: ModelInfo, state: State) -> None:
        self._session = session
        self._inputs, self._outputs = input_names(info), output_names(info)
        self._state = state

    def forward(self, tokens: Tokens) -> Logits:
        """Feeds tokens ``[n]``; the logits ``[n, vocab]`` after each of them."""
        feeds = dict(zip(self._inputs, (tokens.astype(np.int64), *self._state), strict=True))
        logits, *state = self._session.get().run(self._outputs, feeds)
        self._state = tuple(state)
        result: Logits = logits
        return result

    def state(self) -> State:
        """The states, each ``[1, size]``."""
        return self._state


class SequenceGraph:
    """The sequence graph of one model file, made when it is first needed. Safe to use from many threads."""

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._info = info
        self._session: PerProcess[Any] = PerProcess(
            lambda: open_session(sequence_graph(data, info), device="cpu", threads=threads, spinning=threads > 1)
        )

    def sequence_runner(self, state: State | None = None) -> OnnxSequenceRunner:
        """A runner from the given state, each ``[1, size]``, or from zero.

        Raises:
            ModelFileError: no node of the file computes a state or the logits.
        """
        zero = tuple(np.zeros((1, spec.size), np.float32) for spec in self._info.states)
        return OnnxSequenceRunner(self._session, self._info, state or zero)
