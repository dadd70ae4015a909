"""Starts a server for some model files."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from charrnn_runtime import CharrnnError

from charrnn_server.options import ServerOptions


class ServerError(CharrnnError):
    """The server cannot be started."""


def serve(paths: Sequence[str | Path], options: ServerOptions) -> None:
    """Serves until it is interrupted.

    Raises:
        CharrnnError: a model cannot be served.
        ServerError: the packages of the extra ``serve`` are missing, or the address cannot be listened on.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ServerError(f"{error.name} is missing; run: pip install 'charrnn[serve]'") from error
    from charrnn_server.app import make_app
    from charrnn_server.models import load

    app = make_app(load(paths, options), options)
    with listen(options) as listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{listener.getsockname()[1]}/", flush=True)
        # Seconds for open streams to end after Ctrl-C; without a bound an endless one would hold the server.
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
        uvicorn.Server(config).run([listener])


def listen(options: ServerOptions) -> socket.socket:
    """The listening socket.

    Raises:
        ServerError: the address is in use, or is not an address of this machine.
    """
    try:
        listener = socket.create_server(
            (options.host, options.port),
            family=socket.AF_INET6 if ":" in options.host else socket.AF_INET,
            backlog=2048,
        )
    except OSError as error:
        raise ServerError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: ends connections whose client never reads; inherited by them
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, options.stall * 1000)
    return listener
