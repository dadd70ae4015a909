from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import charrnn_export
import numpy as np
import onnx
import pytest
import torch
from charrnn_export import Exported, ExportError, ModelWeights, ParityError, export_model
from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from charrnn_runtime import CharrnnError, Sampler, read_model_file
from onnx import numpy_helper
from torch import Tensor

if TYPE_CHECKING:
    from tests.export.conftest import Trained

CELLS = ("lstm", "gru", "rnn")


def test_public_names() -> None:
    assert charrnn_export.__all__ == sorted(charrnn_export.__all__, key=lambda n: (not n.isupper(), n))
    assert all(hasattr(charrnn_export, name) for name in charrnn_export.__all__)
    assert issubclass(ParityError, ExportError)
    assert issubclass(ExportError, CharrnnError)


@pytest.mark.parametrize("cell", CELLS)
def test_the_file_is_plain_onnx(cell: str, exported: Callable[[str, int], Exported]) -> None:
    model = onnx.ModelProto.FromString(exported(cell, 2).data)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    for tensor in model.graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
        assert numpy_helper.to_array(tensor).size


@pytest.mark.parametrize("cell", CELLS)
def test_names_can_be_read(cell: str, exported: Callable[[str, int], Exported]) -> None:
    graph = onnx.ModelProto.FromString(exported(cell, 2).data).graph
    states = ["h_0", "c_0", "h_1", "c_1"] if cell == "lstm" else ["h_0", "h_1"]
    assert [v.name for v in graph.input] == ["token", *states]
    assert [v.name for v in graph.output] == ["logits", *(f"next_{s}" for s in states)]
    readable = re.compile(r"(layer_[01]|head|step)\b[\w.]*")
    for name in [*(n.name for n in graph.node), *(i.name for i in graph.initializer)]:
        assert readable.fullmatch(name) or name.startswith("constant_"), name
    names = [n.name for n in graph.node]
    assert len(set(names)) == len(names)
    assert not any(n.metadata_props or n.doc_string for n in graph.node)


@pytest.mark.parametrize("cell", CELLS)
def test_only_the_batch_is_dynamic(cell: str, exported: Callable[[str, int], Exported]) -> None:
    graph = onnx.ModelProto.FromString(exported(cell, 2).data).graph
    for value in (*graph.input, *graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param
        assert all(d.HasField("dim_value") for d in rest)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_same_weights_same_bytes(trained: Callable[[str, int], Trained]) -> None:
    for cell in CELLS:
        assert trained(cell, 1).export(steps=3).data == trained(cell, 1).export(steps=3).data


@pytest.mark.usefixtures("traced")
def test_exporter_is_quiet(trained: Callable[[str, int], Trained], capfd: pytest.CaptureFixture[str]) -> None:
    trained("gru", 1).export(steps=3)
    assert capfd.readouterr() == ("", "")


def test_the_file_says_what_it_is(
    trained: Callable[[str, int], Trained], exported: Callable[[str, int], Exported]
) -> None:
    made, out = trained("lstm", 2), exported("lstm", 2)
    assert read_model_file(out.data).info == out.info
    info = out.info
    assert (info.cell, info.num_layers, info.hidden_size, info.opset) == ("lstm", 2, 24, 18)
    assert info.vocabulary == made.vocabulary
    assert [s.input for s in info.states] == ["h_0", "c_0", "h_1", "c_1"]
    assert info.weights_sha256 == made.weights.sha256()
    assert info.training == {"corpus": "none"}
    assert info.producer["torch"] == torch.__version__
    assert info.producer["tests"] == "1"
    assert info.verified
    assert info.parity["steps"] == 32
    assert 0 < info.parity["one_step"] < 1e-5


@pytest.mark.parametrize("opset", [17, 24, 0])
def test_opsets_that_are_not_supported(opset: int, trained: Callable[[str, int], Trained]) -> None:
    with pytest.raises(ExportError, match="choose 18 to 23"):
        trained("rnn", 1).export(opset=opset)


def test_a_newer_opset(trained: Callable[[str, int], Trained], exported: Callable[[str, int], Exported]) -> None:
    newer = trained("lstm", 2).export(opset=21, steps=3)
    assert newer.info.opset == 21
    text = Sampler(newer.data).sample("abc", length=100, seed=1)
    assert text == Sampler(exported("lstm", 2).data).sample("abc", length=100, seed=1)


def test_weights_fingerprint_sees_every_tensor(trained: Callable[[str, int], Trained]) -> None:
    weights = trained("gru", 1).weights
    seen = {weights.sha256()}
    for name, tensor in weights.named_tensors():
        changed = tensor.detach().clone()
        changed.view(-1)[-1] += 1e-3
        other: ModelWeights
        if name.startswith("layers."):
            layer = {**weights.layers[0], name.rpartition(".")[2]: changed}
            other = dataclasses.replace(weights, layers=(layer,))
        else:
            other = dataclasses.replace(weights, **{name: changed})  # type: ignore[arg-type]
        seen.add(other.sha256())
    assert len(seen) == 1 + len(list(weights.named_tensors()))


def test_large_logits_are_measured_by_their_size(trained: Callable[[str, int], Trained]) -> None:
    """A float32 near 1,000 has steps of 6e-5: an absolute tolerance would refuse a model for being sure."""
    made = trained("rnn", 2)
    weights = dataclasses.replace(made.weights, head_bias=made.weights.head_bias.detach() + 1000)
    forward = made.model.sequence_forward()

    def surer(tokens_TB: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, new = forward(tokens_TB, states)
        return logits + 1000, new

    out = export_model(weights, made.vocabulary, surer, training={}, producer={}, parity_steps=10)
    assert out.info.parity["largest_logit"] > 999
    assert 1e-5 < out.info.parity["one_step"] < 1e-3


def test_the_graph_is_small(trained: Callable[[str, int], Trained]) -> None:
    """Every node costs about 0.4 µs a character: nothing of the exporter's glue may creep in."""
    most = {"lstm": 12, "gru": 13, "rnn": 4}
    for cell in CELLS:
        model = trace(StepModule(trained(cell, 2).weights), opset=18)
        operators = [node.op_type for node in model.graph.node]
        assert len(operators) <= 2 * most[cell] + 2, operators
        assert not {"Transpose", "Slice", "Reshape", "Shape", "Cast", "Identity"} & set(operators)


def test_sampler_accepts_every_cell(exported: Callable[[str, int], Exported]) -> None:
    for cell in CELLS:
        sampler = Sampler(exported(cell, 3).data)
        texts = sampler.sample_batch(["a", "bcd"], length=60, seed=2)
        assert texts == [sampler.sample(p, length=60, seed=2, index=i) for i, p in enumerate(["a", "bcd"])]
        assert np.isfinite(sampler.score("abc").log_probs).all()
