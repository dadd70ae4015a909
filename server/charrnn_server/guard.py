"""Checks of every request (host, origin, key, size), and the headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charrnn_server.errors import ApiError
from charrnn_server.hosts import split_host
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

DISCARDING_PAUSE = 2.0  # seconds without data after which the rest of a refused body is not waited for


class Guard:
    """Outermost layer: normalises the request's path and method, and refuses unknown host names and web sites.

    The host name is checked because a web page can make a browser send requests to a server on the same machine
    by letting its own name resolve to 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths
        self.hosts, self.origins = options.host_rules, options.allow_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        head = scope["method"] == "HEAD"
        # A base URL that ends in a slash makes clients send doubled ones, and some end every path with one.
        path = "/" + "/".join(filter(None, scope["path"].split("/")))
        scope = {**scope, "path": path, "method": "GET" if head else scope["method"]}
        label = path if path in self.paths else "other"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(label, str(message["status"])).inc()
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except ApiError as error:
            return await error.response()(scope, receive, guarded)
        return await self.app(scope, receive, guarded)

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        parts = split_host(host) if len(headers.getlist("host")) == 1 else None
        if parts is None or not any(rule.allows(*parts) for rule in self.hosts):
            called = f"as {host[:200]!r}" if host else "without a name (the header 'Host')"
            raise ApiError(
                403,
                f"this server may not be addressed {called}; to allow another name, start it with --allow-host",
                code="foreign_host",
            )
        origin = headers.get("origin")
        allowed = {f"http://{host}".lower(), f"https://{host}".lower(), *self.origins}
        if origin is not None and "*" not in allowed and origin.lower() not in allowed:
            raise ApiError(
                403,
                f"pages of {origin[:200]!r} may not call this server; to allow them, start it with --allow-origin",
                code="foreign_origin",
            )


class Gate:
    """Inner layer, below CORS: checks the key, and reads the whole body, within a limit of bytes and of seconds."""

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
            return await self._refuse(error, headers, receive, send)
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
            raise ApiError(
                401, "this server needs its key in the header 'Authorization: Bearer KEY'", code="invalid_api_key"
            )

    async def _refuse(self, error: ApiError, headers: Headers, receive: Receive, send: Send) -> None:
        """Sends the whole answer, but closes the connection only after discarding what the client still sends.

        To close a connection while a body arrives resets it, and the client may lose the answer.
        """
        answer = error.response({"connection": "close"})
        await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": True})
        if "expect" not in headers:  # such a client sends its body only when it is asked to, which receive() would do
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.stall):
                    while (await asyncio.wait_for(receive(), DISCARDING_PAUSE)).get("more_body", False):
                        pass
        await send({"type": "http.response.body"})

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None if the client has left."""
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
