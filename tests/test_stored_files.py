"""Files that earlier versions wrote give what they gave then. They are made by tests/fixtures/make.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import charrnn

FOLDERS = sorted(path.parent for path in (Path(__file__).parent / "fixtures").glob("*/expected.json"))
EXPECTED: dict[Path, dict[str, Any]] = {
    folder / name: entry
    for folder in FOLDERS
    for name, entry in json.loads((folder / "expected.json").read_text("utf-8")).items()
}


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_every_stored_file_is_small_and_has_its_expectation() -> None:
    assert FOLDERS
    stored = {path for folder in FOLDERS for path in folder.iterdir() if path.suffix in (".pt", ".onnx")}
    assert stored == EXPECTED.keys()
    assert all(path.stat().st_size < 150_000 for path in stored)


@pytest.mark.parametrize("path", EXPECTED, ids=_name)
def test_it_gives_the_same_texts_and_scores(path: Path) -> None:
    expected = EXPECTED[path]
    sampler = charrnn.load(path)
    assert sampler.info.weights_sha256 == expected["weights_sha256"]
    for sample in expected["samples"]:
        assert sampler.sample(sample["prompt"], **sample["options"]) == sample["text"]
    score = -float(sampler.score(expected["score"]["text"]).log_probs.sum())
    # Processors differ most in int8 products: without VNNI instructions, sums may saturate.
    tolerance = {"float32": 1e-3, "float16": 1e-2, "int8": 0.03 * len(expected["score"]["text"])}
    assert score == pytest.approx(expected["score"]["nats"], abs=tolerance[sampler.info.dtype])


@pytest.mark.parametrize("path", [path for path in EXPECTED if path.suffix == ".pt"], ids=_name)
def test_a_stored_run_goes_on(path: Path, tmp_path: Path) -> None:
    expected = EXPECTED[path]["resumed"]
    shutil.copy(path, tmp_path / "last.pt")
    text = (path.parent / expected["text"]).read_text(encoding="utf-8")
    run = charrnn.resume(tmp_path, text=text, steps=expected["steps"], progress=False)
    assert run.history[-1]["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-3)
