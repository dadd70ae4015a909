"""The notebooks of examples/, run without a browser in one kernel: progress, curves, texts, an interrupted run."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
NOTEBOOKS = ["first_model.ipynb", "look_inside.ipynb"]
FURTHER = [
    """
import os, signal
class Interrupting(charrnn.Listener):
    sent = False
    def on_progress(self, event):
        if event.step > 5 and not self.sent:  # a second signal would end the run at once
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
run = charrnn.train("book.txt", time="1h", hidden_size=32, dropout=0, out="stopped", listener=Interrupting())
print(run.interrupted, charrnn.resume("stopped", steps=20, progress=False).interrupted)
""",
    """
import concurrent.futures
def in_a_thread():
    return charrnn.train("book.txt", steps=3, hidden_size=32, dropout=0, out="thread", progress=False)
print(concurrent.futures.ThreadPoolExecutor().submit(in_a_thread).result().history[-1]["step"])
""",
]


def read(name: str) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(EXAMPLES / name, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "book.txt").write_text(text + string.printable * 9)  # every character of the notebooks' own texts
    committed = [cell.source for name in NOTEBOOKS for cell in code(read(name))]
    short = 'charrnn.train("book.txt", steps=20, hidden_size=32, dropout=0, '
    sources = [cell.replace('charrnn.train(time="1m", ', short) for cell in committed]
    assert sum(short in cell for cell in sources) == 1
    sources = [cell.replace("max_loss_increase=0.1", "max_loss_increase=1") for cell in sources] + FURTHER
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    trained, shown, plotted, sampled, exported, used, _, surprise, units, unit, page, interrupted, threaded = (
        outputs(cell) for cell in notebook.cells
    )
    assert "application/vnd.jupyter.widget-view+json" in trained, "no progress bar"
    assert "best validation loss" in shown["text/html"]
    assert plotted["image/png"]
    assert len(sampled["stdout"]) == 201
    assert exported["text/plain"].startswith("notebook.onnx: ")
    assert (tmp_path / "notebook.onnx").stat().st_size > 1000
    assert used["stdout"].count("bits per character") == 2
    assert surprise["text/html"].count("<span") == unit["text/html"].count("<span") > 100
    assert units["stdout"].count("r = ") == 5
    assert page["stdout"] == "True\n"
    assert (tmp_path / "heatmap.html").stat().st_size > 10_000
    assert interrupted["stdout"].splitlines()[-1] == "True False"
    assert threaded["stdout"] == "3\n"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebooks_have_small_outputs(name: str) -> None:
    notebook = read(name)
    assert (EXAMPLES / name).stat().st_size < 100_000
    assert any(cell.outputs for cell in code(notebook))
    for cell in code(notebook):
        assert not [
            output for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"
        ]
        assert "widget" not in str(cell.outputs), "a progress bar without its state shows nothing"
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", (EXAMPLES / name).read_text("utf-8"))


def outputs(cell: Any) -> dict[str, Any]:
    """What a cell has shown, by MIME type, and what it has printed, by stream."""
    shown: dict[str, Any] = {"stdout": "", "stderr": ""}
    for output in cell.outputs:
        if output.output_type == "stream":
            shown[output.name] += output.text
        else:
            shown |= output.data
    return shown
