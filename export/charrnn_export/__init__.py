"""Exports trained weights as one ONNX file. Depends on torch and the runtime, not on the trainer."""

from charrnn_export.cells.layer import LayerWeights, StepLayer
from charrnn_export.errors import ExportError, ParityError, QualityError
from charrnn_export.export import DEFAULT_OPSET, Exported, export_model
from charrnn_export.step import StepModule
from charrnn_export.weights import ModelWeights

__all__ = [
    "DEFAULT_OPSET",
    "ExportError",
    "Exported",
    "LayerWeights",
    "ModelWeights",
    "ParityError",
    "QualityError",
    "StepLayer",
    "StepModule",
    "export_model",
]
