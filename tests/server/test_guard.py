"""Who may use the server: hosts, origins, the key, and headers for browsers."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from charrnn_runtime import Sampler
from charrnn_server.guard import DISCARDING_PAUSE

from tests.server.conftest import Served, serving

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "ab", "max_tokens": 3, "seed": 1},
    "/score": {"model": "tiny", "text": "ab"},
}


def test_any_host_and_any_site(characters: Sampler) -> None:
    with (
        serving({"tiny": characters}, allow_host=("*",), allow_origin=("*",)) as served,
        served.client() as client,
    ):
        for origin in ("https://a.example", "null"):
            headers = {"host": "b.example:81", "origin": origin}
            answer = client.post("/v1/completions", json=BODIES["/v1/completions"], headers=headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_a_site_may_use_openais_client(characters: Sampler) -> None:
    site = "https://site.example"
    with serving({"tiny": characters}, allow_origin=(site.upper() + "/",)) as served, served.client() as client:
        names = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"
        for method in ("GET", "HEAD", "POST"):
            asked = {"access-control-request-method": method, "access-control-request-headers": names}
            answer = client.options("/v1/completions", headers={"origin": site, **asked})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == site
            allowed = answer.headers["access-control-allow-headers"].lower()
            assert set(names.split(",")) <= {name.strip() for name in allowed.split(",")}


@pytest.mark.parametrize("origin", ["http://[", "http://localhost:99999999", "://", "", "http://"])
def test_origins_that_cannot_be_read(server: Served, origin: str) -> None:
    with server.client() as client:
        assert client.get("/health", headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "localhost:x"]
)
def test_foreign_hosts(server: Served, host: str) -> None:
    with server.client() as client:
        for path in ("/", "/v1/models", "/health"):
            answer = client.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host")
        assert client.get("/", headers={"host": "LOCALHOST:1234"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://", "http://localhost"]
)
def test_foreign_origins(server: Served, origin: str) -> None:
    with server.client() as client:
        answer = client.post("/v1/completions", json={"model": "tiny"}, headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
        own = client.post("/v1/completions", json={"model": "tiny"}, headers={"origin": server.url})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers


def test_allowed_hosts_and_origins(characters: Sampler) -> None:
    site = "https://site.example"
    allowed: dict[str, Any] = {"allow_host": ("model.example",), "allow_origin": (site,)}
    with serving({"tiny": characters}, **allowed) as served, served.client() as client:
        assert client.get("/health", headers={"host": "model.example"}).status_code == 200
        asked = {"origin": site, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "content-type"
        assert client.options("/v1/completions", headers=asked).headers["access-control-allow-origin"] == site
        answer = client.post("/v1/completions", json={"model": "tiny"}, headers={"origin": site})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, site)


def test_a_key(characters: Sampler) -> None:
    with serving({"tiny": characters}, api_key="secret") as served, served.client() as client:
        for key in (None, "Bearer wrong", "secret", "Bearer", "Bearer sécret".encode()):
            headers: Any = {} if key is None else {"authorization": key}
            for path in ("/v1/models", "/metrics"):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.post("/v1/completions", json={"model": "tiny"}, headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_every_answer_has_the_headers(server: Served) -> None:
    with server.client() as client:
        for path in ("/", "/playground.js", "/nothing", "/v1/models"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


@pytest.mark.parametrize(
    ("status", "key", "size"), [(401, "wrong", 300_000), (413, "secret", 3_000_000)], ids=["key", "size"]
)
def test_a_refusal_reaches_a_client_that_is_still_sending(
    characters: Sampler, status: int, key: str, size: int
) -> None:
    """A connection that is closed while a body arrives is reset, and the client cannot send or read any more."""
    with serving({"tiny": characters}, api_key="secret") as served:
        where = urlsplit(served.url)
        with socket.create_connection((where.hostname, where.port), timeout=20) as sock:
            head = f"POST /score HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {key}\r\n"
            sock.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
            answer = sock.recv(65536)  # the server answers before the body
            for sent in range(0, size, 50_000):
                sock.sendall(b"x" * min(50_000, size - sent))
            while part := sock.recv(65536):  # until the server closes the connection, in order
                answer += part
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"connection: close" in answer.lower()


def test_a_refused_body_that_never_comes_is_not_waited_for(characters: Sampler) -> None:
    with serving({"tiny": characters}, api_key="secret") as served:
        where = urlsplit(served.url)
        head = f"POST /score HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 1000\r\n"
        for expects in ("", "Expect: 100-continue\r\n"):
            with socket.create_connection((where.hostname, where.port), timeout=DISCARDING_PAUSE + 10) as sock:
                sock.sendall(f"{head}{expects}\r\n".encode())
                answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # type: ignore[misc]
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert answer.count(b"HTTP/1.1") == 1  # not "100 Continue" after the answer
