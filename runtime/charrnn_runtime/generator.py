"""Drawing many tokens in one call: see ``generator_graph.py``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.forking import PerProcess, reset_after_fork
from charrnn_runtime.generator_graph import SMALLEST_TEMPERATURE, block_graph, block_inputs, block_outputs
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import DrawOptions
from charrnn_runtime.session import State, Tokens, open_session
from charrnn_runtime.threads import usable_cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MANY = 1 << 20


class _Graph(NamedTuple):
    """One of the block graphs.

    Attributes:
        inputs: their names.
        filters: whether it has filters.
        session: opened when it is first needed.
    """

    inputs: list[str]
    filters: bool
    session: PerProcess[InferenceSession]


class OnnxBlockDrawer:
    """The block graph of one model file, whose session is opened when it is first needed, or by ``open``.

    Safe to use from many threads.

    Attributes:
        mean_length: how many tokens the texts had, on the average, that ended before their greatest length.
    """

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._data, self._info, self._threads = data, info, threads
        self._outputs = block_outputs(info)
        self._lock = threading.Lock()
        self._calls = self._places()
        self._graph = self._graph_with(filters=False)
        self._used = False
        self.mean_length = 64.0
        reset_after_fork(self)

    def _graph_with(self, *, filters: bool) -> _Graph:
        def opened() -> InferenceSession:
            graph = block_graph(self._data, self._info, filters=filters)
            return open_session(graph, device="cpu", threads=self._threads, spinning=self._threads > 1)

        return _Graph(block_inputs(self._info, filters=filters), filters, PerProcess(opened))

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the locks."""
        self._lock = threading.Lock()
        self._calls = self._places()

    def _places(self) -> threading.Semaphore:
        """As many calls at a time as there are processors for their threads: more would wait for each other."""
        return threading.Semaphore(max(1, usable_cpus() // self._threads) if self._threads > 1 else _MANY)

    def open(self) -> None:
        """Opens the session.

        Raises:
            ModelFileError: ONNX Runtime cannot load the graph.
        """
        self._graph.session.get()

    def forget_unused(self) -> None:
        """Closes the session, if nothing has been drawn with it."""
        if not self._used:
            self._graph.session.forget()

    def draw(
        self, known: Tokens, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, State]:
        """``BlockDrawer.draw``, in one call of ONNX Runtime."""
        self._used = True
        temperature = np.array([o.temperature for o in options])
        greedy = temperature == 0
        if greedy.any():
            temperature[greedy] = SMALLEST_TEMPERATURE
            uniforms = np.where(greedy, 0.0, uniforms)
        columns: tuple[NDArray[Any], ...] = (temperature,)
        filters = any(o.filters for o in options)
        graph = self._graph
        if filters and not graph.filters:
            # It takes the place of the other one: a model is in memory once.
            with self._lock:
                if not self._graph.filters:
                    self._graph = self._graph_with(filters=True)
            graph = self._graph
        if graph.filters:
            columns += (
                np.array([o.top_k or len(self._info.vocabulary) for o in options], np.int64),
                np.array([o.top_p if o.top_p < 1 else np.inf for o in options]),
                np.array([o.min_p for o in options]),
                np.array(filters),
            )
        feeds = dict(zip(graph.inputs, (known, uniforms, *columns, *state), strict=True))
        with self._calls:
            drawn, totals, *new = graph.session.get().run(self._outputs, feeds)
        finite = np.isfinite(totals)
        if not finite.all():
            drawn = np.where(finite, drawn, -1)
        return drawn, tuple(new)
