"""Searches: what they vary, how trials are compared, and that a killed one goes on and leaves no process behind."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import charrnn as library
from charrnn.config import ModelConfig, TrainConfig
from charrnn.data.corpus import read_corpus
from charrnn.errors import ConfigError, DistributedError, DivergedError
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training import defaults
from charrnn.training.settings import Settings
from charrnn.tuning import plan, tune
from charrnn.tuning.plan import (
    FACTOR,
    JOURNAL,
    LEAST_TRIALS,
    MARGIN,
    MOST_PART,
    PRICE,
    Outcome,
    budgets,
    search_time,
    winner,
)
from charrnn.tuning.search import Search, remembered
from charrnn.tuning.space import NEUTRAL, RANGES, described, first_changes, is_neutral, settled
from charrnn.tuning.trial import Job, Worker
from tests.conftest import refused

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

BUDGETS = (1.0, 3.0, 9.0)


class Clock:
    """Seconds that pass only when something is trained."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Trainer:
    """A made-up loss: low for a large rate, a little more dropout and two layers; more so with longer budgets."""

    def __init__(self, clock: Clock, *, before: Callable[[int], None] = lambda _: None) -> None:
        self.trained: list[tuple[dict[str, Any], int]] = []
        self._clock, self._before = clock, before

    def run(self, change: Mapping[str, Any], budget: int) -> float:
        self._before(len(self.trained))
        self._clock.now += BUDGETS[budget]
        self.trained.append((dict(change), budget))
        rate, dropout = math.log(change["lr"] / 1.8), change["dropout"] - 0.1
        return float(2 - 0.2 * budget + rate**2 + dropout**2 - 0.1 * change["num_layers"])

    def end(self) -> None:
        pass


def search(folder: Path, clock: Clock, *, given: Collection[str] = (), said: list[str] | None = None) -> Search:
    notice = said.append if said is not None else lambda _: None
    facts = {"time": 200.0}
    return Search(folder, given=given, seed=1, budgets=BUDGETS, facts=facts, on_notice=notice, clock=clock)


def until(seconds: float) -> Callable[[object], float]:
    return lambda _: seconds


def test_the_recipe_itself_is_the_first_trial_and_has_all_budgets_and_better_settings_are_found(tmp_path: Path) -> None:
    clock, said = Clock(), list[str]()
    trainer = Trainer(clock)
    found = search(tmp_path, clock, said=said)
    found.run([trainer], until(150.0))
    assert found.used <= 150.0
    assert [budget for change, budget in trainer.trained if is_neutral(change)] == [0, 1, 2]
    assert is_neutral(trainer.trained[0][0])
    outcomes = found.outcomes()
    best = winner(outcomes, len(BUDGETS))
    assert best is not None
    assert len(best.losses) == 3
    assert best.losses[-1] < 1.65  # of the recipe: 1.955
    # A third of the trials goes on, and more while they become better and better.
    goes_on = [sum(len(o.losses) > rung for o in outcomes) for rung in range(3)]
    assert goes_on[0] / 5 < goes_on[1] < goes_on[0] * 0.8
    assert goes_on[1] / 5 < goes_on[2] < goes_on[1]
    assert "lr" in list(found.importances())[:2]  # of eight; the others differ by chance
    assert sum(found.importances().values()) == pytest.approx(1)
    assert said[0].startswith("trial 0, 1 s: ")
    assert said[0].endswith("(best)  the recipe")


def test_settings_that_are_given_are_not_varied(tmp_path: Path) -> None:
    assert all("lr" not in change for change in first_changes({"lr"}))
    clock = Clock()
    clocked = Trainer(clock)
    found = search(tmp_path, clock, given=RANGES.keys() - {"lr", "dropout", "num_layers"})
    found.run([clocked], until(40.0))
    assert {name for change, _ in clocked.trained for name in change} == {"lr", "dropout", "num_layers"}


def test_several_trials_at_a_time_and_failures(tmp_path: Path) -> None:
    """A model that diverges ends its trial alone; processes that die again and again end the search."""
    clock, said = Clock(), list[str]()
    turns = threading.Barrier(2, timeout=10)

    failed = list[int]()

    def together(trained: int) -> None:
        if trained < 3:
            turns.wait()
        if trained == 3 and not failed:
            failed.append(trained)
            raise DivergedError("the loss exploded")

    trainers = [Trainer(clock, before=together), Trainer(clock, before=together)]
    found = search(tmp_path, clock, said=said)
    found.run(trainers, until(60.0))
    assert all(len(trainer.trained) > 3 for trainer in trainers)
    assert any("failed: the loss exploded" in line for line in said)

    def dies(_: int) -> None:
        raise DistributedError("the process ended with code -9")

    with pytest.raises(DistributedError, match="-9"):
        search(tmp_path, clock).run([Trainer(clock, before=dies)], until(1000.0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    child = os.fork()
    if child == 0:  # killed in its ninth training
        search(tmp_path, clock).run(
            [Trainer(clock, before=lambda n: os.kill(os.getpid(), 9) if n == 8 else None)], until(1e9)
        )
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 8, "half a li')
    (tmp_path / f"{JOURNAL}.lock").touch()
    assert remembered(tmp_path) == {"time": 200.0}
    found, trainer = search(tmp_path, clock), Trainer(clock)
    before = found.outcomes()
    spent = sum(BUDGETS[i] for o in before for i in range(len(o.losses)))
    assert spent <= found.used <= spent + BUDGETS[0] + BUDGETS[1]  # without the trial that was running
    found.run([trainer], until(found.used + 100))
    after = found.outcomes()
    assert after[: len(before)] == before
    assert {tuple(c.values()) for c in first_changes(())} <= {tuple(o.change.values()) for o in after}
    assert len({tuple(o.change.values()) for o in after}) == len(after)


def test_an_interrupted_trial_is_made_again(tmp_path: Path) -> None:
    clock, stop = Clock(), list[int]()

    def interrupted(trained: int) -> None:
        if trained == 1:
            stop.append(1)
            time.sleep(0.3)  # the search notices in the meantime
            raise DistributedError("ended")

    search(tmp_path, clock).run([Trainer(clock, before=interrupted)], until(1e9), lambda: bool(stop))
    found, trainer = search(tmp_path, clock), Trainer(clock)
    assert found.outcomes() == []  # the recipe had one of three budgets
    found.run([trainer], until(found.used + 80))
    assert sum(is_neutral(change) for change, _ in trainer.trained) == 3


def test_a_damaged_journal_is_named(tmp_path: Path, charrnn: Charrnn, run: Run) -> None:
    (tmp_path / JOURNAL).write_text("nonsense\nnonsense\n")
    refused(charrnn("tune", run.text, "--resume", "--out", tmp_path), 2, "tune.log", "damaged", "--overwrite")


@pytest.mark.parametrize("change", [*first_changes(()), first_changes(())[0] | {"num_layers": 1, "lr": 0.4123456}])
def test_options_that_are_written_out_are_taken_as_they_are(
    run: Run, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winning command trains what was searched for: nothing in it is chosen anew."""
    monkeypatch.setattr(defaults, "measure_speed", lambda *_, **__: 1e5)
    corpus = read_corpus([str(run.text)], Settings.from_options({}).data)
    recipe = Settings.from_options({"time": 600}).completed(corpus)
    options = settled(recipe.model, recipe.train, change)
    trained = Settings.from_options(options | {"time": 600}).completed(corpus)
    assert trained.model.to_json().items() >= {k: v for k, v in options.items() if k in trained.model.to_json()}.items()
    assert trained.train.to_json().items() >= {k: v for k, v in options.items() if k in trained.train.to_json()}.items()
    if is_neutral(change):
        assert (trained.model, trained.train) == (recipe.model, recipe.train)
    else:
        assert (trained.model, trained.train) != (recipe.model, recipe.train)


def test_changes_are_relative_to_the_recipe() -> None:
    model, train = ModelConfig(hidden_size=256, dropout=0.1), TrainConfig(batch_size=32, seq_len=48, lr=0.006)
    change = NEUTRAL | {"hidden_size": 1.5, "dropout": 0.2, "seq_len": 1, "batch_size": -1, "lr": 0.5, "cell": "gru"}
    options = settled(model, train, change)
    wanted = {"hidden_size": 384, "dropout": 0.3, "seq_len": 96, "batch_size": 16, "lr": 0.003, "cell": "gru"}
    assert options.items() >= wanted.items()
    assert settled(model, train, NEUTRAL | {"dropout": -0.2})["dropout"] == 0.0
    two = settled(model, train, NEUTRAL | {"num_layers": 1})
    assert (two["num_layers"], two["hidden_size"]) == (2, 184)  # 256 / √2, in steps of 8
    assert described(change) == "gru, hidden size × 1.5, dropout + 0.2, seq len × 2, batch size × 0.5, lr × 0.5"


def outcome(number: int, *losses: float) -> Outcome:
    """A trial; number 0 is the recipe itself."""
    return Outcome(number=number, change=NEUTRAL | {"lr": 1.0 + number}, losses=losses)


def test_the_recipe_wins_unless_another_trial_is_clearly_better() -> None:
    recipe = outcome(0, 1.7, 1.6)
    close, better, short = outcome(1, 1.7, 1.6 - 0.8 * MARGIN), outcome(2, 1.7, 1.6 - 1.5 * MARGIN), outcome(3, 1.0)
    assert winner([], 2) is None
    assert winner([recipe, close, short], 2) is recipe
    assert winner([recipe, close, better, short], 2) is better
    assert winner([short, close], 2) is close
    # With a longer budget, which no trial has had, the lead may be half as large.
    assert winner([recipe, better], 3) is recipe
    assert winner([recipe, outcome(1, 1.7, 1.6 - 3 * MARGIN)], 3) is not recipe


def test_a_search_takes_no_more_time_than_it_is_worth() -> None:
    """The cost is checked against losses that fall with the logarithm of the time, by 0.049 at the end."""
    seconds, trials = 900.0, budgets(900.0)
    assert trials == pytest.approx((100 / 9, 100 / 3, 100.0))
    falling = outcome(0, 1.9, 1.8, 1.7)

    def cost(searched: float) -> float:
        return 0.1 * plan.GAIN_LEFT**2 * math.log(seconds / (seconds - searched), FACTOR)

    limit = search_time(seconds, trials, [falling])
    assert cost(limit) == pytest.approx(PRICE)
    assert 0.05 < limit / seconds < 0.15
    found = search_time(seconds, trials, [falling, outcome(1, 1.9, 1.8, 1.68), outcome(2, 1.8)])
    assert cost(found) == pytest.approx(PRICE + 0.1 / 4)  # the lead with the shortest budget; it counts a quarter
    worse = search_time(seconds, trials, [falling, outcome(1, 2.0)])
    assert worse == limit
    # It costs nothing once the text is learned, and little if the losses fall slowly.
    for learned in (outcome(0, 1.7, 1.7, 1.7), outcome(0, 1.6, 1.7, 1.71), outcome(0, 1.7, 1.69, 1.685)):
        assert search_time(seconds, trials, [learned]) == seconds * MOST_PART
    assert search_time(seconds, trials, [falling], ends_early=True) == seconds * MOST_PART
    # One loss of the recipe does not say how fast it falls.
    assert 0 < search_time(seconds, trials, []) == search_time(seconds, trials, [outcome(0, 1.9)]) < seconds / 3


def test_a_search_ends_when_longer_training_is_worth_more(tmp_path: Path) -> None:
    """The recipe's loss falls by 0.2 with each budget: a search soon ends, unless there are better trials."""

    class Alike(Trainer):
        def run(self, change: Mapping[str, Any], budget: int) -> float:
            super().run(change, budget)
            return 2 - 0.2 * budget

    used = []
    for kind in (Alike, Trainer):
        clock = Clock()
        (tmp_path / kind.__name__).mkdir()
        found = search(tmp_path / kind.__name__, clock)
        found.run([kind(clock)], lambda outcomes: search_time(81.0, BUDGETS, outcomes))
        used.append(found.used)
    assert used[0] < 81 / 6
    assert 81 / 3 < used[1] <= 81 * MOST_PART


def test_budgets_grow_by_the_factor_and_leave_time_for_the_training() -> None:
    for seconds in (15.0, 60.0, 600.0, 3600.0, 86400.0):
        found = budgets(seconds)
        assert all(longer == pytest.approx(FACTOR * shorter) for shorter, longer in itertools.pairwise(found))
        assert found[0] >= plan.SHORTEST
        assert found[-1] <= max(plan.SHORTEST, seconds / 9)
    assert len(budgets(3600.0)) == plan.MOST_BUDGETS
    with pytest.raises(ConfigError, match="too short"):
        budgets(14.9)


def test_trials_are_whole_trainings_where_there_is_time_for_enough_of_them() -> None:
    seconds, longest = 1200.0, 1200.0 / 9
    assert plan.whole_training(seconds, longest, 16.0) == 48.0  # three times as long, for larger models
    assert plan.whole_training(seconds, longest, 16.0, 2) == 48.0
    assert plan.whole_training(seconds, longest, 60.0) is None
    assert plan.whole_training(seconds, longest, 60.0, 2) == longest
    assert plan.whole_training(seconds, longest, None, 100) is None
    for factor, limit in ((0.99, True), (1.01, False)):
        ends_after = factor * seconds * MOST_PART / LEAST_TRIALS
        assert (plan.whole_training(seconds, longest, ends_after) is not None) is limit


def test_what_a_user_can_get_wrong(charrnn: Charrnn, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(*arguments: object) -> Any:
        return charrnn("tune", run.text, "--out", tmp_path / "out", *arguments)

    refused(tuned("--time", "3s"), 2, "too short")
    refused(tuned("--resume", "--overwrite"), 2, "leave out --overwrite")
    refused(charrnn("tune", "-", stdin=b"the cat"), 2, "standard input")
    every = (
        "--cell gru --num-layers 1 --hidden-size 8 --dropout 0 --weight-dropout 0 --seq-len 8 --batch-size 8 --lr 0.01 "
        "--weight-decay 0.1"
    )
    assert all(f"--{name.replace('_', '-')} " in every for name in RANGES)
    refused(tuned(*every.split()), 2, "nothing is left to search for")
    refused(charrnn("tune", run.text, "--out", run.folder), 2, "there is a run in it already")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).touch()
    refused(tuned(), 2, "there is a search in it already", "--resume")
    with pytest.raises(ConfigError, match="leave out steps"):
        library.tune(run.text, steps=3)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(tuned(), 2, "pip install 'charrnn[tune]'")


class Quick:
    """Trains for a few steps in this process, instead of some seconds in another one."""

    def __init__(self, source: Any, settings: Settings, recipes: Any, budgets: Any, folder: Path) -> None:
        self._model, self._train = recipes[0].model, recipes[0].train

    def run(self, change: Mapping[str, Any], budget: int) -> float:
        time.sleep(0.1)
        return float(3.0 - change["dropout"] - 0.1 * budget)

    def end(self) -> None:
        pass


@pytest.mark.slow
def test_from_the_command_line_to_a_run_that_samples(
    charrnn: Charrnn, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(plan, "SHORTEST", 0.1)
    monkeypatch.setattr(tune, "_Trainer", Quick)
    monkeypatch.setattr(defaults, "measure_speed", lambda *_, **__: 1e5)
    folder = tmp_path / "out"
    line = ["tune", run.text, "--out", folder, "--seq-len", 16, "--val-max", 500, "--threads", 1]
    done = charrnn(*line, "--time", "6s")
    assert done.code == 0, done.err
    assert "The best trials" in done.out
    words = shlex.split((folder / tune.COMMAND).read_text())
    assert words[:3] == ["charrnn", "train", str(run.text)]
    options = dict(itertools.pairwise(words[3:]))
    assert options["--seq-len"] == "16"
    assert options["--val-max"] == "500"
    assert float(options["--dropout"]) > 0
    trained = load_checkpoint(folder / "best.pt")
    assert trained.model_config.dropout == float(options["--dropout"])
    assert trained.train_config.lr == float(options["--lr"])
    assert (folder / tune.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert charrnn("sample", folder, "--length", 20, "--seed", 1).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    again = charrnn("tune", "--resume", "--out", folder)
    assert again.code == 0, again.err
    assert "to go on, give a larger budget" in again.out
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")} == before
    refused(charrnn(*line, "--time", "7s", "--resume"), 1, "another time")


@pytest.mark.parametrize("speed", [1e7, 10.0])
def test_a_resumed_search_keeps_its_budgets(
    speed: float, charrnn: Charrnn, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast machine trains on this text to the end in each trial; a slow one begins with short trials."""
    for name, value in (("LEAST_SECONDS", 0.1), ("SHORTEST", 0.1), ("LEAST_TRIALS", 2)):
        monkeypatch.setattr(plan, name, value)

    class Interrupting(Quick):
        def run(self, change: Mapping[str, Any], budget: int) -> float:
            os.kill(os.getpid(), signal.SIGINT)
            return super().run(change, budget)

    monkeypatch.setattr(tune, "_Trainer", Interrupting)
    monkeypatch.setattr(defaults, "measure_speed", lambda *_, **__: speed)
    begun = charrnn("tune", run.text, "--out", tmp_path, "--time", "90s", "--threads", 1)
    assert begun.code == 128 + signal.SIGINT, begun.err
    facts = remembered(tmp_path)
    assert facts is not None
    assert len(facts["budgets"]) == (1 if speed > 10.0 else plan.MOST_BUDGETS)
    monkeypatch.setattr(defaults, "measure_speed", lambda *_, **__: 1e7 + 10.0 - speed)
    resumed = charrnn("tune", "--out", tmp_path, "--resume")
    assert resumed.code == 128 + signal.SIGINT, resumed.err
    assert remembered(tmp_path) == facts
    searching = [next(line for line in done.out.splitlines() if "searching" in line) for done in (begun, resumed)]
    assert searching[0].replace(" at most", "") == searching[1].replace(" at most", "")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_the_process_of_a_trial_ends_with_the_search_however_that_ends(run: Run, tmp_path: Path) -> None:
    job = Job(source=[str(run.text)], options={"steps": 2, "hidden_size": 8, "dropout": 0.0}, folder=tmp_path / "a")
    worker = Worker()
    assert 0 < worker.run(job) < 10
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(ConfigError, match="hidden_size"):  # as in this process, and the process goes on
        worker.run(replace(job, options={"hidden_size": 0}))
    assert worker.run(job) == worker.run(job)
    worker.close()
    with pytest.raises(DistributedError, match="the search has ended"):
        worker.run(job)
    program = f"""
from charrnn.tuning.trial import Job, Worker
worker = Worker()
import threading, time, pathlib
options, folder = {{"steps": 10**9, "hidden_size": 8, "dropout": 0.0}}, pathlib.Path({str(tmp_path / "b")!r})
job = Job(source=[{str(run.text)!r}], options=options, folder=folder)
threading.Thread(target=worker.run, args=(job,), daemon=True).start()
while worker._process is None:
    time.sleep(0.01)
print(worker._process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_for(lambda: any((tmp_path / "b").rglob("last.pt")))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())


def wait_for(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)
