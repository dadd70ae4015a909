"""A run that is killed at any moment resumes to the same weights and the same metrics, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.metrics import NAME, read_metrics
from charrnn.training.cadence import Cadence
from charrnn.training.trainer import resumable

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer

KILLS = 30
SETTINGS = {"steps": 400, "eval_steps": 100}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_and_resumed(make_trainer: MakeTrainer) -> None:
    straight = make_trainer("straight", **SETTINGS).train()
    folder = make_trainer("killed", **SETTINGS).folder
    moments = random.Random(7)
    kills, ended = 0, False
    while not ended:
        child = os.fork()
        if child == 0:
            _go_on(make_trainer, folder)
        if kills < KILLS:
            time.sleep(moments.uniform(0.05, 0.3))
            os.kill(child, signal.SIGKILL)
            kills += 1
        _, status = os.waitpid(child, 0)
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        ended = os.WIFEXITED(status)
        if (folder / "last.pt").exists():
            load_checkpoint(folder / "last.pt")
        if ended and kills < KILLS:  # done before the last kill: kill another run from its beginning
            assert _same(straight.last.parent, folder)
            for path in folder.glob("*"):
                path.unlink()
            ended = False
    assert kills == KILLS
    assert _same(straight.last.parent, folder)


def _go_on(make_trainer: MakeTrainer, folder: Path) -> None:
    """In the child: begins or resumes the run, and ends the process whatever happens."""
    code = 1
    try:
        checkpoint = resumable(folder) if (folder / "last.pt").exists() else None
        # A kill may come between the last save and the end of the process: nothing is left to do then.
        if checkpoint is None or checkpoint.progress["step"] < SETTINGS["steps"]:
            often = Cadence(save_seconds=0.02)  # so that many of the kills fall into a save
            make_trainer("killed", checkpoint=checkpoint, cadence=often, **SETTINGS).train()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _same(straight: Path, killed: Path) -> bool:
    a, b = load_checkpoint(straight / "last.pt"), load_checkpoint(killed / "last.pt")
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    # neither gap nor double; times differ from run to run
    timeless = [
        [{k: v for k, v in line.items() if k not in ("elapsed", "chars_per_second")} for line in read_metrics(folder)]
        for folder in (straight, killed)
    ]
    assert timeless[0] == timeless[1]
    assert len(timeless[0]) == (killed / NAME).read_text().count("\n")
    return True
