"""``export_model``: makes a verified model file with a digest from trained weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from charrnn_runtime import ModelInfo, Sampler, StateSpec, Vocabulary, read_model_file
from charrnn_runtime.devices import onnxruntime_version
from charrnn_runtime.model_file import seal
from charrnn_runtime.session import OnnxCell, open_session
from charrnn_runtime.vocab import Ids

from charrnn_export.errors import ExportError, ParityError, QualityError
from charrnn_export.half import to_float16
from charrnn_export.quantize import quantize
from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from charrnn_export.verify import STEPS, SequenceForward, check_parity
from charrnn_export.weights import ModelWeights

if TYPE_CHECKING:
    import onnx

DEFAULT_OPSET = 18
MAX_LOSS_INCREASE = 0.01  # nats per character that int8 or float16 may be worse
_MIN_VALIDATION = 32  # tokens; a loss on fewer means little


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model file in memory: its bytes, and its metadata, which includes the figures of the parity check."""

    data: bytes
    info: ModelInfo


def export_model(
    weights: ModelWeights,
    vocabulary: Vocabulary,
    trained: SequenceForward,
    *,
    training: Mapping[str, Any],
    producer: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
    parity_steps: int = STEPS,
    parity_seed: int = 0,
    unverified: bool = False,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    validation: Sequence[Ids] = (),
    max_loss_increase: float = MAX_LOSS_INCREASE,
) -> Exported:
    """Builds, traces, verifies and seals a model file of format 1.

    The same weights and arguments give the same bytes.

    Args:
        weights: the trained weights.
        vocabulary: its tokens; as many as the embedding has rows.
        trained: the trained model's own forward, in float32 and float64, for the parity check (``verify.py``).
        training: summary of the training, plain JSON values.
        producer: names and versions of what made the file.
        opset: ONNX opset, 18 to 23.
        parity_steps, parity_seed: length and seed of the parity check.
        unverified: make the file even if the parity check fails; it is marked.
        dtype: type of the weights in the file. The parity check is made with float32 weights.
        validation: texts as token ids ``[n]`` each, without a start token; the last id may be the end
            token. The parity check runs along them. The loss of int8 or float16 is compared on them with
            that of float32; so these types need them, unless ``max_loss_increase`` is infinite. With
            65,536 tokens, the difference is known to about 0.0005 nats.
        max_loss_increase: nats per character by which the loss of int8 or float16 may exceed that of float32.

    Raises:
        ExportError: the graph cannot be made.
        ParityError: it does not compute what ``trained`` computes.
        QualityError: the loss of int8 or float16 is higher by more than ``max_loss_increase``.
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
    try:
        parity = check_parity(proto, info, step, trained, texts=validation, steps=parity_steps, seed=parity_seed)
    except ParityError as error:
        if not unverified:
            raise ParityError(
                f"{error}; nothing was written. Weights of a training that diverged can do this: use an earlier "
                "checkpoint. Otherwise the exporter or a library is at fault: please report it. To write the file "
                "all the same, marked as not verified: --unverified (unverified=True in Python)",
                parity=error.parity,
            ) from None
        parity = {**error.parity, "refusal": str(error)}
    info = replace(info, parity=parity)
    if dtype != "float32":
        proto, info = _smaller(proto, info, dtype, validation, max_loss_increase)
    for key, value in info.to_metadata().items():
        proto.metadata_props.add(key=key, value=value)
    data = seal(proto.SerializeToString(deterministic=True))
    return Exported(data=data, info=read_model_file(data).info)


def _smaller(
    proto: onnx.ModelProto,
    info: ModelInfo,
    dtype: Literal["float16", "int8"],
    validation: Sequence[Ids],
    max_loss_increase: float,
) -> tuple[onnx.ModelProto, ModelInfo]:
    tokens = sum(map(len, validation))
    measured = tokens >= _MIN_VALIDATION
    if not measured and max_loss_increase != math.inf:
        raise ExportError(
            f"{dtype} is compared with float32 on validation text before it is written: name some (--text)"
        )
    small = quantize(proto) if dtype == "int8" else to_float16(proto)
    info = replace(info, dtype=dtype)
    if not measured:
        return small, info
    nats = {name: _nats(model, info, validation) for name, model in (("float32", proto), (dtype, small))}
    cost = nats[dtype] - nats["float32"]
    if not cost <= max_loss_increase:  # NaN fails too
        raise QualityError(
            f"{dtype} costs {cost:.4f} nats per character ({nats['float32']:.4f} becomes {nats[dtype]:.4f}), "
            f"more than the {max_loss_increase:g} allowed; export float32, or allow it (--max-loss-increase)"
        )
    quality: dict[str, Any] = {name: round(value, 5) for name, value in nats.items()} | {"tokens": tokens}
    return small, replace(info, quality=quality)


def _nats(proto: onnx.ModelProto, info: ModelInfo, validation: Sequence[Ids]) -> float:
    """Mean nats per token."""
    sampler = Sampler.from_cell(OnnxCell(open_session(proto.SerializeToString(), device="cpu"), info), info)
    return -float(np.concatenate(sampler.score_many(validation)).mean())


def describe(step: StepModule, vocabulary: Vocabulary) -> ModelInfo:
    """The model file's metadata on the step's cell, vocabulary and states."""
    return ModelInfo(
        cell=step.cell.name,
        num_layers=step.num_layers,
        hidden_size=step.hidden_size,
        vocabulary=vocabulary,
        states=tuple(StateSpec(input=name, output=f"next_{name}", size=step.hidden_size) for name in step.state_names),
        start_token=vocabulary.start_token,
    )
