"""Scoring a text with an exported model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from charrnn_runtime import Sampler
from charrnn_runtime.vocab import Ids, Unknown

from charrnn.config import DataConfig
from charrnn.corpus import join_bytes, join_text, read_sources, split_ids
from charrnn.errors import CorpusError

_BATCH = 64  # windows side by side


def evaluate_text(
    sampler: Sampler,
    arguments: Sequence[str],
    *,
    split: Literal["all", "train", "val"] | str = "all",
    window: int | None = None,
    unknown: Unknown | str = "error",
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

    Raises:
        CorpusError: the text cannot be read, or holds nothing to score.
        UnknownCharacterError: the model has never seen one of its characters.
    """
    description, sources = read_sources(arguments)
    vocabulary = sampler.vocabulary
    ids: Ids
    if vocabulary.kind == "bytes":
        ids = np.frombuffer(join_bytes(sources), dtype=np.uint8).astype(np.int64)
    else:
        ids = vocabulary.encode(join_text(sources), unknown=unknown)  # type: ignore[arg-type]
    if split != "all" and sampler.info.training.get("split") == "streams":
        raise CorpusError("this model's validation text is the end of each of its streams; only --split all is there")
    if split != "all" and len(ids):
        val_frac = float(sampler.info.training.get("val_frac", DataConfig().val_frac))
        train_ids, val_ids = split_ids(ids, val_frac)
        ids = val_ids if split == "val" else train_ids
    if len(ids) < (1 if window is None else 2):
        raise CorpusError(f"{description}: there is nothing to score in it")
    if window is None:
        return sampler.score_ids(ids).nats_per_char, len(ids)
    return _windows(sampler, ids, window)


def _windows(sampler: Sampler, ids: Ids, window: int) -> tuple[float, int]:
    """Each window reads N characters and predicts the N that follow; the last one may be shorter."""
    total, count = 0.0, 0
    whole = (len(ids) - 1) // window
    starts = np.arange(whole) * window
    batches = [starts[i : i + _BATCH][:, None] + np.arange(window + 1) for i in range(0, whole, _BATCH)]
    if (len(ids) - 1) % window:
        batches.append(np.arange(whole * window, len(ids))[None, :])
    for places in batches:
        log_probs = sampler.score_windows(ids[places])
        total -= math.fsum(log_probs.ravel())
        count += log_probs.size
    return total / count, count
