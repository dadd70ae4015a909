"""``charrnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from charrnn_runtime import ModelFile

    from charrnn.inference.export import ExportedModel


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint (.pt) or a run folder; for --web, --generator and --push also an .onnx file."
        ),
    ],
    model: Annotated[
        Path | None, typer.Argument(help="The .onnx file to write; may be left out for --web, --triton and --push.")
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
    generator: Annotated[
        bool,
        typer.Option("--generator", help="Also write NAME-generator.onnx, which draws whole texts in any language."),
    ] = False,
    web: Annotated[Path | None, typer.Option(help="Folder for a site that samples in its visitors' browsers.")] = None,
    cdn: Annotated[bool, typer.Option("--cdn", help="Let the site load ONNX Runtime from a public network.")] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/MODEL", help="Write the model file and a model card to the Hugging Face Hub."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="For --push: the model's licence on its card, such as mit. Default: none is stated."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="For --push: make the repository a private one, if it does not exist.")
    ] = False,
) -> None:
    """Write a checkpoint as one self-contained ONNX file, and prove that it computes what was trained."""
    if web is not None:
        from charrnn.web.site import check_site

        check_site(web)
    elif cdn:
        raise typer.BadParameter("--cdn is for --web")
    if push is not None:
        from charrnn.inference.hub import check_repository

        check_repository(push)
    elif license is not None or private:
        raise typer.BadParameter("--license and --private are for --push")
    if model is None and (web is not None or generator or push is not None) and (file := _model_file(checkpoint)):
        if web is not None:
            _write_site(file.data, web, cdn=cdn)
        if generator:
            _write_generator(file, checkpoint)
        if push is not None:
            _push(file, push, license=license, private=private)
        return
    if model is None and (generator or (web is None and triton is None and push is None)):
        raise typer.BadParameter(
            "name the .onnx file to write, a folder (--web DIR, --triton DIR), or --push USER/MODEL"
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
        for served in _write_triton(triton, model or exported.checkpoint, exported):
            typer.echo(f"{served}: a model for NVIDIA Triton; serve it with: tritonserver --model-repository={triton}")
    typer.echo(exported)
    if not exported.info.verified:
        typer.echo(f"warning: {exported.info.parity['refusal']}; the file is marked as not verified", err=True)
    if web is not None:
        _write_site(exported.data, web, cdn=cdn)
    if generator and model is not None:
        from charrnn_runtime import read_model_file

        _write_generator(read_model_file(exported.data), model)
    if push is not None:
        from charrnn_runtime import read_model_file

        _push(read_model_file(exported.data), push, license=license, private=private)


def _model_file(path: Path) -> ModelFile | None:
    """The model file of this path, or None if it is a checkpoint instead."""
    from charrnn_runtime import read_model_file

    from charrnn.inference.models import is_checkpoint
    from charrnn.runs.folder import find_checkpoint

    path = find_checkpoint(path)
    return None if is_checkpoint(path) else read_model_file(path)


def _write_generator(file: ModelFile, model: Path) -> None:
    from charrnn_runtime import generator_file

    from charrnn.files import write_atomically

    path = model.with_name(f"{model.stem}-generator.onnx")
    data = generator_file(file)
    write_atomically(path, data)
    typer.echo(f"{path}: {len(data):,} bytes; draws texts with ONNX Runtime alone, see runtime/README.md")


def _push(file: ModelFile, repo_id: str, *, license: str | None, private: bool) -> None:
    from charrnn.inference.hub import push

    typer.echo(push(file, repo_id, license=license, private=private))


def _write_site(model: bytes, folder: Path, *, cdn: bool) -> None:
    from charrnn.web.site import write_site

    sizes = write_site(model, folder, cdn=cdn)
    typer.echo(
        f"{folder}: {len(sizes)} files, {sum(sizes.values()):,} bytes; put them on any web server, "
        f"or look at them here: python -m http.server --directory {folder}"
    )


def _write_triton(repository: Path, source: Path, exported: ExportedModel) -> list[Path]:
    """The folders of the model and of its generator in a repository.

    They are named as the file or, for best.pt and its like, as the run.
    """
    from charrnn_export.triton import config_pbtxt, generator_config_pbtxt
    from charrnn_runtime import generator_file, read_model_file

    from charrnn.errors import WriteError
    from charrnn.files import write_atomically

    name = source.absolute().parent.name if source.suffix == ".pt" else source.stem
    models = {
        name: (config_pbtxt(exported.info, name), exported.data),
        f"{name}-generator": (
            generator_config_pbtxt(exported.info, f"{name}-generator"),
            generator_file(read_model_file(exported.data)),
        ),
    }
    for folder, (config, data) in models.items():
        try:
            (repository / folder / "1").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{repository / folder}: cannot be made: {error.strerror or error}") from error
        write_atomically(repository / folder / "1" / "model.onnx", data)
        write_atomically(repository / folder / "config.pbtxt", config.encode())
    return [repository / folder for folder in models]
