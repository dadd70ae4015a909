"""The options of sampling, and the checks that every argument goes through.

``SamplingOptions`` is the one description of an option: its name, default, help
and check. Front ends are built from it (command lines by ``cli_options`` and
``options_from_cli``), and a test holds ``SamplingKwargs``, which type checkers
need, to the same fields.
"""

from __future__ import annotations

import math
import reprlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NamedTuple, Self, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import PatternError, UsageError
from charrnn_runtime.pattern_syntax import parse_pattern, pattern_of_fill

Logits64 = NDArray[np.float64]
# (ids of the prompt and of all sampled tokens, logits [vocab] to change in place) → None
LogitsProcessor = Callable[[Sequence[int], Logits64], None]

MAX_SEED = 2**64 - 1
MAX_PARTICLES = 1024


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
    pattern: str | None
    fill: str | None
    particles: int
    min_length: int
    logits_processor: LogitsProcessor | None


class Range(NamedTuple):
    """The numbers that an option takes.

    Attributes:
        whole: whether only whole numbers are taken.
        least, most: the smallest and the largest number; None for no limit.
        above: a number that every value must exceed.
    """

    whole: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None

    def check(self, name: str, value: float) -> None:
        """Does nothing if the value is in the range.

        Raises:
            UsageError: it is not; the message names the option and the range.
        """
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            raise UsageError(f"{name} must be a {'whole ' if self.whole else ''}number, got {value!r}")
        if not math.isfinite(value):
            raise UsageError(f"{name} must be a finite number, got {value!r}")
        if (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and value > self.most)
        ):
            raise UsageError(f"{name} must be {self}, got {value}")

    def __str__(self) -> str:
        begin = f"above {self.above}" if self.above is not None else f"at least {self.least}"
        return begin if self.most is None else f"{begin} and at most {self.most}"


def _option(default: Any, help: str, range: Range | None = None) -> Any:
    return field(default=default, metadata={"help": help, "range": range})


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is sampled from the logits, and what may be sampled.

    The options act in this order: penalties, ``logit_bias``, ``logits_processor``, ``allowed``, ``pattern``
    and ``min_length``, temperature, and the filters ``top_k``, ``typical_p``, ``top_p``, ``min_p``.

    The metadata of each field hold what it does (``help``; see also ``SamplingOptions.help``) and the
    numbers that it takes (``range``). Other front ends, such as the server, make their own form of the
    options from these fields.

    Sources: top_p, Holtzman et al. 2020, "The curious case of neural text degeneration"; typical_p,
    Meister et al. 2023, "Locally typical sampling"; min_p, Nguyen et al. 2024, "Turning up the heat";
    repetition_penalty, Keskar et al. 2019, "CTRL". The other penalties are those of OpenAI's API.

    Raises:
        UsageError: a value has a wrong type or is out of its range.
    """

    temperature: float = _option(
        1.0, "Divides the logits: below 1 likely tokens become likelier; 0 takes the likeliest.", Range(least=0)
    )
    top_k: int | None = _option(None, "Only the k likeliest tokens; 0 for all.", Range(whole=True, least=0))
    typical_p: float | None = _option(
        None,
        "Only the tokens whose surprise is nearest to the expected one and that reach this probability together; "
        "1 for all.",
        Range(above=0, most=1),
    )
    top_p: float | None = _option(
        None, "Only the likeliest tokens that reach this probability together; 1 for all.", Range(above=0, most=1)
    )
    min_p: float | None = _option(
        None, "Only tokens at least this fraction as likely as the likeliest; 0 for all.", Range(least=0, most=1)
    )
    repetition_penalty: float = _option(
        1.0,
        "Divides the positive logits of tokens in the window, and multiplies the negative ones; 1 for no penalty.",
        Range(above=0),
    )
    frequency_penalty: float = _option(
        0.0, "Subtracted from a logit for each time that its token is in the window.", Range()
    )
    presence_penalty: float = _option(
        0.0, "Subtracted once from the logit of every token that is in the window.", Range()
    )
    penalty_window: int = _option(
        64,
        "How many of the last tokens, those of the prompt included, the penalties look at.",
        Range(whole=True, least=1),
    )
    logit_bias: Mapping[str, float] | None = _option(
        None, "Maps characters to numbers that are added to their logits; minus infinity forbids a character."
    )
    allowed: str | None = _option(None, "Only these characters (and the end of the text) are sampled.")
    pattern: str | None = _option(
        None,
        "The sampled text (without the prompt) matches this regular expression from its first to its last character.",
    )
    fill: str | None = _option(
        None, r"A text with gaps, instead of a pattern: ? is one or more characters of a line, \? a question mark."
    )
    particles: int = _option(
        1,
        "With a pattern: how many copies of the text are sampled and weighed, so that the text is drawn from all that "
        "match, each as likely as the model finds it; 1 for none.",
        Range(whole=True, least=1, most=MAX_PARTICLES),
    )
    min_length: int = _option(
        0,
        "The text cannot end before this many tokens, and stop strings are not looked for until then.",
        Range(whole=True, least=0),
    )
    logits_processor: LogitsProcessor | None = _option(  # noqa: RUF009  a field, as the others
        None, "A function of the token ids so far and the float64 logits, which it changes in place."
    )

    def __post_init__(self) -> None:
        for name, default, range in _RANGES:
            value = getattr(self, name)
            if value is not default:
                range.check(name, value)
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise UsageError(f"logit_bias must map characters to numbers, got {self.logit_bias!r}")
        for character, bias in (self.logit_bias or {}).items():
            if not isinstance(character, str) or len(character) != 1:
                raise UsageError(f"logit_bias is for single characters, got {character!r}")
            if bias != -math.inf:
                _ANY_NUMBER.check(f"logit_bias[{character!r}]", bias)
        if self.allowed is not None and (not isinstance(self.allowed, str) or not self.allowed):
            raise UsageError("allowed must be a string of at least one character")
        if self.pattern is not None and self.fill is not None:
            raise PatternError("give a pattern or fill, not both")
        if (expression := self.expression) is not None:
            parse_pattern(expression)
        if self.particles > 1 and self.temperature == 0:
            raise PatternError("particles are drawn and weighed, so they need a temperature above 0")
        if self.particles > 1 and not self.masks:
            raise PatternError(
                "particles are weighed by what a pattern leaves of the model's probabilities; give a pattern "
                "(or allowed, or min_length), or leave particles out"
            )
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise UsageError("logits_processor must be callable")

    @classmethod
    def from_kwargs(cls, options: Mapping[str, Any]) -> Self:
        """The options given as keyword arguments.

        Raises:
            UsageError: an option is unknown, has a wrong type or is out of its range.
        """
        if not isinstance(options, Mapping):
            raise UsageError(f"options must be a mapping of names to values, got {options!r:.80}")
        known = cls.names()
        for name in options:
            if name not in known:
                raise UsageError(f"unknown sampling option {name!r}; known: {', '.join(known)}")
        return cls(**options)

    @classmethod
    def help(cls, name: str) -> str:
        """What an option does, in a sentence."""
        return str(cls.__dataclass_fields__[name].metadata["help"])

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(f.name for f in fields(cls))

    @property
    def filters(self) -> bool:
        """Whether top_k, typical_p, top_p or min_p changes anything."""
        return bool(
            self.top_k
            or (self.typical_p is not None and self.typical_p < 1)
            or (self.top_p is not None and self.top_p < 1)
            or self.min_p
        )

    @property
    def expression(self) -> str | None:
        """The pattern, or that of ``fill``."""
        return self.pattern if self.fill is None else pattern_of_fill(self.fill)

    @property
    def masks(self) -> bool:
        """Whether the options forbid some tokens."""
        return self.expression is not None or self.allowed is not None or self.min_length > 0

    @property
    def penalizes(self) -> bool:
        """Whether a penalty changes anything."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


class CliOption(NamedTuple):
    """A sampling option as a command line has it.

    Attributes:
        name: the field of ``SamplingOptions``; the option is ``--name`` with dashes for underscores.
        type: of one value.
        default: the field's default.
        help: one sentence.
        metavar: the form of a value, if the type does not say it.
        repeatable: whether it may be given several times; its values are then a list.
    """

    name: str
    type: type[int] | type[float] | type[str]
    default: Any
    help: str
    metavar: str | None = None
    repeatable: bool = False

    @property
    def flag(self) -> str:
        """Such as ``--top-k``."""
        return "--" + self.name.replace("_", "-")


def cli_options() -> tuple[CliOption, ...]:
    """The sampling options that a command line offers: all but the logits processor, which only a program can give."""
    options = []
    for f in fields(SamplingOptions):
        numbers: Range | None = f.metadata["range"]
        kind = str if numbers is None else int if numbers.whole else float
        if f.name == "logit_bias":
            help = "Adds N to the logit of character C; -inf forbids it. May be repeated."
            options.append(CliOption(f.name, kind, None, help, metavar="C=N", repeatable=True))
        elif f.name != "logits_processor":
            options.append(CliOption(f.name, kind, f.default, f.metadata["help"]))
    return tuple(options)


def options_from_cli(values: Mapping[str, Any]) -> SamplingKwargs:
    """Sampling options from the values that a command line has parsed; names that are not options are ignored.

    Raises:
        UsageError: a value is out of its range.
    """
    options = {option.name: values[option.name] for option in cli_options() if option.name in values}
    options["logit_bias"] = parse_logit_bias(options.get("logit_bias") or ()) or None
    SamplingOptions.from_kwargs(options)
    return cast("SamplingKwargs", options)


def parse_logit_bias(arguments: Sequence[str]) -> dict[str, float]:
    """A ``logit_bias`` from the command line's ``CHARACTER=NUMBER`` arguments; the number may be -inf.

    Raises:
        UsageError: one of them has another form, or a character is given twice.
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
            raise UsageError(f"logit bias: the character {character!r} is given twice")
        biases[character] = value
    return biases


def new_seed() -> int:
    """A fresh seed from the operating system, short enough to be read aloud."""
    return secrets.randbits(32)


def check_seed(seed: int) -> int:
    """The seed as int.

    Raises:
        UsageError: it is not a whole number from 0 to 2**64 - 1.
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


def check_choice(name: str, value: object, *choices: str) -> None:
    """Does nothing if the value is one of the words.

    Raises:
        UsageError: it is another word, or something else; the message names the argument and the words.
    """
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
        raise UsageError(f"{name}={reprlib.repr(value)}: use {words}")


def check_several(name: str, value: Iterable[Any], of: str) -> None:
    """Does nothing if the value can be iterated over, and is not a single text.

    Raises:
        UsageError: it cannot; the message names the argument and what it should hold.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f"{name} must be several {of}, got {reprlib.repr(value)}")


_ANY_NUMBER = Range()
# (name, default, range) of every option that is a number; the default, None for some, is always taken.
_RANGES = [(f.name, f.default, f.metadata["range"]) for f in fields(SamplingOptions) if f.metadata["range"] is not None]
