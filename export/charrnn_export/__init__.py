"""From trained weights to one ONNX file; knows torch and the runtime, not the trainer."""

from charrnn_export.errors import ExportError, ParityError, QualityError
from charrnn_export.export import DEFAULT_OPSET, Exported, export_model
from charrnn_export.step import StepModule
from charrnn_export.weights import GATES, STATES, LayerWeights, ModelWeights

__all__ = [
    "DEFAULT_OPSET",
    "GATES",
    "STATES",
    "ExportError",
    "Exported",
    "LayerWeights",
    "ModelWeights",
    "ParityError",
    "QualityError",
    "StepModule",
    "export_model",
]
