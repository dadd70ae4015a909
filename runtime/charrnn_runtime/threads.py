"""How many threads compute inside an operator."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from charrnn_runtime.devices import log
from charrnn_runtime.errors import UsageError
from charrnn_runtime.options import check_count

Threads = int | Literal["auto"]

# "auto" takes a thread for so many bytes of weights × streams. A thread reads them in some 15 microseconds; to
# start and to wait for another thread costs one or two in every product. benchmarks/sampling.py measures it.
BYTES_PER_THREAD = 1 << 20
_MOST = 8  # beyond that they wait for each other for longer than they compute
_STREAMS = 8  # that "auto" counts: with more of them a product reads its weights once for several


def parse_threads(text: str) -> Threads:
    """A command line's ``--threads``.

    Raises:
        UsageError: it is neither "auto" nor a whole number.
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"threads must be a whole number or auto, got {text!r}") from None


def choose_threads(threads: Threads, work: int) -> int:
    """The number of threads for graphs over blocks, which compute for milliseconds in a call.

    Args:
        threads: the number that was asked for, or "auto".
        work: bytes of weights × streams expected at once, which decide "auto".

    Raises:
        UsageError: ``threads`` is neither "auto" nor a whole number of at least 1.
    """
    if threads != "auto":
        return bounded_threads(threads)
    return max(1, min(free_cores(), _MOST, work // BYTES_PER_THREAD))


def step_threads(threads: Threads) -> int:
    """The number of threads for single steps: between them threads would have to sleep, and waking costs too much."""
    return 1 if threads == "auto" else bounded_threads(threads)


def expected_work(size: int, batch: int) -> int:
    """Bytes of weights × streams, for ``choose_threads``."""
    return size * min(batch, _STREAMS)


def bounded_threads(threads: int) -> int:
    """The requested number of threads, but at most one for each processor: more would wait for each other.

    Raises:
        UsageError: ``threads`` is not a whole number of at least 1.
    """
    if isinstance(threads, str):
        raise UsageError(f"threads must be a whole number or 'auto', got {threads!r}")
    most = usable_cpus()
    if check_count("threads", threads, least=1) > most:
        log.warning("threads=%d: this process may use %d processors, so %d are used", threads, most, most)
    return min(threads, most)


def free_cores() -> int:
    """Cores that this process may keep busy: physical ones, within its CPU affinity, the quota of its control
    group, and ``OMP_NUM_THREADS``, with which users limit the threads of numerical programs."""
    cores = min(physical_cores(), cpu_quota())
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, min(cores, int(limit))) if limit.isascii() and limit.isdigit() else cores


def usable_cpus() -> int:
    """Number of processors that this process may use: its CPU affinity, or else all of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Number of cores to which the processors that this process may use belong."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, usable_cpus() // 2)  # two processors may share a core
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text("ascii"))
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def cpu_quota(root: Path = Path("/")) -> int:
    """Whole cores that the quotas of this process's control groups allow; a large number without a quota.

    Args:
        root: where ``proc`` and ``sys`` are, for tests.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        groups = [line.split(":", 2) for line in lines]
    except OSError:
        groups = []
    quotas = [sys.maxsize]
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # In a container the path may be the host's, which is not there: then its own group is at the top.
        quotas.extend(_read_quota(folder) for folder in (base, *(base / part for part in _beginnings(path))))
    return min(quotas)


def _beginnings(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]


def _read_quota(folder: Path) -> int:
    """The quota of one control group, of version 2 or 1."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
        except (OSError, ValueError):
            return sys.maxsize
    try:
        return max(1, int(quota) // int(period)) if int(quota) > 0 else sys.maxsize
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return sys.maxsize
