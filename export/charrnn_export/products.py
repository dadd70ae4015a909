"""The matrix products of a traced step, and a copy of the step in which they are computed in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from charrnn_export.errors import ExportError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Product:
    """``output = x @ weight + bias``: names of values in the graph.

    Attributes:
        node: name of the node.
        x, weight, output: of its inputs and its output.
        bias: name of the addend; None for a product without one.
        values: of the weight, ``[K, N]``.
    """

    node: str
    x: str
    weight: str
    bias: str | None
    output: str
    values: NDArray[Any]


def replace_products(
    model: onnx.ModelProto, replacement: Callable[[onnx.GraphProto, Product], list[onnx.NodeProto]]
) -> onnx.ModelProto:
    """A copy of a step with other nodes for all products but the output layer's, which makes the logits.

    Args:
        model: a traced step.
        replacement: the nodes for a product; may add tensors to the copy's graph.

    Raises:
        ExportError: the graph has no such product, or one in a form that the exporter does not write.
    """
    from onnx import checker, numpy_helper

    copy = type(model)()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    found = False
    for node in model.graph.node:
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights or "logits" in node.output:
            nodes.append(node)
            continue
        transposed = any(a.name in ("transA", "transB") and a.i for a in node.attribute)
        if transposed or any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute):
            raise ExportError(f"{node.name}: a product in a form that the exporter does not write")
        x, weight, *bias = node.input
        product = Product(
            node=node.name,
            x=x,
            weight=weight,
            bias=bias[0] if bias else None,  # torch's exporter leaves out a bias of zeros
            output=node.output[0],
            values=numpy_helper.to_array(weights[weight]),
        )
        nodes += replacement(copy.graph, product)
        found = True
    if not found:
        raise ExportError("the graph has no matrix product whose weights could be made smaller")
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    del copy.graph.value_info[:]  # they describe values that were replaced
    checker.check_model(copy, full_check=True)
    return copy
