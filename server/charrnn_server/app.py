"""The application: routes, and a description of them that is true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from charrnn_runtime import Sampler
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, create_model
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from charrnn_server import schema
from charrnn_server.completions import Completion, ScoreAnswer
from charrnn_server.errors import ApiError, JsonResponse
from charrnn_server.guard import Gate, Guard
from charrnn_server.metrics import CONTENT_TYPE, Metrics
from charrnn_server.models import Models
from charrnn_server.options import ServerOptions

# Served by these exact names; nothing of a request's path ever reaches the file system.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN_PATHS = frozenset({*FILES, "/health", "/openapi.json"})
DESCRIPTIONS = {
    400: "The request cannot be served as it is: a value out of its range, a character the model has never seen.",
    401: "A key is needed.",
    403: "Another host's name, or a page of another site.",
    404: "No such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "The queue is full; try again in a moment.",
    500: "The model computed nothing usable.",
}

# One server-sent event: a piece of a completion as JSON, an error, or [DONE].
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


def make_app(samplers: Mapping[str, Sampler], options: ServerOptions) -> FastAPI:
    """The ASGI application for some models by name; its life span starts and ends their engines."""
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
        lifespan=lifespan,
    )
    app.state.models = models
    _handle_errors(app)

    def known(model: str) -> str:
        if model not in models.engines:
            names = ", ".join(models.engines)
            raise ApiError(404, f"no model {model!r}; there are: {names}", param="model", code="model_not_found")
        return model

    async def completions(body: schema.CompletionRequest) -> Any:
        """Continues a prompt; with ``stream``, piece by piece as server-sent events that end in ``data: [DONE]``."""
        known(body.model)
        if len(body.prompts) * (body.n or 1) > options.max_choices:
            raise ApiError(400, f"prompts times n may be at most {options.max_choices}", param="n")
        if sum(map(len, body.prompts)) > options.max_prompt:
            raise ApiError(400, f"the prompts may have at most {options.max_prompt:,} characters", param="prompt")
        return Completion(models, metrics, body, options.stall)

    async def score(body: schema.ScoreRequest) -> Any:
        """How likely the model finds a text."""
        known(body.model)
        return ScoreAnswer(models, metrics, body, options.stall)

    # The server's bounds belong into the description.
    completions.__annotations__["body"] = schema.bounded(options, list(models.engines))
    score.__annotations__["body"] = create_model(
        "ScoreRequest", __base__=schema.ScoreRequest, text=(str, Field(max_length=options.max_prompt))
    )
    posting = {"response_model": None, "methods": ["POST"]}
    errors = _errors(400, 404, 408, 413, 429, 500, key=options.api_key is not None)
    stream: dict[str, Any] = {"content": {"text/event-stream": {"schema": EVENT}}}
    app.add_api_route(
        "/v1/completions",
        completions,
        responses={200: {"model": schema.CompletionResponse, "description": "The texts.", **stream}, **errors},
        **posting,  # type: ignore[arg-type]
    )
    app.add_api_route(
        "/score",
        score,
        responses={200: {"model": schema.ScoreResponse, "description": "The figures."}, **errors},
        **posting,  # type: ignore[arg-type]
    )
    errors = _errors(key=options.api_key is not None)

    @app.get("/v1/models", responses=errors)
    async def list_models() -> schema.ModelList:
        """The models served."""
        return schema.ModelList(object="list", data=[models.describe(name) for name in models.engines])

    @app.get("/v1/models/{model}", responses={**errors, **_errors(404)})
    async def get_model(model: str) -> schema.Model:
        """One of them."""
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
    paths = frozenset({*FILES, "/v1/completions", "/score", "/v1/models", "/health", "/metrics", "/openapi.json"})
    # The last one added is the outermost.
    app.add_middleware(Gate, options=options, open_paths=OPEN_PATHS)
    if options.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allow_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
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


def _handle_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{where}: {first['msg']}" if where else f"the body is not as it should be: {first['msg']}"
        return ApiError(400, message[:1000], param=where[:200] or None, code=first["type"]).response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, str(error.detail)).response(dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return JsonResponse(ApiError(500, f"an error of the server's own: {type(error).__name__}").body(), 500)


def _describe(app: FastAPI, options: ServerOptions) -> None:
    """Takes out of the description what FastAPI assumes and we do otherwise; adds the key."""
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
