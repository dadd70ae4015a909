"""What strangers send: refused in OpenAI's form, and without harm to others."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from charrnn_runtime import Sampler

from tests.server.conftest import Served, post, serving


def request(served: Served, body: dict[str, Any]) -> socket.socket:
    """A connection on which a completion was asked for, and of which nothing was read."""
    where = urlsplit(served.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((where.hostname, where.port))
    data = json.dumps({"model": "tiny", "stream": True, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"prompt": "aXb"}, 400, "never seen 'X'"),
        ({"prompt": "a" * 1_000_000}, 400, "100000"),
        ({"prompt": ["a" * 60_000] * 2}, 400, "100,000"),
        ({"prompt": "a" * 2_000_000}, 413, "bytes"),
        ({"nonsense": 1}, 400, "nonsense"),
        ({"n": 10_000}, 400, "n: "),
        ({"n": 20, "prompt": ["a", "b"]}, 400, "prompts times n"),
        ({"n": 0}, 400, "n: "),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 10**9}, 400, "max_tokens"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "0.7"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": -(2**63) - 1}, 400, "seed"),
        ({"seed": 2**64}, 400, "seed"),
        ({"stop": 5}, 400, "stop"),
        ({"stop": ["a", 5]}, 400, "stop"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"logprobs": 1000}, 400, "logprobs"),
        ({"logit_bias": {"9999": 1}}, 400, "9999"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, 400, "logit_bias"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": {}}, 400, "prompt"),
        ({"model": "../../etc/passwd"}, 404, "no model"),
    ],
)
def test_refused(server: Served, body: dict[str, Any], status: int, word: str) -> None:
    answer = server.complete(**body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert word in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert server.quiet()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no json", "application/json"),
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'{"model": "tiny"', "application/json"),
        (b'{"model": "tiny", "prompt": "\xff"}', "application/json"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "application/json"),
        (b'{"model": "tiny", "temperature": NaN}', "application/json"),
        (b"[" * 50_000, "application/json"),
        (b'{"model": "tiny"}', "text/plain"),
        (b"model=tiny", "application/x-www-form-urlencoded"),
    ],
)
def test_bodies_that_are_none(server: Served, data: bytes, kind: str) -> None:
    with server.client() as client:
        answer = client.post("/v1/completions", content=data, headers={"content-type": kind})
    assert (answer.status_code, set(answer.json())) == (400, {"error"})


def test_unknown_characters_can_be_left_out(server: Served) -> None:
    (choice,) = server.complete(prompt="aXb", unknown="skip", max_tokens=20, seed=1).json()["choices"]
    assert choice["text"] == server.sampler.sample("ab", length=20, seed=1)


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/static/../app.py", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd",
     "/playground.js/..", "/index.html", "/app.py", "/v1/models/..%2f..%2fapp.py", "/..\\app.py", "/docs"],
)  # fmt: skip
def test_paths_lead_nowhere(server: Served, path: str) -> None:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port)) as sock:
        # Raw: clients tidy paths up before they send them.
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split()[1] == b"404"
    assert b'"error"' in answer


def test_a_thousand_requests_at_once(characters: Sampler) -> None:
    with serving({"tiny": characters}) as served:

        async def flood() -> list[tuple[int, bytes]]:
            bodies = [{"model": "tiny", "prompt": "ab", "max_tokens": 20, "seed": i} for i in range(1000)]
            return await asyncio.gather(*(post(served.url, body) for body in bodies))

        answers = asyncio.run(flood())
    assert {status for status, _ in answers} == {200}
    texts = [json.loads(body)["choices"][0]["text"] for _, body in answers]
    for i in range(0, 1000, 9):
        assert texts[i] == characters.sample("ab", length=20, seed=i)


def test_a_full_queue_says_so(characters: Sampler) -> None:
    with serving({"tiny": characters}, streams=2, queue=5) as served:

        async def flood() -> list[tuple[int, bytes]]:
            bodies = [{"model": "tiny", "max_tokens": 3000, "seed": i} for i in range(40)]
            return await asyncio.gather(*(post(served.url, body) for body in bodies))

        answers = asyncio.run(flood())
        assert {status for status, _ in answers} == {200, 429}
        for i, (status, body) in enumerate(answers):
            if status == 200:
                assert json.loads(body)["choices"][0]["text"] == characters.sample(length=3000, seed=i)
            else:
                assert json.loads(body)["error"]["code"] == "busy"
        # A request of more texts than there is room for is taken whole or not at all.
        assert served.complete(n=8, max_tokens=3000).status_code == 429
        assert served.quiet()


def test_a_client_that_leaves_frees_his_place(characters: Sampler) -> None:
    with serving({"tiny": characters}, streams=1, max_tokens=10**9) as served:
        for stream in (True, False):
            gone = request(served, {"max_tokens": 10**9, "stream": stream})
            while not served.models.engines["tiny"].active:
                time.sleep(0.005)
            gone.close()
            assert served.complete(max_tokens=20, seed=1).json()["choices"][0]["text"] == characters.sample(
                length=20, seed=1
            )
            assert served.quiet()


def test_a_client_that_stops_reading_is_paused_then_dropped(characters: Sampler) -> None:
    # Small buffers on the way, so that the text is paused long before its client is dropped.
    with serving({"tiny": characters}, streams=2, max_tokens=10**9, stall=3, send_buffer=4096) as served:
        engine = served.models.engines["tiny"]
        engine.max_buffered = 64
        with request(served, {"max_tokens": 10**9, "logprobs": 20}):
            until, before, now = time.monotonic() + 10, None, (1, 0, 0)
            while time.monotonic() < until and (now != before or engine.active):  # until all buffers are full
                time.sleep(0.4)
                before, now = now, (engine.active, engine.waiting, engine.tokens_generated)
            drawn = now[2]
            assert now == (0, 1, drawn), "a text that its client does not read is not drawn"
            body = {"max_tokens": 500, "seed": 4}
            assert served.complete(**body).json()["choices"][0]["text"] == characters.sample(length=500, seed=4)
            assert engine.tokens_generated == drawn + 500
            assert served.quiet(10), "in the end his place in the queue is free"
