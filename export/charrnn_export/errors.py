"""Errors of the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from charrnn_runtime import CharrnnError


class ExportError(CharrnnError):
    """The model cannot be exported."""


class ParityError(ExportError):
    """The exported model does not compute what the trained one computes.

    Attributes:
        parity: the figures, as ``charrnn.parity`` holds them.
    """

    def __init__(self, message: str, *, parity: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.parity = parity


class QualityError(ExportError):
    """The quantised model is worse than allowed."""
