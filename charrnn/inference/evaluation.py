"""Scoring a text with an exported model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from charrnn_runtime import Sampler
from charrnn_runtime.vocab import Unknown
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data.corpus import read_corpus, split_ids
from charrnn.errors import CorpusError
from charrnn.events import Listener

_BATCH = 64  # windows side by side
_BLOCK = 1 << 16  # characters whose scores are in memory at a time


def evaluate_text(
    sampler: Sampler,
    arguments: Sequence[str],
    *,
    split: Literal["all", "train", "val"] | str = "all",
    window: int | None = None,
    unknown: Unknown | str = "error",
    listener: Listener | None = None,
) -> tuple[float, int]:
    """Mean nats per character of a text, and over how many characters.

    Args:
        sampler: the model.
        arguments: the text, named as for training.
        split: all of it, or the part that the model was trained or validated on
            if this is its text.
        window: None carries the state through the whole text, and scores every
            character. A number N scores windows of N characters, each from the
            zero state, as a model with a context of N is scored.
        unknown: "error", or "skip" to leave out characters that the model does not know.
        listener: hears how far the reading of the text is.

    Raises:
        CorpusError: the text cannot be read, or holds nothing to score.
        UnknownCharacterError: the model has never seen one of its characters.
    """
    newlines = sampler.info.training.get("newlines")
    corpus = read_corpus(
        arguments,
        DataConfig(newlines="lf" if newlines == "lf" else "keep"),
        sampler.vocabulary,
        fixed=unknown,  # type: ignore[arg-type]
        listener=listener,
    )
    ids = corpus.ids
    if split != "all" and sampler.info.training.get("split") == "streams":
        raise CorpusError("this model's validation text is the end of each of its streams; only --split all is there")
    if split != "all" and len(ids):
        val_frac = float(sampler.info.training.get("val_frac", DataConfig().val_frac))
        train_ids, val_ids = split_ids(ids, val_frac)
        ids = val_ids if split == "val" else train_ids
    if len(ids) < (1 if window is None else 2):
        raise CorpusError(f"{corpus.description}: there is nothing to score in it")
    if window is None:
        blocks = (ids[at : at + _BLOCK].astype(np.int64) for at in range(0, len(ids), _BLOCK))
        return -math.fsum(math.fsum(log_probs) for log_probs in sampler.score_blocks(blocks)) / len(ids), len(ids)
    return _windows(sampler, ids, window)


def _windows(sampler: Sampler, ids: NDArray[np.unsignedinteger], window: int) -> tuple[float, int]:
    """Each window reads N characters and predicts the N that follow; the last one may be shorter."""
    total, count = 0.0, 0
    whole = (len(ids) - 1) // window
    batches = (
        np.arange(i, min(i + _BATCH, whole))[:, None] * window + np.arange(window + 1) for i in range(0, whole, _BATCH)
    )
    rest = [np.arange(whole * window, len(ids))[None, :]] if (len(ids) - 1) % window else []
    for places in itertools.chain(batches, rest):
        log_probs = sampler.score_windows(ids[places].astype(np.int64))
        total -= math.fsum(log_probs.ravel())
        count += log_probs.size
    return total / count, count
