"""When a training run reports, logs, validates and saves.

All decisions depend only on the step count and on the elapsed time on which
the processes of a run agree, so every process comes to the same decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Flag, auto

from charrnn.training.state import RunState


class Due(Flag):
    """What is due after a step. Usually nothing is due, and the loop need not wait for the device."""

    REPORT = auto()
    LOG = auto()
    VALIDATE = auto()
    SAVE = auto()


@dataclass(kw_only=True)
class Cadence:
    """The intervals, and when each of them began. Each run needs an instance of its own.

    Attributes:
        report_seconds: between two reports of the progress. The first step is always reported.
        log_steps: between two lines in metrics.jsonl.
        first_save_seconds: of training before the first checkpoint of a run.
        save_seconds: between two checkpoints; a kill or a power cut loses at most so much work.
        save_share: part of the time that saving may take. A large model on a slow disk is saved less often.
        validations: number of validations in a budget, unless ``TrainConfig.eval_steps`` is set. Further ones are made
            after each pass over the text, so that the best moment of many passes is seen.
        pass_validations: most validations after passes; of more passes, every second or third one is validated.
        validation_share: part of a time budget that validations may take. Those that would take more are left out.
    """

    report_seconds: float = 0.5
    log_steps: int = 50
    first_save_seconds: float = 1.0
    save_seconds: float = 60.0
    save_share: float = 0.05
    validations: int = 10
    pass_validations: int = 50
    validation_share: float = 0.05

    _reported: float = field(default=0.0, init=False)
    _reported_step: int = field(default=0, init=False)
    _first: bool = field(default=True, init=False)
    _stride: int = field(default=1, init=False)  # passes between two validations
    _next_pass: int = field(default=0, init=False)
    _next_save: float = field(default=0.0, init=False)  # in elapsed seconds
    _next_validation: float = field(default=0.0, init=False)  # as a fraction of the budget
    _validating: float = field(default=0.0, init=False)  # seconds in all

    def begin(self, run: RunState) -> None:
        """Starts all intervals, at the beginning of a session or after a roll-back."""
        self._reported = run.counters.elapsed
        self._next_save = run.counters.elapsed + (self.save_seconds if run.counters.step else self.first_save_seconds)
        self._reported_step = run.counters.step
        self._first = True
        self._stride = max(1, math.ceil((run.passes or 0) / self.pass_validations))
        self._plan_validation(run)

    def due(self, run: RunState) -> Due:
        """What is due after the step that has just been made."""
        step, elapsed = run.counters.step, run.counters.elapsed
        due = Due(0)
        if self._first or elapsed - self._reported >= self.report_seconds:
            due |= Due.REPORT
        if step % self.log_steps == 0:
            due |= Due.LOG
        if self._validation_due(run):
            due |= Due.VALIDATE
        elif elapsed > self._next_save:
            due |= Due.SAVE
        return due

    def steps_per_second(self, run: RunState) -> float:
        """Speed since the last report."""
        return (run.counters.step - self._reported_step) / max(run.counters.elapsed - self._reported, 1e-9)

    def done(self, due: Due, run: RunState, *, seconds: float = 0.0) -> None:
        """Starts the intervals of the actions that have been done.

        Args:
            due: what ``due`` returned.
            run: the run, with the elapsed time of now.
            seconds: how long the validation or the saving took.
        """
        self._reported, self._reported_step, self._first = run.counters.elapsed, run.counters.step, False
        if Due.SAVE in due:
            self._next_save = run.counters.elapsed + max(self.save_seconds, seconds / self.save_share)
        if Due.VALIDATE in due:  # which saves, too
            self._next_save = run.counters.elapsed + self.save_seconds
            self._validating += seconds
            self._plan_validation(run)

    def _validation_due(self, run: RunState) -> bool:
        if run.fraction >= 1.0:  # the loop always ends with a validation
            return False
        if run.config.eval_steps is not None:
            return run.counters.step % run.config.eval_steps == 0
        if run.fraction < self._next_validation and run.text.epoch < self._next_pass - 1e-9:
            return False
        if run.config.time is not None and self._validating > self.validation_share * run.counters.elapsed:
            self._plan_validation(run)
            return False
        return True

    def _plan_validation(self, run: RunState) -> None:
        # The small number is there because fractions may come out just below a whole multiple.
        self._next_validation = (math.floor(run.fraction * self.validations + 1e-9) + 1) / self.validations
        self._next_pass = (math.floor(run.text.epoch / self._stride + 1e-9) + 1) * self._stride
