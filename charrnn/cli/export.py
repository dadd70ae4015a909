"""``charrnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from charrnn_export import Exported


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
    max_cost: Annotated[float, typer.Option(help="Nats per character that int8 or fp16 may cost.")] = 0.01,
    web: Annotated[Path | None, typer.Option(help="Folder for a site that samples in its visitors' browsers.")] = None,
    cdn: Annotated[bool, typer.Option("--cdn", help="Let the site load ONNX Runtime from a public network.")] = False,
) -> None:
    """Write a checkpoint as one self-contained ONNX file, and prove that it computes the same."""
    if web is not None:
        from charrnn.web.site import check_site

        check_site(web)
        if model is None and _write_site_of_model_file(checkpoint, web, cdn=cdn):
            return
    elif cdn or (model is None and triton is None):
        raise typer.BadParameter(
            "--cdn is for --web" if cdn else "name the .onnx file to write, or a folder: --web DIR or --triton DIR"
        )
    from charrnn.files import check_writable, write_atomically

    if model is not None:
        check_writable(model)

    from charrnn.errors import ConfigError
    from charrnn.inference.models import DTYPES, export_checkpoint, is_checkpoint
    from charrnn.runs.checkpoint import load_checkpoint
    from charrnn.runs.folder import find_checkpoint

    source = find_checkpoint(checkpoint)
    if model is not None and is_checkpoint(model):
        raise ConfigError(f"{model}: this is a checkpoint, or named like one; give the model file another name, *.onnx")
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    exported = export_checkpoint(
        load_checkpoint(source), opset=opset, dtype=DTYPES[dtype], text=text or (), max_cost=max_cost
    )
    if triton is not None:
        served = _write_triton(triton, model or source, exported)
        typer.echo(f"{served}: a model for NVIDIA Triton; serve it with: tritonserver --model-repository={triton}")
    if model is not None:
        write_atomically(model, exported.data)
    parity = exported.info.parity
    typer.echo(
        f"{model or triton or 'model.onnx'}: {len(exported.data):,} bytes, opset {opset}; "
        f"after {parity['steps']:,} steps logits differ from training "
        f"by at most {parity['max_difference']:.1e} of the largest one "
        f"(allowed: {parity['tolerance']:.0e})"
    )
    if quality := exported.info.quality:
        whole, small = quality["float32"], quality[DTYPES[dtype]]
        where = "the text given" if text else "validation text"
        typer.echo(
            f"{dtype}: {small:.4f} nats/char where fp32 has {whole:.4f} "
            f"({small - whole:+.4f}), on {quality['tokens']:,} characters of {where}"
        )
    if dtype == "fp16":
        typer.echo(
            f"fp16: logits differ by at most {parity['float16']:.1e} of the largest one; for CUDA, slow on a CPU"
        )
    if web is not None:
        _write_site(exported.data, web, cdn=cdn)


def _write_site_of_model_file(path: Path, folder: Path, *, cdn: bool) -> bool:
    """A site around a file that is a model file already; False if it is no such file."""
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


def _write_triton(repository: Path, source: Path, exported: Exported) -> Path:
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
