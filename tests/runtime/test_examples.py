"""The examples, in processes of their own in which torch cannot be imported."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime import Sampler, generator_file, read_model_file

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

EXAMPLES = Path(__file__).parents[2] / "examples"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1"
TRAINER = "torch,onnx,charrnn,charrnn_export"
# runpy runs the file as __main__. An import of torch, even one that is caught, is told at the end.
WITHOUT_TORCH = """
import atexit, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            print("imported", name, file=sys.stderr)
            raise ImportError(name)
sys.meta_path.insert(0, Watch())
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
del sys.argv[:2]
runpy.run_path(sys.argv[0], None, "__main__")
"""


@pytest.fixture
def model(tiny: TinyModel, tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    return str(path)


def test_thread_pool(model: str, sampler: Sampler) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, TRAINER, str(EXAMPLES / "thread_pool.py"), model]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"seed {s}: {sampler.sample(length=100, seed=s)!r}" for s in range(8)]
    assert done.stderr == "False\n"


class Server:
    """The web application in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, path: str, **query: object) -> tuple[int, str]:
        connection = self.connect()
        connection.request("POST", path, json.dumps(query), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, response.read().decode()


@pytest.fixture
def server(model: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", WITHOUT_TORCH, TRAINER, str(EXAMPLES / "web_app.py"), model, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        made = Server(port)
        try:
            for _ in range(300):
                try:
                    made.connect().connect()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    time.sleep(0.1)
            yield made
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.read().splitlines()
        assert "False" in told, "torch was never there"
        assert not [line for line in told if line.startswith("imported")]


def test_web_app(server: Server, sampler: Sampler) -> None:
    one: dict[str, Any] = {"length": 50, "seed": 3, "stop": ["ab"], "temperature": 0.8}
    text = sampler.sample("bad", **one)
    assert server.ask("/stream", prompt="bad", **one) == (200, text)
    assert server.ask("/generate", prompt="bad", **one) == (
        200,
        json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":")),
    )
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda seed: server.ask("/stream", length=200, seed=seed), range(8)))
    assert texts == [(200, sampler.sample(length=200, seed=seed)) for seed in range(8)]
    for wrong, message in (
        ({"length": "many"}, "valid integer"),
        ({"length": 10_001}, "less than or equal to 10000"),
        ({"prompt": "a" * 10_001}, "at most 10000"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"stop": [""]}, "at least 1 character"),
        ({"lenght": 3}, "not permitted"),
        ({"prompt": "X"}, "never seen 'X'"),
    ):
        status, body = server.ask("/stream", **wrong)
        assert (status, message in body) == (422, True), body


def test_the_web_app_streams_and_survives_clients_that_go_away(server: Server, sampler: Sampler) -> None:
    """More abandoned texts than there are places: each gives its place back."""
    longest = sampler.sample(length=10_000, seed=1)
    for _ in range(12):
        connection = server.connect()
        body = json.dumps({"length": 10_000, "seed": 1})
        connection.request("POST", "/stream", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status == 503:  # those before have not yet been noticed to be gone
            time.sleep(0.2)
        else:
            assert longest.encode().startswith(response.read(1))
        connection.close()
    for _ in range(100):
        status, text = server.ask("/stream", length=20, seed=1)
        if status == 200:
            break
        assert status == 503
        time.sleep(0.1)
    assert text == longest[:20]


@pytest.fixture(params=[("lstm-text", "The c"), ("lstm-text", ""), ("gru-items", "")], ids=str)
def drawn(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[str], str]:
    """Arguments of a host of a generator, and the text that it must print."""
    name, prompt = request.param
    file = read_model_file(FIXTURES / f"{name}.onnx")
    path = tmp_path / "model-generator.onnx"
    path.write_bytes(generator_file(file))
    text = prompt + Sampler(file).sample(prompt, length=150, seed=2**64 - 1)
    return [str(path), prompt, "150", str(2**64 - 1)], text + "\n"


def printed(command: list[str]) -> str:
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stderr
    return done.stdout


def test_a_generator_in_python(drawn: tuple[list[str], str]) -> None:
    arguments, text = drawn
    blocked = TRAINER + ",charrnn_runtime"
    host = str(EXAMPLES / "generator" / "host.py")
    assert printed([sys.executable, "-c", WITHOUT_TORCH, blocked, host, *arguments]) == text


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The host in C++, linked with the library of the Python package."""
    import onnxruntime

    compiler, headers = shutil.which("g++"), os.environ.get("ONNXRUNTIME_INCLUDE")
    if not compiler or not headers:
        pytest.skip("no g++, or ONNXRUNTIME_INCLUDE does not name the folder of onnxruntime_cxx_api.h")
    folder = tmp_path_factory.mktemp("host")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    command = [compiler, "-std=c++20", "-I", headers, str(EXAMPLES / "generator" / "host.cpp")]
    command += [str(folder / "libonnxruntime.so.1"), f"-Wl,-rpath,{folder}", "-o", str(folder / "host")]
    subprocess.run(command, check=True)
    return str(folder / "host")


def test_a_generator_in_cpp(compiled: str, drawn: tuple[list[str], str]) -> None:
    arguments, text = drawn
    assert printed([compiled, *arguments]) == text
