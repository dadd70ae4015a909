"""Scoring a text with an exported model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from charrnn_runtime import Sampler
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.scoring import UnknownCharge
from charrnn_runtime.text_scores import LINES_NAMED, UnknownCharacters
from charrnn_runtime.vocab import UNKNOWN, UnknownScore
from numpy.typing import NDArray

from charrnn.config import DataConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.split import Part, Pieces
from charrnn.errors import CorpusError
from charrnn.events import Listener
from charrnn.inference.training_summary import data_config, text_split

_BATCH = 64  # windows side by side
_BLOCK = 1 << 16  # characters whose scores are in memory at a time

Ids = NDArray[np.unsignedinteger]


class TextScore(NamedTuple):
    """How well a model predicts a text.

    Attributes:
        nats_per_char: mean negative log-probability of a character.
        characters: how many characters it is the mean of.
        unknown: those among them that the model has never seen.
    """

    nats_per_char: float
    characters: int
    unknown: UnknownCharacters


def evaluate_text(
    sampler: Sampler,
    arguments: Sequence[str],
    *,
    split: Literal["all"] | Part = "all",
    window: int | None = None,
    unknown: UnknownScore = "charge",
    encoding: str | None = None,
    listener: Listener | None = None,
) -> TextScore:
    """How well a model predicts a text.

    Args:
        sampler: the model.
        arguments: the text, named as for training.
        split: the whole text, or the part that the model's training took for "train", "val" or "test". If training
            divided the text in streams, each stream's part is read from the zero state, as in training's validation.
        window: None carries the state through the whole text, and scores every
            character. A number N scores windows of N characters, each from the
            zero state, as a model with a context of N is scored.
        unknown: "charge" charges a character that the model has never seen as ``Sampler.score`` does; "error".
        encoding: of the text's files; see ``DataConfig``.
        listener: receives the progress of the reading.

    Raises:
        ConfigError: training kept no such part of a text.
        CorpusError: the text cannot be read, or holds nothing to score.
        ModelFileError: what the model file says of its training is damaged.
        UnknownCharacterError: ``unknown`` is "error", and the model has never seen one of its characters.
    """
    corpus = read_corpus(
        arguments,
        DataConfig(newlines=data_config(sampler.info).newlines, encoding=encoding),
        sampler.vocabulary,
        fixed=unknown,
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
            _targets(ids[at : min(at + _BLOCK, start + pieces.length)], sampler) for at in bounds
        )
    total, count = 0.0, 0
    for log_probs in scores:
        total -= math.fsum(log_probs.ravel())
        count += log_probs.size
    return TextScore(total / count, count, _unknown_characters(corpus, pieces))


def _targets(ids: Ids, sampler: Sampler) -> NDArray[np.int64]:
    """Token ids to score: ``UNKNOWN`` for the id behind the last one of the vocabulary."""
    targets = ids.astype(np.int64)
    targets[targets == len(sampler.vocabulary)] = UNKNOWN
    return targets


def _unknown_characters(corpus: Corpus, pieces: Pieces) -> UnknownCharacters:
    """The unknown characters in the pieces that were scored, by line."""
    strange = UnknownCharacters()
    vocabulary = corpus.vocabulary
    unknown = vocabulary.special.get("unknown", len(vocabulary))
    newline = vocabulary.token("\n")
    for start in pieces.starts_P.tolist():
        for at in range(start, start + pieces.length, _BLOCK):
            block = corpus.ids[at : min(at + _BLOCK, start + pieces.length)]
            offsets = np.flatnonzero(block == unknown)
            if not len(offsets):
                continue
            lines = np.cumsum(block == newline)[offsets] if newline is not None else np.zeros(len(offsets), np.int64)
            _, first, counts = np.unique(lines, return_index=True, return_counts=True)
            named = offsets[first][: max(0, LINES_NAMED - strange.lines)] + at
            places = corpus.places(named.tolist()) if corpus.places is not None else []
            for i, count in enumerate(counts.tolist()):
                strange.add_line(count, *(places[i] if i < len(places) else ("", "")))
    return strange


def _windows(sampler: Sampler, ids: Ids, window: int) -> Iterator[NDArray[np.float64]]:
    """Each window reads N characters and predicts the N that follow; the last one may be shorter."""
    whole = (len(ids) - 1) // window
    batches = (
        np.arange(i, min(i + _BATCH, whole))[:, None] * window + np.arange(window + 1) for i in range(0, whole, _BATCH)
    )
    rest = [np.arange(whole * window, len(ids))[None, :]] if (len(ids) - 1) % window else []
    for positions in itertools.chain(batches, rest):
        yield sampler.score_windows(_targets(ids[positions], sampler))


def _streams(sampler: Sampler, ids: Ids, pieces: Pieces) -> Iterator[NDArray[np.float64]]:
    """Each piece is read from the zero state; every character predicts the one behind it, as in ``Streams.next``.

    Unknown characters are charged, and are not fed: the state and the prediction stay as they are.
    """
    charge = UnknownCharge(sampler.vocabulary)
    streams = np.arange(len(pieces.starts_P))
    state = sampler.initial_state(len(streams))
    logits, state = sampler.step(np.full(len(streams), sampler.info.start_token), state)
    log_probs = log_softmax(logits)  # the prediction at the beginning, for unknown characters there
    state = sampler.initial_state(len(streams))
    for positions in (pieces.starts_P + at for at in range(pieces.length)):
        fed, targets = (_targets(ids[at % len(ids)], sampler) for at in (positions, positions + 1))
        known = fed != UNKNOWN
        logits, after = sampler.step(np.where(known, fed, 0), state)
        state = tuple(np.where(known[:, None], new, old) for new, old in zip(after, state, strict=True))
        log_probs = np.where(known[:, None], log_softmax(logits), log_probs)
        yield np.where(targets == UNKNOWN, charge(log_probs), log_probs[streams, targets])
