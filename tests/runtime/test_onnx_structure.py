"""What the format forbids in an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from charrnn_runtime import ModelFileError, read_model_file
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _external_without_location(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _external_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "hidden")
    tensor.external_data.add(key="location", value="x")
    model.graph.node.add(op_type="Constant", output=["k"]).attribute.append(helper.make_attribute("value", tensor))


def _custom_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil.ops"


def _custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="evil.ops", version=1)


def _control_flow(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.add(op_type="If").attribute.append(helper.make_attribute("then_branch", body))


def _control_flow_list(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.add(op_type="X").attribute.append(helper.make_attribute("branches", [body]))


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("", "F", [], [], [], []))


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _sparse_attribute(model: onnx.ModelProto) -> None:
    attribute = model.graph.node.add(op_type="Constant", output=["k"]).attribute.add(name="sparse_value")
    attribute.type = onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.values.external_data.add(key="location", value="x")


def _no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def _twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="charrnn.cell", value="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external, "'table' is in another file"),
        (_external_without_location, "'table' is in another file"),
        (_external_constant, "'hidden' is in another file"),
        (_custom_node, "operators of 'evil.ops'"),
        (_custom_opset, "operators of 'evil.ops'"),
        (_control_flow, "must not hold control flow"),
        (_control_flow_list, "must not hold control flow"),
        (_function, "must not hold functions"),
        (_training, "or training graphs"),
        (_sparse, "must not hold sparse"),
        (_sparse_attribute, "must not hold sparse"),
        (_no_graph, "holds no graph"),
        (_twice, "'charrnn.cell' stands twice"),
    ],
)
def test_what_the_format_forbids(tiny: TinyModel, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_model_file(tiny.data(change=change))
