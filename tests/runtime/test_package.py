"""The package from outside: what it exports, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import charrnn_runtime
import pytest
from charrnn_runtime import CharrnnError

from tests.runtime.conftest import WITHOUT_TRAINER

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


@pytest.fixture
def model(tiny: TinyModel, tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    return str(path)


def python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter; fails with its error output."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names() -> None:
    assert charrnn_runtime.__all__ == sorted(charrnn_runtime.__all__)
    for name in charrnn_runtime.__all__:
        assert getattr(charrnn_runtime, name) is not None
        assert name in dir(charrnn_runtime)
    with pytest.raises(AttributeError, match="nonsense"):
        charrnn_runtime.nonsense  # noqa: B018


def test_every_error_has_one_root_and_an_exit_code() -> None:
    errors = [e for e in vars(charrnn_runtime).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) >= 6
    for error in errors:
        assert issubclass(error, CharrnnError)
        assert error.exit_code == (2 if issubclass(error, ValueError) else 1)


def test_nothing_is_imported_before_it_is_needed() -> None:
    out = python(
        "import sys, charrnn_runtime\n"
        "heavy = ('numpy', 'onnxruntime', 'torch', 'onnx')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "charrnn_runtime.Sampler\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    assert out.splitlines() == ["[]", "['numpy']"]


def test_sampling_needs_numpy_and_onnxruntime_alone(model: str) -> None:
    out = python(
        WITHOUT_TRAINER + "from charrnn_runtime import Sampler\n"
        "sampler = Sampler(sys.argv[1])\n"
        "print(len(sampler.sample('ab', length=20, seed=1)), sampler.score('ab').nats_per_char > 0)\n",
        model,
    )
    assert out.split() == ["20", "True"]


def test_missing_onnxruntime_says_what_to_install(model: str) -> None:
    out = python(
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from charrnn_runtime import DeviceError, Sampler\n"
        "try:\n"
        "    Sampler(sys.argv[1])\n"
        "except DeviceError as error:\n"
        "    print(error)\n",
        model,
    )
    assert "pip install 'charrnn-runtime[cpu]'" in out
