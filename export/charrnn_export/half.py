"""float16: the matrix products of a traced step in half precision, for CUDA.

Only the weights of the products and the values that are multiplied with them are
float16. Gates, states, the table of the first layer and the output layer stay
float32. So the inputs and outputs are those of every model file, rounding errors
do not add up in the cell state of an LSTM, and logits keep their precision: near 20,
float16 has steps of 0.016. A GPU adds up such products in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from charrnn_export.errors import ExportError
from charrnn_export.products import Product, replace_products

if TYPE_CHECKING:
    import onnx

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a traced float32 step with float16 weights.

    Raises:
        ExportError: the graph has no matrix product, or a weight is beyond float16's range.
    """
    from onnx import TensorProto, helper, numpy_helper

    def replacement(graph: onnx.GraphProto, product: Product) -> list[onnx.NodeProto]:
        if not np.abs(product.values).max() <= _LARGEST:  # true for NaN, too
            raise ExportError(f"{product.weight}: a weight is beyond the range of float16; export fp32")
        for tensor in graph.initializer:
            if tensor.name == product.weight:
                tensor.CopyFrom(numpy_helper.from_array(product.values.astype(np.float16), product.weight))
        name = f"{product.node}.half"
        sums = f"{name}.product" if product.bias else product.output
        nodes = [
            helper.make_node("Cast", [product.x], [f"{name}.x"], f"{name}.Cast", to=TensorProto.FLOAT16),
            helper.make_node("MatMul", [f"{name}.x", product.weight], [f"{name}.MatMul"], f"{name}.MatMul"),
            helper.make_node("Cast", [f"{name}.MatMul"], [sums], f"{name}.Cast_1", to=TensorProto.FLOAT),
        ]
        if product.bias:
            nodes.append(helper.make_node("Add", [sums, product.bias], [product.output], f"{name}.Add"))
        return nodes

    return replace_products(model, replacement)
