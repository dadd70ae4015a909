"""``charrnn bench``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

# In a process of its own: import, load, first character; then its memory in MB (Linux; 0 elsewhere).
_COLD = """
import time; begin = time.perf_counter()
from charrnn_runtime import Sampler
import sys
next(Sampler(sys.argv[1], device=sys.argv[2]).stream(length=1, seed=1))
print(time.perf_counter() - begin)
try:
    print(next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmRSS")))
except OSError:
    print(0)
"""


def bench(
    model: Annotated[Path, typer.Argument(help="A model file (.onnx).")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    batch: Annotated[list[int] | None, typer.Option(help="Streams side by side; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each figure.")] = 2.0,
) -> None:
    """How fast a model samples on this machine, one thread, everything included."""
    from charrnn_runtime import Sampler
    from charrnn_runtime.options import check_count

    from charrnn.errors import ConfigError

    if not seconds > 0:
        raise ConfigError(f"seconds must be above 0, got {seconds}")
    batches = [check_count("batch", b, least=1) for b in batch or (1, 16, 64)]
    sampler = Sampler(model, device=device)
    size = model.stat().st_size
    # The weights are read once a step, so memory allows no more steps than this.
    bound = _read_bandwidth() / size
    typer.echo(f"{model}: {sampler.info.dtype}, {size:,} bytes, {sampler.device}")
    typer.echo(f"{'batch':>6} {'chars/s':>10} {'per stream':>11} {'of memory bound':>16}")
    for streams in batches:
        prompts = [""] * streams

        def run(length: int, prompts: list[str] = prompts) -> None:
            if len(prompts) == 1:
                sampler.sample(length=length, seed=1)
            else:
                sampler.sample_batch(prompts, length=length, seed=1, batch=len(prompts))

        steps = _per_second(run, seconds)
        typer.echo(f"{streams:>6} {steps * streams:>10,.0f} {steps:>11,.0f} {steps / bound:>15.0%}")
    command = [sys.executable, "-c", _COLD, str(model), device]
    cold, memory = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    typer.echo(f"first character of a new process after {cold:.2f} s" + (f", {memory:.0f} MB" if memory else ""))


def _per_second(run: Callable[[int], None], seconds: float) -> float:
    """Steps per second: the median of five runs."""
    run(5)
    begin = time.perf_counter()
    run(20)
    length = max(20, int(20 * seconds / 5 / (time.perf_counter() - begin)))
    speeds = []
    for _ in range(5):
        begin = time.perf_counter()
        run(length)
        speeds.append(length / (time.perf_counter() - begin))
    return median(speeds)


def _read_bandwidth() -> float:
    """Bytes per second that one thread reads from beyond the second-level cache: the best of some sums."""
    import numpy as np

    data = np.ones(2_000_000, np.float32)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        np.dot(data, data)  # reads one array: both operands are the same
        best = min(best, time.perf_counter() - begin)
    return data.nbytes / best
