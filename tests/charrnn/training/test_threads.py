"""How many threads compute: on a simulated machine, whose other programs come and go."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from charrnn_runtime.threads import usable_cpus

from charrnn.training import threads
from charrnn.training.threads import ThreadGovernor


class Machine:
    """A machine of several cores: a step takes a second of one core's work, divided among the threads."""

    def __init__(self, cores: int, *, tells: bool = True, slowdown: float = 30.0) -> None:
        self.cores, self.tells, self.slowdown = cores, tells, slowdown
        self.busy = 0  # cores that other programs use
        self.now = self.waited = 0.0
        self.threads = cores
        self.notices: list[str] = []
        self.governor = ThreadGovernor(
            cores, self.set, self.notices.append, clock=lambda: self.now, waiting=lambda: self.waited if tells else None
        )

    def set(self, number: int) -> None:
        self.threads = number

    def run(self, seconds: float) -> int:
        """Trains for so long; how many steps were made."""
        end, steps = self.now + seconds, 0
        while self.now < end:
            crowded = self.threads + self.busy > self.cores
            took = 0.01 / self.threads**0.5 * (self.slowdown if crowded and self.threads > 1 else 1)
            self.now += took
            self.waited += took * self.threads / 2 if crowded else 0.0
            self.governor.step_done(took)
            steps += 1
        return steps


def test_a_quiet_machine_is_left_alone() -> None:
    machine = Machine(4)
    machine.run(100)
    assert (machine.threads, machine.notices) == (4, [])


@pytest.mark.parametrize("tells", [True, False], ids=["with schedstat", "by step times alone"])
@pytest.mark.parametrize("cores", [2, 4, 8])
def test_threads_give_way_and_come_back(cores: int, tells: bool) -> None:
    machine = Machine(cores, tells=tells)
    machine.run(5)
    machine.busy = cores // 2
    machine.run(10)
    assert machine.threads == max(1, cores // 2)
    assert "other programs use the processor" in machine.notices[0]
    alone = Machine(cores)
    alone.governor.most = 1
    alone.threads = max(1, cores // 2)
    assert machine.run(200) > 0.9 * alone.run(200), "trials of all threads must not cost much"
    machine.busy = 0
    machine.run(2 * threads.LONGEST_PAUSE)
    assert machine.threads == cores
    assert "free again" in machine.notices[-1]
    assert len(machine.notices) == 2


def test_threads_that_pay_in_spite_of_others_are_kept() -> None:
    machine = Machine(2, slowdown=1.2)
    machine.busy = 1
    machine.run(100)
    assert (machine.threads, machine.notices) == (2, [])


def test_one_thread_is_never_changed() -> None:
    machine = Machine(1)
    machine.busy = 1
    machine.run(10)
    assert (machine.threads, machine.notices) == (1, [])


def test_spinning_is_bounded_unless_the_user_has_decided() -> None:
    program = """
import os, sys
from charrnn.training.threads import bound_spinning
{}bound_spinning()
print(os.environ.get("GOMP_SPINCOUNT"))
"""

    def told(first: str = "", **variables: str) -> str:
        clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        command = [sys.executable, "-c", program.format(first)]
        return subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout.strip()

    assert told() == str(threads.SPIN_COUNT)
    assert told(GOMP_SPINCOUNT="7") == "7"
    assert told(OMP_WAIT_POLICY="passive") == "None"
    assert told(first="sys.modules['torch'] = sys; ") == "None"


def test_a_quota_bounds_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn_runtime.threads.cpu_quota", lambda: 1)
    assert threads.default_threads() == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_waiting_is_told() -> None:
    waited = threads.waiting_seconds()
    assert waited is None or waited >= 0


def test_more_threads_than_processors_are_not_taken() -> None:
    before = torch.get_num_threads()
    notices: list[str] = []
    with threads.computing(1000, notices.append):
        assert torch.get_num_threads() == usable_cpus()
    assert torch.get_num_threads() == before
    assert len(notices) == 1
    assert "--threads 1000" in notices[0]
