"""Sample from a charrnn model file with numpy and ONNX Runtime alone.

    from charrnn_runtime import Sampler
    sampler = Sampler("model.onnx")
    print(sampler.sample("ROMEO:", length=500, seed=7))

The model file is specified in the distribution's README. Imports are
lazy: numpy is imported with the first name below that needs it, ONNX Runtime
with the first sampler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from charrnn_runtime.errors import (
    BusyError,
    CharrnnError,
    DeviceError,
    HubError,
    ModelFileError,
    ModelOutputError,
    PatternError,
    SnapshotError,
    UnknownCharacterError,
    UsageError,
)

if TYPE_CHECKING:
    from charrnn_runtime.completing import Completion, Completions
    from charrnn_runtime.conversation import Conversation, Snapshot
    from charrnn_runtime.engine import Engine
    from charrnn_runtime.generation import Generation, Request
    from charrnn_runtime.generator_graph import generator_file
    from charrnn_runtime.jobs import Job, TokenScore
    from charrnn_runtime.model_file import ModelFile, ModelInfo, StateSpec, read_model_file
    from charrnn_runtime.options import SamplingOptions
    from charrnn_runtime.sampler import Sampler
    from charrnn_runtime.scoring import Score
    from charrnn_runtime.vocab import Vocabulary

__version__ = "0.1.0"

_LAZY = {
    "Completion": "completing",
    "Completions": "completing",
    "Conversation": "conversation",
    "Engine": "engine",
    "Generation": "generation",
    "Job": "jobs",
    "ModelFile": "model_file",
    "ModelInfo": "model_file",
    "Request": "generation",
    "Sampler": "sampler",
    "SamplingOptions": "options",
    "Score": "scoring",
    "TokenScore": "jobs",
    "Snapshot": "conversation",
    "StateSpec": "model_file",
    "Vocabulary": "vocab",
    "generator_file": "generator_graph",
    "read_model_file": "model_file",
}

__all__ = [
    "BusyError",
    "CharrnnError",
    "Completion",
    "Completions",
    "Conversation",
    "DeviceError",
    "Engine",
    "Generation",
    "HubError",
    "Job",
    "ModelFile",
    "ModelFileError",
    "ModelInfo",
    "ModelOutputError",
    "PatternError",
    "Request",
    "Sampler",
    "SamplingOptions",
    "Score",
    "Snapshot",
    "SnapshotError",
    "StateSpec",
    "TokenScore",
    "UnknownCharacterError",
    "UsageError",
    "Vocabulary",
    "__version__",
    "generator_file",
    "read_model_file",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
