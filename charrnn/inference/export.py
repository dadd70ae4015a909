"""Exporting a checkpoint to a model file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.errors import ConfigError
from charrnn.files import check_writable, write_atomically
from charrnn.inference.models import DTYPES, export_checkpoint, is_checkpoint
from charrnn.runs.folder import find_checkpoint

if TYPE_CHECKING:
    from charrnn_runtime import ModelInfo


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportedModel:
    """A model file, and what was found out about it; as a string, the lines that ``charrnn export`` prints.

    Attributes:
        checkpoint: the checkpoint that was exported.
        path: the model file, or None if none was written.
        data: its contents.
        info: what the file says about itself; ``info.parity`` tells how far it is from the trained
            model (charrnn.parity in runtime/README.md), ``info.quality`` what int8 or fp16 cost in nats per character.
        dtype: fp32, int8 or fp16.
        opset: ONNX opset of the graph.
        measured_on: the text that int8 or fp16 was measured on, in words.
    """

    checkpoint: Path
    path: Path | None
    data: bytes = field(repr=False)
    info: ModelInfo
    dtype: str
    opset: int
    measured_on: str

    def __str__(self) -> str:
        from charrnn_export.verify import REMARKABLE_GROWTH

        lines = [f"{self.path or 'model.onnx'}: {len(self.data):,} bytes, opset {self.opset}; {self._proof()}"]
        if quality := self.info.quality:
            whole, small = quality["float32"], quality[DTYPES[self.dtype]]
            lines.append(
                f"{self.dtype}: {small:.4f} nats/char where fp32 has {whole:.4f} "
                f"({small - whole:+.4f}), on {quality['tokens']:,} characters of {self.measured_on}"
            )
        if self.dtype == "fp16":
            lines.append("fp16: for CUDA, slow on a CPU")
        growth = self.info.parity["growth"]["own"]
        if growth is not None and growth >= REMARKABLE_GROWTH:
            lines.append(
                f"note: along its own text this model multiplies small differences by {growth:.2g} in 100 characters: "
                "in a browser, on a GPU or on another processor, one seed may give another text"
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _proof(self) -> str:
        """What the parity check has shown."""
        parity = self.info.parity
        if not self.info.verified:
            return "NOT VERIFIED"
        return (
            f"verified: one step is within {parity['one_step']:.1e} of the trained model in float64 "
            f"({parity['of_allowed']['onnx']:.0%} of what rounding allows), {parity['steps']:,} steps within "
            f"{parity['chain']:.1e}; the largest logit is {parity['largest_logit']:.3g}"
        )


def export(
    checkpoint: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    opset: int = 18,
    dtype: str = "fp32",
    text: str | Sequence[str] = (),
    max_loss_increase: float = 0.01,
    unverified: bool = False,
) -> ExportedModel:
    """Writes a checkpoint as one self-contained ONNX file, and proves that it computes what was trained.

    Args:
        checkpoint: a checkpoint (.pt), or a run folder for its best one.
        model: the .onnx file to write; None to get its contents only.
        opset: ONNX opset of the graph, 18 to 23.
        dtype: fp32; int8 for a quarter of the size and more speed; fp16 for half of the size, for CUDA.
        text: files to measure int8 or fp16 on; by default the validation part of the training text.
        max_loss_increase: by how many nats per character the loss of int8 or fp16 may be higher.
        unverified: write a file that fails the check all the same; it is marked.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: an option has a value that cannot be used.
        CorpusError: the text cannot be read.
        ExportError: the graph cannot be made, or does not compute what the model computes.
        QualityError: int8 or fp16 costs too much.
        WriteError: the file cannot be written.
    """
    from charrnn.runs.checkpoint import load_checkpoint

    path = None if model is None else Path(model)
    if path is not None:
        check_writable(path)
        if is_checkpoint(path):
            raise ConfigError(
                f"{path}: this is a checkpoint, or named like one; give the model file another name, *.onnx"
            )
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    source = find_checkpoint(Path(checkpoint))
    exported = export_checkpoint(
        load_checkpoint(source),
        opset=opset,
        dtype=DTYPES[dtype],
        text=[text] if isinstance(text, str) else text,
        max_loss_increase=max_loss_increase,
        unverified=unverified,
    )
    if path is not None:
        write_atomically(path, exported.data)
    return ExportedModel(
        checkpoint=source,
        path=path,
        data=exported.data,
        info=exported.info,
        dtype=dtype,
        opset=opset,
        measured_on="the text given" if text else "validation text",
    )
