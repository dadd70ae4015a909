"""Drawing a token from logits, exactly as ``runtime/README.md`` specifies it.

One uniform number a character, from a counter-based generator: the n-th
number of a stream depends only on (seed, index, n), so a text does not
depend on batch, thread or streaming, and a port in another language draws the
same one. Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelOutputError, UnknownCharacterError, UsageError
from charrnn_runtime.options import MAX_SEED, Logits64, SamplingOptions, check_count, check_seed
from charrnn_runtime.pattern import PatternState, compile_pattern
from charrnn_runtime.vocab import Ids, Vocabulary

Weights = NDArray[np.float64]
Logits = NDArray[np.float32] | NDArray[np.float64]


class DrawOptions(NamedTuple):
    """The options with which a graph can draw. An option that is not in force: top_k 0, top_p 1, min_p 0."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def filters(self) -> bool:
        """Whether top_k, top_p or min_p is in force."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


_BLOCK = 256  # uniform numbers made at once: a few microseconds, 2 KiB


class UniformStream:
    """Uniform numbers in [0, 1): word n of Philox4x64-10 under the key (seed, index), its top 53 bits.

    Args:
        seed: 0 to 2**64 - 1.
        index: which of the streams of this seed, 0 to 2**64 - 1.
        position: the number n to begin with.
        lane: second word of the counter: 0 for texts, 1 and 2 for particles.
    """

    def __init__(self, seed: int, index: int = 0, position: int = 0, *, lane: int = 0) -> None:
        self.seed = check_seed(seed)
        self.index = check_count("index", index, least=0, most=MAX_SEED)
        # numpy steps the counter before each block of four words: block b has the counter b + 1.
        block, word = divmod(position, 4)
        key = np.array([seed, index], dtype=np.uint64)
        counter = np.array([block, lane, 0, 0], dtype=np.uint64)
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
            self._refill()
        self._at += 1
        return self._block[self._at - 1]

    def peek(self, count: int) -> list[float]:
        """The next ``count`` numbers, not yet taken."""
        while len(self._block) - self._at < count:
            self._refill()
        return self._block[self._at : self._at + count]

    def skip(self, count: int) -> None:
        """Takes numbers that ``peek`` has returned."""
        self._at += count

    def _refill(self) -> None:
        self._consumed += self._at
        raw = self._philox.random_raw(_BLOCK)
        self._block = self._block[self._at :] + ((raw >> np.uint64(11)) * 2.0**-53).tolist()
        self._at = 0


def sample_token(logits: Logits, options: SamplingOptions, uniform: float) -> int:
    """One token for the logits ``[vocab]`` and a uniform number in [0, 1).

    Raises:
        ModelOutputError: the logits hold NaN, or none of them is finite.
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
    weights = _weights(logits, options.temperature)
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


def _weights(logits: Logits, temperature: float) -> Weights:
    """exp((logits - max) / temperature) ``[vocab]``, float64."""
    weights = logits.astype(np.float64)
    # The maximum goes first: at a tiny temperature the quotients may be -inf, never inf - inf.
    with np.errstate(over="ignore", invalid="ignore"):  # infinite logits become NaN, which draw refuses
        weights -= weights.max()
        weights /= temperature
    return np.exp(weights, out=weights)


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


class TokenSampler:
    """Draws tokens: the options of one call, compiled for a vocabulary. For one thread at a time.

    Attributes:
        options: those of the call.
        draw_options: the same for a graph that draws; None if it cannot.

    Raises:
        UnknownCharacterError: ``logit_bias`` or ``allowed`` names a character the model does not know.
        UsageError: no text of the model's characters matches the pattern, or it is too large.
    """

    def __init__(self, options: SamplingOptions, vocabulary: Vocabulary) -> None:
        self.options = options
        size = len(vocabulary)
        self._end = vocabulary.special.get("end")
        self._bias: Weights | None = None
        if options.logit_bias:
            self._bias = np.zeros(size)
            for character, value in options.logit_bias.items():
                self._bias[_encode_option(vocabulary, "logit_bias", character)] += value
        self._forbidden: NDArray[np.bool_] | None = None
        if options.allowed is not None:
            self._forbidden = np.ones(size, bool)
            self._forbidden[_encode_option(vocabulary, "allowed", options.allowed)] = False
            if self._end is not None:
                self._forbidden[self._end] = False
        self._automaton = None
        if (expression := options.expression) is not None:
            usable = None if self._forbidden is None else ~self._forbidden
            if self._bias is not None and self._bias.min() == -math.inf:
                usable = (self._bias > -math.inf) & (True if usable is None else usable)
            self._automaton = compile_pattern(expression, vocabulary, usable, options.min_length)
        self._size = size
        # Whether options other than a pattern change the logits; if not, the faster paths below are used.
        self.needs_history = options.penalizes or options.logits_processor is not None
        adjusts = self.needs_history or self._bias is not None or self._forbidden is not None
        self._adjusts = adjusts or (options.min_length > 0 and self._end is not None)
        # Below 1e-30 a quotient may overflow, which only the slow path handles.
        self.direct = direct = not self._adjusts and not options.filters and options.temperature > 1e-30
        self.draw_options = None if self._adjusts else _draw_options(options)
        self.only_temperature = direct and self._automaton is None
        self._sample_directly = _temperature_sampler(size, options.temperature) if direct else None
        self._rows = np.empty((0, size))

    def start_pattern(self, length: int) -> PatternState | None:
        """The state of a text of at most ``length`` tokens in the pattern, or None without a pattern.

        Raises:
            UsageError: ``length`` is shorter than every match.
        """
        return None if self._automaton is None else self._automaton.start(length)

    def sample(
        self,
        logits: NDArray[np.float32],
        uniform: float,
        history: Sequence[int] = (),
        drawn: int = 0,
        pattern: PatternState | None = None,
    ) -> int:
        """One token for the logits ``[vocab]``.

        Args:
            logits: of the model.
            uniform: a number in [0, 1).
            history: tokens of the prompt and all drawn ones; needed if ``needs_history``.
            drawn: how many tokens have been drawn.
            pattern: where the text stands in the pattern; it is not advanced.

        Raises:
            ModelOutputError: the logits hold NaN or infinity.
            UsageError: the options leave nothing to draw.
        """
        if self._sample_directly is not None:
            return self._sample_directly(logits, uniform, None if pattern is None else pattern.mask())
        if not self._adjusts and pattern is None:
            return sample_token(logits, self.options, uniform)
        if not math.isfinite(logits.max()):
            raise _unusable(logits)
        adjusted = self._adjusted(logits, history)
        self._forbid(adjusted, drawn, pattern)
        return sample_token(adjusted, self.options, uniform)

    def sample_weighted(
        self,
        logits: NDArray[np.float32],
        uniform: float,
        history: Sequence[int],
        drawn: int,
        pattern: PatternState | None,
    ) -> tuple[int, float]:
        """``sample``, and the share of the probability at this temperature that ``allowed`` and the like have left."""
        if not math.isfinite(logits.max()):
            raise _unusable(logits)
        adjusted = self._adjusted(logits, history)
        weights = _weights(adjusted, self.options.temperature)
        self._forbid(adjusted, drawn, pattern)
        left = weights[adjusted > -math.inf].cumsum()[-1] / weights.cumsum()[-1]
        return sample_token(adjusted, self.options, uniform), float(left)

    def sample_weighted_rows(
        self, logits: NDArray[np.float32], uniforms: NDArray[np.float64], masks: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """``sample_weighted`` for each row of ``[rows, vocab]``, if the sampler is ``direct``: the same, all at once.

        Args:
            logits: of the model ``[rows, vocab]``.
            uniforms: numbers in [0, 1) ``[rows]``.
            masks: what is added to the logits, 0 or minus infinity ``[rows, vocab]``.
        """
        largest = logits.max(axis=1, keepdims=True)
        if not np.isfinite(largest).all():
            raise _unusable(logits)
        temperature = self.options.temperature
        totals = np.exp((logits.astype(np.float64) - largest) / temperature)
        kept = np.where(masks == 0, totals, 0.0).cumsum(axis=1)[:, -1]
        shares = kept / totals.cumsum(axis=1)[:, -1]
        masked = logits + masks
        largest = masked.max(axis=1, keepdims=True)
        if not (largest > -math.inf).all():
            raise _nothing_left()
        sums = np.exp((masked - largest) / temperature).cumsum(axis=1)
        bounds = np.minimum(uniforms * sums[:, -1], np.nextafter(sums[:, -1], 0))
        return (sums > bounds[:, None]).argmax(axis=1), shares

    def sample_rows(
        self, logits: NDArray[np.float32], uniforms: NDArray[np.float64], patterns: Sequence[PatternState | None] = ()
    ) -> NDArray[np.int64]:
        """``sample`` for each row of ``[batch, vocab]``, if the sampler is ``direct``: the same tokens, all at once.

        Args:
            logits: of the model.
            uniforms: a number for each row.
            patterns: where the text of each row stands in the pattern, if there is one.
        """
        if self._rows.shape != logits.shape:
            self._rows = np.empty(logits.shape)
        weights = self._rows
        weights[:] = logits
        largest = logits.max(axis=1, keepdims=True).astype(np.float64)
        if not np.isfinite(largest).all():
            raise _unusable(logits)
        if patterns:
            for row, pattern in enumerate(patterns):
                if pattern is not None and (mask := pattern.mask()) is not None:
                    weights[row] += mask
            largest = weights.max(axis=1, keepdims=True)
            if not (largest > -math.inf).all():
                raise _nothing_left()
        np.subtract(weights, largest, weights)
        if self.options.temperature != 1:
            np.divide(weights, self.options.temperature, weights)
        np.exp(weights, weights)
        sums = np.add.accumulate(weights, axis=1)
        totals = sums[:, -1]
        # If uniform * total is rounded up to total, the first sum that equals the total must still count as larger.
        bounds = np.minimum(uniforms * totals, np.nextafter(totals, 0))
        tokens: NDArray[np.int64] = (sums > bounds[:, None]).argmax(axis=1)
        return tokens

    def _adjusted(self, logits: NDArray[np.float32], history: Sequence[int]) -> Logits64:
        """The logits after penalties, bias and processor."""
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
        if options.logits_processor is not None:
            options.logits_processor(history, adjusted)
            if np.isnan(adjusted).any() or adjusted.max() == math.inf:
                raise UsageError("the logits_processor left NaN or infinity in the logits")
        return adjusted

    def _forbid(self, adjusted: Logits64, drawn: int, pattern: PatternState | None) -> None:
        """Makes the logits of tokens that must not be drawn minus infinity."""
        if self._forbidden is not None:
            adjusted[self._forbidden] = -math.inf
        if pattern is not None and (mask := pattern.mask()) is not None:
            adjusted += mask
        if self._end is not None and drawn < self.options.min_length:
            adjusted[self._end] = -math.inf
        if not adjusted.max() > -math.inf:
            raise _nothing_left()


def _draw_options(options: SamplingOptions) -> DrawOptions | None:
    """What a graph needs to draw with these options, or None if it cannot."""
    if options.typical_p is not None and options.typical_p < 1:
        return None
    top_p = 1.0 if options.top_p is None else float(options.top_p)
    return DrawOptions(float(options.temperature), int(options.top_k or 0), top_p, float(options.min_p or 0))


def _temperature_sampler(
    size: int, temperature: float
) -> Callable[[NDArray[np.float32], float, NDArray[np.float64] | None], int]:
    """``draw`` for a temperature and a mask that is added to the logits, and nothing else, at a third of the cost.

    The specification's float64 steps, in buffers of its own. Most of the time of a
    call is the overhead of numpy's functions, so the cheapest ones are used:
    0-d arrays instead of Python numbers, ``bisect`` instead of ``searchsorted``,
    ``argmax`` for the largest logit.
    """
    weights, sums = np.empty(size), np.empty(size)
    largest, divisor = np.empty(()), np.array(temperature, np.float64)
    add, subtract, divide, exp = np.add, np.subtract, np.divide, np.exp
    accumulate, isfinite = np.add.accumulate, math.isfinite
    divides = temperature != 1
    last = size - 1

    def sample(logits: NDArray[np.float32], uniform: float, mask: NDArray[np.float64] | None) -> int:
        likeliest = logits.argmax()  # finds NaN first
        top = logits.item(likeliest)
        if not isfinite(top):
            raise _unusable(logits)
        weights[:] = logits
        if mask is not None:
            add(weights, mask, weights)
            if mask.item(likeliest):
                top = weights.item(weights.argmax())
                if top == -math.inf:
                    raise _nothing_left()
        largest[()] = top
        subtract(weights, largest, weights)
        if divides:
            divide(weights, divisor, weights)
        exp(weights, weights)
        accumulate(weights, out=sums)
        total = sums.item(last)
        token = bisect_right(sums, uniform * total)
        return token if token < size else bisect_left(sums, total)  # uniform * total was rounded up to total

    return sample


def _encode_option(vocabulary: Vocabulary, name: str, text: str) -> Ids:
    try:
        return vocabulary.encode(text)
    except UnknownCharacterError as error:
        raise UnknownCharacterError(error.character, error.position, option=name) from None


def log_softmax(logits: NDArray[np.float32]) -> Weights:
    """Natural log-probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


class StopStrings:
    """Ends a stream of text at the first stop string; no part of a stop string is ever given out.

    Args:
        strings: the stop strings; none may be empty.

    Raises:
        UsageError: one of them is empty or not a string.
    """

    def __init__(self, strings: str | Sequence[str] = ()) -> None:
        if not isinstance(strings, (str, Sequence)) or isinstance(strings, bytes):
            raise UsageError(f"stop must be a string or a list of strings, got {strings!r:.80}")
        self.strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(isinstance(s, str) and s for s in self.strings):
            raise UsageError("a stop string must hold at least one character")
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that certainly comes before any stop string; may be empty."""
        if not self.strings or not piece:
            return piece
        text = self._held + piece
        found = [at for at in (text.find(s) for s in self.strings) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = max(self._overlap(text, s) for s in self.strings)
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


def _nothing_left() -> UsageError:
    return UsageError("the options leave no character to draw (allowed, pattern, logit_bias or logits_processor)")


def _unusable(logits: Logits) -> ModelOutputError:
    return unusable("NaN" if np.isnan(logits).any() else "infinite values")


def unusable(what: str) -> ModelOutputError:
    """The error for logits from which nothing can be drawn."""
    return ModelOutputError(
        f"the model's logits hold {what}: its weights are damaged, or training had diverged before it was saved"
    )
