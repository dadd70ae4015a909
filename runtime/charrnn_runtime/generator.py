"""Drawing many tokens in one call: see ``block_graph.py``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.block_graph import block_graph, block_inputs, block_outputs
from charrnn_runtime.draw_graph import SMALLEST_TEMPERATURE
from charrnn_runtime.forking import PerProcess, reset_after_fork
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import DrawOptions
from charrnn_runtime.session import Places, State, Tokens, open_session
from charrnn_runtime.threads import usable_cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MANY = 1 << 20


class _Graph(NamedTuple):
    """One of the block graphs.

    Attributes:
        inputs, outputs: their names.
        filters: whether it has filters.
        session: opened when it is first needed.
    """

    inputs: list[str]
    outputs: list[str]
    filters: bool
    session: PerProcess[InferenceSession]


class OnnxBlockDrawer:
    """The block graphs of one model file, whose sessions are opened when they are first needed, one by ``open``.

    Safe to use from many threads.

    Attributes:
        mean_length: how many tokens the texts had, on the average, that ended before their greatest length.
    """

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._data, self._info, self._threads = data, info, threads
        self._lock = threading.Lock()
        self._calls = self._places()
        self._graphs = {patterns: self._graph_with(patterns=patterns, filters=False) for patterns in (False, True)}
        self._used = False
        self.mean_length = 64.0
        reset_after_fork(self)

    def _graph_with(self, *, patterns: bool, filters: bool) -> _Graph:
        def opened() -> InferenceSession:
            graph = block_graph(self._data, self._info, filters=filters, patterns=patterns)
            return open_session(graph, device="cpu", threads=self._threads, spinning=self._threads > 1)

        inputs = block_inputs(self._info, filters=filters, patterns=patterns)
        return _Graph(inputs, block_outputs(self._info, patterns=patterns), filters, PerProcess(opened))

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the locks."""
        self._lock = threading.Lock()
        self._calls = self._places()

    def _places(self) -> threading.Semaphore:
        """As many calls at a time as there are processors for their threads: more would wait for each other."""
        return threading.Semaphore(max(1, usable_cpus() // self._threads) if self._threads > 1 else _MANY)

    def open(self) -> None:
        """Opens the session for texts without a pattern.

        Raises:
            ModelFileError: ONNX Runtime cannot load the graph.
        """
        self._graphs[False].session.get()

    def forget_unused(self) -> None:
        """Closes that session, if nothing has been drawn with it."""
        if not self._used:
            self._graphs[False].session.forget()

    def draw(
        self, known: Tokens, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, State]:
        """``BlockDrawer.draw``, in one call of ONNX Runtime."""
        drawn, totals, *new = self._run((known,), uniforms, options, state)
        return _where_finite(drawn, totals), tuple(new)

    def draw_matching(
        self, places: Places, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, Tokens, State]:
        """``BlockDrawer.draw_matching``, in one call of ONNX Runtime."""
        drawn, totals, last, *new = self._run(places, uniforms, options, state)
        rows, drawn = np.divmod(drawn, len(self._info.vocabulary))
        return _where_finite(drawn, totals), np.concatenate([rows[1:], last[None]]), tuple(new)

    def _run(
        self,
        begin: tuple[NDArray[Any], ...],
        uniforms: NDArray[np.float64],
        options: Sequence[DrawOptions],
        state: State,
    ) -> list[Any]:
        """The outputs of the graph that takes ``begin``."""
        patterns = isinstance(begin, Places)
        self._used |= not patterns
        temperature = np.array([o.temperature for o in options])
        greedy = temperature == 0
        if greedy.any():
            temperature[greedy] = SMALLEST_TEMPERATURE
            uniforms = np.where(greedy, 0.0, uniforms)
        columns: tuple[NDArray[Any], ...] = (temperature,)
        filters = any(o.filters for o in options)
        graph = self._graphs[patterns]
        if filters and not graph.filters:
            # It takes the place of the other one: a model is in memory once.
            with self._lock:
                if not self._graphs[patterns].filters:
                    self._graphs[patterns] = self._graph_with(patterns=patterns, filters=True)
            graph = self._graphs[patterns]
        if graph.filters:
            columns += (
                np.array([o.top_k or len(self._info.vocabulary) for o in options], np.int64),
                np.array([o.top_p if o.top_p < 1 else np.inf for o in options]),
                np.array([o.min_p for o in options]),
                np.array(filters),
            )
        feeds = dict(zip(graph.inputs, (*begin, uniforms, *columns, *state), strict=True))
        with self._calls:
            outputs: list[Any] = graph.session.get().run(graph.outputs, feeds)
        return outputs


def _where_finite(drawn: Tokens, totals: NDArray[np.float64]) -> Tokens:
    """The tokens; -1 where nothing can be drawn from the logits."""
    finite = np.isfinite(totals)
    return drawn if finite.all() else np.where(finite, drawn, -1)
