"""How many threads compute, on a machine that other programs use too.

A small product hardly divides: OpenMP's threads wait for each other thousands of times a second, and by default
they wait in a busy loop. Where two programs do that on the same cores, each waits for threads that the other one
keeps from running, and both become 10 to 100 times slower. Two things help. The busy loop is bounded, so that a
thread that waits for long gives its core away. And where the system says that our threads wait for a core, or
steps take several times as long as they did, some steps are timed with fewer threads, and the fastest number is
taken; from time to time all threads are tried again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SPIN_COUNT = 20_000  # turns of the busy loop; GNU OpenMP's own default is 300,000 where it counts enough cores
CHECK_SECONDS = 0.25  # between two looks at how long our threads waited for a core
WAITING_SHARE = 0.3  # of the time, summed over our threads, that counts as a busy machine
SLOWER = 3.0  # factor on the usual time of a step that also counts as a busy machine
TRIAL_STEPS, TRIAL_SECONDS = 4, 0.3  # of a trial; whichever comes first
MARGIN = 1.1  # factor by which more threads must be faster than fewer
FIRST_PAUSE, LONGEST_PAUSE = 20.0, 320.0  # seconds between two trials; doubled each time


def bound_spinning() -> None:
    """Bounds the busy loop of OpenMP's threads, unless the user has decided about it.

    OpenMP reads its variables once, when it is loaded: this does nothing once torch has been imported.
    """
    if "torch" not in sys.modules and not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def default_threads() -> int:
    """Threads that torch would take, and no more than the cores that a container's quota allows."""
    import torch
    from charrnn_runtime.threads import cpu_quota

    return max(1, min(torch.get_num_threads(), cpu_quota()))


@contextmanager
def computing(
    number: int | None, on_notice: Callable[[str], None], *, alone: bool = True
) -> Iterator[Callable[[float], None]]:
    """Sets the number of threads inside the ``with`` block, and the number of before after it.

    Args:
        number: the number to use throughout, at most one for each processor of this process; or None for
            ``default_threads`` under a ``ThreadGovernor``.
        on_notice: called with a message for the user.
        alone: whether this is the only process of the run; otherwise the number stays as it is set first.

    Yields:
        A function to call after each step with the seconds that it took.
    """
    import torch
    from charrnn_runtime.threads import usable_cpus

    before = torch.get_num_threads()
    most, processors = number or default_threads(), usable_cpus()
    if most > processors:
        on_notice(f"--threads {most}: this process may use {processors} processors, and takes as many threads")
        most = processors
    # A governor of one thread changes nothing.
    governor = ThreadGovernor(most if number is None and alone else 1, torch.set_num_threads, on_notice)
    torch.set_num_threads(most)
    try:
        yield governor.step_done
    finally:
        torch.set_num_threads(before)


def waiting_seconds() -> float | None:
    """How long the threads of this process have waited for a core so far; None if the system does not report it."""
    try:
        return sum(_run_delay(task) for task in Path("/proc/self/task").iterdir()) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _run_delay(task: Path) -> int:
    try:
        return int((task / "schedstat").read_bytes().split()[1])
    except FileNotFoundError:  # the thread has ended
        return 0


class ThreadGovernor:
    """Sets the number of threads as the machine becomes busy and quiet again.

    On a quiet machine it changes nothing, so a run computes what it always computed there.

    Args:
        most: threads to use while nothing else needs the cores.
        set_threads: called with a new number.
        on_notice: called with a message for the user.
        clock, waiting: seconds so far, and what ``waiting_seconds`` says.
    """

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None],
        on_notice: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[], float | None] = waiting_seconds,
    ) -> None:
        self.most = self.current = most
        self._set, self._notice, self._clock, self._waiting = set_threads, on_notice, clock, waiting
        self._before = most  # threads before the trials
        self._trials: list[int] = []  # numbers of threads still to be timed
        self._timed: dict[int, float] = {}  # seconds a step
        self._steps: list[float] = []  # of the trial, or since the last check
        self._usual = float("inf")  # the fastest mean of a check so far
        self._checked_at, self._waited = clock(), waiting()
        self._pause = FIRST_PAUSE
        self._next_trial = clock()

    def step_done(self, seconds: float) -> None:
        """Tells how long a step took; may set another number of threads for the next one."""
        if self.most == 1:
            return
        self._steps.append(seconds)
        if self._trials:
            self._go_on_with_trial()
        elif (now := self._clock()) - self._checked_at >= CHECK_SECONDS:
            mean = sum(self._steps) / len(self._steps)
            reduced = self.current < self.most
            if now >= self._next_trial and (reduced or self._is_busy(now, mean)):
                self._begin_trials([self.current, self.most] if reduced else _halves(self.most))
            self._usual = min(self._usual, mean)
            self._restart_check(now)

    def _is_busy(self, now: float, mean: float) -> bool:
        waited = self._waiting()
        share = 0.0
        if waited is not None and self._waited is not None:
            share = (waited - self._waited) / (now - self._checked_at)
        return share > WAITING_SHARE or mean > SLOWER * self._usual

    def _restart_check(self, now: float) -> None:
        self._checked_at, self._waited = now, self._waiting()
        self._steps = []

    def _begin_trials(self, numbers: Sequence[int]) -> None:
        self._trials, self._timed, self._before = list(numbers), {}, self.current
        self._take(self._trials[0])

    def _go_on_with_trial(self) -> None:
        measured = self._steps[1:]  # the first step after a change starts or stops threads
        best = min(self._timed.values(), default=float("inf"))
        hopeless = self._steps[-1] > SLOWER * best
        if len(measured) < TRIAL_STEPS and sum(measured) < TRIAL_SECONDS and not hopeless:
            return
        self._timed[self._trials.pop(0)] = sum(measured or self._steps) / len(measured or self._steps)
        if self._trials:
            self._take(self._trials[0])
            return
        fastest = min(self._timed.values())
        chosen = min(number for number, mean in self._timed.items() if mean <= MARGIN * fastest)
        self._take(chosen)
        if chosen < self._before:
            threads = "1 thread" if chosen == 1 else f"{chosen} threads"
            self._notice(f"other programs use the processor: going on with {threads} while that is faster (--threads)")
        elif chosen > self._before:
            self._pause = FIRST_PAUSE
            self._notice(f"the processor is free again: going on with {chosen} threads")
        now = self._clock()
        self._next_trial, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self._usual = self._timed[chosen]
        self._restart_check(now)

    def _take(self, number: int) -> None:
        self._steps = []
        if number != self.current:
            self.current = number
            self._set(number)


def _halves(most: int) -> list[int]:
    """``most``, half of it, and so on down to 1."""
    numbers = []
    while most > 1:
        numbers.append(most)
        most //= 2
    return [*numbers, 1]
