"""Drawing a token from logits, exactly as ``runtime/README.md`` specifies it.

One uniform number a character, from a counter-based generator: the n-th
number of a stream depends on nothing but (seed, index, n), so a text does not
depend on batch, thread or streaming, and a port in another language draws the
same one. Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelOutputError, UsageError

Weights = NDArray[np.float64]

_BLOCK = 256  # uniform numbers made at once: a few microseconds, 2 KiB
_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to draw from logits.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token (greedy).
        top_k: only the k likeliest tokens; None or 0 for all.
        top_p: only the likeliest tokens that together reach this probability
            (nucleus sampling, Holtzman et al. 2020); None or 1 for all.
        min_p: only tokens at least this fraction as likely as the likeliest
            (Nguyen et al. 2024); None or 0 for all.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        _check_real("temperature", self.temperature)
        if self.temperature < 0:
            raise UsageError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k is not None:
            check_count("top_k", self.top_k, least=0)
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if value is None:
                continue
            _check_real(name, value)
            if not 0 <= value <= 1 or (name == "top_p" and value == 0):
                raise UsageError(f"{name} must be {'above ' if name == 'top_p' else ''}0 to 1, got {value}")

    @property
    def filters(self) -> bool:
        """Whether any token may be filtered out."""
        return bool(self.top_k or (self.top_p is not None and self.top_p < 1) or self.min_p)


class UniformStream:
    """Uniform numbers in [0, 1): word n of Philox4x64-10 under the key (seed, index), its top 53 bits.

    Args:
        seed: 0 to 2**64 - 1.
        index: which of the streams of this seed, 0 to 2**64 - 1.
        position: the number n to begin with.
    """

    def __init__(self, seed: int, index: int = 0, position: int = 0) -> None:
        self.seed = check_seed(seed)
        self.index = check_count("index", index, least=0, most=_MAX_SEED)
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


def draw(logits: NDArray[np.float32], options: SamplingOptions, uniform: float) -> int:
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


def filtered_weights(logits: NDArray[np.float32], options: SamplingOptions) -> Weights:
    """Unnormalised probabilities ``[vocab]``, float64: exp((logits - max) / temperature), filtered to 0.

    The filters apply in the order top_k, top_p, min_p, each to what the one
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
    keep = len(order)
    if options.top_k:
        keep = min(keep, options.top_k)
    if options.top_p is not None and options.top_p < 1:
        cumulative = weights[order[:keep]].cumsum()
        keep = 1 + int(cumulative[:-1].searchsorted(options.top_p * cumulative[-1], side="left"))
    if options.min_p:
        ranked = weights[order[:keep]]
        keep = int((ranked >= options.min_p * ranked[0]).sum())
    weights[order[keep:]] = 0.0
    return weights


def log_softmax(logits: NDArray[np.float32]) -> Weights:
    """Natural log-probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def new_seed() -> int:
    """A fresh seed from the operating system, short enough to be read aloud."""
    return secrets.randbits(32)


def check_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        UsageError: no integer from 0 to 2**64 - 1.
    """
    return check_count("seed", seed, least=0, most=_MAX_SEED)


def check_count(name: str, value: int, *, least: int, most: int | None = None) -> int:
    """The value as int, if it is a whole number in the range.

    Raises:
        UsageError: it is not; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, got {value!r}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} must be {bounds}, got {value}")
    return int(value)


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


def _check_real(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, got {value!r}")


def _unusable(logits: NDArray[np.float32]) -> ModelOutputError:
    what = "NaN" if np.isnan(logits).any() else "infinite values"
    return ModelOutputError(
        f"the model's logits hold {what}: its weights are damaged, or training had diverged before it was saved"
    )
