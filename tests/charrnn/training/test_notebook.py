"""A notebook, run without a browser: it trains, shows progress and curves, samples, exports, and can be interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CELLS = [
    """
import charrnn
run = charrnn.train("book.txt", time="1s", hidden_size=32, dropout=0)
""",
    "run",
    "run.plot()",
    "print(run.sample('The ', length=50, seed=1))",
    "run.export('book.onnx', dtype='int8', max_loss_increase=1)",
    """
import os, signal, threading
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


@pytest.mark.slow
def test_a_notebook_trains_plots_samples_and_exports(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "book.txt").write_text(text)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    trained, shown, plotted, sampled, exported, interrupted, threaded = (outputs(cell) for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in trained, "no progress bar"
    assert "best validation loss" in shown["text/html"]
    assert plotted["image/png"]
    assert len(sampled["stdout"]) == 51
    assert exported["text/plain"].startswith("book.onnx: ")
    assert (tmp_path / "book.onnx").stat().st_size > 1000
    assert interrupted["stdout"].splitlines()[-1] == "True False"
    assert threaded["stdout"] == "3\n"


def outputs(cell: Any) -> dict[str, Any]:
    """What a cell has shown, by MIME type, and what it has printed, by stream."""
    shown: dict[str, Any] = {"stdout": "", "stderr": ""}
    for output in cell.outputs:
        if output.output_type == "stream":
            shown[output.name] += output.text
        else:
            shown |= output.data
    return shown
