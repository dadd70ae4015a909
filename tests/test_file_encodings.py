"""Files are UTF-8 whatever the locale: no command opens one in the locale's encoding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run

COMMANDS = [
    ["train", "{text}", "--steps", "2", "--hidden-size", "8", "--lines", "--out", "out"],
    ["train", "--resume", "--steps", "3", "--out", "out"],
    ["export", "out", "model.onnx", "--dtype", "int8", "--max-loss-increase", "9"],
    ["export", "out", "--triton", "triton"],
    ["sample", "out", "--num", "2", "--length", "5", "--unique", "--report"],
    ["eval", "{model}", "{text}"],
    ["eval", "model.onnx", "{text}", "--per-line", "--sort"],
    ["inspect", "{run}"],
    ["plot", "{run}", "-o", "loss.png"],
    ["plot", "{run}", "-o", "report.html"],
    ["heatmap", "{model}", "--sample", "--length", "20", "-o", "heat.html"],
    ["bench", "{model}", "--seconds", "0.01"],
    ["data", "list"],
    ["data", "cache"],
]
# EncodingWarning is Python's own: it names each place that relies on the locale. Other packages may have such places.
PROGRAM = """
import json, runpy, sys, warnings
warnings.simplefilter("ignore", EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module="charrnn")
from charrnn.cli import main
runpy.run_path(sys.argv[2])["keep_operator_table"]()
for argv in json.loads(sys.argv[1]):
    sys.argv[:] = ["charrnn", *argv]
    try:
        main()
    except SystemExit as end:
        assert not end.code, argv
"""


@pytest.mark.slow
def test_no_command_relies_on_the_locale(run: Run, tmp_path: Path) -> None:
    files = {"text": run.text, "model": run.model, "run": run.folder}
    commands = [[part.format(**files) for part in command] for command in COMMANDS]
    server = str(Path(__file__).with_name("forkserver.py"))
    done = subprocess.run(
        [sys.executable, "-P", "-X", "warn_default_encoding", "-c", PROGRAM, json.dumps(commands), server],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
