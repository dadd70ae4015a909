"""The report of a run: everything in it, everything escaped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.runs.samples import Sample, append_sample

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

EVIL = "</pre></script><img src=x onerror=alert(1)>"


def test_report(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x>"
    shutil.copytree(run.folder, folder)
    append_sample(folder, Sample(step=101, epoch=9.5, train_loss=1.0, val_loss=1.0, text=EVIL))
    settings = json.loads((folder / "config.json").read_text())
    settings["corpus"]["name"] = EVIL
    (folder / "config.json").write_text(json.dumps(settings))
    page = tmp_path / "report.html"
    done = charrnn("plot", folder, "-o", page)
    assert done.code == 0, done.err
    html = page.read_text("utf-8")
    assert "<img" not in html
    assert "<script" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") == 2
    assert (
        html.count("<article>") == len((run.folder / "samples.txt").read_text().split("step ")) == html.count("<pre>")
    )
    assert "<polyline" in html
    assert "model.hidden_size" in html
    assert './report-heatmap.html"' in html
    assert "<img" not in (tmp_path / "report-heatmap.html").read_text("utf-8")


def test_bad_input(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    assert charrnn("plot", run.folder, run.folder, "-o", tmp_path / "r.html").code == 2
    assert charrnn("plot", tmp_path, "-o", tmp_path / "r.html").code == 2
    assert not (tmp_path / "r.html").exists()
