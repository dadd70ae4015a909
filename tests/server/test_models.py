"""Which files a server loads."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from charrnn_runtime import ModelFileError, Sampler, Vocabulary
from charrnn_server.models import load
from charrnn_server.options import ServerOptions

from tests.runtime.conftest import TinyModel


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
