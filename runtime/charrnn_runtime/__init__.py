"""Sample from a charrnn model file with numpy and ONNX Runtime alone.

    from charrnn_runtime import Sampler
    sampler = Sampler("model.onnx")
    print(sampler.sample("ROMEO:", length=500, seed=7))

The model file is specified in the distribution's README.
"""

from charrnn_runtime.errors import (
    CharrnnError,
    DeviceError,
    ModelFileError,
    ModelOutputError,
    UnknownCharacterError,
    UsageError,
)
from charrnn_runtime.model_file import ModelInfo, StateSpec, read_model_file
from charrnn_runtime.sampler import Sampler, Score
from charrnn_runtime.sampling import SamplingOptions
from charrnn_runtime.vocab import Vocabulary

__all__ = [
    "CharrnnError",
    "DeviceError",
    "ModelFileError",
    "ModelInfo",
    "ModelOutputError",
    "Sampler",
    "SamplingOptions",
    "Score",
    "StateSpec",
    "UnknownCharacterError",
    "UsageError",
    "Vocabulary",
    "__version__",
    "read_model_file",
]

__version__ = "0.1.0"
