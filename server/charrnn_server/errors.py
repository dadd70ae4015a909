"""Errors in the form of OpenAI's API."""

from __future__ import annotations

import json
from typing import Any

from charrnn_runtime import BusyError, CharrnnError, PatternError, UnknownCharacterError, UsageError
from starlette.responses import Response

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @classmethod
    def of(cls, error: CharrnnError, param: str | None = None) -> ApiError:
        """The answer to a request that raised this error in the runtime; ``param`` is the field that it is about."""
        if isinstance(error, BusyError):
            return cls(429, str(error), code="busy")
        if isinstance(error, UnknownCharacterError):  # the remedy in its message is an argument in Python
            policy = "charge" if param == "text" else "skip"  # text: what is scored
            remedy = "leave it out" if error.option else f'leave it out, or send "unknown": "{policy}"'
            return cls(400, f"{error.problem}; {remedy}", param=error.option or param, code="unknown_character")
        if isinstance(error, PatternError):
            return cls(400, str(error), param="pattern", code="invalid_value")
        if isinstance(error, UsageError):
            return cls(400, str(error), param=param, code="invalid_value")
        return cls(500, str(error))

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: dict[str, str] | None = None) -> Response:
        """The answer."""
        extra = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(self.status, {})
        return JsonResponse(self.body(), self.status, {**extra, **(headers or {})})


class JsonResponse(Response):
    """JSON that is pure ASCII, because a text may hold half a surrogate pair, which UTF-8 cannot encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, separators=(",", ":")).encode()
