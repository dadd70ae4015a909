"""The traced graph: readable names, no annotations of the exporter, any batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from charrnn_export import ExportError, StepModule
from charrnn_export.trace import trace
from onnx.reference import ReferenceEvaluator

from tests.export.conftest import Trained

Traced = tuple[StepModule, onnx.ModelProto]


@pytest.fixture(scope="module", params=["lstm", "gru"])
def traced(request: pytest.FixtureRequest, trained: Callable[[str, int], Trained]) -> Traced:
    step = StepModule(trained(request.param, 2).weights)
    return step, trace(step, opset=18)


def test_names_are_those_of_the_modules(traced: Traced) -> None:
    step, model = traced
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(name.split(".")[0] in ("layer_0", "layer_1", "head", "step") for name in names)
    constants = {tensor.name for tensor in model.graph.initializer}
    assert set(step.state_dict()) <= constants
    assert [value.name for value in model.graph.input] == ["token", *step.state_names]
    assert [value.name for value in model.graph.output] == ["logits", *(f"next_{name}" for name in step.state_names)]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_dynamic(traced: Traced, batch: int) -> None:
    step, model = traced
    token = torch.arange(batch)
    states = [torch.full((batch, step.hidden_size), 0.1) for _ in step.state_names]
    inputs = {"token": token.numpy()} | {n: s.numpy() for n, s in zip(step.state_names, states, strict=True)}
    for found, expected in zip(ReferenceEvaluator(model).run(None, inputs), step(token, *states), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("opset", [17, 24])
def test_opsets_out_of_range(trained: Callable[[str, int], Trained], opset: int) -> None:
    with pytest.raises(ExportError, match="choose 18 to 23"):
        trace(StepModule(trained("rnn", 1).weights), opset=opset)
