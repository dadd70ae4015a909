"""Scoring a text with an exported model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from charrnn_runtime import Sampler
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.vocab import Unknown
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data.corpus import read_corpus
from charrnn.data.split import Part, Pieces
from charrnn.errors import CorpusError
from charrnn.events import Listener
from charrnn.inference.training_summary import data_config, text_split

_BATCH = 64  # windows side by side
_BLOCK = 1 << 16  # characters whose scores are in memory at a time

Ids = NDArray[np.unsignedinteger]


def evaluate_text(
    sampler: Sampler,
    arguments: Sequence[str],
    *,
    split: Literal["all"] | Part = "all",
    window: int | None = None,
    unknown: Unknown | str = "error",
    encoding: str | None = None,
    listener: Listener | None = None,
) -> tuple[float, int]:
    """Mean nats per character of a text, and the number of characters it is the mean of.

    Args:
        sampler: the model.
        arguments: the text, named as for training.
        split: the whole text, or the part that the model's training took for "train", "val" or "test". If training
            divided the text in streams, each stream's part is read from the zero state, as in training's validation.
        window: None carries the state through the whole text, and scores every
            character. A number N scores windows of N characters, each from the
            zero state, as a model with a context of N is scored.
        unknown: "error", or "skip" to leave out characters that the model does not know.
        encoding: of the text's files; see ``DataConfig``.
        listener: is told how much of the text has been read.

    Raises:
        ConfigError: training kept no such part of a text.
        CorpusError: the text cannot be read, or holds nothing to score.
        ModelFileError: what the model file says of its training is damaged.
        UnknownCharacterError: the model has never seen one of its characters.
    """
    corpus = read_corpus(
        arguments,
        DataConfig(newlines=data_config(sampler.info).newlines, encoding=encoding),
        sampler.vocabulary,
        fixed=unknown,  # type: ignore[arg-type]
        listener=listener,
    )
    ids = corpus.ids
    pieces = Pieces(starts_P=np.array([0]), length=len(ids))
    streams = False
    if split != "all" and len(ids):
        parts = text_split(sampler.info, len(ids), split)
        pieces, streams = parts.part(split), parts.batches is not None
    if pieces.length < (1 if window is None else 2):
        raise CorpusError(f"{corpus.description}: there is nothing to score in it")
    scores: Iterator[NDArray[np.float64]]
    if window is not None:
        scores = itertools.chain.from_iterable(
            _windows(sampler, ids[start : start + pieces.length], window) for start in pieces.starts_P.tolist()
        )
    elif streams:
        scores = _streams(sampler, ids, pieces)
    else:
        start = int(pieces.starts_P[0])
        bounds = range(start, start + pieces.length, _BLOCK)
        scores = sampler.score_blocks(
            ids[at : min(at + _BLOCK, start + pieces.length)].astype(np.int64) for at in bounds
        )
    total, count = 0.0, 0
    for log_probs in scores:
        total -= math.fsum(log_probs.ravel())
        count += log_probs.size
    return total / count, count


def _windows(sampler: Sampler, ids: Ids, window: int) -> Iterator[NDArray[np.float64]]:
    """Each window reads N characters and predicts the N that follow; the last one may be shorter."""
    whole = (len(ids) - 1) // window
    batches = (
        np.arange(i, min(i + _BATCH, whole))[:, None] * window + np.arange(window + 1) for i in range(0, whole, _BATCH)
    )
    rest = [np.arange(whole * window, len(ids))[None, :]] if (len(ids) - 1) % window else []
    for positions in itertools.chain(batches, rest):
        yield sampler.score_windows(ids[positions].astype(np.int64))


def _streams(sampler: Sampler, ids: Ids, pieces: Pieces) -> Iterator[NDArray[np.float64]]:
    """Each piece is read from the zero state; every character predicts the one behind it, as in ``Streams.next``."""
    state = sampler.initial_state(len(pieces.starts_P))
    streams = np.arange(len(pieces.starts_P))
    for positions in (pieces.starts_P + at for at in range(pieces.length)):
        logits, state = sampler.step(ids[positions].astype(np.int64), state)
        yield log_softmax(logits)[streams, ids[(positions + 1) % len(ids)]]
