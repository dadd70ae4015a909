"""Recurrent cells: one module for each cell, named after it, with all code that training needs for the cell.

A cell is a subclass of ``charrnn.cells.layer.Layer`` here, and a subclass of
``charrnn_export.cells.layer.StepLayer`` for export. Every module in this folder
is found by its name. A program may also register a class of its own before it
trains or loads a model. Importing this module does not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, TypeVar

from charrnn.errors import ConfigError

if TYPE_CHECKING:
    from charrnn.cells.layer import Layer

_SHARED = {"kernels", "layer", "native"}  # modules of this folder that are not cells
_registered: dict[str, type[Layer]] = {}
_L = TypeVar("_L", bound="type[Layer]")


def cell_names() -> tuple[str, ...]:
    """Names of all cells, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - _SHARED
    return tuple(sorted(modules | _registered.keys()))


def register_cell(layer: _L) -> _L:
    """Makes a cell known under the name that its step layer has; a class decorator."""
    _registered[layer.step.name] = layer
    return layer


def cell_layer(name: str) -> type[Layer]:
    """The layer class of a cell.

    Raises:
        ConfigError: no cell has this name.
    """
    if name not in cell_names():
        raise ConfigError(f"unknown cell {name!r}; known: {', '.join(cell_names())}")
    if name not in _registered:
        importlib.import_module(f"{__name__}.{name}")
    return _registered[name]
