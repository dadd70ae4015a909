"""int8: the matrix products of a traced step in integers, with standard operators.

Weights are quantised symmetrically to 8 bits, with a scale for each output
column. What is multiplied with them are hidden states, which lie in [-1, 1], so
their scale is always 1/63 and needs no calibration. A scale measured at
run time would be shared by the whole batch, so a text would depend on the other
texts of the batch. The output layer stays float32: it is small, and it makes the
logits.

States have 7 bits because x86 processors without VNNI add the products of two
neighbours in 16 bits, and cut off what is larger: 2 · 127 · 127 fits. So sums are
exact in any order, and the same on every processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charrnn_export.products import Product, replace_products

if TYPE_CHECKING:
    import onnx

_LEVELS = 127  # of a weight
_STATE_LEVELS = 63  # of a state
_ZERO_POINT = 64  # unsigned activations and signed weights: the pair that x86 processors multiply fastest


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 copy of a traced float32 step.

    Raises:
        ExportError: the graph has no matrix product.
    """
    from onnx import TensorProto, helper, numpy_helper

    scale, zero_point = "activation.scale", "activation.zero_point"

    def replacement(graph: onnx.GraphProto, product: Product) -> list[onnx.NodeProto]:
        columns, column_scale = _quantize_columns(product.values)
        weight = product.weight
        tensors: dict[str, NDArray[Any]] = {
            scale: np.array(1 / _STATE_LEVELS, np.float32),
            zero_point: np.array(_ZERO_POINT, np.uint8),
            f"{weight}.int8": columns,
            f"{weight}.scale": column_scale / np.float32(_STATE_LEVELS),
        }
        kept = {tensor.name: tensor for tensor in graph.initializer}
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in tensors.items() if name not in kept
        )
        if weight in kept:
            graph.initializer.remove(kept[weight])
        name = f"{product.node}.int8"
        steps = [
            ("QuantizeLinear", [product.x, scale, zero_point]),
            ("MatMulInteger", [f"{name}.QuantizeLinear", f"{weight}.int8", zero_point]),
            ("Cast", [f"{name}.MatMulInteger"]),
            ("Mul", [f"{name}.Cast", f"{weight}.scale"]),
        ]
        if product.bias:
            steps.append(("Add", [f"{name}.Mul", product.bias]))
        nodes = []
        for kind, inputs in steps:
            output = product.output if kind == steps[-1][0] else f"{name}.{kind}"
            nodes.append(helper.make_node(kind, inputs, [output], f"{name}.{kind}"))
            if kind == "Cast":
                nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        return nodes

    return replace_products(model, replacement)


def _quantize_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``[K, N]`` → int8 ``[K, N]`` and a scale for each column ``[N]``."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / _LEVELS, 1.0).astype(np.float32)
    return np.clip(np.rint(weight / scale), -_LEVELS, _LEVELS).astype(np.int8), scale
