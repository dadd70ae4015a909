"""What every path has in common: HEAD, 404, 405, slashes, content types, names of hosts, headers for browsers."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from typing import Any
from urllib.parse import urlsplit

import pytest
from charrnn_runtime import Sampler
from charrnn_server.app import FILES, make_app
from charrnn_server.options import ServerOptions

from tests.server.conftest import Served, serving

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "ab", "max_tokens": 3, "seed": 1},
    "/score": {"model": "tiny", "text": "ab"},
    "/complete": {"model": "tiny", "prompt": "ab"},
    "/classify": {"model": "labelled", "text": "ab"},
}


def described(served: Served) -> dict[str, set[str]]:
    """Every path of the server with the methods that it takes, ``{model}`` filled in."""
    with served.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    found = {path.replace("{model}", "tiny"): {method.upper() for method in methods} for path, methods in paths.items()}
    return {**found, **{path: {"GET"} for path in (*FILES, "/openapi.json")}}


def test_all_routes_are_looked_at(server: Served, characters: Sampler) -> None:
    routes = {getattr(route, "path", "").replace("{model}", "tiny") for route in make_app({}, ServerOptions()).routes}
    assert set(described(server)) == routes
    assert {path for path, methods in described(server).items() if methods == {"POST"}} == set(BODIES)


def test_head_is_get_without_a_body(server: Served) -> None:
    with server.client() as client:
        for path, methods in described(server).items():
            if "GET" not in methods:
                continue
            whole, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            for name in ("content-type", "content-length", "content-security-policy"):
                if (path, name) != ("/metrics", "content-length"):  # its figures grow from one request to the next
                    assert head.headers[name] == whole.headers[name]
        assert client.head("/nothing").status_code == 404
        # Nothing follows the head of an answer: the connection can be used again.
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        for _ in range(3):
            connection.request("HEAD", "/playground.js")
            assert connection.getresponse().read() == b""
        connection.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_told_which_there_are(server: Served, method: str) -> None:
    with server.client() as client:
        for path, methods in described(server).items():
            taken = {*methods, *({"HEAD"} if "GET" in methods else ())}
            if method in taken:
                continue
            answer = client.request(method, path, json=BODIES.get(path, {}))
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == taken
            if method != "HEAD":
                error = answer.json()["error"]
                assert error["code"] == "method_not_allowed"
                assert all(word in error["message"] for word in (path, *taken))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/chat/completions", "/completions", "/v1/models/tiny/x"])
def test_404_says_what_there_is(server: Served, method: str, path: str) -> None:
    with server.client() as client:
        answer = client.request(method, path)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "unknown_url")
        for found in client.get("/openapi.json").json()["paths"]:
            assert found in error["message"]
        assert ("do not chat" in error["message"]) == ("chat" in path)


def test_404_names_the_models(server: Served) -> None:
    with server.client() as client:
        for answer in (client.get("/v1/models/gpt"), server.complete(model="gpt")):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
            assert all(name in error["message"] for name in ("'gpt'", "tiny", "bytes"))


def test_slashes_too_many(server: Served) -> None:
    with server.client(follow_redirects=False) as client:
        for path, methods in described(server).items():
            for spelling in (path + "/", "/" + path, path.replace("/", "//") + "//"):
                # Written into the URL, because clients tidy relative ones.
                url = server.url + spelling
                answer = client.get(url) if "GET" in methods else client.post(url, json=BODIES[path])
                assert answer.status_code == 200, spelling
    with serving({"tiny": server.sampler}, api_key="secret") as locked, locked.client() as client:
        for path in ("/v1/models/", "//v1//models", "/metrics/"):
            assert client.get(locked.url + path).status_code == 401


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "text/plain", "text/plain;charset=UTF-8", "multipart/form-data; boundary=x"],
)
def test_another_content_type_is_named(server: Served, kind: str) -> None:
    with server.client() as client:
        for path, body in BODIES.items():
            answer = client.post(path, content=json.dumps(body), headers={"content-type": kind})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "unsupported_content_type")
            assert kind in error["message"]
            assert "-H 'Content-Type: application/json'" in error["message"]


@pytest.mark.parametrize(
    "kind", [None, "application/json", "Application/JSON; charset=utf-8", "text/json", "application/vnd.api+json"]
)
def test_json_by_other_names(server: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path, body in BODIES.items():
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connection.request("POST", path, json.dumps(body), headers)
        assert connection.getresponse().status == 200
        connection.close()


def test_encodings_of_a_body(server: Served) -> None:
    text = json.dumps({**BODIES["/v1/completions"], "prompt": "é漢"}, ensure_ascii=False)
    headers = {"content-type": "application/json"}
    with server.client() as client:
        answers = [
            client.post("/v1/completions", content=text.encode(encoding), headers=headers)
            for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-le")  # as RFC 4627 allows
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        latin = client.post("/score", content='{"text": "é"}'.encode("latin-1"), headers=headers)
        assert "not UTF-8" in latin.json()["error"]["message"]
        zipped = client.post("/score", content=b"\x1f\x8b", headers={**headers, "content-encoding": "gzip"})
        assert "Content-Encoding: gzip" in zipped.json()["error"]["message"]
        empty = client.post("/score", headers=headers)
        assert "empty" in empty.json()["error"]["message"]
        for answer in (latin, zipped, empty):
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_as_people_type_it(server: Served) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--noproxy", "*", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout

    body = json.dumps(BODIES["/v1/completions"])
    refused = json.loads(curl(f"{server.url}/v1/completions", "-d", body))["error"]["message"]
    remedy = ["-H", "Content-Type: application/json"]
    assert f"{remedy[0]} '{remedy[1]}'" in refused
    done = json.loads(curl(f"{server.url}/v1/completions", "-d", body, *remedy))
    assert done["choices"][0]["text"] == server.sampler.sample("ab", length=3, seed=1)
    assert curl("--head", f"{server.url}/health").startswith("HTTP/1.1 200")
    score = json.dumps(BODIES["/score"])  # as with a large body, curl waits for leave to send it
    assert (
        json.loads(curl(f"{server.url}/score", "-d", score, *remedy, "-H", "Expect: 100-continue"))["characters"] == 2
    )


@pytest.mark.skipif(shutil.which("wget") is None, reason="no wget")
def test_wget_looks_for_the_server(server: Served) -> None:
    for path in ("/health", "/", "/v1/models/tiny/"):
        subprocess.run(["wget", "--quiet", "--spider", "--no-proxy", server.url + path], check=True)
