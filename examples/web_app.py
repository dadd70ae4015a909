"""Text over HTTP with FastAPI: streamed as it is drawn, bounded input, one Sampler for all requests.

    pip install fastapi uvicorn "charrnn-runtime[cpu]"
    python examples/web_app.py model.onnx 8000
    curl -N http://localhost:8000/stream -H 'Content-Type: application/json' -d '{"prompt": "ROMEO:", "seed": 7}'

Drawing takes a processor, and one processor does one text at a time: no more
than ``MAX_TEXTS`` are in work at once, and a request beyond them is told to
come back (503) instead of slowing all others. A client who goes away ends its
text. Wrong arguments are the caller's fault (422), and say what is wrong.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated

import uvicorn
from charrnn_runtime import CharrnnError, Sampler, UsageError
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import Receive, Scope, Send

MAX_LENGTH = 10_000  # a request must not hold a thread for ever
MAX_TEXTS = 2 * (os.cpu_count() or 1)
FLUSH_SECONDS = 0.02  # a piece of text is a character: sent one by one, most of the time would go into sending

Stop = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class TextRequest(BaseModel):
    """What a client may ask for; anything else is refused."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field("", max_length=MAX_LENGTH)
    length: int = Field(200, ge=1, le=MAX_LENGTH)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    stop: list[Stop] = Field([], max_length=10)
    seed: int | None = Field(None, ge=0, lt=2**64)

    def pieces(self, sampler: Sampler) -> Iterator[str]:
        """The text, drawn as it is asked for; arguments are checked at once."""
        return sampler.stream(self.prompt, **self.model_dump(exclude={"prompt"}))


def make_app(sampler: Sampler) -> FastAPI:
    """The application for one model."""
    app = FastAPI(title="charrnn")
    room = threading.BoundedSemaphore(MAX_TEXTS)

    @app.exception_handler(CharrnnError)
    def explain(_: Request, error: CharrnnError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422 if isinstance(error, UsageError) else 500)

    def place() -> None:
        if not room.acquire(blocking=False):
            raise HTTPException(503, "all places are taken; try again", headers={"Retry-After": "1"})

    # Plain functions: FastAPI runs them, and the drawing of a StreamingResponse, in its thread pool.
    @app.post("/generate")
    def generate(wanted: TextRequest) -> dict[str, str]:
        pieces = wanted.pieces(sampler)
        place()
        try:
            return {"text": "".join(pieces)}
        finally:
            room.release()

    @app.post("/stream")
    def stream(wanted: TextRequest) -> StreamingResponse:
        pieces = wanted.pieces(sampler)
        place()
        return _InPlace(_bundles(pieces), room)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"model": sampler.info.cell, "device": sampler.device}

    return app


class _InPlace(StreamingResponse):
    """Gives its place back when it ends, however it does: a client who goes away cancels it."""

    def __init__(self, pieces: Iterator[str], room: threading.BoundedSemaphore) -> None:
        super().__init__(pieces, media_type="text/plain; charset=utf-8")
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._room.release()


def _bundles(pieces: Iterator[str]) -> Iterator[str]:
    bundle: list[str] = []
    due = time.monotonic()  # the first character at once
    for piece in pieces:
        bundle.append(piece)
        if time.monotonic() >= due:
            yield "".join(bundle)
            bundle.clear()
            due = time.monotonic() + FLUSH_SECONDS
    yield "".join(bundle)


def main(path: str, port: int) -> None:
    """Serves until it is stopped."""
    uvicorn.run(make_app(Sampler(path)), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
