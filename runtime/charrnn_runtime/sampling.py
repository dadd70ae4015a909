"""Drawing a token from logits, exactly as ``runtime/README.md`` specifies it.

One uniform number a character, from a counter-based generator: the n-th
number of a stream depends on nothing but (seed, index, n), so a text does not
depend on batch, thread or streaming, and a port in another language draws the
same one. Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelOutputError, UsageError
from charrnn_runtime.options import MAX_SEED, Logits64, SamplingOptions, check_count, check_seed
from charrnn_runtime.vocab import Vocabulary

Weights = NDArray[np.float64]
Logits = NDArray[np.float32] | NDArray[np.float64]

_BLOCK = 256  # uniform numbers made at once: a few microseconds, 2 KiB


class UniformStream:
    """Uniform numbers in [0, 1): word n of Philox4x64-10 under the key (seed, index), its top 53 bits.

    Args:
        seed: 0 to 2**64 - 1.
        index: which of the streams of this seed, 0 to 2**64 - 1.
        position: the number n to begin with.
    """

    def __init__(self, seed: int, index: int = 0, position: int = 0) -> None:
        self.seed = check_seed(seed)
        self.index = check_count("index", index, least=0, most=MAX_SEED)
        # numpy steps the counter before each block of four words: block b has the counter b + 1.
        block, word = divmod(position, 4)
        key = np.array([seed, index], dtype=np.uint64)
        counter = np.array([block, 0, 0, 0], dtype=np.uint64)
        self._philox = np.random.Philox(key=key, counter=counter)
        if word:
            self._philox.random_raw(word)
        self._block: list[float] = []
        self._at = 0
        self._consumed = position

    @property
    def position(self) -> int:
        """How many numbers of the stream have been taken."""
        return self._consumed + self._at

    def next(self) -> float:
        """The next number."""
        if self._at == len(self._block):
            self._consumed += self._at
            raw = self._philox.random_raw(_BLOCK)
            self._block = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
            self._at = 0
        self._at += 1
        return self._block[self._at - 1]


def draw(logits: Logits, options: SamplingOptions, uniform: float) -> int:
    """One token for the logits ``[vocab]`` and a uniform number in [0, 1).

    Raises:
        ModelOutputError: the logits hold NaN or leave nothing to draw from.
    """
    if options.temperature == 0:
        token = int(logits.argmax())
        if not math.isfinite(logits[token]):
            raise _unusable(logits)
        return token
    cumulative = filtered_weights(logits, options).cumsum()
    total = cumulative.item(-1)
    if not 0 < total < math.inf:  # NaN compares false
        raise _unusable(logits)
    token = int(cumulative.searchsorted(uniform * total, side="right"))
    if token == len(cumulative):  # uniform * total was rounded up to total
        token = int(cumulative.searchsorted(total, side="left"))
    return token


def filtered_weights(logits: Logits, options: SamplingOptions) -> Weights:
    """Unnormalised probabilities ``[vocab]``, float64: exp((logits - max) / temperature), filtered to 0.

    The filters apply in the order top_k, typical_p, top_p, min_p, each to what the one
    before has left. ``options.temperature`` must be above 0.
    """
    weights = logits.astype(np.float64)
    # The maximum goes first: at a tiny temperature the quotients may be -inf, never inf - inf.
    with np.errstate(over="ignore", invalid="ignore"):  # infinite logits become NaN, which draw refuses
        weights -= weights.max()
        weights /= options.temperature
    np.exp(weights, out=weights)
    if not options.filters:
        return weights
    # Likeliest first; equal weights in id order.
    order = np.argsort(-weights, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    if options.typical_p is not None and options.typical_p < 1:
        order = _typical(weights, order, options.typical_p)
    if options.top_p is not None and options.top_p < 1:
        order = order[: _reaching(weights[order], options.top_p)]
    if options.min_p:
        ranked = weights[order]
        order = order[: int((ranked >= options.min_p * ranked[0]).sum())]
    kept = np.zeros_like(weights)
    kept[order] = weights[order]
    return kept


def _typical(weights: Weights, order: NDArray[np.intp], typical_p: float) -> NDArray[np.intp]:
    """The part of the ranking whose surprise is nearest to the entropy, still in rank order."""
    order = order[weights[order] > 0]
    p = weights[order]
    p = p / p.cumsum()[-1]  # not sum(), which adds in an order of its own
    surprise = -np.log(p)
    distance = np.abs(surprise - (p * surprise).cumsum()[-1])
    nearest = np.argsort(distance, kind="stable")
    return order[np.sort(nearest[: _reaching(p[nearest], typical_p)])]


def _reaching(weights: Weights, fraction: float) -> int:
    """How many of the first weights, at least one, reach this fraction of their sum."""
    cumulative = weights.cumsum()
    return 1 + int(cumulative[:-1].searchsorted(fraction * cumulative[-1], side="left"))


class Drawer:
    """Draws for one call of the sampler: the options, compiled for a vocabulary. Not for use by two threads.

    Raises:
        UnknownCharacterError: ``logit_bias`` or ``allowed`` names a character the model does not know.
    """

    def __init__(self, options: SamplingOptions, vocabulary: Vocabulary) -> None:
        self.options = options
        size = len(vocabulary)
        self._end = vocabulary.special.get("end")
        self._bias: Weights | None = None
        if options.logit_bias:
            self._bias = np.zeros(size)
            for character, value in options.logit_bias.items():
                self._bias[vocabulary.encode(character)] += value
        self._forbidden: NDArray[np.bool_] | None = None
        if options.allowed is not None:
            self._forbidden = np.ones(size, bool)
            self._forbidden[vocabulary.encode(options.allowed)] = False
            if self._end is not None:
                self._forbidden[self._end] = False
        self._size = size
        # Whether anything but the logits decides; if not, the short ways below are taken.
        self.needs_history = options.penalizes or options.processor is not None
        adjusts = self.needs_history or self._bias is not None or self._forbidden is not None
        self._adjusts = adjusts or (options.min_length > 0 and self._end is not None)
        # Below 1e-30 a quotient may overflow, which the long way looks out for.
        self.plain = not self._adjusts and not options.filters and options.temperature > 1e-30
        self._weights, self._sums = np.empty(size), np.empty(size)

    def draw(self, logits: NDArray[np.float32], uniform: float, history: Sequence[int] = (), drawn: int = 0) -> int:
        """One token for the logits ``[vocab]``; ``history`` is prompt and drawn tokens, ``drawn`` how many of them.

        Raises:
            ModelOutputError: the logits hold NaN or infinity.
            UsageError: the options leave nothing to draw.
        """
        if self.plain:
            # The specification's float64 steps, in place: this is most of the cost of a draw.
            weights, sums = self._weights, self._sums
            weights[:] = logits
            largest = np.maximum.reduce(weights)
            if not math.isfinite(largest):
                raise _unusable(logits)
            np.subtract(weights, largest, weights)
            if self.options.temperature != 1:
                np.divide(weights, self.options.temperature, weights)
            np.exp(weights, weights)
            np.add.accumulate(weights, out=sums)
            token = int(sums.searchsorted(uniform * sums.item(-1), side="right"))
            return token if token < self._size else int(sums.searchsorted(sums.item(-1), side="left"))
        if not self._adjusts:
            return draw(logits, self.options, uniform)
        if not math.isfinite(logits.max()):
            raise _unusable(logits)
        adjusted = self._adjusted(logits, history, drawn)
        if not adjusted.max() > -math.inf:
            raise UsageError("the options leave no character to draw (allowed, logit_bias or the processor)")
        return draw(adjusted, self.options, uniform)

    def draw_rows(self, logits: NDArray[np.float32], uniforms: Sequence[float]) -> list[int]:
        """``draw`` for each row of ``[batch, vocab]``, if the options are ``plain``: the same tokens, all at once."""
        weights = logits.astype(np.float64)
        largest = weights.max(axis=1, keepdims=True)
        if not np.isfinite(largest).all():
            raise _unusable(logits)
        weights -= largest
        if self.options.temperature != 1:
            weights /= self.options.temperature
        np.exp(weights, out=weights)
        sums = weights.cumsum(axis=1)
        totals = sums[:, -1:]
        tokens = (sums <= np.asarray(uniforms)[:, None] * totals).sum(axis=1)
        # uniform * total was rounded up to total
        return np.minimum(tokens, (sums < totals).sum(axis=1)).tolist()  # type: ignore[no-any-return]

    def _adjusted(self, logits: NDArray[np.float32], history: Sequence[int], drawn: int) -> Logits64:
        options = self.options
        adjusted = logits.astype(np.float64)
        if options.penalizes:
            window = np.asarray(history[-options.penalty_window :], dtype=np.int64)
            counts = np.bincount(window, minlength=self._size)
            seen = counts > 0
            values = adjusted[seen]
            factor = options.repetition_penalty
            adjusted[seen] = np.where(values > 0, values / factor, values * factor)
            adjusted -= options.frequency_penalty * counts + options.presence_penalty * seen
        if self._bias is not None:
            adjusted += self._bias
        if options.processor is not None:
            options.processor(history, adjusted)
            if np.isnan(adjusted).any() or adjusted.max() == math.inf:
                raise UsageError("the processor left NaN or infinity in the logits")
        if self._forbidden is not None:
            adjusted[self._forbidden] = -math.inf
        if self._end is not None and drawn < options.min_length:
            adjusted[self._end] = -math.inf
        return adjusted


def log_softmax(logits: NDArray[np.float32]) -> Weights:
    """Natural log-probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


class StopStrings:
    """Ends a stream of text at the first stop string; nothing of a stop string ever gets out.

    Args:
        strings: the stop strings; none may be empty.

    Raises:
        UsageError: one of them is empty or no string.
    """

    def __init__(self, strings: str | Sequence[str] = ()) -> None:
        self._strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(isinstance(s, str) and s for s in self._strings):
            raise UsageError("a stop string must hold at least one character")
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that is now sure to come before any stop string; may be empty."""
        if not self._strings or not piece:
            return piece
        text = self._held + piece
        found = [at for at in (text.find(s) for s in self._strings) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = max(self._overlap(text, s) for s in self._strings)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back, once the stream has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, string: str) -> int:
        """Length of the longest end of the text that a stop string may begin with."""
        longest = min(len(text), len(string) - 1)
        return next((n for n in range(longest, 0, -1) if string.startswith(text[-n:])), 0)


def _unusable(logits: Logits) -> ModelOutputError:
    what = "NaN" if np.isnan(logits).any() else "infinite values"
    return ModelOutputError(
        f"the model's logits hold {what}: its weights are damaged, or training had diverged before it was saved"
    )
