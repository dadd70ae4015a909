"""Everything that can be set for a training run.

A setting is one field of one dataclass here: its name, type, default, limits
and description. Everything else is made from the fields: the options of
``charrnn train`` and ``charrnn.train``, the help text and the checks.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from charrnn.cells import cell_names
from charrnn.errors import ConfigError

BUDGETS = ("time", "epochs", "steps")
DROPOUTS = ("dropout", "weight_dropout")  # fields of ModelConfig that change the training, but not the model
REPLAY_SHARE = 0.2  # of a batch
LABEL_PLACES = ("tab", "folder", "file")  # where the label of an item is, if it is not in a column


def _option(
    default: Any,
    doc: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    choices: Callable[[], tuple[str, ...]] | None = None,
    parse: Callable[[str], Any] | None = None,
    typed: Callable[[str], str] | None = None,
) -> Any:
    """A field of a configuration: its default, its description and its limits.

    Args:
        default: its value if none is given; the value None means that it is chosen later.
        doc: a sentence for ``--help``.
        least, above, most, below: limits of a number; the value itself is allowed for ``least`` and ``most``.
        choices: lists all possible values, where the type (a Literal) does not.
        parse: reads a string that stands for a value, such as a duration.
        typed: turns what is typed on the command line into the value, which may hold control characters.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    metadata = {"help": doc, "limits": limits, "choices": choices, "parse": parse, "typed": typed}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Option:
    """The description of one field of a configuration.

    Attributes:
        name: of the field; the option on the command line has dashes instead of underscores.
        default: see ``_option``.
        help: its description.
        panel: the heading under which ``--help`` lists it.
        kind: bool, int, float or str.
        optional: whether None is a value.
        choices: all possible values; empty if there is no such list.
        limits: of a number.
        parse: reads a string that stands for a value.
        typed: turns what is typed on the command line into the value.
    """

    name: str
    default: Any
    help: str
    panel: str
    kind: type
    optional: bool
    choices: tuple[str, ...]
    limits: Mapping[str, float]
    parse: Callable[[str], Any] | None
    typed: Callable[[str], str] | None

    def checked(self, value: Any) -> Any:
        """The value in the field's own type: a NumPy integer becomes an int, a duration a number of seconds.

        Raises:
            ConfigError: it has another type, is outside the limits, or is not one of the choices.
        """
        if value is None and self.optional:
            return None
        if self.parse is not None and isinstance(value, str):
            value = self.parse(value)
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"unknown {self.name} {value!r}; known: {', '.join(self.choices)}")
            return value
        if self.kind in (bool, str):
            if not isinstance(value, self.kind):
                raise ConfigError(f"{self.name} must be {_DESCRIBED[self.kind]}, got {value!r}")
            return value
        number = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(value, bool) and isinstance(value, number):
            with contextlib.suppress(OverflowError):  # of an int that is too large for a float
                converted = self.kind(value)
                if self._within(converted):
                    return converted
        limits = [f"{words} {_plain(self.limits[key])}" for key, words in _LIMITS.items() if self._limited(key)]
        described = f"{_DESCRIBED[self.kind]} {' and '.join(limits)}".rstrip()
        raise ConfigError(f"{self.name} must be {described}, got {value!r}")

    def _within(self, number: float) -> bool:
        limits = self.limits
        return (
            (self.kind is int or math.isfinite(number))
            and limits["least"] <= number <= limits["most"]
            and limits["above"] < number < limits["below"]
        )

    def _limited(self, key: str) -> bool:
        return math.isfinite(self.limits[key])


_DESCRIBED = {bool: "True or False", str: "a string", int: "a whole number", float: "a number"}
_LIMITS = {"least": "of at least", "above": "above", "most": "at most", "below": "below"}


def _plain(limit: float) -> str:
    return "2**63" if limit == 2**63 else f"{limit:g}"


class _Config:
    """Base class of the configurations."""

    PANEL: typing.ClassVar[str]

    def __post_init__(self) -> None:
        for option in options(type(self)):
            object.__setattr__(self, option.name, option.checked(getattr(self, option.name)))
        self._check()

    def _check(self) -> None:
        """Raises ConfigError if values do not fit each other."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or config.json."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_json``; raises ConfigError for fields that are unknown."""
        if unknown := sorted(set(values) - {option.name for option in options(cls)}):
            raise ConfigError(f"unknown settings: {', '.join(unknown)}")
        return cls(**values)


def options(config: type[Any]) -> tuple[Option, ...]:
    """The fields of a configuration, in order."""
    hints = typing.get_type_hints(config)
    return tuple(_described(config, field, hints[field.name]) for field in dataclasses.fields(config))


def _described(config: type[Any], field: dataclasses.Field[Any], hint: Any) -> Option:
    optional = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    if optional:
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    choices: tuple[str, ...] = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    if field.metadata["choices"] is not None:
        choices = field.metadata["choices"]()
    return Option(
        name=field.name,
        default=field.default,
        help=field.metadata["help"],
        panel="Budget (one of)" if field.name in BUDGETS else config.PANEL,
        kind=str if choices else hint,
        optional=optional,
        choices=choices,
        limits=field.metadata["limits"],
        parse=field.metadata["parse"],
        typed=field.metadata["typed"],
    )


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 90s, 10m, 1.5h or 1h30m; a bare number is seconds.

    Raises:
        ConfigError: it is not a duration, or is 0.
    """
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(?:\.\d+)?", compact):
        compact += "s"
    if not _DURATION.fullmatch(compact):
        raise ConfigError(f"{text!r} is not a duration; write it as 90s, 10m, 1.5h or 1h30m")
    seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)([smhd])", compact))
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"{text!r}: a time budget must be above 0")
    return seconds


_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([ntr0\\]))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\"}


def unescaped(text: str) -> str:
    r"""Text with Python's escapes \n, \t, \r, \0, \\ and \xNN replaced; other backslashes stay."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _ESCAPED[found[2]], text)


def parse_encoding(name: str) -> str:
    """Python's own name of a text encoding, which may be written in many ways.

    Raises:
        ConfigError: there is no such encoding.
    """
    try:
        info = codecs.lookup(name)
        if not info._is_text_encoding or info.incrementaldecoder is None:
            raise LookupError
    except (LookupError, ValueError):
        raise ConfigError(
            f"unknown encoding {name!r}; known are, among others, utf-16, cp1252, gbk, big5, shift_jis, euc_kr, cp1251"
        ) from None
    return info.name


def parse_replay(argument: str) -> tuple[str, float]:
    """The name of a text and the share of each batch that is read from it: FILE:0.2, or FILE alone for a fifth.

    Raises:
        ConfigError: the share is not between 0 and 1, or there is no name.
    """
    name, share = argument, REPLAY_SHARE
    before, colon, after = argument.rpartition(":")
    if colon:
        with contextlib.suppress(ValueError):  # the colon belongs to the name
            name, share = before, float(after)
    if not name or not 0 < share < 1:
        raise ConfigError(
            f"--replay {argument}: give it as FILE:SHARE, with a share above 0 and below 1, such as old.txt:0.2"
        )
    return name, share


def _absolute_replay(argument: str) -> str:
    """The argument of --replay with an absolute path, so that a resumed run finds the text from another folder."""
    name, share = parse_replay(argument)
    return f"{Path(name).absolute() if Path(name).exists() else name}:{share:g}"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """The architecture."""

    PANEL = "Model"

    cell: str = _option("lstm", "Recurrent cell; rnn is the vanilla one with tanh.", choices=cell_names)
    hidden_size: int = _option(256, "Size of each layer's hidden state.", least=1)
    num_layers: int = _option(1, "Number of recurrent layers.", least=1)
    embedding_size: int = _option(128, "Size of the vector that stands for a character; 0 for one-hot input.", least=0)
    dropout: float = _option(0.0, "Dropout between layers and before the output, 0 to below 1.", least=0, below=1)
    weight_dropout: float = _option(
        0.0, "Dropout of the recurrent weights, drawn anew for each batch, 0 to below 1.", least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Config):
    """How a text becomes tokens."""

    PANEL = "Text"

    bytes: bool = _option(False, "Tokens are bytes instead of characters; the text may be anything.")
    normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = _option(
        None, "Unicode normal form applied to the text (NFC, NFD, NFKC, NFKD)."
    )
    encoding: str | None = _option(
        None,
        "Encoding of the text's files: utf-16, cp1252, gbk, shift_jis, … Default: UTF-8 with or without a mark.",
        parse=parse_encoding,
    )
    val_frac: float = _option(0.1, "Part of the text that is kept for validation.", above=0, below=1)
    test_frac: float = _option(
        0.0,
        "Part of the text that training never reads, for a final test: charrnn eval --split test.",
        least=0,
        below=1,
    )
    split: Literal["end", "streams"] = _option(
        "end", "Where validation and test text is taken: end (of the text), or streams (the end of each stream)."
    )
    val_max: int = _option(
        1_000_000,
        "Most characters that a validation reads; of a longer text, pieces that are spread evenly. By default fewer if "
        "the budget is short. 0 for no limit.",
        least=0,
    )
    lines: bool = _option(False, "One item a line: items are kept apart, and sampling yields whole ones.")
    separator: str | None = _option(
        None, "Items stand between these characters, such as \\n\\n, instead of one a line.", typed=unescaped
    )
    column: str | None = _option(None, "Items are this column of a table: CSV and the like with a header, JSON lines.")
    delimiter: str | None = _option(
        None, "Character between the fields of a table; recognised by default.", typed=unescaped
    )
    label: str | None = _option(
        None,
        "Label of each item: with --column another column of the table; else tab (label, tab, item), folder or file "
        "(the name of the item's folder or file).",
    )
    label_dropout: float = _option(
        0.1, "Part of the labelled items that is read without the label; 0 for none.", least=0, most=1
    )
    newlines: Literal["keep", "lf"] = _option("keep", "Line ends: keep them, or lf to turn CRLF and CR into LF.")
    min_count: int = _option(1, "Characters that occur fewer times become one unknown character.", least=1)

    @property
    def has_items(self) -> bool:
        """Whether the text is a set of items, each with a beginning and an end."""
        return self.lines or self.separator is not None or self.column is not None

    def _check(self) -> None:
        if self.separator is not None and (self.lines or self.column is not None):
            raise ConfigError(
                f"items are divided in one way: give --separator or {'--lines' if self.lines else '--column'}"
            )
        for name in ("separator", "column"):
            if getattr(self, name) == "":
                raise ConfigError(f"--{name} must not be empty")
        if self.delimiter is not None:
            if self.column is None:
                raise ConfigError("--delimiter is for tables: give --column too")
            if len(self.delimiter) != 1 or self.delimiter in '"\r\n ':
                raise ConfigError(
                    f"--delimiter must be one character, no quote, blank or line end, got {self.delimiter!r}"
                )
            if self.bytes and not self.delimiter.isascii():
                raise ConfigError(f"--bytes needs an ASCII --delimiter, got {self.delimiter!r}")
        if self.label is not None:
            self._check_label(self.label)
        if self.bytes and self.min_count > 1:
            raise ConfigError("--bytes has a token for every byte; leave out --min-count")
        if self.has_items and self.split == "streams":
            raise ConfigError("items are divided one by one; leave out --split streams")
        if self.val_frac + self.test_frac >= 1:
            raise ConfigError(
                f"val_frac {self.val_frac} and test_frac {self.test_frac} leave no text for training; "
                "their sum must be below 1"
            )
        for name in ("encoding", "normalize"):
            if self.bytes and getattr(self, name) is not None:
                raise ConfigError(f"--bytes takes the text as it is; leave out --{name}")

    def _check_label(self, label: str) -> None:
        if not self.has_items:
            raise ConfigError("labels belong to items: give --lines, --separator or --column too")
        if self.column is not None and label.strip() in ("", self.column.strip()):
            raise ConfigError(f"--label must be a column other than the items' own, {self.column!r}; got {label!r}")
        if self.column is None and label not in LABEL_PLACES:
            raise ConfigError(
                f"--label {label!r}: without --column it is {', '.join(LABEL_PLACES[:-1])} or {LABEL_PLACES[-1]}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Config):
    """How to train: a budget (one of time, epochs, steps) and a recipe."""

    PANEL = "Recipe"

    time: float | None = _option(
        None,
        "Budget of time: 90s, 10m, 1h30m. Default 10m if no budget is given.",
        above=0,
        parse=parse_duration,
    )
    epochs: float | None = _option(None, "Budget in passes over the training text.", above=0)
    steps: int | None = _option(None, "Budget in optimizer steps.", least=1)
    replay: str | None = _option(
        None,
        "With --init-from: another text, such as that of the first model, and the share of each batch that is read "
        "from it, FILE:0.2, so that the model forgets less of it.",
        parse=_absolute_replay,
    )
    max_epochs: float | None = _option(
        None,
        "With --time: most passes over the training text. Default: as many as lower the validation loss of a text "
        "of its size.",
        above=0,
    )
    patience: int = _option(
        5,
        "End early when so many validations in a row have been more than 1 % above the lowest loss; 0 for never.",
        least=0,
    )
    batch_size: int = _option(32, "Streams of text that are read side by side.", least=1)
    seq_len: int = _option(48, "Characters that each stream advances in a step (length of backpropagation).", least=1)
    init: Literal["default", "char-rnn", "torch-rnn"] = _option(
        "default", "Initial weights: default (PyTorch's), or those of char-rnn or torch-rnn."
    )
    optimizer: Literal["muon", "adamw", "adam", "rmsprop"] = _option(
        "muon", "muon (orthogonalised updates for the recurrent matrices, AdamW for the rest), adamw, adam, rmsprop."
    )
    lr: float = _option(0.008, "Peak learning rate; that of Muon's matrices is 5 times as high.", above=0)
    schedule: Literal["cosine", "decay"] = _option(
        "cosine", "cosine (to 0 over the budget, after the warm-up), or decay (by lr_decay every few epochs)."
    )
    lr_decay: float = _option(0.97, "For --schedule decay: the factor.", above=0, most=1)
    lr_decay_every: float = _option(1.0, "For --schedule decay: epochs between two decays.", above=0)
    lr_decay_after: float = _option(0.0, "For --schedule decay: epochs before the first one counts.", least=0)
    weight_decay: float = _option(0.01, "Decoupled weight decay of the matrices.", least=0)
    grad_clip: float = _option(1.0, "The gradient's norm is clipped to this; 0 for never.", least=0)
    grad_clip_value: float = _option(
        0.0, "Each element of the gradient is clamped to this, instead of --grad-clip; 0 for never.", least=0
    )
    loss_sum: bool = _option(False, "Sum the loss over the sequence for the gradient, instead of taking the mean.")
    warmup_steps: int = _option(20, "Steps in which the rate rises to its peak.", least=0)
    lr_boost: float = _option(1.0, "Factor on the learning rate at first; it falls to 1 over 100 steps.", least=1)
    eval_steps: int | None = _option(None, "Validate every N steps. Default: about every tenth of the budget.", least=1)
    seed: int = _option(1, "Seed of the initial weights and of dropout.", least=0, below=2**63)
    device: str = _option("auto", "auto, cpu, cuda, cuda:N or mps.")
    threads: int | None = _option(
        None,
        "Threads that compute on the CPU. Default: one for each core, and fewer while other programs use the cores.",
        least=1,
    )
    precision: Literal["auto", "fp32", "bf16"] = _option(
        "auto", "fp32, bf16 (autocast), or auto: bf16 where the processor has instructions for it."
    )

    def _check(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"give one budget, not {' and '.join(f'--{name}' for name in given)}")
        if self.max_epochs is not None and given and self.time is None:
            raise ConfigError(f"--max-epochs goes with --time; leave it out, or --{given[0]}")

    def fraction(self, *, step: int, epoch: float, elapsed: float) -> float:
        """The part of the budget that is used up: 0 to 1, or a little more. The configuration must have a budget."""
        if self.steps is not None:
            return step / self.steps
        if self.epochs is not None:
            return epoch / self.epochs
        assert self.time is not None
        return max(elapsed / self.time, epoch / self.max_epochs if self.max_epochs is not None else 0.0)

    def with_budget(self) -> Self:
        """The same configuration; if it has no budget, with the default one."""
        if self.time is None and self.epochs is None and self.steps is None:
            return dataclasses.replace(self, time=600.0)
        return self


def format_duration(seconds: float) -> str:
    """A duration as people write it: 45 s, 9 min 30 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
