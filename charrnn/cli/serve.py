"""``charrnn serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from charrnn_server.options import ServerOptions as O


def serve(
    models: Annotated[list[Path], typer.Argument(help="Model files (.onnx), served by their names.")],
    host: Annotated[str, typer.Option(help=O.help("host"))] = O.host,
    port: Annotated[int, typer.Option(help=O.help("port"))] = O.port,
    api_key: Annotated[str | None, typer.Option(help=O.help("api_key"), envvar="CHARRNN_API_KEY")] = None,
    public: Annotated[bool, typer.Option("--public", help=O.help("public"))] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help=O.help("allow_host"))] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help=O.help("allow_origin"))] = None,
    streams: Annotated[int, typer.Option(help=O.help("streams"))] = O.streams,
    queue: Annotated[int, typer.Option(help=O.help("queue"))] = O.queue,
    max_prompt: Annotated[int, typer.Option(help=O.help("max_prompt"))] = O.max_prompt,
    max_tokens: Annotated[int, typer.Option(help=O.help("max_tokens"))] = O.max_tokens,
    max_choices: Annotated[int, typer.Option(help=O.help("max_choices"))] = O.max_choices,
    stall: Annotated[int, typer.Option(help=O.help("stall"))] = O.stall,
    threads: Annotated[int, typer.Option(help=O.help("threads"))] = O.threads,
) -> None:
    """Serve models: a playground at /, and OpenAI's completions at /v1."""
    from charrnn_server.serve import serve

    options = O(
        host=host,
        port=port,
        api_key=api_key or None,
        public=public,
        allow_host=tuple(allow_host or ()),
        allow_origin=tuple(allow_origin or ()),
        streams=streams,
        queue=queue,
        max_prompt=max_prompt,
        max_tokens=max_tokens,
        max_choices=max_choices,
        stall=stall,
        threads=threads,
    )
    serve(models, options)
