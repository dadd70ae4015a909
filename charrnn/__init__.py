"""Train character-level recurrent language models; export them; sample from them anywhere.

    import charrnn

    run = charrnn.train("book.txt", time="10m")
    print(run.sample("It was", length=200, temperature=0.8))
    run.export("book.onnx")

``train``, ``resume``, ``tune`` and ``export`` do what the commands of these names do, with the same options, defaults
and errors; ``load`` opens a run, a checkpoint or a model file. To embed a model in a program, use the package
``charrnn_runtime``, which does not need torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from charrnn.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime import CharrnnError

    from charrnn.events import Listener
    from charrnn.inference.export import ExportedModel, export
    from charrnn.inference.models import open_sampler as load
    from charrnn.training.run import Run, resume, train
    from charrnn.tuning.tune import Tuning, tune

__all__ = [
    "CharrnnError",
    "ExportedModel",
    "Listener",
    "Run",
    "Tuning",
    "__version__",
    "export",
    "load",
    "resume",
    "train",
    "tune",
]

# Imported when first used: importing the package alone is quick, and needs neither torch nor NumPy.
_PLACES = {
    "CharrnnError": ("charrnn_runtime", "CharrnnError"),
    "ExportedModel": ("charrnn.inference.export", "ExportedModel"),
    "Listener": ("charrnn.events", "Listener"),
    "Run": ("charrnn.training.run", "Run"),
    "export": ("charrnn.inference.export", "export"),
    "load": ("charrnn.inference.models", "open_sampler"),
    "resume": ("charrnn.training.run", "resume"),
    "train": ("charrnn.training.run", "train"),
    "Tuning": ("charrnn.tuning.tune", "Tuning"),
    "tune": ("charrnn.tuning.tune", "tune"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _PLACES.keys())
