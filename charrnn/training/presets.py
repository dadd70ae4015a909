"""Recipes by name, from presets.toml."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from dataclasses import dataclass
from typing import Any

from charrnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values for the fields of ModelConfig, DataConfig and TrainConfig."""

    description: str
    model: dict[str, Any]
    data: dict[str, Any]
    train: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """All values by field name."""
        return self.model | self.data | self.train


@functools.cache
def presets() -> dict[str, Preset]:
    """All recipes by name."""
    text = importlib.resources.files("charrnn.training").joinpath("presets.toml").read_text("utf-8")
    return {name: Preset(**values) for name, values in tomllib.loads(text).items()}


def preset(name: str) -> Preset:
    """The recipe of this name.

    Raises:
        ConfigError: no recipe has this name.
    """
    try:
        return presets()[name]
    except KeyError:
        raise ConfigError(f"there is no preset {name!r}; known: {', '.join(sorted(presets()))}") from None
