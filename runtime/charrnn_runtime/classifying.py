"""Which label a text has: Bayes' rule over the labels of a model.

P(label | text) is in proportion to P(label) P(text | label). P(text | label) is the probability of the text and
its end after the token of the label, and P(label) the label's share of the training items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelFileError, UsageError
from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.options import check_choice
from charrnn_runtime.scoring import bounded, score_many
from charrnn_runtime.session import Cell
from charrnn_runtime.vocab import Ids

Prior = Literal["training", "uniform"]

_ROWS = 256  # texts with a label each that are scored side by side
_TOKENS_TOGETHER = 1 << 20  # tokens of texts, once for each label, that are in memory together


def log_prior(info: ModelInfo, prior: Prior) -> NDArray[np.float64]:
    """Logarithm of the probability of each label before the text is known ``[labels]``.

    Args:
        info: the model.
        prior: "training" is the labels' shares of the training items, or uniform if the file does not tell them.

    Raises:
        UsageError: the model has no labels, or ``prior`` is unknown.
        ModelFileError: what the file says of the labels is damaged.
    """
    labels = list(info.vocabulary.labels)
    if not labels:
        raise UsageError("the model was trained without labels, and cannot classify; train one with --label")
    check_choice("prior", prior, "training", "uniform")
    counts = np.ones(len(labels))
    stored = info.training.get("labels") if prior == "training" else None
    if stored is not None:
        values = [stored.get(label, 0) for label in labels] if isinstance(stored, Mapping) else [-1]
        if not all(type(value) is int and value >= 0 for value in values) or not any(values):
            raise ModelFileError("metadata 'charrnn.training': labels must be numbers of items; export it again")
        counts = np.array(values, np.float64)
    with np.errstate(divide="ignore"):  # a label without training items
        logs: NDArray[np.float64] = np.log(counts / counts.sum())
    return logs


def log_posteriors(
    cell: Cell, info: ModelInfo, targets: Sequence[Ids], prior: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """For each text, the logarithm of the probability of each label ``[labels]``.

    Args:
        cell, info: the model.
        targets: token ids of the texts, with their ends; ``UNKNOWN`` among them is charged.
        prior: see ``log_prior``.
    """
    labels = np.array(list(info.vocabulary.labels.values()), np.int64)
    for texts in bounded(targets, lambda ids: (len(ids) + 1) * len(labels), _TOKENS_TOGETHER):
        rows = [ids for ids in texts for _ in labels]
        first = np.tile(labels, len(texts))
        scores = score_many(cell, info, rows, max(_ROWS, len(labels)), first=first)
        sums = np.array([score.sum() for score in scores]).reshape(len(texts), len(labels)) + prior
        yield from sums - np.logaddexp.reduce(sums, axis=1, keepdims=True)
