"""``charrnn export --web``: what is written where, and what is refused. No network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.web.onnxruntime import pin

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

MODULE, WASM = b"export const env = {};", b"\0asm"


def test_a_site_around_a_model_file(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "site"
    for _ in range(2):  # the second one replaces the first
        done = charrnn("export", run.model, "--web", folder, "--cdn")
        assert done.code == 0, done.err
        assert str(folder) in done.out
    assert (folder / "model.onnx").read_bytes() == run.model.read_bytes()
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "generator.onnx",
        "index.html",
        "style.css",
        "app.js",
        "worker.js",
        "site.json",
        "charrnn/sampler.js",
    } <= written
    page = (folder / "index.html").read_text("utf-8")
    assert not re.search(r"\{\w*[a-z]\w*\}", page), "nothing is left to fill in"
    site = json.loads((folder / "site.json").read_text())
    assert site["wasm"] == {
        "url": f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{pin().version}/{pin().wasm}",
        "integrity": pin().files[pin().wasm],
    }


def test_a_checkpoint_becomes_a_model_file_and_a_site(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    done = charrnn("export", run.folder, tmp_path / "m.onnx", "--web", tmp_path / "site", "--cdn")
    assert done.code == 0, done.err
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "site" / "model.onnx").read_bytes()


def test_other_files_are_not_mixed_with_a_site(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    for target, part in (("mine", "holds other files"), ("mine/index.html", "is a file")):
        done = charrnn("export", run.model, "--web", tmp_path / target, "--cdn")
        assert (done.code, done.out) == (1, "")
        assert part in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_usage(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    assert charrnn("export", run.folder).code == 2
    assert charrnn("export", run.folder, tmp_path / "m.onnx", "--cdn").code == 2
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    done = charrnn("export", tmp_path / "bad.onnx", "--web", tmp_path / "site", "--cdn")
    assert done.code == 1
    assert "not an ONNX" in done.err
    assert not (tmp_path / "site").exists()
