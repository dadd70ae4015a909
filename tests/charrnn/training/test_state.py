"""Resuming: an interrupted run continues as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from charrnn.errors import CheckpointError
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.training.trainer import Trainer
from tests.conftest import NEEDS_BF16

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer, Run


def after(trainer: Trainer, steps: int) -> Callable[[], bool]:
    return lambda: trainer.run.counters.step >= steps


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "elapsed"} for entry in history]


@pytest.mark.parametrize("interrupted_at", [20, 23], ids=["at a validation", "between validations"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cell": "gru", "num_layers": 2, "dropout": 0.4, "optimizer": "adamw"},
        pytest.param({"cell": "rnn", "precision": "bf16", "epochs": 0.42}, marks=NEEDS_BF16),
    ],
    ids=["lstm", "gru with dropout", "rnn in bf16 by epochs"],
)
def test_interrupted_and_resumed_equals_straight_bit_by_bit(
    make_trainer: MakeTrainer, settings: dict[str, Any], interrupted_at: int
) -> None:
    if "epochs" not in settings:
        settings = settings | {"steps": 40}
    settings = settings | {"eval_steps": 10}
    straight = make_trainer("straight", **settings)
    straight.train()
    first = make_trainer("first", **settings)
    finished = first.train(after(first, interrupted_at))
    assert finished.interrupted
    assert finished.step == interrupted_at
    torch.manual_seed(99)  # whatever happened in between
    second = make_trainer("first", checkpoint=load_checkpoint(first.folder / "last.pt"), **settings)
    assert not second.train().interrupted

    for name, weight in straight.run.model.state_dict().items():
        assert torch.equal(weight, second.run.model.state_dict()[name]), name
    for a, b in zip(straight.run.state, second.run.state, strict=True):
        assert torch.equal(a, b)
    assert straight.run.text.position == second.run.text.position
    assert straight.run.counters.best_val_loss == second.run.counters.best_val_loss
    resumed = [entry for entry in without_times(second.run.history) if entry["step"] % 10 == 0 or entry["step"] > 40]
    assert resumed == [e for e in without_times(straight.run.history) if e["step"] % 10 == 0 or e["step"] > 40]
    extra = [] if interrupted_at % 10 == 0 else [interrupted_at]
    assert sorted([e["step"] for e in straight.run.history] + extra) == [e["step"] for e in second.run.history]
    best = [load_checkpoint(folder / "best.pt") for folder in (straight.folder, second.folder)]
    assert best[0].progress["step"] == best[1].progress["step"]


def test_interrupted_before_the_first_step_there_is_something_to_resume(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=10)
    finished = trainer.train(lambda: True)
    assert finished.interrupted
    assert finished.step == 1
    resumed = make_trainer(steps=10, checkpoint=load_checkpoint(trainer.folder / "last.pt"))
    assert resumed.train().step == 10


def test_a_run_resumed_and_stopped_at_once_is_unchanged(make_trainer: MakeTrainer) -> None:
    first = make_trainer(steps=20)
    first.train(after(first, 5))
    before = (first.folder / "last.pt").read_bytes()
    second = make_trainer(steps=20, checkpoint=load_checkpoint(first.folder / "last.pt"))
    assert second.train(lambda: True).step == 5
    assert (first.folder / "last.pt").read_bytes() == before


def test_time_goes_on_counting(make_trainer: MakeTrainer) -> None:
    first = make_trainer(time=600)
    first.train(after(first, 5))
    checkpoint = load_checkpoint(first.folder / "last.pt")
    checkpoint.progress["elapsed"] = 590.0
    second = make_trainer(time=600, checkpoint=checkpoint)
    finished = second.train(after(second, 8))
    assert 590 < finished.elapsed < 600
    third = make_trainer(time=590, checkpoint=load_checkpoint(first.folder / "last.pt"))
    assert third.run.fraction >= 1.0


def test_a_larger_budget_carries_a_finished_run_on(make_trainer: MakeTrainer) -> None:
    make_trainer("a", steps=10).train()
    longer = make_trainer("a", steps=20, checkpoint=load_checkpoint(make_trainer("a").folder / "last.pt"))
    assert longer.train().step == 20
    assert [e["step"] for e in longer.run.history][:2] == [1, 2]


def test_another_text_is_refused(make_trainer: MakeTrainer, run: Run, tmp_path: Path) -> None:
    for i, text in enumerate((run.text.read_text() + "!", "entirely different " * 50)):
        (tmp_path / f"{i}.txt").write_text(text)
        with pytest.raises(CheckpointError, match=r"was trained on another text \(.*text\.txt\)"):
            make_trainer(text=tmp_path / f"{i}.txt", checkpoint=load_checkpoint(run.best))


@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"optimizer": "adamw"}])
def test_settings_that_cannot_change_are_refused(make_trainer: MakeTrainer, run: Run, settings: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        make_trainer(checkpoint=load_checkpoint(run.best), **settings)


def _change(checkpoint: Checkpoint, what: str) -> None:
    match what:
        case "no optimizers":
            del checkpoint.resume["optimizers"]
        case "optimizers are numbers":
            checkpoint.resume["optimizers"] = [1, 2]
        case "no random numbers":
            checkpoint.resume["rng"] = {}
        case "random numbers of another size":
            checkpoint.resume["rng"]["cpu"] = torch.zeros(3, dtype=torch.uint8)
        case "state is text":
            checkpoint.resume["state"] = ["h_0", "c_0"]
        case "state of another size":
            checkpoint.resume["state"] = [torch.zeros(8, 31)] * 2
        case "losses of another size":
            checkpoint.resume["losses"] = torch.zeros(3)
        case "positions of items":
            checkpoint.resume["row_state"] = [torch.zeros(8, 2, dtype=torch.int64)]
        case "position is text":
            checkpoint.progress["position"] = "first"
        case "no best loss":
            del checkpoint.progress["best_val_loss"]


@pytest.mark.parametrize(
    "what",
    [
        "no optimizers", "optimizers are numbers", "no random numbers", "random numbers of another size",
        "state is text", "state of another size", "losses of another size", "positions of items",
        "position is text", "no best loss",
    ],
)  # fmt: skip
def test_a_damaged_resume_part_is_refused(make_trainer: MakeTrainer, run: Run, what: str) -> None:
    checkpoint = load_checkpoint(run.best)
    _change(checkpoint, what)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        make_trainer(checkpoint=checkpoint)
