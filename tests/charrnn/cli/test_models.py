"""Every cell, and models of bytes, go the whole path of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charrnn.runs.checkpoint import load_checkpoint
from tests.conftest import refused

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


@pytest.mark.parametrize("command", ["sample", "eval", "inspect"])
def test_files_that_are_no_models(run: Run, charrnn: Charrnn, tmp_path: Path, command: str) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(run.model.read_bytes()[:500])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(run.best.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("not a model")
    (tmp_path / "folder").mkdir()
    text = [run.text] if command == "eval" else []
    for name in ("text.onnx", "cut.onnx", "empty.onnx", "cut.pt", "text.pt", "missing.onnx", "missing.pt", "folder"):
        refused(charrnn(command, tmp_path / name, *text), 1, "error: ", name)
    refused(charrnn(command, "x" * 300, *text), 1, "error: ")


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_the_other_cells_go_the_whole_path(
    run: Run, charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    monkeypatch.chdir(tmp_path)
    size = (
        "--dropout",
        0,
        "--hidden-size",
        16,
        "--embedding-size",
        8,
        "--num-layers",
        2,
        "--batch-size",
        8,
        "--seq-len",
        16,
    )
    assert charrnn("train", run.text, "--out", "run", "--cell", cell, "--steps", 20, *size).code == 0
    assert charrnn("export", "run", "model.onnx").code == 0
    texts = {charrnn("sample", model, "--seed", 3, "--length", 200).out for model in ("run", "model.onnx")}
    assert len(texts) == 1
    assert len(texts.pop()) == 201
    figure = charrnn("eval", "model.onnx", run.text, "--split", "val").out
    val_loss = load_checkpoint(tmp_path / "run" / "best.pt").progress["val_loss"]
    assert float(figure.split()[0]) == pytest.approx(val_loss, abs=1e-3)


def test_a_byte_model_goes_the_whole_path(charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Käse und Brot, süß und grün.\n" * 60, encoding="utf-8")
    size = (
        "--dropout",
        0,
        "--hidden-size",
        16,
        "--embedding-size",
        8,
        "--batch-size",
        4,
        "--seq-len",
        16,
        "--lr",
        0.02,
    )
    assert charrnn("train", "text.txt", "--bytes", "--out", "run", "--steps", 20, *size).code == 0
    outcome = charrnn("sample", "run", "--prompt", "☃ Käse", "--seed", 1, "--length", 100)
    assert outcome.code == 0
    assert outcome.out.startswith("☃ Käse")
    assert len(outcome.out.encode("utf-8", "surrogateescape")) == len("☃ Käse".encode()) + 100 + 1
