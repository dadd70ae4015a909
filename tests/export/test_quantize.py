from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from charrnn_export import Exported, ExportError, QualityError
from charrnn_export.quantize import _quantize_columns, quantize
from charrnn_runtime import Sampler
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

if TYPE_CHECKING:
    from tests.export.conftest import Trained

VALIDATION = np.random.default_rng(0).integers(0, 20, 4000)


def export_int8(made: Trained, *, max_loss_increase: float = 0.01) -> Exported:
    texts = np.split(VALIDATION, [7, 7, 2000])  # of any length
    return made.export(steps=10, dtype="int8", validation=texts, max_loss_increase=max_loss_increase)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_int8_is_close_small_and_standard(
    cell: str, trained: Callable[[str, int], Trained], exported: Callable[[str, int], Exported]
) -> None:
    out = export_int8(trained(cell, 2))
    model = onnx.ModelProto.FromString(out.data)
    assert {node.domain for node in model.graph.node} == {""}
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Gemm") == 1, "the output layer alone stays float32"
    assert kinds.count("MatMulInteger") >= 2
    assert out.info.dtype == "int8"
    assert out.info.quality["tokens"] == 4000
    assert abs(out.info.quality["int8"] - out.info.quality["float32"]) < 0.01
    whole, small = Sampler(exported(cell, 2).data), Sampler(out.data)
    windows = VALIDATION[:400].reshape(4, 100)
    difference = whole.score_windows(windows) - small.score_windows(windows)
    assert 1e-5 < np.abs(difference).max() < 0.1
    assert export_int8(trained(cell, 2)).data == out.data


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_int8_rows_do_not_touch_each_other(cell: str, trained: Callable[[str, int], Trained]) -> None:
    """A scale measured over the batch would couple its texts."""
    sampler = Sampler(export_int8(trained(cell, 2)).data)
    prompts = ["a", "bcd", "", "ponm", "abcabc", ".", "k,"]
    texts = sampler.sample_batch(prompts, length=200, seed=3)
    assert texts == [sampler.sample(p, length=200, seed=3, index=i) for i, p in enumerate(prompts)]
    for i, p in enumerate(prompts):
        assert "".join(sampler.stream(p, length=200, seed=3, index=i)) == texts[i]


def test_int8_that_costs_too_much_is_refused(trained: Callable[[str, int], Trained]) -> None:
    with pytest.raises(QualityError, match="more than the -1 allowed"):
        export_int8(trained("rnn", 1), max_loss_increase=-1)


def test_int8_needs_a_text(trained: Callable[[str, int], Trained]) -> None:
    made = trained("rnn", 1)
    with pytest.raises(ExportError, match="validation text"):
        made.export(steps=3, dtype="int8")


def test_columns_come_back_within_half_a_level() -> None:
    weight = np.random.default_rng(1).standard_normal((30, 7)).astype(np.float32)
    weight[:, 3] = 0
    weight[:, 4] *= 1e-3
    integers, scale = _quantize_columns(weight)
    assert (np.abs(integers * scale - weight) <= scale / 2 + 1e-7).all()
    assert np.abs(integers).max() == 127


def test_no_sum_is_cut_off() -> None:
    """Processors without VNNI add two products in 16 bits: the largest ones must fit."""
    states = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    product = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])
    weight = np.full((64, 16), 2.5, np.float32)
    weight[:, 1::2] *= -1
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", [states], [product], [numpy_helper.from_array(weight, "w")])
    model = quantize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in (np.ones((1, 64)), -np.ones((1, 64)), np.sign(weight.T[1:2])):
        (y,) = session.run(None, {"x": x.astype(np.float32)})
        np.testing.assert_allclose(y, x @ weight, rtol=1e-6)
