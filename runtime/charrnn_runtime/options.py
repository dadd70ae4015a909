"""The options of drawing, and the checks that every argument goes through."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import UsageError

Logits64 = NDArray[np.float64]
# (ids of the prompt and of all drawn tokens, logits [vocab] to change in place) → None
LogitsProcessor = Callable[[Sequence[int], Logits64], None]

MAX_SEED = 2**64 - 1


class SamplingKwargs(TypedDict, total=False):
    """The fields of ``SamplingOptions`` as keyword arguments."""

    temperature: float
    top_k: int | None
    typical_p: float | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_window: int
    logit_bias: Mapping[str, float] | None
    allowed: str | None
    min_length: int
    logits_processor: LogitsProcessor | None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to draw from logits. They act in the order: penalties, bias, processor, allowed, temperature, filters.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token (greedy).
        top_k: only the k likeliest tokens; None or 0 for all.
        typical_p: only the tokens whose surprise is nearest to the expected one and that
            together reach this probability (Meister et al. 2023); None or 1 for all.
        top_p: only the likeliest tokens that together reach this probability
            (nucleus sampling, Holtzman et al. 2020); None or 1 for all.
        min_p: only tokens at least this fraction as likely as the likeliest
            (Nguyen et al. 2024); None or 0 for all.
        repetition_penalty: above 0; divides the positive logits of tokens in the window and
            multiplies their negative ones (Keskar et al. 2019); 1 for none.
        frequency_penalty: subtracted from a logit for each time its token is in the window.
        presence_penalty: subtracted once from the logit of every token in the window.
        penalty_window: how many of the last tokens, the prompt's included, the penalties look at.
        logit_bias: character to a number that is added to its logit; minus infinity forbids it.
        allowed: only these characters (and the end token) may be drawn; None for all.
        min_length: before so many tokens are drawn, no end token is, and stop strings are not looked for.
        logits_processor: called with the ids so far and the float64 logits, which it changes in place.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    typical_p: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 64
    logit_bias: Mapping[str, float] | None = None
    allowed: str | None = None
    min_length: int = 0
    logits_processor: LogitsProcessor | None = None

    def __post_init__(self) -> None:
        _check_real("temperature", self.temperature)
        if self.temperature < 0:
            raise UsageError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k is not None:
            check_count("top_k", self.top_k, least=0)
        for name in ("typical_p", "top_p", "min_p"):
            value = getattr(self, name)
            if value is None:
                continue
            _check_real(name, value)
            if not 0 <= value <= 1 or (name != "min_p" and value == 0):
                raise UsageError(f"{name} must be {'' if name == 'min_p' else 'above '}0 to 1, got {value}")
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
            _check_real(name, getattr(self, name))
        if self.repetition_penalty <= 0:
            raise UsageError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        check_count("penalty_window", self.penalty_window, least=1)
        check_count("min_length", self.min_length, least=0)
        for character, bias in (self.logit_bias or {}).items():
            if not isinstance(character, str) or len(character) != 1:
                raise UsageError(f"logit_bias is for single characters, got {character!r}")
            if bias != -math.inf:
                _check_real(f"logit_bias[{character!r}]", bias)
        if self.allowed is not None and (not isinstance(self.allowed, str) or not self.allowed):
            raise UsageError("allowed must be a string of at least one character")
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise UsageError("logits_processor must be callable")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(f.name for f in fields(cls))

    @property
    def filters(self) -> bool:
        """Whether top_k, typical_p, top_p or min_p is in force."""
        return bool(
            self.top_k
            or (self.typical_p is not None and self.typical_p < 1)
            or (self.top_p is not None and self.top_p < 1)
            or self.min_p
        )

    @property
    def penalizes(self) -> bool:
        """Whether a penalty is in force."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


def parse_logit_bias(arguments: Sequence[str]) -> dict[str, float]:
    """A ``logit_bias`` from the command line's ``CHARACTER=NUMBER`` arguments; the number may be -inf.

    Raises:
        UsageError: one of them has another form, or a character stands twice.
    """
    biases: dict[str, float] = {}
    for argument in arguments:
        character, equals, number = argument[:1], argument[1:2], argument[2:]
        try:
            if equals != "=":
                raise ValueError
            value = float(number)
        except ValueError:
            raise UsageError(f"logit bias {argument!r}: write CHARACTER=NUMBER, such as e=-2 or q=-inf") from None
        if character in biases:
            raise UsageError(f"logit bias: the character {character!r} stands twice")
        biases[character] = value
    return biases


def new_seed() -> int:
    """A fresh seed from the operating system, short enough to be read aloud."""
    return secrets.randbits(32)


def check_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        UsageError: no integer from 0 to 2**64 - 1.
    """
    return check_count("seed", seed, least=0, most=MAX_SEED)


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


def _check_real(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, got {value!r}")
