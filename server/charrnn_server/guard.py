"""What every request passes: host, origin, key, size; and the headers that every answer gets."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charrnn_server.errors import ApiError
from charrnn_server.metrics import Metrics
from charrnn_server.options import ServerOptions

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """Outermost: refuses names and web sites that are not ours, which is what DNS rebinding comes as."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.options, self.metrics, self.paths = app, options, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except ApiError as error:
            return await error.response()(scope, receive, guarded)
        return await self.app(scope, receive, guarded)

    def _check(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _hostname(hosts[0]) not in self.options.hosts:
            raise ApiError(403, "this server is not addressed by that name; see --allow-host", code="foreign_host")
        origin = headers.get("origin")
        if origin is None or origin in self.options.allow_origin:
            return
        if urlsplit(origin).scheme not in ("http", "https") or origin.partition("://")[2].lower() != hosts[0].lower():
            raise ApiError(403, "pages of other sites may not ask; see --allow-origin", code="foreign_origin")


def _hostname(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  raises for a port that is none
        return parts.hostname if parts.netloc == host and "@" not in host else None
    except ValueError:
        return None


class Gate:
    """Inside CORS: asks for the key, and takes a body in whole, within its bounds and in time."""

    def __init__(self, app: ASGIApp, options: ServerOptions, open_paths: frozenset[str]) -> None:
        self.app, self.options, self.open_paths = app, options, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            if self.options.api_key is not None and scope["path"] not in self.open_paths:
                self._check_key(headers)
            body = await self._body(headers, receive) if scope["method"] == "POST" else b""
        except ApiError as error:
            # What is left of the body is not read: the connection ends here.
            return await error.response({"connection": "close"})(scope, receive, send)
        if body is None:
            return None
        given = False

        async def replay() -> Message:
            nonlocal given
            if given or scope["method"] != "POST":
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self.app(scope, replay, send)

    def _check_key(self, headers: Headers) -> None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        wanted = (self.options.api_key or "").encode()
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), wanted):
            raise ApiError(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None when the client has left."""
        most = self.options.max_body
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise ApiError(413, f"the body has {int(length):,} bytes; this server takes {most:,}", code="too_large")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.options.stall):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if size > most:
                        raise ApiError(413, f"the body has more than {most:,} bytes", code="too_large")
                    parts.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self.options.stall} s", code="timeout") from None
