"""When reports, lines, validations and checkpoints are due."""

from __future__ import annotations

from typing import Any

from charrnn.config import TrainConfig
from charrnn.training.cadence import Cadence, Due
from charrnn.training.state import Counters


class Course:
    """A run whose steps take no time of ours: enough of a RunState for a Cadence."""

    def __init__(self, cadence: Cadence, passes: float | None = None, **config: Any) -> None:
        self.passes, self.text = passes, self
        self.cadence, self.config, self.counters = cadence, TrainConfig(**config), Counters()
        cadence.begin(self)  # type: ignore[arg-type]

    @property
    def fraction(self) -> float:
        return self.counters.elapsed / self.config.time if self.config.time else self.counters.step / self.config.steps  # type: ignore[operator]

    @property
    def epoch(self) -> float:
        return self.fraction * (self.passes or 0.0)

    def step(self, seconds: float, *, validating: float = 0.0, saving: float = 0.0) -> Due:
        """One step, and whatever is due after it."""
        self.counters.step += 1
        self.counters.elapsed += seconds
        due = self.cadence.due(self)  # type: ignore[arg-type]
        if due:
            took = validating if Due.VALIDATE in due else saving if Due.SAVE in due else 0.0
            self.counters.elapsed += took
            self.cadence.done(due, self, seconds=took)  # type: ignore[arg-type]
        return due


def steps_with(kind: Due, dues: list[Due]) -> list[int]:
    return [step for step, due in enumerate(dues, 1) if kind in due]


def test_the_first_step_is_reported_and_then_one_every_so_many_seconds() -> None:
    course = Course(Cadence(report_seconds=0.5), steps=1000)
    dues = [course.step(0.125) for _ in range(20)]
    assert steps_with(Due.REPORT, dues) == [1, 5, 9, 13, 17]
    assert not steps_with(Due.LOG, dues)


def test_after_most_steps_nothing_is_due() -> None:
    course = Course(Cadence(), steps=100_000)
    assert sum(bool(course.step(0.001)) for _ in range(1000)) == 1 + 1000 // 50  # the first report, and lines


def test_a_line_every_so_many_steps_counted_from_the_beginning_of_the_run() -> None:
    course = Course(Cadence(log_steps=4), steps=1000)
    course.counters.step = 6
    assert steps_with(Due.LOG, [course.step(0.001) for _ in range(12)]) == [2, 6, 10]


def test_every_tenth_of_the_budget_is_validated_but_not_its_end() -> None:
    course = Course(Cadence(), steps=30)
    assert steps_with(Due.VALIDATE, [course.step(1) for _ in range(30)]) == list(range(3, 30, 3))
    few = Course(Cadence(), steps=5)
    assert steps_with(Due.VALIDATE, [few.step(1) for _ in range(5)]) == [1, 2, 3, 4]


def test_every_pass_over_the_text_is_validated_too() -> None:
    course = Course(Cadence(), passes=20.0, steps=100)
    assert steps_with(Due.VALIDATE, [course.step(1) for _ in range(100)]) == list(range(5, 100, 5))
    other = Course(Cadence(), passes=4.0, steps=100)
    assert steps_with(Due.VALIDATE, [other.step(1) for _ in range(100)]) == sorted({*range(10, 100, 10), 25, 75})
    most = Course(Cadence(validations=1), passes=120.0, steps=1200)  # every third pass
    assert steps_with(Due.VALIDATE, [most.step(1) for _ in range(1200)]) == list(range(30, 1200, 30))


def test_eval_steps_replace_the_tenths() -> None:
    course = Course(Cadence(), time=100, eval_steps=7)
    dues = [course.step(1, validating=10.0) for _ in range(30)]  # how long they take does not matter
    assert steps_with(Due.VALIDATE, dues) == [7, 14, 21, 28]


def test_a_validation_is_a_checkpoint_too() -> None:
    course = Course(Cadence(first_save_seconds=4.0, save_seconds=4.0), steps=100)
    assert steps_with(Due.SAVE, [course.step(1) for _ in range(30)]) == [5, 15, 25]


def test_the_first_checkpoint_comes_after_a_second_and_then_one_a_minute() -> None:
    course = Course(Cadence(validations=1), steps=10_000)
    assert steps_with(Due.SAVE, [course.step(0.5) for _ in range(400)]) == [3, 124, 245, 366]
    slow = Course(Cadence(validations=1), steps=10_000)
    assert steps_with(Due.SAVE, [slow.step(30.0) for _ in range(6)]) == [1, 4]


def test_a_resumed_run_has_a_checkpoint_already() -> None:
    course = Course(Cadence(validations=1), steps=10_000)
    course.counters.step, course.counters.elapsed = 100, 50.0
    course.cadence.begin(course)  # type: ignore[arg-type]
    assert steps_with(Due.SAVE, [course.step(1) for _ in range(70)]) == [61]


def test_slow_saving_takes_a_small_share_of_the_time() -> None:
    course = Course(Cadence(validations=1, save_share=0.05), steps=10_000)
    dues = [course.step(1, saving=10.0) for _ in range(1000)]
    assert steps_with(Due.SAVE, dues) == [2, 203, 404, 605, 806]


def test_a_validation_that_was_left_out_is_no_checkpoint() -> None:
    course = Course(Cadence(first_save_seconds=14.0, save_seconds=14.0, validation_share=0.0), time=100)
    dues = [course.step(1, validating=1.0) for _ in range(60)]
    assert steps_with(Due.VALIDATE, dues) == [10]
    assert steps_with(Due.SAVE, dues) == [25, 40, 55]


def test_speed_does_not_count_the_time_of_validations() -> None:
    course = Course(Cadence(report_seconds=2.0), steps=100)
    for _ in range(12):
        course.step(0.5, validating=30.0)
    course.counters.step += 3
    course.counters.elapsed += 1.5
    assert course.cadence.steps_per_second(course) == 2.0  # type: ignore[arg-type]


def test_after_a_roll_back_everything_begins_anew() -> None:
    course = Course(Cadence(save_seconds=100.0), steps=100)
    for _ in range(29):
        course.step(1)
    course.counters = Counters(step=15, elapsed=course.counters.elapsed)
    course.cadence.begin(course)  # type: ignore[arg-type]
    dues = [course.step(0.01) for _ in range(15)]
    assert steps_with(Due.REPORT, dues) == [1]
    assert steps_with(Due.VALIDATE, dues) == [5, 15]


def test_what_is_due_depends_on_nothing_that_processes_do_not_agree_on() -> None:
    """Two processes with the same counters decide alike, whenever they are asked."""
    courses = [Course(Cadence(), time=50) for _ in range(2)]
    for _ in range(100):
        assert len({course.step(0.7, validating=1.0) for course in courses}) == 1
