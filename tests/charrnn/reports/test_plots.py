"""Loss plots: their axis, whatever runs are called, and whatever backend the environment names."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from charrnn_runtime import UsageError
from hypothesis import given
from hypothesis import strategies as st

from charrnn.errors import RunFolderError
from charrnn.reports.plots import draw_runs, loss_limits, plot_runs, sparkline

pytest.importorskip("matplotlib")

LINES = [{"step": s, "epoch": s / 10, "elapsed": s / 2, "loss": 3 - s / 100} for s in range(0, 100, 10)]
LINES += [{"step": s, "epoch": s / 10, "elapsed": s / 2, "val_loss": 3.1 - s / 100} for s in (50, 99)]


def run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("book", "book"),
        ("caf\xe9 – 1×2", "caf\xe9 – 1×2"),
        ("字", r"\u5b57"),
        ("_hidden", " _hidden"),
        ("a $x$ $", r"a \$x\$ \$"),
        ("[bold]", "[bold]"),
        ("a\udcff", r"a\udcff"),
    ],
)
def test_a_run_of_any_name_is_drawn(tmp_path: Path, name: str, shown: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of characters that its font lacks
        plot_runs([run(tmp_path / name)], tmp_path / "loss.png")
        figure = draw_runs([tmp_path / name])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    (text,) = legend.get_texts()
    assert text.get_text() == f"{shown}: validation (best 2.1100); thin: training"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_an_inherited_backend_is_ignored(tmp_path: Path, backend: str) -> None:
    run(tmp_path / "run")
    program = "from pathlib import Path; from charrnn.reports.plots import plot_runs; import os; "
    program += "plot_runs([Path('run')], Path('loss.svg')); print(os.environ['MPLBACKEND'])"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (backend, "")
    assert "<svg" in (tmp_path / "loss.svg").read_text("utf-8")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in"):
        plot_runs([run(tmp_path / "run")], tmp_path / "loss.bmp")
    with pytest.raises(UsageError, match="unknown x axis"):
        draw_runs([tmp_path / "run"], x="y")
    with pytest.raises(RunFolderError, match="no metrics"):
        draw_runs([tmp_path])


def test_the_axis_ends_a_little_above_the_validation_losses() -> None:
    low, high = loss_limits([9.0, 4.0, 1.0], [2.0, 3.0, 1.5])
    assert low == 1.0
    assert high == 3.0 + 0.25 * 1.5 + 0.05


def test_without_validation_the_axis_shows_all_training_losses() -> None:
    low, high = loss_limits([9.0, 4.0], [])
    assert low == 4.0
    assert high > 9.0


@given(st.lists(st.floats(), max_size=20))
def test_a_sparkline_has_a_character_for_each_value(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == (len(values) if any(map(math.isfinite, values)) else 0)


def test_a_sparkline_has_the_highest_value_as_the_highest_block() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▄▁"
