"""A small model with two states of different sizes, made with onnx alone, and its formula in numpy."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from charrnn_runtime import Job, ModelInfo, Sampler, StateSpec, Vocabulary
from charrnn_runtime.model_file import ModelFile, seal
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]
Forked = Callable[[Callable[[], object]], None]
SIZES = (8, 6)
# The beginning of a program that finds neither the trainer nor what only the trainer needs.
WITHOUT_TRAINER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'onnx', 'charrnn', 'charrnn_export', 'typer', 'rich'):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


@dataclass
class TinyModel:
    """h_0 = tanh(table[token] + h_0 U_0);  h_1 = tanh(h_0 W_1 + h_1 U_1);  logits = h_1 W + b."""

    vocabulary: Vocabulary
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        shapes = {
            "table": (len(self.vocabulary), 8),
            "U_0": (8, 8),
            "W_1": (8, 6),
            "U_1": (6, 6),
            "W": (6, len(self.vocabulary)),
            "b": (len(self.vocabulary),),
        }
        for name, shape in shapes.items():
            # Small recurrent weights: a chaotic cell would magnify the rounding of float32.
            scale = 0.3 if name.startswith("U") else 1.5
            self.weights[name] = (scale * rng.standard_normal(shape)).astype(np.float32)

    def logits(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[n]`` → float64 ``[n, vocab]``, from the zero state."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        h_0, h_1 = np.zeros(8), np.zeros(6)
        rows = []
        for token in ids:
            h_0 = np.tanh(w["table"][token] + h_0 @ w["U_0"])
            h_1 = np.tanh(h_0 @ w["W_1"] + h_1 @ w["U_1"])
            rows.append(h_1 @ w["W"] + w["b"])
        return np.array(rows)

    def info(self) -> ModelInfo:
        """What the file says of itself."""
        states = tuple(StateSpec(input=f"h_{i}", output=f"next_h_{i}", size=size) for i, size in enumerate(SIZES))
        return ModelInfo(
            cell="tiny",
            num_layers=2,
            hidden_size=8,
            vocabulary=self.vocabulary,
            states=states,
            start_token=self.vocabulary.start_token,
        )

    def proto(self, metadata: Mapping[str, str | None] | None = None) -> onnx.ModelProto:
        """The unsealed model; ``metadata`` replaces entries, None leaves one out."""

        def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        nodes = [
            helper.make_node("Gather", ["table", "token"], ["x_0"], "layer_0.Gather"),
            helper.make_node("MatMul", ["h_0", "U_0"], ["r_0"], "layer_0.MatMul"),
            helper.make_node("Add", ["x_0", "r_0"], ["s_0"], "layer_0.Add"),
            helper.make_node("Tanh", ["s_0"], ["next_h_0"], "layer_0.Tanh"),
            helper.make_node("MatMul", ["next_h_0", "W_1"], ["x_1"], "layer_1.MatMul"),
            helper.make_node("Gemm", ["h_1", "U_1", "x_1"], ["s_1"], "layer_1.Gemm"),
            helper.make_node("Tanh", ["s_1"], ["next_h_1"], "layer_1.Tanh"),
            helper.make_node("Gemm", ["next_h_1", "W", "b"], ["logits"], "head.Gemm"),
        ]
        real, whole = TensorProto.FLOAT, TensorProto.INT64
        states = list(enumerate(SIZES))
        graph = helper.make_graph(
            nodes,
            "tiny",
            [value("token", whole, "batch"), *(value(f"h_{i}", real, "batch", n) for i, n in states)],
            [
                value("logits", real, "batch", len(self.vocabulary)),
                *(value(f"next_h_{i}", real, "batch", n) for i, n in states),
            ],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        entries: dict[str, str | None] = {**self.info().to_metadata(), **(metadata or {})}
        for key, entry in entries.items():
            if entry is not None:
                model.metadata_props.add(key=key, value=entry)
        return model

    def data(self, metadata: Mapping[str, str | None] | None = None, change: Change | None = None) -> bytes:
        """The sealed file, with ``change`` applied before the seal."""
        model = self.proto(metadata)
        if change is not None:
            change(model)
        return seal(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return TinyModel(Vocabulary.from_text("\n abcdefghij,.é漢"))


@pytest.fixture(scope="session")
def tiny_of() -> Callable[[Vocabulary], TinyModel]:
    return TinyModel


@pytest.fixture(scope="session")
def sampler(tiny: TinyModel) -> Sampler:
    return Sampler(tiny.data())


@pytest.fixture
def forked() -> Forked:
    """Runs a function in a forked child; fails if it raises there, or does not end within 20 s."""

    def run(function: Callable[[], object]) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            message = ""
            try:
                signal.alarm(20)
                function()
            except BaseException:
                message = traceback.format_exc()
            finally:
                os.write(writing, message.encode()[-60_000:])
                os._exit(1 if message else 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            message = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        assert status == 0, message or f"the child ended with status {status}"

    return run


def wait_until(happened: Callable[[], bool], patience: float = 5.0) -> None:
    """Waits until something has happened; fails if it takes longer than ``patience`` seconds."""
    until = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.002)


def stepping(file: ModelFile | bytes) -> Sampler:
    """A sampler that only knows steps."""
    sampler = Sampler(file)
    sampler.cell.blocks = None
    return sampler


def wait_ended(job: Job, patience: float = 5.0) -> None:
    """``wait_until`` for the end of a job."""
    wait_until(lambda: job.ended, patience)
