"""A server on a free port, over small models made with onnx alone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from charrnn_runtime import Sampler, Vocabulary
from charrnn_server.app import make_app
from charrnn_server.models import Models
from charrnn_server.options import ServerOptions
from charrnn_server.serve import listen

from tests.runtime.conftest import TinyModel


class Served:
    """A running server."""

    def __init__(self, url: str, samplers: dict[str, Sampler], models: Models) -> None:
        self.url, self.samplers, self.models = url, samplers, models

    @property
    def sampler(self) -> Sampler:
        return next(iter(self.samplers.values()))

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, verify=False, **options)

    def complete(self, **body: Any) -> httpx.Response:
        with self.client() as client:
            answer = client.post("/v1/completions", json={"model": "tiny", **body})
        if answer.status_code >= 400:  # errors speak the API's own language, not that of Python or the command line
            assert not any(word in answer.json()["error"]["message"] for word in ("--", "unknown=", "None", "True"))
        return answer

    def described(self, name: str) -> dict[str, Any]:
        """The fields of a body in the server's description of itself."""
        with self.client() as client:
            schemas = client.get("/openapi.json").json()["components"]["schemas"]
        fields: dict[str, Any] = schemas[name]["properties"]
        return fields

    def quiet(self, patience: float = 5.0) -> bool:
        """Whether nothing is in work or waits, soon."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if all(engine.active + engine.waiting == 0 for engine in self.models.engines.values()):
                return True
            time.sleep(0.01)
        return False


def events(served: Served, **body: Any) -> list[dict[str, Any]]:
    """What a streamed completion sends, without the last event, [DONE]."""
    with (
        served.client() as client,
        client.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True, **body}) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def post(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """A whole answer, over a connection of its own."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    answer = await reader.read()
    writer.close()
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), rest


@contextmanager
def serving(samplers: dict[str, Sampler], *, send_buffer: int | None = None, **options: Any) -> Iterator[Served]:
    chosen = ServerOptions(port=0, **options)
    app = make_app(samplers, chosen)
    with listen(chosen) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # inherited by connections
        # Of a connection that is closed just when a slow client uses it again, the client sees a reset.
        config = uvicorn.Config(
            app, log_level="error", server_header=False, timeout_graceful_shutdown=1, timeout_keep_alive=60
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            until = time.monotonic() + 10
            while not server.started and time.monotonic() < until:
                time.sleep(0.005)
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", samplers, app.state.models)
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def characters() -> Sampler:
    return Sampler(TinyModel(Vocabulary.from_text("\n abcdefghij,.é漢<>&/")).data())


@pytest.fixture(scope="session")
def bytewise() -> Sampler:
    return Sampler(TinyModel(Vocabulary.from_text("", kind="bytes")).data())


@pytest.fixture(scope="session")
def labelled() -> Sampler:
    special = {"begin": 5, "end": 6, "label:Polish": 7, "label:Irish": 8}
    return Sampler(TinyModel(Vocabulary(symbols=(*map(ord, "abcde"), -1, -1, -1, -1), special=special)).data())


@pytest.fixture(scope="module")
def server(characters: Sampler, bytewise: Sampler, labelled: Sampler) -> Iterator[Served]:
    with serving({"tiny": characters, "bytes": bytewise, "labelled": labelled}) as served:
        yield served
