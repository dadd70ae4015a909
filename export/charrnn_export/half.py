"""float16: the big products of a traced step in half precision, for CUDA.

Only the weights of the products and what is multiplied with them are halved;
gates, states, the table of the first layer and the output layer stay float32.
So the file's inputs and outputs are those of every model file, the cell state
of an LSTM does not pile up rounding, and logits near 20 keep more than the two
decimals that float16 has there. A card adds up such products in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from charrnn_export.errors import ExportError

if TYPE_CHECKING:
    import onnx

_LARGEST = float(np.finfo(np.float16).max)


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a traced fp32 step with float16 weights.

    Raises:
        ExportError: the graph holds no product to halve, or a weight beyond float16's range.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    halved = type(model)()
    halved.CopyFrom(model)
    graph = halved.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    done: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights or "logits" in node.output:
            nodes.append(node)
            continue
        turned = any(a.name in ("transA", "transB") and a.i for a in node.attribute)
        if turned or any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute):
            raise ExportError(f"{node.name}: a product of another form than the exporter writes")
        x, weight, *bias = node.input
        if weight not in done:
            values = numpy_helper.to_array(weights[weight])
            if not np.abs(values).max() <= _LARGEST:  # NaN fails too
                raise ExportError(f"{weight}: a weight is beyond the range of float16; export fp32")
            weights[weight].CopyFrom(numpy_helper.from_array(values.astype(np.float16), weight))
            done.add(weight)
        name, out = f"{node.name}.half", node.output[0]
        product = f"{name}.product" if bias else out
        nodes += [
            helper.make_node("Cast", [x], [f"{name}.x"], f"{name}.Cast", to=TensorProto.FLOAT16),
            helper.make_node("MatMul", [f"{name}.x", weight], [f"{name}.MatMul"], f"{name}.MatMul"),
            helper.make_node("Cast", [f"{name}.MatMul"], [product], f"{name}.Cast_1", to=TensorProto.FLOAT),
        ]
        if bias:
            nodes.append(helper.make_node("Add", [product, bias[0]], [out], f"{name}.Add"))
    if not done:
        raise ExportError("the graph holds no product to halve")
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # shapes of values that are no more
    checker.check_model(halved, full_check=True)
    return halved
