"""How many threads a session gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from charrnn_runtime import UsageError, threads


def group(root: Path, cgroup: str, **files: str) -> Path:
    """A root folder with the control group of this process and the files of groups, named by their paths."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("", {}, sys.maxsize),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, sys.maxsize),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "800000 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        # A group is bound by those around it.
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2),
        # The path is the host's: in the container only its end is there, at the top.
        ("0::/docker/0123\n", {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        # Version 1, with its controllers in folders.
        (
            "4:cpu,cpuacct:/a\n3:memory:/b\n",
            {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            "4:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            sys.maxsize,
        ),
        ("nonsense\n0::/../..\n", {"sys/fs/cgroup/cpu.max": "1 0\n"}, sys.maxsize),
    ],
)
def test_the_quota_of_the_control_group(tmp_path: Path, cgroup: str, files: dict[str, str], cores: int) -> None:
    assert threads.cpu_quota(group(tmp_path, cgroup, **files)) == cores


def test_auto_takes_what_is_free_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 64)
    monkeypatch.setattr(threads, "cpu_quota", lambda: sys.maxsize)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    small, large = 800_000, 12_700_000
    assert threads.choose_threads("auto", small) == 1
    assert threads.choose_threads("auto", large) == 8, "at most"
    assert threads.choose_threads("auto", threads.expected_work(small, 64)) > 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert threads.choose_threads("auto", large) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    monkeypatch.setattr(threads, "cpu_quota", lambda: 1)
    assert threads.choose_threads("auto", large) == 1
    assert threads.step_threads("auto") == 1
    assert threads.choose_threads(1, large) == 1


def test_affinity_counts() -> None:
    assert 1 <= threads.physical_cores() <= threads.usable_cpus() <= (os.cpu_count() or 1)


def test_what_a_command_line_takes() -> None:
    assert threads.parse_threads("auto") == "auto"
    assert threads.parse_threads("3") == 3
    for wrong in ("", "many", "1.5"):
        with pytest.raises(UsageError, match="threads must be a whole number or auto"):
            threads.parse_threads(wrong)
    with pytest.raises(UsageError, match="threads"):
        threads.choose_threads("all", 1)  # type: ignore[arg-type]
