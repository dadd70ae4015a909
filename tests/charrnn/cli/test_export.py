"""``charrnn export``: where it writes, what it says, and smaller weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from charrnn_export import verify
from charrnn_runtime import Sampler

from charrnn.inference.models import _validation
from charrnn.runs.checkpoint import load_checkpoint
from tests.conftest import refused

if TYPE_CHECKING:
    from tests.conftest import Charrnn, MakeTrainer, Run


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", "float16"), ("int8", "int8")])
def test_smaller_weights_are_measured_and_said(
    run: Run, charrnn: Charrnn, tmp_path: Path, dtype: str, stored: str
) -> None:
    model = tmp_path / "small.onnx"
    outcome = charrnn("export", run.best, model, "--dtype", dtype, "--max-loss-increase", "0.5")
    assert outcome.code == 0, outcome.err
    assert f"{dtype}: " in outcome.out
    assert "characters of validation text" in outcome.out
    assert ("slow on a CPU" in outcome.out) == (dtype == "fp16")
    info = Sampler(model).info
    assert info.dtype == stored
    assert set(info.quality) == {"float32", stored, "tokens"}
    refused = charrnn("export", run.best, tmp_path / "none.onnx", "--dtype", dtype, "--max-loss-increase", "-1")
    assert refused.code == 1
    assert "more than the -1 allowed" in refused.err
    assert not (tmp_path / "none.onnx").exists()


def test_a_file_that_fails_the_check_is_refused_or_marked(
    run: Run, charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verify, "SEQUENCE", 1e-9)  # no float32 forward is so exact
    model = tmp_path / "model.onnx"
    refused = charrnn("export", run.best, model)
    assert refused.code == 1
    assert refused.err.startswith("error: the trained model's own forward in float32 does not compute")
    assert "--unverified" in refused.err
    assert not model.exists()
    written = charrnn("export", run.best, model, "--unverified")
    assert written.code == 0
    assert "NOT VERIFIED" in written.out
    assert "warning: the trained model's own forward" in written.err
    kind = next(line for line in charrnn("inspect", model).out.splitlines() if line.startswith("kind: "))
    assert kind.endswith("NOT VERIFIED")
    assert "not verified" not in caplog.text
    assert charrnn("sample", model, "--length", 5, "--seed", 1).code == 0
    assert "model.onnx: not verified" in caplog.text


def test_dtypes_that_are_none(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    outcome = charrnn("export", run.best, tmp_path / "m.onnx", "--dtype", "fp8")
    assert (outcome.code, outcome.out) == (2, "")
    assert "unknown dtype 'fp8'; known: fp32, fp16, int8" in outcome.err


def test_split_streams_is_measured_on_what_was_not_trained_on(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(split="streams", steps=4, val_frac=0.2)
    trainer.train()
    checkpoint = load_checkpoint(next(trainer.folder.glob("best.pt")))
    measured = np.concatenate(_validation(checkpoint, ()))
    ids = np.asarray(trainer.run.corpus.ids)
    # Each of the 8 streams has so many batches of 16 characters; the last fifth of them is for validation.
    batches = len(ids) // (8 * 16)
    streams = ids[: batches * 8 * 16].reshape(8, batches * 16)
    assert measured.tolist() == streams[:, int(batches * 0.8) * 16 :].ravel().tolist()


def test_export_writes_one_file_and_says_how_close_it_is(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    outcome = charrnn("export", run.folder, tmp_path / "model.onnx")
    assert outcome.code == 0
    assert outcome.err == ""
    assert len(outcome.out.splitlines()) == 1
    size = (tmp_path / "model.onnx").stat().st_size
    for part in (f"{size:,} bytes", "opset 18", "verified: one step is within", "256 steps within"):
        assert part in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    texts = {charrnn("sample", model, "--seed", 1).out for model in (tmp_path / "model.onnx", run.model)}
    assert len(texts) == 1


def test_a_generator_beside_the_model(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    model, generator = tmp_path / "m.onnx", tmp_path / "m-generator.onnx"
    outcome = charrnn("export", run.folder, model, "--generator")
    assert outcome.code == 0
    assert f"{generator.stat().st_size:,} bytes; draws texts" in outcome.out
    first = generator.read_bytes()
    generator.unlink()
    assert charrnn("export", model, "--generator").code == 0
    assert generator.read_bytes() == first, "the same from the checkpoint and from the model file"
    refused(charrnn("sample", generator), 1, "is a generator, for programs without this runtime")
    refused(charrnn("export", run.folder, "--generator"), 2, "name the .onnx file to write")


def test_export_refuses_places_and_checkpoints_that_cannot_be(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    best = tmp_path / "run" / "best.pt"
    (tmp_path / "link.onnx").symlink_to(best)
    before = best.read_bytes()
    for target in (best, tmp_path / "link.onnx", tmp_path / "other.pt"):
        refused(charrnn("export", tmp_path / "run", target), 2, "this is a checkpoint, or named like one")
    assert best.read_bytes() == before
    refused(charrnn("export", best, tmp_path), 1, "is a folder")
    refused(charrnn("export", best, "/dev/null/model.onnx"), 1, "cannot be written")
    refused(charrnn("export", best, tmp_path / "missing" / "m.onnx"), 1, "cannot be written")
    refused(charrnn("export", run.model, tmp_path / "m.onnx"), 1, "not a charrnn checkpoint")
    refused(charrnn("export", tmp_path / "none.pt", tmp_path / "m.onnx"), 1, "cannot be read")
    assert not (tmp_path / "m.onnx").exists()
