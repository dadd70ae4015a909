"""Drawing many tokens in one call: see ``generator_graph.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.forking import PerProcess
from charrnn_runtime.generator_graph import block_graph, block_inputs, block_outputs
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import DrawOptions
from charrnn_runtime.session import State, Tokens, open_session

_SMALLEST_TEMPERATURE = 1e-300  # for 0: the weight of every token but the likeliest is 0


class OnnxBlockDrawer:
    """The block graph of one model file, whose session is opened when it is first needed, or by ``open``.

    Safe to use from many threads.

    Attributes:
        mean_length: how many tokens the texts had, on the average, that ended before their greatest length.
    """

    def __init__(self, data: bytes, info: ModelInfo, threads: int) -> None:
        self._inputs, self._outputs = block_inputs(info), block_outputs(info)
        self._vocab = len(info.vocabulary)
        self._session: PerProcess[Any] = PerProcess(
            lambda: open_session(block_graph(data, info), device="cpu", threads=threads, spinning=threads > 1)
        )
        self._used = False
        self.mean_length = 64.0

    def open(self) -> None:
        """Opens the session.

        Raises:
            ModelFileError: ONNX Runtime cannot load the graph.
        """
        self._session.get()

    def forget_unused(self) -> None:
        """Closes the session, if nothing has been drawn with it."""
        if not self._used:
            self._session.forget()

    def draw(
        self, known: Tokens, uniforms: NDArray[np.float64], options: Sequence[DrawOptions], state: State
    ) -> tuple[Tokens, State]:
        """Feeds tokens, and draws one after each.

        Args:
            known: ``[n, batch]``; -1 for the token that was drawn in the step before.
            uniforms: numbers in [0, 1), float64 ``[n, batch]``.
            options: of each stream.
            state: each ``[batch, size]``.

        Returns:
            The drawn tokens ``[n, batch]``, -1 where the logits hold NaN or infinity, and the new states.
        """
        self._used = True
        temperature = np.array([o.temperature for o in options])
        greedy = temperature == 0
        if greedy.any():
            temperature[greedy] = _SMALLEST_TEMPERATURE
            uniforms = np.where(greedy, 0.0, uniforms)
        columns = (
            temperature,
            np.array([o.top_k or self._vocab for o in options], np.int64),
            np.array([o.top_p if o.top_p < 1 else np.inf for o in options]),
            np.array([o.min_p for o in options]),
            np.array(any(o.filters for o in options)),
        )
        feeds = dict(zip(self._inputs, (known, uniforms, *columns, *state), strict=True))
        drawn, totals, *new = self._session.get().run(self._outputs, feeds)
        finite = np.isfinite(totals)
        if not finite.all():
            drawn = np.where(finite, drawn, -1)
        return drawn, tuple(new)
