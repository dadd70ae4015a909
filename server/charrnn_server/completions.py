"""Responses that take time: completions, whole or streamed, and scores. They stop when the client disconnects."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from charrnn_runtime import CharrnnError, Engine, Job, ModelInfo, Request, TokenScore, Vocabulary
from charrnn_runtime.generation import encode_prompt
from charrnn_runtime.options import new_seed
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from charrnn_server.errors import ApiError, JsonResponse
from charrnn_server.logprobs import Aligner
from charrnn_server.metrics import Metrics
from charrnn_server.models import Models
from charrnn_server.schema import CompletionRequest, ScoreRequest


@dataclass
class _Text:
    """One of the texts (OpenAI: choices) of a request, while it is generated."""

    job: Job
    index: int
    echo: str
    aligner: Aligner | None
    begun: bool = False

    def take(self) -> tuple[str, dict[str, Any] | None]:
        """The next piece of the text, the echoed prompt first, and its ``logprobs`` object if it was asked for."""
        text, scores = self.job.take()
        if not self.begun and (text or self.job.ended):
            self.begun = True
            text, scores = self.echo + text, ([*self.job.prompt_scores, *scores] if self.echo else scores)
        return text, None if self.aligner is None else self.aligner.add(text, scores)


def _echo(request: Request, info: ModelInfo) -> str:
    """The prompt as the model reads it: without what ``unknown`` leaves out, and in the model's normal form."""
    return info.vocabulary.decode(encode_prompt(request.prompt, info, request.unknown))


def check_label(label: str | None, vocabulary: Vocabulary) -> str | None:
    """The label of a request; an empty one is None.

    Raises:
        ApiError: the model has no such label.
    """
    try:
        if label:
            vocabulary.label_token(label)
    except CharrnnError as error:
        raise ApiError.of(error, "label") from error
    return label or None


class Answer(Response):
    """A response that is made from the jobs of an engine while it is sent.

    Its jobs are cancelled when the client disconnects, or does not read for ``stall`` seconds.
    """

    def __init__(self, models: Models, metrics: Metrics, model: str, stall: float) -> None:
        super().__init__()
        self.models, self.metrics, self.model, self.stall = models, metrics, model, stall
        self.engine: Engine = models.engines[model]
        self.news = asyncio.Event()
        self.left = False
        self.streams = False  # whether the response has no length, so that an event can be added to it
        self.jobs: list[Job] = []
        self._arrived = time.perf_counter()
        self._first = False

    def submit(self, jobs: list[Callable[[], Job]], param: str) -> None:
        """Submits the jobs; ``param`` is the field of the request that holds the text.

        Raises:
            ApiError: the engine refuses one of them.
        """
        try:
            self.jobs = self.models.submit(jobs, self.news)
        except CharrnnError as error:
            raise ApiError.of(error, param) from error

    async def answer(self, send: Send) -> None:
        """Sends the whole response."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """ASGI."""

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left = True
            self.news.set()

        started = False

        async def patient(message: Message) -> None:
            nonlocal started
            started = True
            async with asyncio.timeout(
                self.stall
            ):  # this waits while the buffers are full, if the client does not read
                await send(message)

        watcher = asyncio.create_task(watch())
        try:
            await self.answer(patient)
        except (TimeoutError, OSError):
            self.left = True
        except asyncio.CancelledError:  # the server shuts down, and the time for open requests is over
            error = ApiError(503, "the server is shutting down", code="shutting_down")
            if not started:
                await _send(error.response(), send)
            elif self.streams:
                await send(_event(error.body()))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watcher.cancel()
            self.models.forget(self.jobs)
            if self.left:
                self.metrics.left.inc()

    async def wait(self) -> bool:
        """Waits until a job has something new; returns False if the client has disconnected."""
        await self.news.wait()
        self.news.clear()
        return not self.left

    def seen(self) -> None:
        """Records the time to the first character, once."""
        if not self._first:
            self._first = True
            self.metrics.first.labels(self.model).observe(time.perf_counter() - self._arrived)


class Completion(Answer):
    """``/v1/completions``."""

    def __init__(self, models: Models, metrics: Metrics, model: str, body: CompletionRequest, stall: float) -> None:
        super().__init__(models, metrics, model, stall)
        self.asked = body
        self.streams = bool(body.stream)
        vocabulary = self.engine.sampler.vocabulary
        seed = new_seed() if body.seed is None else body.seed % 2**64
        scores = body.logprobs is not None
        echoes = scores and bool(body.echo)
        check_label(body.label, vocabulary)
        try:
            requests = body.requests(vocabulary, seed)
        except CharrnnError as error:
            raise ApiError.of(error, "logit_bias") from error

        def submitting(request: Any) -> Callable[[], Job]:
            return lambda: self.engine.submit(request, top=body.logprobs or 0, scores_prompt=echoes)

        self.submit([submitting(request) for request in requests], "prompt")
        self.texts = [
            _Text(
                job,
                index,
                _echo(request, self.engine.sampler.info) if body.echo else "",
                Aligner(vocabulary, body.logprobs or 0) if scores else None,
            )
            for index, (job, request) in enumerate(zip(self.jobs, requests, strict=True))
        ]
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "charrnn_" + self.engine.sampler.info.fingerprint[:12],
            "seed": seed,
        }

    async def answer(self, send: Send) -> None:
        """Sends the texts in pieces as they are generated, or all at the end."""
        await (self._stream(send) if self.streams else self._whole(send))

    async def _pieces(self) -> AsyncIterator[dict[str, Any]]:
        """Yields choices that hold the next piece of a text, until all texts have ended or the client has disconnected.

        Raises:
            CharrnnError: a text cannot be finished.
        """
        live = list(self.texts)
        while live and await self.wait():
            for item in list(live):
                ended = item.job.ended
                text, logprobs = item.take()
                if item.job.error is not None:
                    raise item.job.error
                if ended:
                    live.remove(item)
                if text:
                    self.seen()
                if text or ended:
                    reason = item.job.finish_reason if ended else None
                    yield {
                        "text": text,
                        "index": item.index,
                        "logprobs": logprobs,
                        "finish_reason": "stop" if reason in ("end", "pattern") else reason,
                    }

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        wants_usage = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        usage = {"usage": None} if wants_usage else {}
        try:
            async for choice in self._pieces():
                await send(_event({**self.head, "choices": [choice], **usage}))
        except CharrnnError as error:
            await send(_event(ApiError.of(error).body()))
        if self.left:
            return
        if wants_usage:
            await send(_event({**self.head, "choices": [], "usage": self._usage()}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _whole(self, send: Send) -> None:
        choices: list[dict[str, Any]] = [{} for _ in self.texts]
        parts: list[list[dict[str, Any]]] = [[] for _ in self.texts]
        try:
            async for piece in self._pieces():
                parts[piece["index"]].append(piece)
        except CharrnnError as error:
            return await _send(ApiError.of(error).response(), send)
        if self.left:
            return None
        for index, pieces in enumerate(parts):
            choices[index] = {
                "text": "".join(piece["text"] for piece in pieces),
                "index": index,
                "logprobs": _joined([piece["logprobs"] for piece in pieces]),
                "finish_reason": pieces[-1]["finish_reason"],
            }
        return await _send(JsonResponse({**self.head, "choices": choices, "usage": self._usage()}), send)

    def _usage(self) -> dict[str, int]:
        # As OpenAI counts: a prompt once, whatever n is.
        prompt = sum(job.prompt_tokens for job in self.jobs[:: self.asked.n or 1])
        drawn = sum(job.completion_tokens for job in self.jobs)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}


@dataclass
class _Figures:
    """The figures that are made from the scores of a text."""

    scores: list[TokenScore] = field(default_factory=list)

    @property
    def nats(self) -> float | None:
        if not self.scores:
            return None
        return -sum(score.log_prob or 0.0 for score in self.scores) / len(self.scores)


class ScoreAnswer(Answer):
    """``/score``."""

    def __init__(self, models: Models, metrics: Metrics, model: str, body: ScoreRequest, stall: float) -> None:
        super().__init__(models, metrics, model, stall)
        self.asked = body
        label = check_label(body.label, self.engine.sampler.vocabulary)
        unknown, top = body.unknown or "charge", body.logprobs or 0
        self.submit([lambda: self.engine.score(body.text, unknown=unknown, label=label, top=top)], "text")

    async def answer(self, send: Send) -> None:
        """Sends the figures when the whole text has been read."""
        (job,) = self.jobs
        while not job.ended:
            if not await self.wait():
                return
        if job.error is not None:
            await _send(ApiError.of(job.error).response(), send)
            return
        nats = _Figures(job.prompt_scores).nats
        vocabulary = self.engine.sampler.vocabulary
        logprobs = None
        if self.asked.logprobs is not None:
            text = vocabulary.decode(score.token for score in job.prompt_scores)
            logprobs = Aligner(vocabulary, self.asked.logprobs).add(text, job.prompt_scores)
        content = {
            "model": self.model,
            "characters": len(job.prompt_scores),
            "nats_per_char": nats,
            "bits_per_char": None if nats is None else nats / math.log(2),
            "perplexity": None if nats is None else math.exp(nats),
            "logprobs": logprobs,
        }
        await _send(JsonResponse(content), send)


def _event(content: dict[str, Any]) -> Message:
    data = b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
    return {"type": "http.response.body", "body": data, "more_body": True}


def _joined(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The ``logprobs`` objects of all pieces of a text, joined into one."""
    whole: dict[str, Any] | None = None
    for part in parts:
        if whole is None or part is None:
            whole = part
            continue
        for key, values in part.items():
            if values is not None:
                whole[key] += values
    return whole


async def _send(response: Any, send: Send) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})
