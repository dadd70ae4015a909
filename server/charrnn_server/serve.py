"""Starts a server for some model files, and ends it at a signal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import CharrnnError
from charrnn_runtime.command_line import discard_unwritten

from charrnn_server.options import ServerOptions

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn

# Signals that end a server: from Ctrl-C, from kill and service managers, from a closed terminal (not on Windows).
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class ServerError(CharrnnError):
    """The server cannot be started."""


def serve(paths: Sequence[str | Path], options: ServerOptions) -> None:
    """Serves until one of ``SIGNALS`` arrives, then lets open requests end for three seconds and returns.

    Raises:
        CharrnnError: a model cannot be served.
        ServerError: the packages of the extra ``serve`` are missing, or the address cannot be listened on.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
        from uvicorn.protocols.http.auto import AutoHTTPProtocol
    except ImportError as error:
        raise ServerError(f"{error.name} is missing; run: pip install 'charrnn[serve]'") from error
    from charrnn_server.app import make_app
    from charrnn_server.models import load

    app = make_app(load(paths, options), options)
    with listen(options) as listener:
        _announce(options, listener.getsockname()[1])
        # Without a bound on the time for open requests an endless stream would keep the server running.
        # Without use_colors=False uvicorn asks standard output for its terminal, even if there is no standard output.
        config = uvicorn.Config(
            app,
            http=_with_header_timeout(AutoHTTPProtocol, options.stall),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
            use_colors=False,
        )
        server = uvicorn.Server(config)
        with _ended_by_signals(server):
            server.run([listener])


def _with_header_timeout(protocol: type[Any], seconds: float) -> type[Any]:
    """uvicorn's HTTP protocol, closing connections on which a request's headers do not arrive within some seconds.

    uvicorn itself waits for them without a limit, so that slow or silent clients could use up all connections.
    """

    class WithHeaderTimeout(protocol):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._update_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def connection_lost(self, error: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(error)

        def _update_timer(self) -> None:
            # uvicorn makes a cycle when all headers of a request are there.
            if self.cycle is not None and not self.cycle.response_complete:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            elif self._timer is None:  # not set anew for each byte
                self._timer = self.loop.call_later(seconds, self.transport.close)

    return WithHeaderTimeout


def _announce(options: ServerOptions, port: int) -> None:
    """Prints the address; a failure, such as a closed pipe or a full disk, is ignored."""
    host = options.host
    if options.every_interface:
        host = "127.0.0.1"
        if not options.allow_host:
            note = "note: to be addressed by another name than localhost, the server needs --allow-host NAME"
            with contextlib.suppress(OSError):
                print(note, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    for stream in (sys.stdout, sys.stderr):
        discard_unwritten(stream)


@contextlib.contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Within this context, each of ``SIGNALS`` ends the server in an orderly way, however often it arrives.

    uvicorn's own handler does not know SIGHUP, breaks off with a traceback at a second SIGINT, and afterwards sends
    the signal to the process once more.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    server.handle_exit = end  # type: ignore[assignment, method-assign]  # uvicorn sets this as the handler while it runs
    # nohup and shells without job control start a process in which signals are ignored: they stay ignored.
    previous = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is not a host name at all
        number = getattr(error, "errno", None) or 0  # below 0 if the name of the host is unknown
        about_port = number in (errno.EADDRINUSE, errno.EACCES)
        remedy = "choose another --port; 0 takes a free one" if about_port else "choose another --host"
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        raise ServerError(f"cannot listen on {options.host}:{options.port}: {reason}; {remedy}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # On Linux, accepted connections inherit this option; it ends those whose client never reads.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(options.stall * 1000, 2**31 - 1))
    return listener
