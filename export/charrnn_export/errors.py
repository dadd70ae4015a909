"""Errors of the exporter."""

from __future__ import annotations

from charrnn_runtime import CharrnnError


class ExportError(CharrnnError):
    """The model cannot be exported."""


class ParityError(ExportError):
    """The exported model does not compute what the trained one computes."""


class QualityError(ExportError):
    """The quantised model is worse than allowed."""
