"""Two processes with gloo train what one trains; checkpoints fit any number of them; a death is noticed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from charrnn.cli import main
from charrnn.errors import ConfigError
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.metrics import read_metrics
from charrnn.training.distributed import SINGLE, Processes, processes
from tests.charrnn.training.distributed_worker import run as run_job
from tests.charrnn.training.distributed_worker import run_jobs

needs_gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# Where the processor has instructions for it, Muon computes its directions in bfloat16. There a last bit that differs
# is a difference of 0.4 %: with the default rate 5e-5 nats after 50 steps. AdamW stays below 1e-6.
MUON = {"batch_size": 6, "steps": 50, "eval_steps": 25, "lr": 0.006, "warmup_steps": 100}
ODD = {"batch_size": 5, "steps": 50, "eval_steps": 25, "optimizer": "adamw"}
HALF = {"batch_size": 4, "steps": 20, "eval_steps": 10, "optimizer": "adamw"}
JOBS: list[dict[str, Any]] = [
    {"name": "plain", "train": MUON},
    {"name": "odd", "train": ODD, "cell": "gru", "data": {"split": "streams"}},
    {"name": "items", "train": ODD, "data": {"lines": True}},
    {"name": "half", "train": HALF, "stop_after": 13},
    {"name": "rest", "train": HALF, "resume": "alone"},
    {"name": "wet", "train": HALF, "dropout": 0.5},
    {"name": "wet half", "train": HALF, "dropout": 0.5, "stop_after": 10},
    {"name": "wet rest", "train": HALF, "dropout": 0.5, "resume": "wet half"},
]


def environment(**more: str) -> dict[str, str]:
    roots = [str(Path(__file__).parents[3]), *(p for p in sys.path if p)]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)} | more


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def val_losses(folder: Path) -> list[float]:
    return [line["val_loss"] for line in read_metrics(folder) if "val_loss" in line]


def start(program: Callable[[], object], said: Path, ranks: int) -> list[int]:
    """Forks of this process that run the program, if several with what torchrun tells its processes.

    What they say is appended to a file.
    """
    port, pids = free_port(), []
    for rank in range(ranks):
        if pid := os.fork():
            pids.append(pid)
            continue
        code: Any = 1
        try:
            sys.stdout = sys.stderr = said.open("a", buffering=1)
            if ranks > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in place.items()})
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "CHARRNN_PROCESS_TIMEOUT": "60"}
            program()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pids


def wait(pids: list[int], said: Path) -> None:
    """Until all have ended well."""
    until = time.monotonic() + 120
    left = list(pids)
    try:
        while left:
            assert time.monotonic() < until, said.read_text()
            done, status = os.waitpid(left[0], os.WNOHANG)
            if done:
                left.pop(0)
                assert status == 0, said.read_text()
            else:
                time.sleep(0.01)
    finally:
        kill(left)


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def folder(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs done by two processes; "alone" by one, before them."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "text.txt").write_text(text)
    run_job(folder, {"name": "alone", "train": HALF, "stop_after": 13})
    wait(start(lambda: run_jobs(folder, JOBS), folder / "said", 2), folder / "said")
    return folder


@pytest.mark.slow
@needs_gloo
@needs_fork
@pytest.mark.parametrize(
    ("job", "allowed"),
    [(JOBS[0], 1e-4), (JOBS[1], 1e-5), (JOBS[2], 1e-5)],
    ids=["streams around the text", "an odd batch, char-rnn's split", "an odd batch of lines"],
)
def test_two_processes_have_the_losses_of_one(folder: Path, job: dict[str, Any], allowed: float) -> None:
    single = run_job(folder, job | {"name": job["name"] + " single"})
    one, two = (load_checkpoint(folder / f"{job['name']}{end}" / "last.pt") for end in ("", " single"))
    each_step = (one.resume["losses"] - two.resume["losses"])[: job["train"]["steps"]].abs()
    assert float(each_step.max()) < allowed
    assert len(one.history) == len(two.history) == 2
    for a, b in zip(one.history, two.history, strict=True):
        assert (a["step"], a["epoch"]) == (b["step"], b["epoch"])
        assert abs(a["val_loss"] - b["val_loss"]) < allowed
    for state, expected in zip(one.resume["state"], single.run.state, strict=True):
        assert torch.allclose(state, expected, atol=100 * allowed)


@pytest.mark.slow
@needs_gloo
@needs_fork
def test_begun_as_two_and_resumed_as_one_and_the_other_way_round(folder: Path) -> None:
    straight = run_job(folder, {"name": "straight", "train": HALF})
    resumed = run_job(folder, {"name": "half", "train": HALF, "resume": "half"})
    other_way = load_checkpoint(folder / "rest" / "last.pt")
    assert load_checkpoint(folder / "half" / "last.pt").progress["step"] == 20
    for weights in (resumed.run.model.state_dict(), other_way.weights):
        for name, weight in straight.run.model.state_dict().items():
            assert torch.allclose(weight, weights[name], atol=1e-4), name
    last = straight.run.history[-1]["val_loss"]
    assert abs(resumed.run.history[-1]["val_loss"] - last) < 1e-4
    assert abs(other_way.history[-1]["val_loss"] - last) < 1e-4
    assert other_way.progress["position"] == straight.run.text.position


def train(folder: Path, *arguments: object, ranks: int) -> list[int]:
    """Processes of ``charrnn train``."""

    def program() -> None:
        sys.argv = ["charrnn", "train", str(folder / "text.txt"), *map(str, arguments)]
        main()

    return start(program, folder / "said", ranks)


RECIPE = ["--device", "cpu", "--precision", "fp32", "--hidden-size", "16", "--optimizer", "adamw", "--lr", "0.002"]
RECIPE += ["--dropout", "0", "--batch-size", "6", "--seq-len", "16", "--steps", "160", "--eval-steps", "20"]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The run that no signal breaks off."""
    wait(train(folder, "--out", folder / "whole", *RECIPE, ranks=1), folder / "said")
    return folder / "whole"


@needs_gloo
@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 1], ids=["two, then one", "one, then two"])
def test_killed_and_resumed_by_another_number(folder: Path, whole: Path, tmp_path: Path, ranks: int) -> None:
    killed = tmp_path / "killed"
    pids = train(folder, "--out", killed, *RECIPE, ranks=ranks)
    try:
        until = time.monotonic() + 180
        while not (killed / "last.pt").exists():
            assert time.monotonic() < until, (folder / "said").read_text()
            time.sleep(0.01)
    finally:
        kill(pids)
    assert 0 < load_checkpoint(killed / "last.pt").progress["step"] < 160
    wait(train(folder, "--out", killed, "--resume", ranks=3 - ranks), folder / "said")
    one, other = (load_checkpoint(path / "last.pt") for path in (killed, whole))
    assert one.progress["step"] == other.progress["step"] == 160
    assert one.progress["position"] == other.progress["position"]
    assert abs(one.history[-1]["val_loss"] - other.history[-1]["val_loss"]) < 1e-4


@pytest.mark.slow
@needs_gloo
@needs_fork
def test_the_same_number_of_processes_resumes_bit_by_bit_dropout_included(folder: Path) -> None:
    straight, resumed = (load_checkpoint(folder / name / "last.pt") for name in ("wet", "wet rest"))
    for name, weight in straight.weights.items():
        assert torch.equal(weight, resumed.weights[name]), name
    [other] = straight.resume["rng_of_others"]
    assert not torch.equal(other["cpu"], straight.resume["rng"]["cpu"]), "both would drop the same units"


@pytest.mark.slow
@needs_gloo
@needs_fork
def test_only_one_process_writes(folder: Path) -> None:
    steps = [line["step"] for line in read_metrics(folder / "plain") if "val_loss" in line]
    assert steps == [25, 50]


@pytest.mark.slow
@needs_gloo
@needs_fork
def test_a_process_that_dies_ends_the_others_with_a_message(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = ["--device", "cpu", "--hidden-size", "16", "--dropout", "0", "--steps", "1000000", "--eval-steps", "20"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command = [sys.executable, *torchrun, "-m", "charrnn", "train", str(folder / "text.txt"), "--out", str(run)]
    started = subprocess.Popen(
        [*command, *recipe],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 180
        while not (run / "best.pt").exists():
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(worker(started.pid, rank=1), signal.SIGKILL)
        out, err = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 1
    assert re.search(r"error: process 0: another process of the run ended.*--resume", err), err
    assert out.count("model  lstm") == 1, "one process speaks"
    assert "2 processes" in out
    assert load_checkpoint(run / "last.pt").progress["step"] >= 20


def worker(agent: int, *, rank: int) -> int:
    """The process id of torchrun's child of this rank."""
    for pid in children(agent):
        if f"RANK={rank}".encode() in (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0"):
            return pid
    pytest.fail("torchrun has no such child")


def children(parent: int) -> list[int]:
    """Ids of the processes that a process has begun (Linux; elsewhere none is found)."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_one_process_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with processes("auto") as group:
        assert group is SINGLE
    assert not dist.is_initialized()
    assert SINGLE.all_reduce_max(1.5, True) == (1.5, True)
    assert SINGLE.all_reduce_sum(2.0) == (2.0,)
    assert SINGLE.all_gather("x") == ["x"]
    assert SINGLE.rows(7) == slice(0, 7)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_are_divided_without_gap_or_double(size: int) -> None:
    rows = [list(range(20))[Processes(rank, size).rows(20)] for rank in range(size)]
    assert [row for part in rows for row in part] == list(range(20))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_a_batch_too_small_to_divide() -> None:
    with pytest.raises(ConfigError, match=r"a batch of 2 cannot be divided among 3 processes; start fewer"):
        Processes(0, 3).rows(2)


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_a_device_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"--device {device}: several processes take"), processes(device):
        pass


def test_an_environment_that_is_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE"), processes("cpu"):
        pass
