"""Log-probabilities of many texts side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.session import Cell
from charrnn_runtime.vocab import Ids


def score_many(cell: Cell, start_token: int, targets: Sequence[Ids], batch: int) -> list[NDArray[np.float64]]:
    """For each text of token ids ``[n]``, the log-probability of each token after the start token, ``[n]``.

    Texts of like lengths go together; as they end, the batch shrinks.
    """
    scores = [np.empty(len(ids)) for ids in targets]
    order = sorted((i for i in range(len(targets)) if len(targets[i])), key=lambda i: -len(targets[i]))
    for begin in range(0, len(order), batch):
        group = order[begin : begin + batch]
        lengths = np.array([len(targets[i]) for i in group])  # the longest come first
        tokens = np.zeros((int(lengths[0]), len(group)), np.int64)
        for row, i in enumerate(group):
            tokens[: lengths[row], row] = targets[i]
        log_probs = np.empty(tokens.shape)
        runner, width = cell.runner(len(group)), len(group)
        before = np.full(len(group), start_token)
        rows = np.arange(len(group))
        for at, here in enumerate(tokens):
            active = int((lengths > at).sum())
            if 2 * active <= width:
                runner, width = cell.runner(active, tuple(s[:active] for s in runner.state())), active
            logits = runner.step(before[:width])
            log_probs[at, :active] = log_softmax(logits[:active])[rows[:active], here[:active]]
            before = here
        for row, i in enumerate(group):
            scores[i][:] = log_probs[: lengths[row], row]
    return scores
