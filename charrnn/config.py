"""Everything that can be set for a training run.

Each field is documented once, in its metadata; ``charrnn train --help`` prints that text.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from charrnn.cells import cell_names, check_cell_name
from charrnn.errors import ConfigError

OPTIMIZERS = ("muon", "adamw", "adam", "rmsprop")
INITS = ("default", "char-rnn", "torch-rnn")
SPLITS = ("end", "streams")
SCHEDULES = ("cosine", "decay")
PRECISIONS = ("auto", "fp32", "bf16")


def _option(default: Any, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": doc})


def doc(config: type, name: str) -> str:
    """The documentation of a field."""
    return str(next(f for f in dataclasses.fields(config) if f.name == name).metadata["help"])


class _Config:
    """What the configurations share: plain values out and in."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or config.json."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_json``; raises ConfigError for fields that are unknown."""
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings: {', '.join(unknown)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """The architecture."""

    cell: str = _option("lstm", f"Recurrent cell: {', '.join(cell_names())}; rnn is the vanilla one with tanh.")
    hidden_size: int = _option(256, "Size of each layer's hidden state.")
    num_layers: int = _option(1, "Number of recurrent layers.")
    embedding_size: int = _option(128, "Size of the vector that stands for a character; 0 for one-hot input.")
    dropout: float = _option(0.0, "Dropout between layers and before the output, 0 to below 1.")

    def __post_init__(self) -> None:
        check_cell_name(self.cell)
        for name, least in (("hidden_size", 1), ("num_layers", 1), ("embedding_size", 0)):
            _at_least(name, getattr(self, name), least)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be 0 to below 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Config):
    """How a text becomes tokens."""

    bytes: bool = _option(False, "Tokens are bytes instead of characters; the text may be anything.")
    normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = _option(
        None, "Unicode normal form applied to the text (NFC, NFD, NFKC, NFKD)."
    )
    val_frac: float = _option(0.1, "Part of the text that is kept for validation.")
    test_frac: float = _option(
        0.0, "Part of the text that training never reads, for a final test: charrnn eval --split test."
    )
    split: Literal["end", "streams"] = _option(
        "end", "Where validation and test text is taken: end (of the text), or streams (the end of each stream)."
    )
    val_max: int = _option(
        1_000_000,
        "Characters that a validation reads at most: of a longer validation text, pieces spread evenly. 0 for all.",
    )
    lines: bool = _option(False, "One item a line: items are kept apart, and sampling yields whole ones.")
    separator: str | None = _option(None, "Items stand between these characters, instead of one a line.")
    column: str | None = _option(None, "Items are this column of a CSV table with a header.")
    newlines: Literal["keep", "lf"] = _option("keep", "CRLF and CR: keep, or lf to make them LF.")
    min_count: int = _option(1, "Characters that occur fewer times become one unknown character.")

    @property
    def has_items(self) -> bool:
        """Whether the text is a set of items, each with a beginning and an end."""
        return self.lines or self.separator is not None or self.column is not None

    def __post_init__(self) -> None:
        _at_least("val_max", self.val_max, 0)
        _at_least("min_count", self.min_count, 1)
        _one_of("newlines", self.newlines, ("keep", "lf"))
        if self.separator is not None and (self.lines or self.column is not None):
            raise ConfigError(
                f"items are divided in one way: give --separator or {'--lines' if self.lines else '--column'}"
            )
        for name in ("separator", "column"):
            if getattr(self, name) == "":
                raise ConfigError(f"--{name} must not be empty")
        if self.bytes and self.min_count > 1:
            raise ConfigError("--bytes has a token for every byte; leave out --min-count")
        _one_of("split", self.split, SPLITS)
        if self.has_items and self.split == "streams":
            raise ConfigError("items are divided one by one; leave out --split streams")
        if not 0 < self.val_frac < 1:
            raise ConfigError(f"val_frac must be above 0 and below 1, got {self.val_frac}")
        if not 0 <= self.test_frac < 1:
            raise ConfigError(f"test_frac must be 0 or more and below 1, got {self.test_frac}")
        if self.val_frac + self.test_frac >= 1:
            raise ConfigError(
                f"val_frac {self.val_frac} and test_frac {self.test_frac} leave no text for training; "
                "their sum must be below 1"
            )
        if self.normalize is not None:
            _one_of("normalize", self.normalize, ("NFC", "NFD", "NFKC", "NFKD"))
            if self.bytes:
                raise ConfigError("--bytes takes the text as it is; leave out --normalize")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Config):
    """How to train: a budget (one of time, epochs, steps) and a recipe."""

    time: float | None = _option(None, "Budget of time: 90s, 10m, 1h30m. Default 10m if no budget is given.")
    epochs: float | None = _option(None, "Budget in passes over the training text.")
    steps: int | None = _option(None, "Budget in optimizer steps.")
    batch_size: int = _option(32, "Streams of text that are read side by side.")
    seq_len: int = _option(48, "Characters that each stream advances in a step (length of backpropagation).")
    init: Literal["default", "char-rnn", "torch-rnn"] = _option(
        "default", "Initial weights: default (PyTorch's), or those of char-rnn or torch-rnn."
    )
    optimizer: Literal["muon", "adamw", "adam", "rmsprop"] = _option(
        "muon", "muon (orthogonalised updates for the recurrent matrices, AdamW for the rest), adamw, adam, rmsprop."
    )
    lr: float = _option(0.006, "Peak learning rate; that of Muon's matrices is 5 times as high.")
    schedule: Literal["cosine", "decay"] = _option(
        "cosine", "cosine (to 0 over the budget, after the warm-up), or decay (by lr_decay every so many epochs)."
    )
    lr_decay: float = _option(0.97, "For --schedule decay: the factor.")
    lr_decay_every: float = _option(1.0, "For --schedule decay: epochs between two decays.")
    lr_decay_after: float = _option(0.0, "For --schedule decay: epochs before the first one counts.")
    weight_decay: float = _option(0.01, "Decoupled weight decay of the matrices.")
    grad_clip: float = _option(1.0, "The gradient's norm is clipped to this; 0 for never.")
    grad_clip_value: float = _option(0.0, "Each element of the gradient is clamped to this; 0 for never.")
    loss_sum: bool = _option(False, "Sum the loss over the sequence for the gradient, instead of taking the mean.")
    warmup_steps: int = _option(20, "Steps in which the rate rises to its peak.")
    lr_boost: float = _option(1.0, "Factor on the learning rate at first; it falls to 1 over 100 steps.")
    eval_steps: int | None = _option(None, "Validate every so many steps. Default: about every tenth of the budget.")
    seed: int = _option(1, "Seed of the initial weights and of dropout.")
    device: str = _option("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16"] = _option(
        "auto", "fp32, bf16 (autocast), or auto: bf16 where the processor computes in it."
    )

    def __post_init__(self) -> None:
        given = [name for name in ("time", "epochs", "steps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"give one budget, not {' and '.join(f'--{name}' for name in given)}")
        for name in ("time", "epochs"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be above 0, got {value}")
        for name in ("steps", "batch_size", "seq_len", "eval_steps"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("warmup_steps", self.warmup_steps, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        if not (math.isfinite(self.lr_boost) and self.lr_boost >= 1):
            raise ConfigError(f"lr_boost must be 1 or more, got {self.lr_boost}")
        for name in ("weight_decay", "grad_clip", "grad_clip_value", "lr_decay_after"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("lr_decay", "lr_decay_every"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.lr_decay > 1:
            raise ConfigError(f"lr_decay must be at most 1, got {self.lr_decay}")
        _one_of("init", self.init, INITS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("precision", self.precision, PRECISIONS)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be 0 to 2**63 - 1, got {self.seed}")

    def with_budget(self) -> Self:
        """The same, with the default budget where none is given."""
        if self.time is None and self.epochs is None and self.steps is None:
            return dataclasses.replace(self, time=600.0)
        return self


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 90s, 10m, 1.5h or 1h30m; a bare number is seconds.

    Raises:
        ConfigError: no duration, or none above 0.
    """
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(?:\.\d+)?", compact):
        compact += "s"
    if not _DURATION.fullmatch(compact):
        raise ConfigError(f"{text!r} is no duration; write it as 90s, 10m, 1.5h or 1h30m")
    seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)([smhd])", compact))
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"{text!r}: a time budget must be above 0")
    return seconds


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


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
