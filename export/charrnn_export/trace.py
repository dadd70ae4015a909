"""Traces a step module to an ONNX model with readable names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from charrnn_export.errors import ExportError
from charrnn_export.step import StepModule

if TYPE_CHECKING:
    import onnx

MIN_OPSET, MAX_OPSET = 18, 23


def trace(step: StepModule, *, opset: int) -> onnx.ModelProto:
    """Traces the step with ``torch.onnx.export(dynamo=True)``; only the batch is dynamic.

    Raises:
        ExportError: the opset is not supported, or ONNX's checker finds the graph invalid.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} is not supported; choose {MIN_OPSET} to {MAX_OPSET} (default 18)")
    import onnx
    import onnx_ir

    names = step.state_names
    # Batch 2, because the exporter takes sizes 0 and 1 for constants.
    example = (torch.zeros(2, dtype=torch.int64), *(torch.zeros(2, step.hidden_size) for _ in names))
    batch = {0: torch.export.Dim("batch")}
    with _quiet():
        program = torch.onnx.export(
            step,
            example,
            dynamo=True,
            external_data=False,
            opset_version=opset,
            input_names=["token", *names],
            output_names=["logits", *(f"next_{name}" for name in names)],
            dynamic_shapes={"token": batch, "states": tuple(batch for _ in names)},
            verbose=False,
        )
    assert program is not None
    _rename(program.model)
    proto = onnx_ir.to_proto(program.model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return proto


def _rename(model: Any) -> None:
    """Names nodes and values after the modules of the step, and removes the exporter's annotations."""
    graph = model.graph
    keep = {value.name for value in (*graph.inputs, *graph.outputs)}
    used: set[str] = set()
    scope_of: dict[str, str] = {}  # value's name → scope of the node that made it
    for node in graph:
        scope = _scope(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
        if scope is None:  # a Split node, made from several nodes of the trace, has no scope
            scope = scope_of.get(node.inputs[0].name, "step")
        node.name = _unique(f"{scope}.{node.op_type}", used)
        for number, value in enumerate(node.outputs):
            if value.name not in keep:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{number}"
            scope_of[value.name] = scope
            value.metadata_props.clear()
        node.metadata_props.clear()
        node.doc_string = None
    for number, value in enumerate(v for v in tuple(graph.initializers.values()) if v.name.startswith("val_")):
        value.name = f"constant_{number}"
    graph.metadata_props.clear()
    model.metadata_props.clear()
    graph.name = "charrnn_step"
    graph.doc_string = None


def _scope(scopes: str) -> str | None:
    """The innermost module's path in the exporter's list of scopes, "['', 'layer_0', 'layer_0.x', 'node']"."""
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    return parts[-2] if len(parts) >= 3 else None


def _unique(name: str, used: set[str]) -> str:
    candidate, n = name, 1
    while candidate in used:
        n += 1
        candidate = f"{name}_{n}"
    used.add(candidate)
    return candidate


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporter's warnings, which are about torchvision and axis names. Errors are still shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
