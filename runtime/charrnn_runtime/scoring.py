"""Log-probabilities of texts.

A character outside the vocabulary is charged, wherever a text is scored: its
log-probability is that of the least likely character of the vocabulary at the
same place. So it costs at least as many nats as any known character would cost
there, and an unknown character never makes a text more likely. It is not fed to
the model, which has no token for it: the next character is predicted from the
characters before it. A model with a token for unknown characters needs no such
rule: that token is scored and fed like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.model_file import ModelInfo
from charrnn_runtime.sampling import log_softmax
from charrnn_runtime.session import Cell, Logits, SequenceRunner
from charrnn_runtime.vocab import UNKNOWN, Ids, Vocabulary

T = TypeVar("T", bound=Sized)

_BLOCK = 256  # rows of logits that are turned into log-probabilities at once


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text.

    Attributes:
        log_probs: natural log-probability of each token given all before it,
            float64 ``[n]``; the first one follows the model's start token.
        num_unknown: how many characters of the text are outside the vocabulary. They are
            among the ``n``: charged, or scored as the model's token for unknown characters.
    """

    log_probs: NDArray[np.float64]
    num_unknown: int = 0

    @property
    def nats(self) -> float:
        """Negative log-probability of the whole text."""
        return -float(self.log_probs.sum())

    @property
    def nats_per_char(self) -> float:
        """Mean negative log-probability of a token (a byte, for byte models); NaN for an empty text."""
        return -float(self.log_probs.mean()) if len(self.log_probs) else math.nan

    @property
    def bits(self) -> float:
        """``nats`` in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_char(self) -> float:
        """``nats_per_char`` in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of ``nats_per_char``: a choice among this many equally likely characters is as uncertain."""
        return math.exp(min(self.nats_per_char, 700.0))  # near the largest float


@dataclass(frozen=True)
class ItemScore:
    """How likely a model finds an item or a line.

    Attributes:
        text: the item, without its end; bytes if it was given as bytes.
        nats: its negative log-probability, with its end.
        tokens: how many tokens these are: its characters (or bytes) and its end.
        num_unknown: how many of its characters are outside the vocabulary.
        label: with which it was scored; empty for none.
    """

    text: str | bytes
    nats: float
    tokens: int
    num_unknown: int = 0
    label: str = ""

    @property
    def bits(self) -> float:
        """``nats`` in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_char(self) -> float:
        """Bits for each token, which compares items of any length."""
        return self.bits / self.tokens


class UnknownCharge:
    """The charge for characters outside a vocabulary: see the module."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        plain = [i for i, symbol in enumerate(vocabulary.symbols) if symbol >= 0]
        self._plain = slice(None) if len(plain) == len(vocabulary) else plain

    def __call__(self, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The charge at each place ``[n]``, from the log-probabilities of all tokens there ``[n, vocab]``."""
        least: NDArray[np.float64] = log_probs[:, self._plain].min(axis=1)
        return least


class _Targets:
    """A text's tokens ``[n]`` divided into the known ones ``[m]``, which are fed, and the unknown ones."""

    def __init__(self, targets: Ids) -> None:
        targets = np.asarray(targets, np.int64)
        self._unknown = targets == UNKNOWN
        self.any_unknown = bool(self._unknown.any())
        self.known = targets[~self._unknown] if self.any_unknown else targets
        # Row i of the logits predicts known token i. Unknown ones at the end need one row more.
        self.rows = len(self.known) + bool(self.any_unknown and self._unknown[-1])

    def merge(self, log_probs: NDArray[np.float64], charges: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Log-probabilities ``[n]`` from those of the known tokens ``[m]`` and the charges at each row ``[rows]``."""
        if charges is None:
            return log_probs
        merged = np.empty(len(self._unknown))
        merged[~self._unknown] = log_probs
        known_before = np.cumsum(~self._unknown)
        merged[self._unknown] = charges[known_before[self._unknown]]
        return merged


class StreamScorer:
    """Scores one text that comes in blocks; how it is cut into blocks does not matter.

    Args:
        runner: from the zero state.
        info: the model.
        first: the token that is fed before the text.
    """

    def __init__(self, runner: SequenceRunner, info: ModelInfo, first: int) -> None:
        self._runner = runner
        self._charge = UnknownCharge(info.vocabulary)
        # Either the last token has not been fed yet, or the logits that follow it are here already.
        self._pending: int | None = first
        self._logits: Logits | None = None

    def score(self, targets: Ids) -> NDArray[np.float64]:
        """Log-probabilities of the next tokens of the text, float64 ``[n]``; ``UNKNOWN`` among them is charged."""
        text = _Targets(targets)
        log_probs = np.empty(len(text.known))
        charges = np.empty(text.rows) if text.any_unknown else None
        at = 0
        for logits in self._rows(text):
            block = log_softmax(logits)
            here = text.known[at : at + len(block)]
            log_probs[at : at + len(here)] = block[np.arange(len(here)), here]
            if charges is not None:
                charges[at : at + len(block)] = self._charge(block)
            at += len(block)
        return text.merge(log_probs, charges)

    def _rows(self, text: _Targets) -> Iterator[Logits]:
        """The rows of logits that the text needs, in blocks ``[<= 256, vocab]``."""
        if not text.rows:
            return
        inputs = text.known[: text.rows - 1]
        logits = self._logits
        if logits is None:
            inputs = np.concatenate([[self._pending], inputs])
        else:
            yield logits
        for begin in range(0, len(inputs), _BLOCK):
            logits = self._runner.forward(inputs[begin : begin + _BLOCK])
            yield logits
        assert logits is not None
        if text.rows > len(text.known):
            self._pending, self._logits = None, logits[-1:].copy()
        else:
            self._pending, self._logits = int(text.known[-1]), None


def score_many(
    cell: Cell, info: ModelInfo, targets: Sequence[Ids], batch: int, *, first: Ids | None = None
) -> list[NDArray[np.float64]]:
    """For each text of token ids ``[n]``, the log-probability of each token, ``[n]``.

    Texts of similar lengths go together; as they end, the batch shrinks. ``UNKNOWN`` among the ids is charged.

    Args:
        cell, info: the model.
        targets: the texts.
        batch: how many are scored side by side.
        first: the token that is fed before each text ``[texts]``; by default the start token.
    """
    texts = [_Targets(ids) for ids in targets]
    charge = UnknownCharge(info.vocabulary)
    scores = [np.empty(len(ids)) for ids in targets]
    order = sorted((i for i, text in enumerate(texts) if text.rows), key=lambda i: -texts[i].rows)
    for begin in range(0, len(order), batch):
        group = order[begin : begin + batch]
        lengths = np.array([texts[i].rows for i in group])  # the longest come first
        tokens = np.zeros((int(lengths[0]), len(group)), np.int64)
        for row, i in enumerate(group):
            tokens[: len(texts[i].known), row] = texts[i].known
        log_probs = np.empty(tokens.shape)
        charges = np.empty(tokens.shape) if any(texts[i].any_unknown for i in group) else None
        runner, width = cell.runner(len(group)), len(group)
        before = np.full(len(group), info.start_token) if first is None else first[group]
        rows = np.arange(len(group))
        for at, here in enumerate(tokens):
            active = int((lengths > at).sum())
            if 2 * active <= width:
                runner, width = cell.runner(active, tuple(s[:active] for s in runner.state())), active
            logits = runner.step(before[:width])
            block = log_softmax(logits[:active])
            log_probs[at, :active] = block[rows[:active], here[:active]]
            if charges is not None:
                charges[at, :active] = charge(block)
            before = here
        for row, i in enumerate(group):
            own = charges[: texts[i].rows, row] if charges is not None and texts[i].any_unknown else None
            scores[i] = texts[i].merge(log_probs[: len(texts[i].known), row].copy(), own)
    return scores


def bounded(texts: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[Sequence[T]]:
    """The texts in lists that end as soon as the sum of their sizes reaches ``most``: their arrays fit in memory."""
    begin = total = 0
    for i, text in enumerate(texts):
        total += size(text)
        if total >= most:
            yield texts[begin : i + 1]
            begin, total = i + 1, 0
    if begin < len(texts):
        yield texts[begin:]
