"""``charrnn serve``. Its options are made from the fields of the server's ``ServerOptions``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from charrnn_server.options import ServerOptions


def _with_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the command's ``**options`` become one option for each field of ``ServerOptions``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = get_type_hints(ServerOptions)
    parameters = [*own, *(_parameter(field, kinds[field.name]) for field in fields(ServerOptions))]
    # typer reads both the signature and the annotations.
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


def _parameter(field: Field[Any], kind: Any) -> inspect.Parameter:
    several = kind == tuple[str, ...]
    declared = typer.Option(help=field.metadata["help"], envvar=field.metadata["variable"], show_envvar=False)
    if kind is bool:  # without this, typer would add an option --no-…
        declared.param_decls = (f"--{field.name.replace('_', '-')}",)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if several else field.default,
        annotation=Annotated[list[str] | None if several else kind, declared],
    )


@_with_server_options
def serve(
    models: Annotated[list[Path], typer.Argument(help="Model files (.onnx), served by their names.")], **options: Any
) -> None:
    """Serve models: a playground at /, and OpenAI's completions at /v1."""
    from charrnn_server.serve import serve

    serve(models, ServerOptions.from_command_line(options))
