"""The examples, in processes of their own in which torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import Sampler

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

EXAMPLES = Path(__file__).parents[2] / "examples"
# runpy runs the file as __main__; None in sys.modules makes an import fail.
WITHOUT_TORCH = (
    "import runpy, sys; sys.modules['torch'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], None, '__main__')"
)


@pytest.fixture
def model(tiny: TinyModel, tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    return str(path)


def test_thread_pool(model: str, sampler: Sampler) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLES / "thread_pool.py"), model]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"seed {s}: {sampler.sample(length=100, seed=s)!r}" for s in range(8)]


@pytest.fixture
def server(model: str) -> Iterator[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLES / "web_app.py"), model, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def get(server: str, **query: object) -> str:
    with urllib.request.urlopen(f"{server}?{urllib.parse.urlencode(query)}", timeout=30) as response:
        assert response.status == 200
        text: str = response.read().decode()
        return text


def test_web_app(server: str, sampler: Sampler) -> None:
    assert get(server, prompt="bad", length=50, seed=3) == sampler.sample("bad", length=50, seed=3)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda seed: get(server, length=200, seed=seed), range(8)))
    assert texts == [sampler.sample(length=200, seed=seed) for seed in range(8)]
    for wrong, message in (
        ({"length": "many"}, "invalid literal"),
        ({"temperature": "-1"}, "temperature"),
        ({"prompt": "X"}, "never seen"),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server, **wrong)
        assert caught.value.code == 400
        assert message in caught.value.read().decode()
