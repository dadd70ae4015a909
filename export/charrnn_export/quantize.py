"""int8: the big products of a traced step in whole numbers, with standard operators.

Weights are quantised for each output column, symmetric, 8 bits. Every product
takes hidden states, which lie in (-1, 1) by their formula, so the activations
need no measuring: their scale is 1/127 for good. That keeps the rows of a
batch apart (a scale measured at run time would be one for the whole batch, and
a text would depend on its neighbours), and integer sums are exact in any order.
The output layer stays float32: it is small, and the logits are made there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charrnn_export.errors import ExportError

if TYPE_CHECKING:
    import onnx

    from charrnn_export.step import StepModule

_LEVELS = 127
_ZERO_POINT = 128  # unsigned activations and signed weights: the pair that x86 processors multiply fastest


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 copy of a traced fp32 step.

    Raises:
        ExportError: the graph holds nothing to quantise.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    quantized = type(model)()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}

    def constant(name: str, value: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    scale = constant("activation.scale", np.array(1 / _LEVELS, np.float32))
    zero_point = constant("activation.zero_point", np.array(_ZERO_POINT, np.uint8))
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm" or "logits" in node.output:
            nodes.append(node)
            continue
        x, weight, bias = node.input
        columns, column_scale = _quantize_columns(numpy_helper.to_array(weights[weight]))
        graph.initializer.remove(weights[weight])
        integers = constant(f"{weight}.int8", columns)
        factors = constant(f"{weight}.scale", column_scale / np.float32(_LEVELS))
        name, out = f"{node.name}.int8", node.output[0]
        steps = [
            ("QuantizeLinear", [x, scale, zero_point]),
            ("MatMulInteger", [f"{name}.QuantizeLinear", integers, zero_point]),
            ("Cast", [f"{name}.MatMulInteger"]),
            ("Mul", [f"{name}.Cast", factors]),
            ("Add", [f"{name}.Mul", bias]),
        ]
        for kind, inputs in steps:
            output = out if kind == "Add" else f"{name}.{kind}"
            nodes.append(helper.make_node(kind, inputs, [output], f"{name}.{kind}"))
            if kind == "Cast":
                nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    if len(nodes) == len(graph.node):
        raise ExportError("the graph holds no product to quantise")
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # shapes of values that are no more
    checker.check_model(quantized, full_check=True)
    return quantized


def quantized_sequence(step: StepModule) -> dict[str, Any]:
    """``charrnn.sequence`` of the step's int8 copy; empty for a cell without an int8 operator in the runtime.

    ONNX's recurrent operators have no int8 form with the step's arithmetic, so each cell needs a
    graph of its own in the runtime; the LSTM, the usual cell, has one.
    """
    if step.cell.int8_operator is None:
        return {}
    names = step.sequence_weights()["weights"]
    for key in [key for key in names if key.endswith((".recurrent", ".weight")) and not key.startswith("head.")]:
        names |= {key: f"{names[key]}.int8", f"{key}.scale": f"{names[key]}.scale"}
    return {"operator": step.cell.int8_operator, "weights": names}


def _quantize_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``[K, N]`` → int8 ``[K, N]`` and a scale for each column ``[N]``."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / _LEVELS, 1.0).astype(np.float32)
    return np.clip(np.rint(weight / scale), -_LEVELS, _LEVELS).astype(np.int8), scale
