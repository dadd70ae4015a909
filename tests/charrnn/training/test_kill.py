"""A run that is killed or interrupted at any moment resumes to the same weights and metrics, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import charrnn as library
from charrnn.cli import main
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.metrics import NAME, read_metrics
from charrnn.training import trainer
from charrnn.training.cadence import Cadence

if TYPE_CHECKING:
    from tests.conftest import Run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KILLS = int(os.environ.get("CHARRNN_KILLS", "7"))
KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, "broken pipe")
OPTIONS: dict[str, Any] = {
    "steps": 200, "eval_steps": 50, "hidden_size": 32, "embedding_size": 16, "dropout": 0.1, "batch_size": 8,
    "seq_len": 16, "precision": "fp32", "device": "cpu",
}  # fmt: skip
LINE = [part for name, value in OPTIONS.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def frequent_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many that a lot of the kills come in the middle of one."""
    monkeypatch.setattr(trainer, "Cadence", lambda: Cadence(first_save_seconds=0.0, save_seconds=0.02, save_share=1))


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(run: Run, tmp_path: Path, frequent_saves: None) -> None:
    """The same command again and again, as a scheduler gives it that starts a killed job anew."""
    straight = library.train(run.text, out=tmp_path / "straight", progress=False, **OPTIONS).folder
    folder = tmp_path / "killed"
    moments = random.Random(7)
    reactions: set[tuple[int, bool]] = set()
    for number in range(KILLS):
        kind = KINDS[number % len(KINDS)]
        child, output = start(run.text, folder)
        if number % 5:
            wait_for_training(output)
        time.sleep(moments.uniform(0, 0.3))
        if isinstance(kind, signal.Signals):
            os.kill(child, kind)
        else:
            os.close(output)  # the reader of the output goes away; the run goes on to its end
        _, status = os.waitpid(child, 0)
        ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        if isinstance(kind, signal.Signals):
            os.close(output)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == kind
            saved = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 128 + kind
            assert ended or killed or (saved and kind is not signal.SIGKILL)
            if saved:
                assert load_checkpoint(folder / "last.pt").history
            reactions.add((kind, saved))
        else:
            assert ended
        if (folder / "last.pt").exists():
            load_checkpoint(folder / "last.pt")
        if ended:
            assert_same(straight, folder)
            shutil.rmtree(folder)
    assert {(signal.SIGTERM, True), (signal.SIGHUP, True), (signal.SIGKILL, False)} <= reactions
    child, output = start(run.text, folder)
    os.close(output)
    assert os.waitpid(child, 0)[1] == 0
    assert_same(straight, folder)


def start(text: Path, folder: Path) -> tuple[int, int]:
    """The process that begins the run or goes on with it, and where its output can be read."""
    output, end = os.pipe()
    child = os.fork()
    if child:
        os.close(end)
        return child, output
    code: Any = 1
    try:
        os.dup2(end, 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        sys.argv = ["charrnn", "train", str(text), "--resume", "--out", str(folder), *LINE]
        main()
    except SystemExit as end_of_process:
        code = end_of_process.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code or 0)


def wait_for_training(output: int) -> None:
    """Until the process has announced the run, or has ended."""
    said = b""
    while b"\nrun " not in said and (piece := os.read(output, 4096)):
        said += piece


def assert_same(straight: Path, killed: Path) -> None:
    a, b = load_checkpoint(straight / "last.pt"), load_checkpoint(killed / "last.pt")
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    # Neither gap nor double. Times differ from run to run, and an interrupt adds a validation.
    lines = [
        [{k: v for k, v in line.items() if k not in ("elapsed", "chars_per_second")} for line in read_metrics(folder)]
        for folder in (straight, killed)
    ]
    assert len(lines[1]) == (killed / NAME).read_text().count("\n")
    validations = [line for line in lines[1] if "val_loss" in line]
    assert [line for line in lines[1] if line not in validations or line["step"] % OPTIONS["eval_steps"] == 0] == lines[
        0
    ]
    best = min(validations, key=lambda line: line["val_loss"])
    assert load_checkpoint(killed / "best.pt").progress["step"] == best["step"]
