"""``export_model``: weights in, a sealed and verified model file out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from charrnn_runtime import ModelInfo, StateSpec, Vocabulary, read_model_file
from charrnn_runtime.model_file import seal
from charrnn_runtime.session import onnxruntime_version

from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from charrnn_export.verify import STEPS, SequenceForward, check_parity
from charrnn_export.weights import ModelWeights

DEFAULT_OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model file in memory: its bytes and what it says of itself, parity included."""

    data: bytes
    info: ModelInfo


def export_model(
    weights: ModelWeights,
    vocabulary: Vocabulary,
    sequence: SequenceForward,
    *,
    training: Mapping[str, Any],
    producer: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
    parity_steps: int = STEPS,
) -> Exported:
    """Builds, traces, verifies and seals a model file of format 1.

    The same weights and arguments give the same bytes.

    Args:
        weights: the trained weights.
        vocabulary: its tokens; as many as the embedding has rows.
        sequence: the trained model's own forward over a sequence, float32, for the parity check.
        training: summary of the training, plain JSON values.
        producer: names and versions of what made the file.
        opset: ONNX opset, 18 to 23.
        parity_steps: length of the parity check.

    Raises:
        ExportError: the graph cannot be made.
        ParityError: it does not compute what ``sequence`` computes.
    """
    assert weights.vocab_size == len(vocabulary)
    step = StepModule(weights)
    proto = trace(step, opset=opset)
    info = replace(
        describe(step, vocabulary),
        opset=opset,
        weights_sha256=weights.sha256(),
        training=training,
        producer={**producer, "torch": torch.__version__, "onnxruntime": onnxruntime_version()},
    )
    parity = check_parity(proto.SerializeToString(), info, step, sequence, steps=parity_steps)
    info = replace(info, parity=parity)
    for key, value in info.to_metadata().items():
        proto.metadata_props.add(key=key, value=value)
    data = seal(proto.SerializeToString(deterministic=True))
    return Exported(data=data, info=read_model_file(data).info)


def describe(step: StepModule, vocabulary: Vocabulary) -> ModelInfo:
    """What the model file will say of the step's cell, vocabulary and states."""
    return ModelInfo(
        cell=step.cell,
        num_layers=step.num_layers,
        hidden_size=step.hidden_size,
        vocabulary=vocabulary,
        states=tuple(StateSpec(input=name, output=f"next_{name}", size=step.hidden_size) for name in step.state_names),
        start_token=vocabulary.start_token,
    )
