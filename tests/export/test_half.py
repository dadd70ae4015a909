"""float16 weights: computed on the CPU here, where ONNX Runtime can; a card computes the same operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from charrnn_export import Exported, ExportError, QualityError
from charrnn_export.half import to_float16
from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from charrnn_runtime import Sampler
from onnx import TensorProto

if TYPE_CHECKING:
    from tests.export.conftest import Trained

CELLS = ("lstm", "gru", "rnn")
VALIDATION = np.random.default_rng(0).integers(0, 20, 2000)


def export_half(made: Trained, *, max_loss_increase: float = 0.01) -> Exported:
    return made.export(
        steps=30, dtype="float16", validation=list(VALIDATION.reshape(8, 250)), max_loss_increase=max_loss_increase
    )


@pytest.mark.parametrize("cell", CELLS)
def test_half_is_close_standard_and_runs_on_a_cpu(
    cell: str,
    trained: Callable[[str, int], Trained],
    exported: Callable[[str, int], Exported],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = export_half(trained(cell, 2))
    model = onnx.ModelProto.FromString(out.data)
    assert {node.domain for node in model.graph.node} == {""}
    # The contract's border: float32 states and logits.
    values = [*model.graph.input, *model.graph.output]
    assert {v.type.tensor_type.elem_type for v in values if v.name != "token"} == {TensorProto.FLOAT}
    to_float16d = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert to_float16d == {n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    assert [n.name for n in model.graph.node if n.op_type == "Gemm"] == ["head.Gemm"]
    assert out.info.dtype == "float16"
    assert out.info.quality["tokens"] == 2000
    assert abs(out.info.quality["float16"] - out.info.quality["float32"]) < 1e-3
    whole, small = Sampler(exported(cell, 2).data), Sampler(out.data)
    assert "float16 weights are for CUDA" in caplog.text
    windows = VALIDATION[:400].reshape(4, 100)
    difference = whole.score_windows(windows) - small.score_windows(windows)
    assert 1e-6 < np.abs(difference).max() < 2e-2
    prompts = ["a", "bcd", "", "ponm", "abcabc", ".", "k,"]
    texts = small.sample_batch(prompts, length=60, seed=3)
    assert texts == [small.sample(p, length=60, seed=3, index=i) for i, p in enumerate(prompts)]
    assert export_half(trained(cell, 2)).data == out.data


def test_half_that_costs_too_much_is_refused(trained: Callable[[str, int], Trained]) -> None:
    with pytest.raises(QualityError, match=r"float16 costs .* more than the -1 allowed"):
        export_half(trained("rnn", 1), max_loss_increase=-1)


def test_weights_beyond_the_range_are_refused(trained: Callable[[str, int], Trained]) -> None:
    weights = trained("rnn", 2).weights
    for value in (1e5, math.nan):
        large = weights.layers[1]["weight_hh"].detach().clone()
        large[0, 0] = value
        layers = (weights.layers[0], {**weights.layers[1], "weight_hh": large})
        with pytest.raises(ExportError, match="beyond the range of float16"):
            to_float16(trace(StepModule(dataclasses.replace(weights, layers=layers)), opset=18))


def test_without_text_only_where_any_cost_is_allowed(trained: Callable[[str, int], Trained]) -> None:
    made = trained("rnn", 1)
    with pytest.raises(ExportError, match="float16 is compared with float32 on validation text"):
        made.export(steps=3, dtype="float16")
    out = made.export(steps=3, dtype="float16", max_loss_increase=math.inf)
    assert (out.info.dtype, out.info.quality) == ("float16", {})
