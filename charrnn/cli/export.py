"""``charrnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from charrnn.inference.export import ExportedModel


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint (.pt) or a run folder (its best.pt); for --web also an .onnx file.")
    ],
    model: Annotated[
        Path | None, typer.Argument(help="The .onnx file to write; may be left out for --web and --triton.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a model repository for NVIDIA Triton into this folder.")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX opset of the graph, 18 to 23.")] = 18,
    dtype: Annotated[
        str, typer.Option(help="fp32; int8: a quarter of the size, and faster; fp16: half of it, for CUDA.")
    ] = "fp32",
    text: Annotated[
        list[str] | None, typer.Option(help="Text to measure int8 or fp16 on. Default: the model's validation text.")
    ] = None,
    max_loss_increase: Annotated[
        float, typer.Option(help="Nats per character by which int8 or fp16 may be worse.")
    ] = 0.01,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Write a file that fails the check too; it is marked.")
    ] = False,
    web: Annotated[Path | None, typer.Option(help="Folder for a site that samples in its visitors' browsers.")] = None,
    cdn: Annotated[bool, typer.Option("--cdn", help="Let the site load ONNX Runtime from a public network.")] = False,
) -> None:
    """Write a checkpoint as one self-contained ONNX file, and prove that it computes what was trained."""
    if web is not None:
        from charrnn.web.site import check_site

        check_site(web)
        if model is None and _write_site_of_model_file(checkpoint, web, cdn=cdn):
            return
    elif cdn or (model is None and triton is None):
        raise typer.BadParameter(
            "--cdn is for --web" if cdn else "name the .onnx file to write, or a folder: --web DIR or --triton DIR"
        )
    from charrnn.inference.export import export as export_model_file

    exported = export_model_file(
        checkpoint,
        model,
        opset=opset,
        dtype=dtype,
        text=text or (),
        max_loss_increase=max_loss_increase,
        unverified=unverified,
    )
    if triton is not None:
        served = _write_triton(triton, model or exported.checkpoint, exported)
        typer.echo(f"{served}: a model for NVIDIA Triton; serve it with: tritonserver --model-repository={triton}")
    typer.echo(exported)
    if not exported.info.verified:
        typer.echo(f"warning: {exported.info.parity['refusal']}; the file is marked as not verified", err=True)
    if web is not None:
        _write_site(exported.data, web, cdn=cdn)


def _write_site_of_model_file(path: Path, folder: Path, *, cdn: bool) -> bool:
    """Writes a site around a model file; returns False if the path is a checkpoint instead."""
    from charrnn_runtime import read_model_file

    from charrnn.inference.models import is_checkpoint
    from charrnn.runs.folder import find_checkpoint

    path = find_checkpoint(path)
    if is_checkpoint(path):
        return False
    _write_site(read_model_file(path).data, folder, cdn=cdn)
    return True


def _write_site(model: bytes, folder: Path, *, cdn: bool) -> None:
    from charrnn.web.site import write_site

    sizes = write_site(model, folder, cdn=cdn)
    typer.echo(
        f"{folder}: {len(sizes)} files, {sum(sizes.values()):,} bytes; put them on any web server, "
        f"or look at them here: python -m http.server --directory {folder}"
    )


def _write_triton(repository: Path, source: Path, exported: ExportedModel) -> Path:
    """The model's folder in a repository, named as the file or, for best.pt and its like, as the run."""
    from charrnn_export.triton import config_pbtxt

    from charrnn.errors import WriteError
    from charrnn.files import write_atomically

    name = source.absolute().parent.name if source.suffix == ".pt" else source.stem
    config = config_pbtxt(exported.info, name)
    folder = repository / name
    try:
        (folder / "1").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error
    write_atomically(folder / "1" / "model.onnx", exported.data)
    write_atomically(folder / "config.pbtxt", config.encode())
    return folder
