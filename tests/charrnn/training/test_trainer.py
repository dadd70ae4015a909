"""The training loop: budgets, checkpoints, short texts, divergence."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from charrnn.errors import CorpusError, DivergedError, WriteError
from charrnn.events import Finished, Listener, Progress, Started, Validated
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.metrics import read_metrics
from charrnn.training.cadence import Cadence
from charrnn.training.reporting import KEEP, SAMPLE_LENGTH
from charrnn.training.trainer import Trainer
from charrnn.training.validation import MeanLoss
from tests.conftest import NEEDS_BF16

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer, Run


class Recorder(Listener):
    """Keeps all that it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.notices: list[str] = []

    def on_start(self, event: Started) -> None:
        self.events.append(event)

    def on_progress(self, event: Progress) -> None:
        self.events.append(event)

    def on_validation(self, event: Validated) -> None:
        self.events.append(event)

    def on_notice(self, message: str) -> None:
        self.notices.append(message)

    def on_finish(self, event: Finished) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_learns_and_leaves_its_files(run: Run) -> None:
    best, last = (load_checkpoint(run.folder / name) for name in ("best.pt", "last.pt"))
    assert last.progress["step"] == 100
    assert best.progress["best_val_loss"] == min(entry["val_loss"] for entry in last.history)
    assert best.progress["best_val_loss"] < 2.0, "a uniform guess costs 3.2 nats, letter frequencies 2.8"
    periodic = [name for name in files(run.folder) if name.startswith("epoch")]
    assert len(periodic) == KEEP
    for name, entry in zip(sorted(periodic), last.history[-3:], strict=True):
        assert name == f"epoch{entry['epoch']:.2f}-loss{entry['val_loss']:.4f}.pt"
    assert set(files(run.folder)) == {"best.pt", "last.pt", "config.json", "metrics.jsonl", "samples.txt", *periodic}


def test_config_json_tells_how_to_do_it_again(run: Run) -> None:
    config = json.loads((run.folder / "config.json").read_text())
    assert config["model"]["hidden_size"] == 32
    assert config["train"]["steps"] == 100
    assert config["data"]["val_frac"] == 0.1
    assert config["corpus"]["arguments"] == [str(run.text)]
    assert config["corpus"]["characters"] == len(run.text.read_text())


def test_the_listener_hears_everything_in_order(make_trainer: MakeTrainer, run: Run) -> None:
    recorder = Recorder()
    finished = make_trainer(steps=20, eval_steps=5, listener=recorder).train()
    kinds = [type(event) for event in recorder.events]
    assert kinds[0] is Started
    assert kinds[-1] is Finished
    assert recorder.events[-1] == finished
    validated = recorder.of(Validated)
    assert [event.step for event in validated] == [5, 10, 15, 20]
    assert all(len(event.sample) == SAMPLE_LENGTH for event in validated)
    assert set("".join(event.sample for event in validated)) <= set(run.text.read_text())
    for progress in recorder.of(Progress):
        assert 0 < progress.fraction <= 1
        assert progress.chars_per_second > 0
        assert math.isfinite(progress.seconds_left)
    started = recorder.events[0]
    assert started.parameters == make_trainer("other").run.model.num_parameters()
    assert started.train_characters < started.characters == len(run.text.read_text())
    assert started.budget == "20 steps"


def test_the_same_seed_gives_the_same_run_and_another_another(make_trainer: MakeTrainer) -> None:
    losses = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        trainer = make_trainer(name, steps=15, seed=seed, dropout=0.3)
        trainer.train()
        losses.append([(entry["train_loss"], entry["val_loss"]) for entry in trainer.run.history])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("settings", [{}, {"lines": True}, {"split": "streams"}], ids=["text", "items", "streams"])
def test_losses_and_state_are_those_of_a_plain_loop(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    """With almost no learning rate the weights stay the same, so a loop beside it can compute the same."""
    trainer = make_trainer(steps=7, lr=1e-30, **settings)
    model, text = trainer.run.model, make_trainer("other", **settings).run.text
    state, losses = model.initial_state(8), []
    assert not any(s.any() for s in trainer.run.state)
    with torch.no_grad():
        for _ in range(7):
            x, y = (torch.from_numpy(ids) for ids in text.next(16))
            rows = []
            for token in x:  # one character at a time, the state carried over batches
                logits, state = model(token[None], state)
                rows.append(logits[0])
                end = trainer.run.corpus.vocabulary.special.get("end", -1)
                state = tuple(torch.where((token == end)[:, None], 0.0, s) for s in state)
            log_probs = torch.stack(rows).double().log_softmax(2)
            known = y >= 0
            losses.append(-float(log_probs.gather(2, y.clamp(min=0)[..., None])[..., 0][known].mean()))
    finished = trainer.train()
    assert finished.train_loss == pytest.approx(sum(losses) / 7, abs=1e-5)
    for ours, theirs in zip(trainer.run.state, state, strict=True):
        assert not ours.requires_grad
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_budgets_end_a_run(make_trainer: MakeTrainer) -> None:
    assert make_trainer("steps", steps=12).train().step == 12
    by_epochs = make_trainer("epochs", epochs=0.25).train()
    assert 0.25 <= by_epochs.epoch < 0.27
    by_time = make_trainer("time", time=0.5).train()
    assert 0.5 <= by_time.elapsed < 3
    assert not by_time.interrupted
    assert load_checkpoint(by_time.last).progress["step"] == by_time.step


def test_the_rate_falls_to_nothing_at_the_end_of_the_budget(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=10, warmup_steps=0, cadence=Cadence(log_steps=1))
    trainer.train()
    rates = [line["lr"] for line in read_metrics(trainer.folder) if "lr" in line]
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)])


def test_only_the_last_few_periodic_checkpoints_stay_and_the_best_is_kept(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=12, eval_steps=2)
    trainer.train()
    history = trainer.run.history
    names = {f"epoch{e['epoch']:.2f}-loss{e['val_loss']:.4f}.pt" for e in history[-3:]}
    assert {name for name in files(trainer.folder) if name.startswith("epoch")} == names
    best = load_checkpoint(trainer.folder / "best.pt")
    assert best.progress["val_loss"] == min(e["val_loss"] for e in history)


def test_best_pt_is_the_best_and_last_pt_the_last(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = iter([3.0, 2.0, 2.5])
    recorder = Recorder()
    trainer = make_trainer(steps=6, eval_steps=2, listener=recorder)
    monkeypatch.setattr(trainer.run.text, "validation_loss", lambda _: MeanLoss(next(scripted), 0.0))
    finished = trainer.train()
    assert [event.best for event in recorder.of(Validated)] == [True, True, False]
    best, last = (load_checkpoint(trainer.folder / name) for name in ("best.pt", "last.pt"))
    assert (best.progress["step"], best.progress["val_loss"]) == (4, 2.0)
    assert (last.progress["step"], last.progress["val_loss"], last.progress["best_val_loss"]) == (6, 2.5, 2.0)
    assert (finished.val_loss, finished.best_val_loss) == (2.5, 2.0)


EVERY_STEP = Cadence(first_save_seconds=0.0, save_seconds=0.0, save_share=math.inf)


def test_last_pt_is_saved_between_validations_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=50, eval_steps=50, cadence=EVERY_STEP)
    seen: set[int] = set()

    def stop() -> bool:
        path = trainer.folder / "last.pt"
        if path.exists():
            checkpoint = load_checkpoint(path)
            assert checkpoint.history == []
            seen.add(checkpoint.progress["step"])
        return len(seen) == 3

    trainer.train(stop)
    assert seen == {1, 2, 3}


@pytest.mark.parametrize(("characters", "layout"), [(20, (1, 17)), (100, (1, 64)), (1000, (8, 64)), (1200, (16, 64))])
def test_short_texts_shrink_batch_or_sequence_with_a_notice(
    make_trainer: MakeTrainer, tmp_path: Path, text: str, characters: int, layout: tuple[int, int]
) -> None:
    path = tmp_path / "short.txt"
    path.write_text(text[:characters])
    recorder = Recorder()
    trainer = make_trainer(text=path, steps=3, batch_size=16, seq_len=64, listener=recorder)
    assert (trainer.run.config.batch_size, trainer.run.config.seq_len) == layout
    if layout == (16, 64):
        assert recorder.notices == []
    else:
        (notice,) = recorder.notices
        n_train = characters - max(1, characters // 10)
        assert f"the training text has {n_train:,} characters" in notice
        assert "needs 1,024" in notice
        assert f"shrunk to {layout[0]} × {layout[1]}" in notice
    assert math.isfinite(trainer.train().val_loss)


@pytest.mark.parametrize(("characters", "val_frac"), [(2, 0.1), (19, 0.1), (40, 0.9)])
def test_a_text_that_is_too_short_says_how_much_is_needed(
    make_trainer: MakeTrainer, tmp_path: Path, text: str, characters: int, val_frac: float
) -> None:
    path = tmp_path / "short.txt"
    path.write_text(text[:characters])
    with pytest.raises(
        CorpusError, match=rf"short\.txt: {characters} characters .* at least 20 are needed.*--val-frac"
    ):
        make_trainer(text=path, val_frac=val_frac)


def test_a_used_up_budget_makes_no_step_but_the_last_validation(make_trainer: MakeTrainer) -> None:
    first = make_trainer("a", steps=3, eval_steps=3)
    finished = first.train()
    checkpoint = load_checkpoint(first.folder / "last.pt")
    assert make_trainer("a", steps=3, eval_steps=3, checkpoint=checkpoint).train().val_loss == finished.val_loss
    checkpoint.history.clear()  # as if it had been killed before the validation
    again = make_trainer("b", steps=3, eval_steps=3, checkpoint=checkpoint)
    assert again.train().val_loss == finished.val_loss
    assert len(again.run.history) == 1


def poison(trainer: Trainer, *, step: int, times: int) -> Callable[[], bool]:
    """A ``stop`` that never stops, but makes a weight NaN after a step."""
    left = iter(range(times))

    def stop() -> bool:
        if trainer.run.counters.step == step and next(left, None) is not None:
            with torch.no_grad():
                trainer.run.model.head.weight[0, 0] = math.nan
        return False

    return stop


def test_divergence_that_comes_back_ends_the_run_and_leaves_the_good_checkpoints(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=40, eval_steps=5)
    with pytest.raises(DivergedError, match=r"exploded \(nan at step 1\d\).*lower --lr .*last\.pt is from before"):
        trainer.train(poison(trainer, step=12, times=1000))
    assert trainer.run.counters.step == 10
    for name in ("best.pt", "last.pt"):
        checkpoint = load_checkpoint(trainer.folder / name)
        assert checkpoint.progress["step"] == 10
        assert all(w.isfinite().all() for w in checkpoint.weights.values())


def test_an_explosion_that_passes_is_gone_back_from_with_half_the_rate(make_trainer: MakeTrainer) -> None:
    recorder = Recorder()
    trainer = make_trainer(steps=20, eval_steps=5, listener=recorder)
    finished = trainer.train(poison(trainer, step=12, times=1))
    (notice,) = recorder.notices
    assert re.search(r"exploded \(nan at step 1\d\): back to step 10, with the rate halved to 0\.005", notice)
    assert [entry["step"] for entry in trainer.run.history] == [5, 10, 15, 20]
    assert math.isfinite(finished.val_loss)
    assert load_checkpoint(finished.last).progress["lr_scale"] == 0.5


def test_a_last_validation_that_explodes_goes_back_and_training_goes_on(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    trainer = make_trainer(steps=10, eval_steps=5, listener=recorder)
    scripted = iter([2.0, math.nan, 1.5])
    monkeypatch.setattr(trainer.run.text, "validation_loss", lambda _: MeanLoss(next(scripted), 0.0))
    finished = trainer.train()
    assert re.search(r"exploded \(nan at step 10\): back to step 5", recorder.notices[0])
    assert (finished.step, finished.val_loss, finished.interrupted) == (10, 1.5, False)
    metrics = read_metrics(trainer.folder)
    assert [line["step"] for line in metrics if "val_loss" in line] == [5, 10]


def test_a_model_that_was_sure_of_another_text_may_begin_worse_than_guessing(make_trainer: MakeTrainer) -> None:
    weights = {name: w.clone() for name, w in make_trainer("other").run.model.state_dict().items()}
    weights["head.bias"][0] += 20.0  # expects nothing but newlines: about 20 nats, where guessing costs 3.2
    recorder = Recorder()
    trainer = make_trainer(steps=5, weights=weights, listener=recorder)
    finished = trainer.train()
    assert finished.val_loss > 2 * math.log(len(trainer.run.corpus.vocabulary)) + 1
    assert recorder.notices == []


def test_a_run_that_diverges_at_once_leaves_no_checkpoint(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=60, lr=1e12, grad_clip=0.0, warmup_steps=0, optimizer="adamw", cell="rnn")
    with pytest.raises(DivergedError) as error:
        trainer.train()
    assert "from before" not in str(error.value)
    assert files(trainer.folder) == ["config.json", "metrics.jsonl"]


def test_a_full_disk_ends_the_run_with_the_earlier_checkpoints_whole(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(steps=20, eval_steps=5)
    fsync = os.fsync

    def full(handle: int) -> None:
        if trainer.run.counters.step > 5:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        trainer.train()
    assert [load_checkpoint(trainer.folder / name).progress["step"] for name in ("best.pt", "last.pt")] == [5, 5]
    assert not [name for name in files(trainer.folder) if name.endswith(".tmp")]


@NEEDS_BF16
def test_bytes_and_bfloat16_train_too(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(bytes(i * i % 256 for i in range(3000)))
    recorder = Recorder()
    trainer = make_trainer(text=tmp_path / "noise.bin", steps=20, precision="bf16", bytes=True, listener=recorder)
    finished = trainer.train()
    assert finished.val_loss < math.log(256)
    assert {w.dtype for w in trainer.run.model.state_dict().values()} == {torch.float32}
    assert {s.dtype for s in trainer.run.state} == {torch.float32}
    assert recorder.events[0].precision == "bf16"


class Clock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The same call, but it takes so many seconds."""

        def timed(argument: Any) -> Any:
            self.now += seconds
            return call(argument)

        return timed


def test_time_and_speed_are_read_from_the_clock(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recorder = Clock(), Recorder()
    trainer = make_trainer(steps=10, clock=clock, listener=recorder, cadence=Cadence(log_steps=4, report_seconds=99))
    monkeypatch.setattr(trainer.run.text, "next", clock.taking(2.0, trainer.run.text.next))
    assert trainer.train().elapsed == 20.0
    logged = [line for line in read_metrics(trainer.folder) if "lr" in line]
    assert [(line["step"], line["elapsed"]) for line in logged] == [(4, 8.0), (8, 16.0)]
    for progress in recorder.of(Progress):
        assert progress.chars_per_second == pytest.approx(8 * 16 / 2)
        assert progress.seconds_left == pytest.approx(20 - 2 * progress.step)


@pytest.mark.parametrize(
    ("slow", "validated_at"), [(0.0, [10, 20, 30, 40, 50, 60, 70, 80, 87, 90, 100]), (3.0, [10, 60, 100])]
)
def test_validations_take_a_twentieth_of_a_time_budget_at_most(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, slow: float, validated_at: list[float]
) -> None:
    """A budget of a hundred seconds, one a step: a tenth of it is over when 10, 20, … seconds have passed.

    The first pass over the text ends after 87 steps.
    After a validation of 3 seconds, the next one is made when 3 seconds are no more than a twentieth of the time.
    """
    clock = Clock()
    trainer = make_trainer(time=100.0, clock=clock)
    text = trainer.run.text
    monkeypatch.setattr(text, "next", clock.taking(1.0, text.next))
    monkeypatch.setattr(text, "validation_loss", clock.taking(slow, lambda _: MeanLoss(2.0, 0.0)))
    trainer.train()
    assert [entry["elapsed"] for entry in trainer.run.history] == validated_at


@pytest.mark.parametrize("name", ["time", "epochs"])
def test_a_run_whose_validation_loss_has_turned_up_ends_with_its_best_model(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    losses = iter([3.0, 2.0, 2.01, 2.5, 1.9, 1.91, 2.2, 2.1, 1.915, 2.2, 2.3, 2.4] + [9.0] * 10)
    recorder, clock = Recorder(), Clock()
    trainer = make_trainer(patience=3, eval_steps=1, listener=recorder, clock=clock, **{name: 100.0})
    text = trainer.run.text
    monkeypatch.setattr(text, "next", clock.taking(1.0, text.next))
    monkeypatch.setattr(text, "validation_loss", lambda _: MeanLoss(next(losses), 0.0))
    finished = trainer.train()
    assert (finished.step, finished.interrupted, finished.best_val_loss) == (12, False, 1.9)
    assert any("--patience 0" in notice for notice in recorder.notices)
    assert load_checkpoint(finished.best).progress["step"] == 5
    last = load_checkpoint(finished.last)
    assert last.completes(last.train_config)
    assert not last.completes(replace(last.train_config, patience=4))
    assert not last.completes(replace(last.train_config, patience=0))


def test_a_time_budget_ends_with_the_most_passes_over_the_text(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(time=1000.0, max_epochs=2.0, clock=Clock())
    finished = trainer.train()
    assert not finished.interrupted
    assert finished.epoch == pytest.approx(2.0, abs=0.1)
    last = load_checkpoint(finished.last)
    assert last.completes(last.train_config)


def test_a_time_that_ends_within_a_validation_is_used_up(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run that is resumed would train on, each time a step more."""
    now = [0.0]
    trainer = make_trainer(time=10.0, eval_steps=2, clock=lambda: now[0])
    validate = trainer.run.text.validation_loss

    def slow(model: Any) -> Any:
        now[0] += 20.0
        return validate(model)

    monkeypatch.setattr(trainer.run.text, "validation_loss", slow)
    assert not trainer.train().interrupted
    assert load_checkpoint(trainer.folder / "last.pt").completes(trainer.run.config)
