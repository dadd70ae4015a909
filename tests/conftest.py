"""What all tests share: one thread, fixed examples, the command line called in-process, and one small trained run."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Before torch is imported: its threads, and the library's below it, fight each other on a shared machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"  # where a test asks for several threads
# For the processes that tests start: without it, each of them compiles the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# rich wraps usage errors to the terminal's width and would cut names in two
os.environ["COLUMNS"] = "200"
os.environ["NO_COLOR"] = "1"

import charrnn_export.export as export_module
import onnx
import pytest
import torch
from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from hypothesis import settings

from charrnn.cli import main
from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.training import reporting
from charrnn.training.device import cpu_can_bf16
from charrnn.training.trainer import Trainer
from tests.forkserver import keep_operator_table

keep_operator_table()
torch.set_num_threads(1)
reporting.SAMPLE_LENGTH = 20  # the samples at each validation would take half of the time of the tiny runs
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("fixed")

NEEDS_BF16 = pytest.mark.skipif(not cpu_can_bf16(), reason="torch has no bf16 kernels for this processor")


# The files that take longest; they come first, so that no worker of ``make test`` begins one when the other is done.
LONG = ("test_environments.py", "test_parity.py", "test_distributed.py", "test_docs.py", "test_description.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files: the longest, those with slow tests, the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONG, item.path not in slow))


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    """Checks that a command ended with this exit code, and with these words on the standard error alone."""
    assert outcome.code == code, outcome
    for part in parts:
        assert part in outcome.err
    assert outcome.out == ""


def no_constant(name: str) -> Any:
    """For ``json.loads(parse_constant=…)``: NaN and Infinity are not JSON."""
    raise AssertionError(f"{name} is not JSON")


class Charrnn(Protocol):
    """The command line as a function: ``charrnn("train", path, "--steps", 3)``."""

    def __call__(self, *arguments: object, stdin: bytes = b"") -> Outcome: ...


@pytest.fixture
def charrnn(monkeypatch: pytest.MonkeyPatch) -> Charrnn:
    """Runs the entry point in this process; anything but a clean exit fails the test."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["charrnn", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            code: Any = 0
            try:
                main()
            except SystemExit as exit:
                code = exit.code
            texts = []
            for stream in streams.values():
                stream.flush()
                stream.buffer.seek(0)
                texts.append(stream.buffer.read().decode("utf-8", "surrogateescape"))
        assert code is None or isinstance(code, int)
        outcome = Outcome(code or 0, *texts)
        assert "Traceback" not in outcome.err
        return outcome

    return run


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache."""
    os.environ["CHARRNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _traces() -> Iterator[None]:
    """Steps of one form are traced once, because each trace takes a second; later ones get their weights.

    The parity check of each export shows that this gives the right graph. Tests of ``charrnn_export.trace`` call it
    directly; a test of a whole export that must trace asks for ``traced``.
    """
    traces: dict[tuple[Any, ...], onnx.ModelProto] = {}

    def trace_once(step: StepModule, *, opset: int) -> onnx.ModelProto:
        modules = tuple((name, type(module)) for name, module in step.named_modules())
        tensors = {name: t.numpy() for name, t in _tensors(step)}
        key = (opset, step.cell, modules, tuple((name, t.dtype, t.shape) for name, t in tensors.items()))
        # Tracing folds zeros away, and joins tensors that are equal.
        usual = len({t.tobytes() for t in tensors.values() if t.any()}) == len(tensors)
        if not usual or key not in traces:
            made = trace(step, opset=opset)
            if not usual or not tensors.keys() <= {constant.name for constant in made.graph.initializer}:
                return made
            traces[key] = made
        copy = onnx.ModelProto()
        copy.CopyFrom(traces[key])
        for constant in copy.graph.initializer:
            if constant.name in tensors:
                constant.raw_data = tensors[constant.name].tobytes()
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "trace", trace_once)
        yield


def _tensors(step: StepModule) -> Iterator[tuple[str, torch.Tensor]]:
    yield from step.named_parameters()
    yield from step.named_buffers()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each export of this test traces its step."""
    monkeypatch.setattr(export_module, "trace", trace)


@pytest.fixture(scope="session")
def text() -> str:
    """About 14,000 characters of made-up sentences over 24 distinct characters."""
    draw = random.Random(1)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "big", "dogs", "run", "over", "red", "hills", "sing"]
    return "\n".join(" ".join(draw.choices(words, k=8)).capitalize() + "." for _ in range(360))


@dataclass(frozen=True)
class Run:
    """A trained run and what it was trained on."""

    text: Path
    folder: Path
    best: Path
    model: Path


@pytest.fixture(scope="session")
def run(text: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A one-layer LSTM trained for 100 steps, its run folder and its exported model. Do not change the files."""
    from charrnn.inference.models import export_checkpoint
    from charrnn.runs.checkpoint import load_checkpoint

    folder = tmp_path_factory.mktemp("trained")
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    (folder / "run").mkdir()
    Trainer(**tiny(path), folder=folder / "run").train()
    model = folder / "model.onnx"
    best = folder / "run" / "best.pt"
    model.write_bytes(export_checkpoint(load_checkpoint(best), parity_steps=50).data)
    return Run(text=path, folder=folder / "run", best=best, model=model)


def tiny(path: Path, **changed: Any) -> dict[str, Any]:
    """Arguments of a Trainer for a model that trains in a second; ``changed`` goes to where its name is known."""
    values: dict[str, Any] = {"hidden_size": 32, "embedding_size": 16, "batch_size": 8, "seq_len": 16, "steps": 100}
    values |= {"warmup_steps": 10, "lr": 0.01, "precision": "fp32", "device": "cpu"} | changed
    if {"time", "epochs"} & changed.keys():
        del values["steps"]
    configs: dict[str, Any] = {}
    for name, kind in (("model_config", ModelConfig), ("data_config", DataConfig), ("train_config", TrainConfig)):
        configs[name] = kind(**{k: values.pop(k) for k in kind.__dataclass_fields__ if k in values})
    assert not values, values
    corpus: Corpus = read_corpus([str(path)], configs["data_config"])
    return {**configs, "corpus": corpus}


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(run: Run, tmp_path: Path) -> MakeTrainer:
    """Builds a Trainer of the tiny model: ``make_trainer("folder", steps=20, …)``."""

    def make(name: str = "made", *, text: Path | None = None, **arguments: Any) -> Trainer:
        own = {k: arguments.pop(k) for k in ("listener", "checkpoint", "weights", "cadence", "clock") if k in arguments}
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Trainer(**tiny(text or run.text, **arguments), folder=folder, **own)

    return make
