"""The rounding bound: what float32 computes lies within it, and it is not much larger than that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from charrnn_export.rounding import UNIT, evaluate
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

N, H = 64, 200


def graph(*nodes: onnx.NodeProto, **constants: NDArray[Any]) -> onnx.ModelProto:
    """x float32 [N, H] → y."""
    values = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", H])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])
    return helper.make_model(
        helper.make_graph(list(nodes), "test", [x], [y], values),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def product() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    w, b = rng.standard_normal((H, H)).astype(np.float32), rng.standard_normal(H).astype(np.float32)
    return graph(helper.make_node("Gemm", ["x", "w", "b"], ["y"]), w=w, b=b)


def chained() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((H, H)).astype(np.float32) / 15
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w", "w_row"], ["c"], transB=1),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Mul", ["d", "x"], ["e"]),
        helper.make_node("Sub", ["e", "b"], ["y"]),
    ]
    return graph(*nodes, w=w, w_row=w[0])


def chosen() -> onnx.ModelProto:
    """As torch.lerp is exported: the formula depends on a comparison."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("Less", ["size", "half"], ["small"]),
        helper.make_node("Softplus", ["x"], ["a"]),
        helper.make_node("Exp", ["half"], ["b"]),
        helper.make_node("Where", ["small", "a", "b"], ["y"]),
    ]
    return graph(*nodes, half=np.array([0.5], np.float32))


@pytest.mark.parametrize("make", [product, chained, chosen])
def test_float32_stays_within_the_bound(make: Any) -> None:
    model = make()
    x = np.random.default_rng(0).standard_normal((N, H)).astype(np.float32)
    (bounded,) = evaluate(model, {"x": x})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert y.dtype == np.float32
    difference = np.abs(y - bounded.value)
    assert difference.max() > 0
    assert (difference <= bounded.total).all()
    assert bounded.total.mean() < 1000 * difference.mean()


def test_the_value_is_that_of_exact_arithmetic() -> None:
    model = chained()
    x = np.random.default_rng(0).standard_normal((N, H)).astype(np.float32)
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    b = np.tanh(x @ w)
    expected = x / (1 + np.exp(-(b @ w.T + w[0]))) - b
    np.testing.assert_allclose(evaluate(model, {"x": x})[0].value, expected, rtol=0, atol=1e-13)


def test_stored_bounds_what_rounding_the_constants_changes() -> None:
    """Constants moved by a unit of their size, each up or down."""
    model = chained()
    x = np.random.default_rng(0).standard_normal((N, H)).astype(np.float32)
    (bounded,) = evaluate(model, {"x": x})
    rng = np.random.default_rng(3)
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    row = w[0] * (1 + UNIT * rng.choice([-1.0, 1.0], H))
    w = w * (1 + UNIT * rng.choice([-1.0, 1.0], w.shape))
    b = np.tanh(x @ w)
    moved = x / (1 + np.exp(-(b @ w.T + row))) - b
    difference = np.abs(moved - bounded.value)
    assert (difference <= bounded.stored).all()
    assert (bounded.stored <= bounded.total).all()
    assert 0 < bounded.stored.mean() < 1000 * difference.mean()
