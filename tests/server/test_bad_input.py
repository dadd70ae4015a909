"""What strangers send: refused in OpenAI's form, and without harm to others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from charrnn_runtime import ModelFileError, Sampler, UsageError, Vocabulary
from charrnn_server.models import load
from charrnn_server.options import ServerOptions

from tests.conftest import Charrnn, Run
from tests.runtime.conftest import TinyModel
from tests.server.conftest import Served, serving


async def post(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """A whole answer, over a connection of its own."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    answer = await reader.read()
    writer.close()
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), rest


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


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "zip.onnx").write_bytes(b"PK\x03\x04 checkpoint")
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "word"),
    [("zip.onnx", "charrnn export"), ("run", "charrnn export"), ("a.pt", "no such file"),
     ("none.onnx", "not an ONNX"),
     ("missing.onnx", "no such file")],
)  # fmt: skip
def test_files_that_are_no_models(files: Path, name: str, word: str) -> None:
    with pytest.raises(ModelFileError, match=word):
        load([files / name], ServerOptions())


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_model_from_a_pipe(tmp_path: Path) -> None:
    """As shells give it for <(command): it can be read once."""
    os.mkfifo(tmp_path / "piped.onnx")
    data = TinyModel(Vocabulary.from_text("\n abc")).data()
    threading.Thread(target=(tmp_path / "piped.onnx").write_bytes, args=(data,), daemon=True).start()
    (sampler,) = load([tmp_path / "piped.onnx"], ServerOptions()).values()
    assert sampler.sample(length=20, seed=1) == Sampler(data).sample(length=20, seed=1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"streams": 0}, "streams must be at least 1"),
        ({"queue": -1}, "queue"),
        ({"port": 70000}, "port"),
        ({"api_key": ""}, "API key"),
        ({"allow_origin": ("example.org",)}, "allowed origin 'example.org'"),
        ({"host": "0.0.0.0"}, "CHARRNN_API_KEY"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ServerOptions(**options)


def test_a_key_or_a_word_opens_the_server() -> None:
    for host, own in (("0.0.0.0", set()), ("10.1.2.3", {"10.1.2.3"}), ("::1", set())):
        rules = ServerOptions(host=host, api_key="x").host_rules
        assert {rule.name for rule in rules} == {"localhost", "127.0.0.1", "::1", *own}
    assert ServerOptions(host="10.1.2.3", public=True).api_key is None
    with pytest.raises(UsageError, match="at least one"):
        load([], ServerOptions())


def test_the_server_runs_where_no_torch_is(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'charrnn', 'charrnn_export', 'typer', 'rich'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from charrnn_server.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    path = tmp_path / "own.onnx"
    path.write_bytes(TinyModel(Vocabulary.from_text("\n abc")).data())
    command = [sys.executable, "-c", code, str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            status, answer = asyncio.run(post(url, {"model": "own", "max_tokens": 30, "seed": 1}))
        finally:
            process.terminate()
    assert (status, json.loads(answer)["choices"][0]["text"]) == (200, Sampler(path).sample(length=30, seed=1))


def test_the_command(charrnn: Charrnn, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = charrnn("serve", run.best)
    assert (checkpoint.code, checkpoint.out) == (1, "")
    assert "charrnn export CHECKPOINT" in checkpoint.err
    monkeypatch.delenv("CHARRNN_API_KEY", raising=False)
    assert charrnn("serve", run.model, "--host", "0.0.0.0").code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in charrnn("serve", run.model, "--port", port).err
