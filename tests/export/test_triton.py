"""The model repository for NVIDIA Triton: its own parser accepts it, and what it describes is what the model does."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from charrnn_export import Exported, ExportError
from charrnn_export.triton import config_pbtxt, generator_config_pbtxt
from charrnn_runtime import Sampler, Vocabulary, generator_file, read_model_file
from google.protobuf import text_format

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

NUMPY = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32}


@pytest.fixture(scope="module")
def messages() -> Any:
    """tritonclient's model_config_pb2; the package around it wants grpc, which none of this needs."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tritonclient is not installed (pip install --no-deps tritonclient)")
    path = Path(next(iter(found.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """What Triton does with a configuration and a model, as its user guide tells: reshape, keep states, start anew."""

    def __init__(self, messages: Any, config: Any, model: bytes) -> None:
        self.enum, self.config = messages.DataType, config
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.kept: dict[tuple[int, str], Any] = {}

    def type_of(self, message: Any) -> Any:
        return NUMPY[self.enum.Name(message.data_type)]

    def infer(self, tokens: dict[int, int], *, start: bool) -> Any:
        """One batch of requests: sequence id → token, each sent as [1, 1]; logits by sequence [B, V]."""
        [entry] = self.config.input
        states = self.config.sequence_batching.state
        batch = np.array([[t] for t in tokens.values()], self.type_of(entry))
        assert list(batch.shape[1:]) == list(entry.dims)
        assert len(tokens) <= self.config.max_batch_size
        feeds = {entry.name: batch.reshape(len(batch), *entry.reshape.shape)}
        for state in states:
            [initial] = state.initial_state
            assert initial.zero_data
            zeros = np.zeros(list(initial.dims), self.type_of(initial))
            rows = [zeros if start else self.kept[sequence, state.input_name] for sequence in tokens]
            feeds[state.input_name] = np.stack(rows)
        asked = [self.config.output[0].name, *(state.output_name for state in states)]
        logits, *new = self.session.run(asked, feeds)
        assert list(logits.shape[1:]) == list(self.config.output[0].dims)
        for state, values in zip(states, new, strict=True):
            for sequence, row in zip(tokens, values, strict=True):
                assert list(row.shape) == list(state.dims)
                assert row.dtype == self.type_of(state)
                self.kept[sequence, state.input_name] = row
        return logits


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("gru", 2), ("rnn", 1)])
def test_two_steps_through_the_described_wiring_equal_the_samplers(
    messages: Any, exported: Callable[[str, int], Exported], cell: str, layers: int
) -> None:
    made = exported(cell, layers)
    config = text_format.Parse(config_pbtxt(made.info, "a-model.v2"), messages.ModelConfig())
    assert config.name == "a-model.v2"
    assert config.backend == "onnxruntime"
    server = Server(messages, config, made.data)
    # every input and output of the model is named, and none besides
    states = config.sequence_batching.state
    assert {i.name for i in server.session.get_inputs()} == {"token", *(s.input_name for s in states)}
    assert {o.name for o in server.session.get_outputs()} == {"logits", *(s.output_name for s in states)}

    sampler = Sampler(made.data)
    first, second = {7: 3, 9: 5}, {9: 1, 7: 4}  # two sequences, in another order at the second step
    got = [server.infer(first, start=True), server.infer(second, start=False)]
    for row, sequence in enumerate(first):
        state = sampler.initial_state(1)
        logits, state = sampler.step(np.array([first[sequence]]), state)
        np.testing.assert_allclose(got[0][row], logits[0], rtol=1e-5, atol=1e-6)
        logits, state = sampler.step(np.array([second[sequence]]), state)
        np.testing.assert_allclose(got[1][list(second).index(sequence)], logits[0], rtol=1e-5, atol=1e-6)
    again = server.infer({7: 3}, start=True)
    np.testing.assert_allclose(again[0], got[0][0], rtol=1e-5, atol=1e-6)


def test_the_generator_is_described_as_it_is(messages: Any, exported: Callable[[str, int], Exported]) -> None:
    made = exported("lstm", 2)
    config = text_format.Parse(generator_config_pbtxt(made.info, "m-generator"), messages.ModelConfig())
    session = onnxruntime.InferenceSession(
        generator_file(read_model_file(made.data)), providers=["CPUExecutionProvider"]
    )
    types = {"TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)", "TYPE_FP64": "tensor(double)"}
    for described, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert {value.name: types[messages.DataType.Name(value.data_type)] for value in described} == {
            value.name: value.type for value in real
        }
        for value in described:
            shape = next(r.shape for r in real if r.name == value.name)
            assert list(value.dims) == [size if isinstance(size, int) else -1 for size in shape]
    stored = json.loads(config.parameters["charrnn.vocab"].string_value)
    assert Vocabulary.from_json(stored) == made.info.vocabulary


def test_the_vocabulary_goes_along(messages: Any, exported: Callable[[str, int], Exported]) -> None:
    info = exported("lstm", 2).info
    config = text_format.Parse(config_pbtxt(info, "m"), messages.ModelConfig())
    stored = json.loads(config.parameters["charrnn.vocab"].string_value)
    assert Vocabulary.from_json(stored) == info.vocabulary
    assert int(config.parameters["charrnn.start_token"].string_value) == info.start_token


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", 'x"', "ü"])
def test_names_that_triton_could_not_serve(exported: Callable[[str, int], Exported], name: str) -> None:
    with pytest.raises(ExportError, match="cannot be a model's name"):
        config_pbtxt(exported("lstm", 2).info, name)


def test_the_command_writes_a_repository(messages: Any, charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    outcome = charrnn("export", run.folder, "--triton", tmp_path / "models")
    assert outcome.code == 0, outcome.err
    assert "tritonserver --model-repository=" in outcome.out
    folder = tmp_path / "models" / "run"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "1/model.onnx", "config.pbtxt",
    ]  # fmt: skip
    config = text_format.Parse((folder / "config.pbtxt").read_text("ascii"), messages.ModelConfig())
    assert config.name == "run"
    assert Sampler(folder / "1" / "model.onnx").sample(length=5, seed=1) == Sampler(run.model).sample(length=5, seed=1)


def test_a_file_and_a_repository_at_once(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    outcome = charrnn("export", run.best, tmp_path / "book.onnx", "--triton", tmp_path / "models")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "models/book/1/model.onnx").read_bytes() == (tmp_path / "book.onnx").read_bytes()


def test_neither_file_nor_repository(charrnn: Charrnn, run: Run) -> None:
    outcome = charrnn("export", run.folder)
    assert outcome.code == 2
    assert "--triton DIR" in outcome.err


def test_a_repository_that_cannot_be_made(charrnn: Charrnn, run: Run) -> None:
    outcome = charrnn("export", run.folder, "--triton", run.text)
    assert outcome.code == 1
    assert "cannot be made" in outcome.err
