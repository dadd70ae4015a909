"""What a search varies, and in what measure: factors and offsets relative to the recipe's own choice.

The recipe chooses a size, a dropout and so on for the budget that a model is trained with. A search tries settings at
short budgets and trains the winner at a long one, where absolute values would not fit: a size that is best for a
minute is too small for an hour. So a trial is a change of the recipe's choice, for example "1.4 times the hidden size,
0.1 more dropout", and the same change is made to what the recipe chooses for each budget.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from charrnn.config import BUDGETS, DROPOUTS, ModelConfig, TrainConfig, options
from charrnn.errors import ConfigError

Change = Mapping[str, Any]  # by the name of the option: a factor, an offset, a power of two or a value


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Whole:
    """A whole number between these, which are allowed."""

    low: int
    high: int


@dataclass(frozen=True)
class Real:
    """A number between these; with ``log``, factors are as likely as their inverses."""

    low: float
    high: float
    log: bool = False


RANGES: dict[str, Choices | Whole | Real] = {
    "cell": Choices(("lstm", "gru")),  # the value itself
    "num_layers": Whole(0, 1),  # more layers; the width shrinks so that as many parameters remain
    "hidden_size": Real(0.5, 2.0, log=True),  # factor
    "dropout": Real(-0.2, 0.3),  # offset
    "weight_dropout": Real(-0.2, 0.2),  # the same
    "seq_len": Whole(-1, 1),  # power of two by which to multiply
    "batch_size": Whole(-1, 1),  # the same
    "lr": Real(0.4, 2.5, log=True),  # factor
    "weight_decay": Real(0.3, 3.0, log=True),  # factor
}
NEUTRAL: dict[str, Any] = {
    "cell": "lstm", "num_layers": 0, "hidden_size": 1.0, "dropout": 0.0, "weight_dropout": 0.0, "seq_len": 0,
    "batch_size": 0, "lr": 1.0, "weight_decay": 1.0,
}  # fmt: skip
# Changes of one setting that are tried first. They show which settings matter, even to a search of few trials.
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"dropout": 0.1}, {"hidden_size": 1.4}, {"lr": 1.4}, {"batch_size": -1}, {"num_layers": 1}, {"hidden_size": 0.7},
    {"weight_decay": 1.7}, {"lr": 0.7}, {"seq_len": 1}, {"cell": "gru"}, {"dropout": -0.1}, {"batch_size": 1},
    {"weight_decay": 0.6}, {"seq_len": -1}, {"weight_dropout": 0.1},
)  # fmt: skip
MOST_DROPOUT = 0.8
# Options that are always written out; a run would choose them anew if they were left out.
ALWAYS = (*NEUTRAL, "embedding_size", "warmup_steps", "lr_boost")


def check_free(given: Collection[str]) -> None:
    """Raises ConfigError if the user has fixed all settings that a search varies."""
    if RANGES.keys() <= set(given):
        raise ConfigError(f"nothing is left to search for: {', '.join(RANGES)} are all given; use charrnn train")


def first_changes(given: Collection[str]) -> list[dict[str, Any]]:
    """The changes that are tried first: none at all, which is the recipe itself, then the neighbours of that."""
    free = {name: value for name, value in NEUTRAL.items() if name not in given}
    return [free, *(free | change for change in NEIGHBOURS if change.keys() <= free.keys())]


def is_neutral(change: Change) -> bool:
    """Whether a change leaves the recipe as it is."""
    return all(value == NEUTRAL[name] for name, value in change.items())


def described(change: Change) -> str:
    """A change in words, such as "hidden size × 1.4, dropout + 0.1"."""
    words = []
    for name, value in change.items():
        if value == NEUTRAL[name]:
            continue
        label = name.replace("_", " ")
        if name == "cell":
            words.append(value)
        elif name in (*DROPOUTS, "num_layers"):
            words.append(f"{label} {'+' if value > 0 else '-'} {abs(value):.2g}")
        else:
            words.append(f"{label} × {2.0**value if isinstance(value, int) else value:.2g}")
    return ", ".join(words) or "the recipe"


def settled(model: ModelConfig, train: TrainConfig, change: Change) -> dict[str, Any]:
    """The options of ``charrnn train`` for the recipe's choice with a change.

    Args:
        model, train: what the recipe has chosen for the budget.
        change: see ``RANGES``; settings that it does not name stay.

    Returns:
        Every option that differs from its default value, and those that the recipe chooses; but no budget.
    """
    by = {**NEUTRAL, "cell": model.cell, **change}
    layers = model.num_layers + by["num_layers"]
    width = model.hidden_size * by["hidden_size"] * math.sqrt(model.num_layers / layers)
    if {"hidden_size", "num_layers"} & {name for name in change if change[name] != NEUTRAL[name]}:
        width = max(8, 8 * round(width / 8))
    values = model.to_json() | train.to_json()
    values |= {"cell": by["cell"], "num_layers": layers, "hidden_size": round(width)}
    for name in DROPOUTS:
        values[name] = min(max(round(values[name] + by[name], 3), 0.0), max(MOST_DROPOUT, values[name]))
    for name in ("batch_size", "seq_len"):
        values[name] = max(1, round(values[name] * 2.0 ** by[name]))
    for name in ("lr", "weight_decay"):
        values[name] = values[name] if by[name] == 1 else float(f"{values[name] * by[name]:.3g}")
    known = {option.name: option.default for config in (ModelConfig, TrainConfig) for option in options(config)}
    return {
        name: values[name]
        for name, default in known.items()
        if name not in BUDGETS and values[name] is not None and (name in ALWAYS or values[name] != default)
    }


def command(texts: Collection[str], options: Mapping[str, Any]) -> list[str]:
    """The words of a command that trains with these options."""
    words = ["charrnn", "train", *texts]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            words += [option, f"{value:g}s" if name == "time" else str(value)]
    return words
