"""What a run tells, and that only the first process writes. What the files hold is tested with the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charrnn.events import Finished, Listener, Progress, Started, Validated
from charrnn.runs.metrics import read_metrics
from charrnn.training.distributed import Processes
from charrnn.training.reporting import Reporter
from charrnn.training.validation import MeanLoss

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer


class Heard(Listener):
    """Counts the events."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_start(self, event: Started) -> None:
        self.events.append(event)

    def on_progress(self, event: Progress) -> None:
        self.events.append(event)

    def on_validation(self, event: Validated) -> None:
        self.events.append(event)

    def on_finish(self, event: Finished) -> None:
        self.events.append(event)


def report(make_trainer: MakeTrainer, folder: Path, processes: Processes) -> Heard:
    """A session in which everything happens once."""
    run = make_trainer(steps=10, lines=True).run
    run.counters.step = 5
    run.add_validation(MeanLoss(2.5, 0.1))
    checkpoint = run.checkpoint()
    run.processes = processes
    heard = Heard()
    reporter = Reporter(run, folder, heard, precision="fp32")
    with reporter.session():
        reporter.progress(100.0)
        reporter.metrics(lr=0.1, grad_norm=1.5, chars_per_second=100.4)
        reporter.validation(checkpoint, best=True)
        reporter.save(checkpoint)
    reporter.finished()
    return heard


def test_one_process_writes_files(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    report(make_trainer, tmp_path, Processes())
    names = {path.name for path in tmp_path.iterdir() if path.is_file() and not path.name.startswith("items-")}
    assert names == {"best.pt", "last.pt", "epoch0.00-loss2.5000.pt", "config.json", "metrics.jsonl", "samples.txt"}
    assert [line.get("val_loss") or line["lr"] for line in read_metrics(tmp_path)] == [0.1, 2.5]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 10


def test_the_others_write_none_but_tell_their_listener(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    heard = report(make_trainer, folder, Processes(rank=1, size=2))
    assert not list(folder.iterdir())
    assert [type(event) for event in heard.events] == [Started, Progress, Validated, Finished]
    started = heard.events[0]
    assert isinstance(started, Started)
    assert started.settings.endswith(", 2 processes")


@pytest.mark.parametrize(
    ("budget", "words"),
    [({"steps": 1200}, "1,200 steps"), ({"epochs": 1.5}, "1.5 epochs"), ({"time": 90}, "1 min 30 s")],
)
def test_the_budget_in_words(make_trainer: MakeTrainer, tmp_path: Path, budget: dict[str, float], words: str) -> None:
    heard = Heard()
    run = make_trainer(**budget).run
    with Reporter(run, tmp_path, heard, precision="fp32").session():
        pass
    assert isinstance(heard.events[0], Started)
    assert heard.events[0].budget == words
