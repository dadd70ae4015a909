"""Text over HTTP: a WSGI application that any server takes, with nothing but the standard library.

    python examples/web_app.py model.onnx 8000
    curl 'http://localhost:8000/?prompt=ROMEO:&length=300&temperature=0.8&seed=7'

The text is streamed as it is drawn. Wrong arguments are the caller's fault
(400), and say what is wrong. In Flask, the same is a view that returns
``Response(sampler.stream(...))``; in FastAPI, a ``StreamingResponse``.
"""

from __future__ import annotations

import socketserver
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIServer, make_server

from charrnn_runtime import CharrnnError, Sampler, UsageError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

MAX_LENGTH = 10_000  # a request must not hold a thread for ever


def make_app(sampler: Sampler) -> WSGIApplication:
    """The application for one model; it may be called from many threads."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        try:
            seed = query.get("seed")
            pieces = sampler.stream(
                query.get("prompt", ""),
                length=min(int(query.get("length", "200")), MAX_LENGTH),
                temperature=float(query.get("temperature", "1")),
                seed=None if seed is None else int(seed),
            )
        except (CharrnnError, ValueError) as error:
            wrong = isinstance(error, (UsageError, ValueError))
            start_response("400 Bad Request" if wrong else "500 Internal Server Error", _TEXT)
            return [f"{error}\n".encode()]
        start_response("200 OK", _TEXT)
        return (piece.encode() for piece in pieces)

    return app


_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """One thread for each request."""

    daemon_threads = True


def main(path: str, port: int) -> None:
    """Serves until it is stopped."""
    with make_server("127.0.0.1", port, make_app(Sampler(path)), ThreadingServer) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
