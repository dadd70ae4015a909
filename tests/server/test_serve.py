"""The server as a process: signals, odd environments, streams that are closed or full, addresses that are taken."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from charrnn_runtime import Sampler, Vocabulary
from charrnn_server.options import ServerOptions
from charrnn_server.serve import SIGNALS, ServerError, listen, serve

from tests.runtime.conftest import TinyModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "own.onnx"
    path.write_bytes(TinyModel(Vocabulary.from_text("\n abc")).data())
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    model: Path, *arguments: str, program: Sequence[str] = ("-m", "charrnn_server"), **popen: Any
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The server's process, and a client for it, once it answers."""
    port = free_port()
    command = [sys.executable, *program, str(model), "--port", str(port), *arguments]
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    with (
        subprocess.Popen(command, **popen) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, timeout=20) as client,
    ):
        try:
            until = time.monotonic() + 60
            while True:
                assert process.poll() is None, process.stderr.read() if process.stderr else "it ended"
                assert time.monotonic() < until
                with contextlib.suppress(httpx.TransportError):
                    if client.head("/health").status_code == 200:
                        break
                time.sleep(0.05)
            yield process, client
        finally:
            process.kill()


def texts(client: httpx.Client) -> str:
    answer = client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 20, "seed": 1})
    return str(answer.json()["choices"][0]["text"])


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_it_in_order(model: Path, number: signal.Signals) -> None:
    with running(model, "--max-tokens", str(10**9)) as (process, client):
        # An endless text is given three seconds.
        body = {"max_tokens": 10**9, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            pieces = answer.iter_lines()
            assert next(pieces).startswith("data: ")
            process.send_signal(number)
            time.sleep(0.3)
            process.send_signal(number)  # the impatient send it twice
            *_, last = (piece for piece in pieces if piece)
            assert "the server is shutting down" in last
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.decode().splitlines() == [str(client.base_url) + "/"]
    assert "Traceback" not in err.decode()


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_server_under_nohup(model: Path) -> None:
    with running(model, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as (process, client):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert texts(client) == Sampler(model).sample("ab", length=20, seed=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def closed_outputs() -> None:
    for number in (0, 1, 2):
        os.close(number)


def full_outputs() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("change", [closed_outputs, full_outputs])
def test_nobody_hears_it(model: Path, change: Callable[[], None]) -> None:
    with running(model, preexec_fn=change) as (process, client):
        assert texts(client) == Sampler(model).sample("ab", length=20, seed=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, 1)


def test_a_reader_that_goes_away(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with running(model, stdout=write) as (process, client):
        os.close(write)
        assert texts(client)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


# Any user may read everything with this, because the interpreter may be below /root.
AS_A_STRANGER = """
import runpy, sys
runpy.run_path(sys.argv.pop(1))["become"](54321)
from charrnn_runtime.command_line import run_command
from charrnn_server.__main__ import main
run_command(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs root on Linux")
def test_where_there_is_little(model: Path, tmp_path: Path) -> None:
    """No home, an unknown user, a folder in which nothing can be written, a terminal with few characters."""
    path = tmp_path / "漢字 model.onnx"
    path.write_bytes(model.read_bytes())
    tmp_path.chmod(0o555)
    environment = {"PYTHONIOENCODING": "cp1252", "LC_ALL": "C", "TERM": "dumb", "HOME": "/nowhere"}
    program = ("-c", AS_A_STRANGER, str(Path(__file__).parents[1] / "forkserver.py"))
    with running(path, program=program, cwd=tmp_path, env=environment) as (process, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == "漢字 model"
        assert client.get("/v1/models/漢字 model/").json()["id"] == "漢字 model"
        assert texts(client)
        assert client.get("/").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == [path]
    missing = [sys.executable, "-m", "charrnn_server", str(tmp_path / "字.onnx")]
    done = subprocess.run(missing, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr
    assert b"\\u5b57.onnx" in done.stderr


def test_in_a_thread_of_another_program(model: Path) -> None:
    port = free_port()
    options = ServerOptions(port=port, stall=1)
    before = [signal.getsignal(number) for number in SIGNALS]
    threading.Thread(target=serve, args=([model], options), daemon=True).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                assert client.get("/health").json() == {"status": "ok"}
                break
            time.sleep(0.02)
        assert texts(client)
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for first in (b"", whole):  # headers that come too slowly, in a first or in a second request
            with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
                slow.sendall(first + whole[:10])
                begin = time.monotonic()
                with contextlib.suppress(OSError):
                    for byte in whole[10:]:
                        time.sleep(0.1)
                        slow.sendall(bytes([byte]))
                with contextlib.suppress(OSError):
                    while slow.recv(4096):
                        pass
                assert time.monotonic() - begin < 0.1 * len(whole) - 1
        assert texts(client)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "192.0.2.1", "public": True}, ["192.0.2.1:8000", "--host"]),
        ({"host": "no-such-host.invalid", "public": True}, ["no-such-host.invalid", "--host"]),
        ({"host": "a" * 70 + ".example", "public": True}, ["cannot listen", "--host"]),
        ({"host": "2001:db8::1", "public": True}, ["2001:db8::1", "--host"]),
    ],
)
def test_addresses_that_are_not_ours(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ServerError) as caught:
        listen(ServerOptions(**options))
    assert all(word in str(caught.value) for word in words)


def test_a_port_in_use() -> None:
    with listen(ServerOptions(port=0, stall=10**9)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"127.0.0.1:{port}.* in use; choose another --port; 0 takes a free one"):
            listen(ServerOptions(port=port))


def test_all_addresses_are_announced_as_one_that_answers(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    for host, shown in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        try:
            serve([model], ServerOptions(host=host, port=0, public=True))
        except ServerError:
            assert ":" in host, "only IPv6 may be missing"
            continue
        out, err = capsys.readouterr()
        assert out.startswith(f"http://{shown}:")
        assert ("--allow-host" in err) == (host == "0.0.0.0")
