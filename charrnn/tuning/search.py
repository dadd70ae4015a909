"""The search itself: successive halving (Jamieson and Talwalkar 2016), asynchronous as in Li et al. (2020).

A trial trains a model of its settings for the shortest budget, from the beginning to the end of the learning rate's
schedule. If it is among the best third of all trials with that budget so far, it trains a new model for three times as
long, and so on. A new model each time takes half as long again as one that goes on, but the losses that are compared
are those at the end of a schedule, as they count in the end.

Optuna proposes the settings (TPE, Bergstra et al. 2011) and decides which trials go on. Its journal in the run folder
is all that a killed search needs to be continued.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import optuna
from charrnn_runtime import CharrnnError
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from charrnn.errors import RunFolderError
from charrnn.files import write_atomically
from charrnn.tuning.plan import FACTOR, JOURNAL, Outcome
from charrnn.tuning.space import RANGES, Change, Choices, Whole, described, first_changes, is_neutral

MOST_FAILURES = 5  # of trainings one after the other, before the search gives up


class Trains(Protocol):
    """What trains the models of trials, one at a time."""

    def run(self, change: Change, budget: int) -> float:
        """The validation loss of a model with a change of the recipe, after the budget with this index."""

    def end(self) -> None:
        """Ends what ``run`` does, which then raises DistributedError; called from another thread."""


class Search:
    """A search in a run folder, which may have begun in an earlier session.

    Args:
        folder: the run folder; the caller holds its lock.
        given: names of the settings that are fixed.
        seed: of the proposals.
        budgets: seconds of training, ascending.
        facts: plain values that the journal keeps, see ``remembered``.
        on_notice: called with a message for the user.
        clock: returns seconds; for tests.
        began: when this session began, by the clock; now by default.

    Raises:
        RunFolderError: the journal of an earlier session is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        given: Collection[str],
        seed: int,
        budgets: Sequence[float],
        facts: Mapping[str, Any],
        on_notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self._budgets = tuple(budgets)
        self._space = {name: _distribution(name) for name in RANGES if name not in given}
        self._notice, self._clock, self._began = on_notice, clock, clock() if began is None else began
        self._lock = threading.RLock()  # the threads share Optuna's study
        self._around = 1.5  # seconds around a training: a process starts, a text is opened, the last validation
        self._failures, self._over, self._stopped = 0, False, False
        self._limit_of: Callable[[Sequence[Outcome]], float] = lambda _: math.inf
        _mend(folder / JOURNAL)
        with _quiet(), _readable(folder):
            self._study = optuna.create_study(
                storage=_storage(folder),
                study_name="tune",
                load_if_exists=True,
                pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR),
            )
            # In each session random numbers that have not been drawn before.
            self._study.sampler = TPESampler(seed=seed + len(self._study.get_trials(deepcopy=False)))
            known = self._study.user_attrs.get("facts")
            if known is None:
                for change in first_changes(given):
                    self._study.enqueue_trial(change)
                self._study.set_user_attr("facts", dict(facts))
            self._before = float(self._study.user_attrs.get("elapsed", 0.0))
            self._repeat_interrupted()

    @property
    def used(self) -> float:
        """Seconds that the search has taken so far, in all sessions."""
        return self._before + self._clock() - self._began

    @property
    def around(self) -> float:
        """Seconds that are spent around a training: a process starts, a text is opened, the last validation."""
        return self._around

    @property
    def final(self) -> dict[str, Any] | None:
        """The options of the final training, once they are known."""
        return self._study.user_attrs.get("final")

    def finish(self, options: Mapping[str, Any]) -> None:
        """Remembers the options of the final training."""
        self._study.set_user_attr("final", dict(options))

    def run(
        self,
        workers: Sequence[Trains],
        limit: Callable[[Sequence[Outcome]], float],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Searches, one trial a worker at a time.

        Args:
            workers: what trains; they are ended in the end.
            limit: returns the limit of ``used`` in seconds for the trials that there are; called after each training.
            stopping: asked often; the search ends when it is true, and its last trials will be repeated.

        Raises:
            CharrnnError: one training after the other has failed; the error of the last one.
        """
        self._limit_of = limit
        self._limit = limit(self.outcomes())
        with _quiet(), ThreadPoolExecutor(len(workers)) as pool:
            threads = [pool.submit(self._work, worker) for worker in workers]
            try:
                while wait(threads, timeout=0.1).not_done:
                    self._stopped = self._stopped or stopping()
                    failed = any(thread.done() and thread.exception() for thread in threads)
                    if self._stopped or failed or self.used > self._limit + self._around:
                        break
            finally:
                self._over = True
                for worker in workers:
                    worker.end()
            for thread in threads:
                thread.result()
            self._study.set_user_attr("elapsed", self.used)

    def outcomes(self) -> list[Outcome]:
        """The trials that have trained a model."""
        return [
            Outcome(number=t.number, change=t.params, losses=tuple(v for _, v in sorted(t.intermediate_values.items())))
            for t in self._study.get_trials(deepcopy=False)
            if t.intermediate_values and t.state is not TrialState.FAIL
        ]

    def importances(self) -> dict[str, float]:
        """How much each setting matters (PED-ANOVA, Watanabe et al. 2023), in parts of 1, largest first.

        All trials count, with their losses after the shortest budget. Empty for fewer than five trials.
        """
        outcomes = self.outcomes()
        if len(outcomes) < 5:
            return {}
        with _quiet():
            first = optuna.create_study()
            for outcome in outcomes:
                change = dict(outcome.change)
                first.add_trial(create_trial(params=change, distributions=self._space, value=outcome.losses[0]))
            return optuna.importance.get_param_importances(first)

    def _fits(self, budget: int) -> bool:
        return not self._over and self.used + self._budgets[budget] + self._around <= self._limit

    def _work(self, worker: Trains) -> None:
        while self._fits(0):
            with self._lock:
                trial = self._study.ask(self._space)
            state, losses = TrialState.PRUNED, list[float]()
            for budget in range(len(self._budgets)):
                if not self._fits(budget):
                    break
                loss = self._loss(worker, trial, budget)
                if loss is None:
                    break
                losses.append(loss)
                if not self._goes_on(trial, losses):
                    state = TrialState.COMPLETE if len(losses) == len(self._budgets) else state
                    break
            if self._stopped:
                return  # it stays unfinished, to be repeated
            with self._lock:
                self._study.tell(trial, losses[-1] if state is TrialState.COMPLETE else None, state)

    def _loss(self, worker: Trains, trial: optuna.Trial, budget: int) -> float | None:
        """The loss of a training; None if the training failed or was ended."""
        began = self.used
        try:
            loss = worker.run(trial.params, budget)
        except CharrnnError as error:
            if self._over:
                return None
            self._notice(f"trial {trial.number} failed: {error}")
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise
            return None
        self._failures = 0
        self._around = (self._around + max(self.used - began - self._budgets[budget], 0.0)) / 2
        return loss

    def _goes_on(self, trial: optuna.Trial, losses: Sequence[float]) -> bool:
        """Records the last loss; whether the trial is worth a longer budget."""
        with self._lock:
            trial.report(losses[-1], FACTOR ** (len(losses) - 1))
            self._study.set_user_attr("elapsed", self.used)
            last = len(losses) == len(self._budgets)
            # The recipe itself has all budgets: the others are compared with it in the end.
            stops = trial.should_prune() and not is_neutral(trial.params)
            outcomes = self.outcomes()
            best = min(outcome.rank for outcome in outcomes)
            self._limit = self._limit_of(outcomes)
        self._notice(
            f"trial {trial.number}, {self._budgets[len(losses) - 1]:.0f} s: {losses[-1]:.4f} nats"
            f"{' (best)' if (-len(losses), losses[-1]) == best else ''}  {described(trial.params)}"
        )
        return not (last or stops)

    def _repeat_interrupted(self) -> None:
        """The trials that were running when an earlier session ended are made again, before all others."""
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)


def remembered(folder: Path) -> dict[str, Any] | None:
    """The facts with which the search in a folder was begun; None if there is no search in it. Changes nothing.

    Raises:
        RunFolderError: its journal is damaged.
    """
    if not (folder / JOURNAL).exists():
        return None
    with _quiet(), _readable(folder):
        facts: dict[str, Any] | None = optuna.load_study(storage=_storage(folder), study_name="tune").user_attrs.get(
            "facts"
        )
    return facts


def _distribution(name: str) -> BaseDistribution:
    limits = RANGES[name]
    if isinstance(limits, Choices):
        return CategoricalDistribution(limits.values)
    if isinstance(limits, Whole):
        return IntDistribution(limits.low, limits.high)
    return FloatDistribution(limits.low, limits.high, log=limits.log)


def _storage(folder: Path) -> JournalStorage:
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))


def _mend(journal: Path) -> None:
    """Removes what a killed search has left: a line that was half written, and Optuna's lock.

    The caller holds the lock of the folder.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    data = journal.read_bytes() if journal.exists() else b""
    if not data.endswith(b"\n") and data:
        write_atomically(journal, data[: data.rfind(b"\n") + 1])


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        if isinstance(error, CharrnnError):
            raise
        raise RunFolderError(
            f"{folder / JOURNAL}: is damaged ({error}); begin another search with --overwrite or another --out"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's log says what we say ourselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
