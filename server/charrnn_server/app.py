"""The application: its routes, and an OpenAPI description that matches what they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from charrnn_runtime import CharrnnError, Sampler
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import Field, create_model
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from charrnn_server import schema
from charrnn_server.completions import Completion, ScoreAnswer, check_label
from charrnn_server.errors import ApiError
from charrnn_server.guard import Gate, Guard
from charrnn_server.metrics import CONTENT_TYPE, Metrics
from charrnn_server.models import Models
from charrnn_server.options import ServerOptions

# Only these exact paths are served as files; no part of a request's path is ever used to open one.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN_PATHS = frozenset({*FILES, "/health", "/openapi.json"})
DESCRIPTIONS = {
    400: "The request is wrong: not JSON, a value out of its range, a character that the model has never seen.",
    401: "The key is missing or wrong.",
    403: "The request names another host, or comes from a page of another web site.",
    404: "There is no such model.",
    408: "The body was not sent in time.",
    413: "The body is too large.",
    429: "The queue is full; try again in a moment.",
    500: "The model failed.",
    503: "The server is shutting down.",
}

# One server-sent event: a piece of a completion as JSON, an error, or [DONE].
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


def make_app(samplers: Mapping[str, Sampler], options: ServerOptions) -> FastAPI:
    """The ASGI application that serves models by name. Its life span starts and closes their engines."""
    models = Models(dict(samplers), options)
    metrics = Metrics(models.engines)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        models.start()
        yield
        models.close()

    app = FastAPI(
        title="charrnn",
        version="1",
        description="Text from character-level recurrent models, in the form of OpenAI's completions.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the guard has removed the slash at the end of a path
        lifespan=lifespan,
    )
    app.state.models = models
    app.router.route_class = JsonRoute
    names = ", ".join(models.engines)

    def known(model: str | None) -> str:
        """The model's name; without one, the name of the only model that is served."""
        if not model:
            if len(models.engines) == 1:
                return next(iter(models.engines))
            raise ApiError(400, f"model is missing; this server has: {names}", param="model", code="missing")
        if model not in models.engines:
            raise ApiError(404, f"no model {model!r}; this server has: {names}", param="model", code="model_not_found")
        return model

    async def completions(body: schema.CompletionRequest) -> Any:
        """Continues a prompt. With ``stream``, in pieces, as server-sent events that end with ``data: [DONE]``."""
        model = known(body.model)
        if len(body.prompt) * (body.n or 1) > options.max_choices:
            raise ApiError(400, f"n: prompts times n may be at most {options.max_choices}", param="n")
        particles = getattr(body, "particles", None) or 1  # a field of the class that bounded() makes
        if particles > 1 and len(body.prompt) * (body.n or 1) * particles > options.max_particles:
            raise ApiError(
                400, f"particles: times prompts times n they may be at most {options.max_particles}", param="particles"
            )
        if sum(map(len, body.prompt)) > options.max_prompt:
            raise ApiError(
                400, f"prompt: all together may have at most {options.max_prompt:,} characters", param="prompt"
            )
        return Completion(models, metrics, model, body, options.stall)

    async def score(body: schema.ScoreRequest) -> Any:
        """Tells how likely the model finds a text."""
        return ScoreAnswer(models, metrics, known(body.model), body, options.stall)

    # Completions and classifications take milliseconds of a processor each.
    computing = CapacityLimiter(2)

    async def complete(body: schema.CompleteRequest) -> schema.CompleteResponse:
        """The most probable continuations, for autocomplete."""
        model = known(body.model)
        sampler = models.engines[model].sampler
        search = partial(
            sampler.complete,
            body.prompt or "",
            n=body.n or 5,
            until=schema.DEFAULT_UNTIL if body.until is None else body.until,
            max_length=body.max_length or 20,
            unknown=body.unknown or "error",
            label=check_label(body.label, sampler.vocabulary),
        )
        try:
            found = await to_thread.run_sync(search, limiter=computing)
        except CharrnnError as error:
            raise ApiError.of(error, "until" if "until" in str(error) else "prompt") from error
        items = [schema.Continuation(text=item.text, probability=item.probability, ended=item.ended) for item in found]
        return schema.CompleteResponse(model=model, completions=items, exact=found.exact)

    async def classify(body: schema.ClassifyRequest) -> schema.ClassifyResponse:
        """The probability of each label for a text, by Bayes' rule."""
        model = known(body.model)
        sampler = models.engines[model].sampler
        labels = len(sampler.vocabulary.labels)
        if not labels:
            raise ApiError(400, "this model was trained without labels, and cannot classify", param="model")
        if len(body.text) * labels > options.max_prompt:
            most = options.max_prompt // labels
            raise ApiError(
                400,
                f"text: this model has {labels} labels, with which a text may have {most:,} characters",
                param="text",
            )
        call = partial(sampler.classify, body.text, prior=body.prior or "training", unknown=body.unknown or "charge")
        try:
            found = await to_thread.run_sync(call, limiter=computing)
        except CharrnnError as error:
            raise ApiError.of(error, "text") from error
        return schema.ClassifyResponse(model=model, labels=found)

    # The description shows the limits of this server, so the types of the bodies are made here.
    completions.__annotations__["body"] = schema.bounded(options, list(models.engines))
    bounded = Annotated[str, Field(max_length=options.max_prompt)]
    bodies: tuple[tuple[Callable[[Any], Any], type[schema.Strict], dict[str, Any]], ...] = (
        (score, schema.ScoreRequest, {"text": (bounded, ...)}),
        (classify, schema.ClassifyRequest, {"text": (bounded, ...)}),
        (complete, schema.CompleteRequest, {"prompt": (bounded | None, "")}),
    )
    for answer, body, field in bodies:
        named = {"model": schema.model_field(list(models.engines)), **field}
        answer.__annotations__["body"] = create_model(body.__name__, __base__=body, __doc__=body.__doc__, **named)
    errors = _errors(400, 404, 408, 413, 429, 500, 503, key=options.api_key is not None)
    stream: dict[str, Any] = {"content": {"text/event-stream": {"schema": EVENT}}}
    posts: tuple[tuple[str, Callable[[Any], Any], dict[str, Any]], ...] = (
        ("/v1/completions", completions, {"model": schema.CompletionResponse, "description": "The texts.", **stream}),
        ("/score", score, {"model": schema.ScoreResponse, "description": "The figures."}),
        ("/complete", complete, {"model": schema.CompleteResponse, "description": "The continuations."}),
        ("/classify", classify, {"model": schema.ClassifyResponse, "description": "The labels."}),
    )
    for path, answer, response in posts:
        app.add_api_route(path, answer, responses={200: response, **errors}, response_model=None, methods=["POST"])
    errors = _errors(key=options.api_key is not None)

    @app.get("/v1/models", responses=errors)
    async def list_models() -> schema.ModelList:
        """The models served."""
        return schema.ModelList(object="list", data=[models.describe(name) for name in models.engines])

    @app.get("/v1/models/{model}", responses={**errors, **_errors(404)})
    async def get_model(model: str) -> schema.Model:
        """One of the models served."""
        return models.describe(known(model))

    @app.get("/health", responses=_errors())
    async def health() -> schema.Health:
        """Whether the server is up."""
        return schema.Health(status="ok")

    text: dict[int | str, Any] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}
    }
    app.add_api_route(
        "/metrics",
        lambda: Response(metrics.text(), media_type=CONTENT_TYPE),
        response_class=Response,
        responses={**text, **errors},
        summary="Counters",
        name="metrics",
        operation_id="metrics",
    )

    folder = resources.files("charrnn_server") / "static"
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _serving((folder / name).read_bytes(), kind), include_in_schema=False)

    _describe(app, options)
    _handle_errors(app)
    paths = frozenset({route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path})
    # The layer that is added last is the outermost.
    app.add_middleware(Gate, options=options, open_paths=OPEN_PATHS)
    if options.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allow_origin),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # OpenAI's client sends a dozen headers of its own
        )
    app.add_middleware(Guard, options=options, metrics=metrics, paths=paths)
    return app


def _serving(data: bytes, kind: str) -> Any:
    async def serve() -> Response:
        return Response(data, headers={"content-type": kind, "cache-control": "no-cache"})

    return serve


def _errors(*statuses: int, key: bool = False) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": schema.ErrorResponse, "description": DESCRIPTIONS[status]}
        for status in sorted({*statuses, 403, *([401] if key else [])})
    }


class JsonRoute(APIRoute):
    """A route that says what is wrong with a body that is not JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of requests, behind the check of the body."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if self.body_field is not None:
                await _check_json(request)
            return await handle(request)

        return checked


async def _check_json(request: Request) -> None:
    """Parses the body, and marks it as JSON for FastAPI, which does not parse a body without a content type.

    Raises:
        ApiError: the headers announce something else than JSON, or the body is not JSON.
    """
    headers = Headers(scope=request.scope)  # not request.headers, which would cache the value that is replaced below
    kind = headers.get("content-type", "application/json")
    essence = kind.partition(";")[0].strip().lower()
    if essence not in ("", "application/json", "text/json") and not essence.endswith("+json"):
        raise ApiError(
            400,
            f"the request has the header 'Content-Type: {kind[:200]}'; send JSON with 'Content-Type: application/json' "
            "(curl: -H 'Content-Type: application/json')",
            code="unsupported_content_type",
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(
            400,
            f"the request has the header 'Content-Encoding: {encoding[:200]}'; send the body without compression",
            code="unsupported_content_encoding",
        )
    if not await request.body():
        raise ApiError(400, 'the body is empty; send JSON, such as {"prompt": "The"}', code="json_invalid")
    try:
        await request.json()  # the request caches it, so that FastAPI does not parse it again
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: {error}", code="json_invalid") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="json_invalid") from None
    except RecursionError:
        raise ApiError(400, "the body is JSON that is nested too deeply", code="json_invalid") from None
    others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    request.scope["headers"] = [*others, (b"content-type", b"application/json")]


def _handle_errors(app: FastAPI) -> None:
    """Makes every error leave in the form of OpenAI's API."""
    endpoints = ", ".join(
        f"{method} {path}" for path, methods in app.openapi()["paths"].items() for method in map(str.upper, methods)
    )

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message, param = schema.describe_error(first)
        return ApiError(400, message, param=param, code=first["type"]).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path[:200]
        headers = dict(error.headers or {})
        message, code = str(error.detail), None
        if error.status_code == 404:
            chat = " (these models continue text, they do not chat)" if path.endswith("/chat/completions") else ""
            message, code = f"no {path} here{chat}; this server has: {endpoints}", "unknown_url"
        elif error.status_code == 405:
            allowed = [*headers["Allow"].split(", "), *(["HEAD"] if "GET" in headers["Allow"] else [])]
            headers["Allow"] = ", ".join(dict.fromkeys(allowed))
            message, code = f"{path} does not take {method}, only {headers['Allow']}", "method_not_allowed"
        return ApiError(error.status_code, message, code=code).response(headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return ApiError(500, f"an error inside the server: {type(error).__name__}").response()


def _describe(app: FastAPI, options: ServerOptions) -> None:
    """Removes from the description what FastAPI assumes and this server does differently; adds the key."""
    described = app.openapi()
    for methods in described["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
    if options.api_key is not None:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in described["paths"].items():
            if path not in OPEN_PATHS:
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
