"""``charrnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint (.pt) or a run folder (its best.pt).")],
    model: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    opset: Annotated[int, typer.Option(help="ONNX opset of the graph, 18 to 23.")] = 18,
    dtype: Annotated[
        str, typer.Option(help="fp32; int8: a quarter of the size, and faster; fp16: half of it, for CUDA.")
    ] = "fp32",
    text: Annotated[
        list[str] | None, typer.Option(help="Text to measure int8 or fp16 on. Default: the model's validation text.")
    ] = None,
    max_cost: Annotated[float, typer.Option(help="Nats per character that int8 or fp16 may cost.")] = 0.01,
) -> None:
    """Write a checkpoint as one self-contained ONNX file, and prove that it computes the same."""
    from charrnn.files import check_writable, write_atomically

    check_writable(model)

    from charrnn.checkpoint import load_checkpoint
    from charrnn.errors import ConfigError
    from charrnn.models import DTYPES, export_checkpoint
    from charrnn.run_folder import find_checkpoint

    source = find_checkpoint(checkpoint)
    if model.exists() and source.exists() and model.samefile(source):
        raise ConfigError(f"{model}: this is the checkpoint itself; give the model file another name")
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    exported = export_checkpoint(
        load_checkpoint(source), opset=opset, dtype=DTYPES[dtype], text=text or (), max_cost=max_cost
    )
    write_atomically(model, exported.data)
    parity = exported.info.parity
    typer.echo(
        f"{model}: {len(exported.data):,} bytes, opset {opset}; after {parity['steps']:,} steps logits differ from "
        f"training by at most {parity['max_difference']:.1e} of the largest one (allowed: {parity['tolerance']:.0e})"
    )
    if quality := exported.info.quality:
        whole, small = quality["float32"], quality[DTYPES[dtype]]
        typer.echo(
            f"{dtype}: {small:.4f} nats/char where fp32 has {whole:.4f} "
            f"({small - whole:+.4f}), on {quality['tokens']:,} characters of validation text"
        )
    if dtype == "fp16":
        typer.echo(
            f"fp16: logits differ by at most {parity['float16']:.1e} of the largest one; for CUDA, slow on a CPU"
        )
