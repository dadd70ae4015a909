"""Replacing the matrix products of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from charrnn_export import ExportError
from charrnn_export.half import to_float16
from charrnn_export.products import Product, replace_products
from charrnn_export.quantize import quantize
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Change = Callable[[onnx.ModelProto], onnx.ModelProto]

RNG = np.random.default_rng(2)
X = RNG.uniform(-1, 1, (4, 6)).astype(np.float32)
W = (0.3 * RNG.standard_normal((6, 5))).astype(np.float32)
B = RNG.standard_normal(5).astype(np.float32)


def graph(operator: str, *, bias: bool, twice: bool = False, **attributes: Any) -> onnx.ModelProto:
    """``y = x @ w (+ b)``, perhaps a second product ``y2`` with the same weight, and the output layer."""
    inputs = ["x", "w", *(["b"] if bias else [])]
    nodes = [helper.make_node(operator, inputs, ["y"], "first", **attributes)]
    if twice:
        nodes.append(helper.make_node(operator, inputs, ["y2"], "second", **attributes))
    nodes.append(helper.make_node("MatMul", ["y", "head"], ["logits"], "head"))
    tensors = [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.eye(5, dtype=np.float32), "head")]
    tensors += [numpy_helper.from_array(B, "b")] if bias else []
    outputs = ["logits", "y", *(["y2"] if twice else [])]
    made = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 5]) for name in outputs],
        tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("change", "tolerance"), [(quantize, 0.05), (to_float16, 0.005)])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(("operator", "bias"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_products_with_and_without_a_bias(
    change: Change, tolerance: float, twice: bool, operator: str, bias: bool
) -> None:
    small = change(graph(operator, bias=bias, twice=twice))
    expected = X @ W + (B if bias else 0)
    for name in ("y", "y2") if twice else ("y",):
        got = np.asarray(next(iter(ReferenceEvaluator(small).run([name], {"x": X}))))
        np.testing.assert_allclose(got, expected, atol=tolerance)
        assert not np.array_equal(got, expected)
    stored = {tensor.name: tensor.data_type for tensor in small.graph.initializer}
    assert stored["head"] == TensorProto.FLOAT, "the output layer stays as it is"
    assert stored.get("w", TensorProto.FLOAT16) == TensorProto.FLOAT16


@pytest.mark.parametrize("attributes", [{"transB": 1}, {"transA": 1}, {"alpha": 2.0}, {"beta": 0.5}])
def test_products_of_another_form_are_refused(attributes: dict[str, Any]) -> None:
    for change in (quantize, to_float16):
        with pytest.raises(ExportError, match="first: a product in a form that"):
            change(graph("Gemm", bias=True, **attributes))


def test_a_graph_without_products_is_refused() -> None:
    model = graph("MatMul", bias=False)
    del model.graph.node[0]

    def replacement(graph: onnx.GraphProto, product: Product) -> list[onnx.NodeProto]:
        pytest.fail(f"{product.node} is the output layer")

    with pytest.raises(ExportError, match="no matrix product"):
        replace_products(model, replacement)
