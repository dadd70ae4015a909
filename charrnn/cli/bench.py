"""``charrnn bench``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from charrnn_runtime import Sampler

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
# The shortest time in which one thread reads this many bytes, of many repetitions: like the weights, a small array is
# then read from the processor's cache. In a process of its own, since numpy fixes its threads when it is imported.
_READ = """
import sys, time
import numpy as np
data = np.ones(int(sys.argv[1]) // 4, np.float32)
best, end = float("inf"), time.perf_counter() + 0.5
while time.perf_counter() < end:
    begin = time.perf_counter()
    np.dot(data, data)  # reads one array: both operands are the same
    best = min(best, time.perf_counter() - begin)
print(best)
"""

_ROW = "{:<8} {:<9} {:>7} {:>6} {:>10} {:>11} {:>16}"


def bench(
    models: Annotated[list[Path], typer.Argument(help="Model files (.onnx); of a checkpoint, its fp32 and int8.")],
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:N, auto or another provider; may be repeated.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Streams side by side; may be repeated.")] = None,
    threads: Annotated[
        list[str] | None, typer.Option(help="Threads inside an operator: auto or a number; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each figure.")] = 2.0,
) -> None:
    """How fast models sample on this machine, everything included."""
    from charrnn_runtime import Sampler
    from charrnn_runtime.options import check_count
    from charrnn_runtime.threads import parse_threads

    from charrnn.errors import ConfigError

    if not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds must be above 0, got {seconds}")
    batches = [check_count("batch", b, least=1) for b in batch or (1, 16, 64)]
    numbers = [parse_threads(number) for number in threads or ("auto",)]
    with _model_files(models) as files:
        cold = []
        columns = _ROW.format("dtype", "device", "threads", "batch", "chars/s", "per stream", "of memory bound")
        for file, name in files:
            typer.echo(f"{name}: {file.stat().st_size:,} bytes")
            typer.echo(columns)
            bound = 1 / float(_own_process(_READ, str(file.stat().st_size)))
            for place in device or ("cpu",):
                for number, streams in product(numbers, batches):
                    sampler = Sampler(file, device=place, threads=number, expected_batch=streams)
                    steps = _per_second(_run(sampler, streams), seconds)
                    # Every step reads all weights once, so the speed of the memory limits the number of steps.
                    share = f"{steps / bound:.0%}" if sampler.device == "cpu" else "-"
                    figures = number, streams, f"{steps * streams:,.0f}", f"{steps:,.0f}", share
                    typer.echo(_ROW.format(sampler.info.dtype, sampler.device, *figures))
                first, memory = map(float, _own_process(_COLD, str(file), place).split())
                cold.append((sampler.info.dtype, sampler.device, first, memory))
            for dtype, used, first, memory in cold:
                megabytes = f", {memory:.0f} MB of memory" if memory else ""
                typer.echo(f"first character of a new process after {first:.2f} s{megabytes} ({dtype}, {used})")
            cold.clear()


@contextmanager
def _model_files(models: list[Path]) -> Iterator[list[tuple[Path, str]]]:
    """(file, name) of each model; a checkpoint is exported as fp32 and as int8 first."""
    from charrnn_runtime import ModelFile

    from charrnn.inference.models import DTYPES, export_checkpoint, read_model
    from charrnn.runs.folder import find_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, model in enumerate(models):
            path, found = find_checkpoint(model), read_model(model)
            if isinstance(found, ModelFile):
                # Measured from a file, by other processes too: a pipe has been read to its end by now.
                file = path if path.is_file() else Path(folder) / f"{number}.onnx"
                if file is not path:
                    file.write_bytes(found.data)
                files.append((file, str(path)))
                continue
            for dtype in ("fp32", "int8"):
                file = Path(folder) / f"{number}-{dtype}.onnx"
                # Only the speed is measured, so the loss of int8 is not.
                exported = export_checkpoint(
                    found, dtype=DTYPES[dtype], parity_steps=50, max_loss_increase=float("inf")
                )
                file.write_bytes(exported.data)
                files.append((file, f"{path} as {dtype}"))
        yield files


def _run(sampler: Sampler, streams: int) -> Callable[[int], None]:
    def run(length: int) -> None:
        if streams == 1:
            sampler.sample(length=length, seed=1)
        else:
            sampler.sample_batch([""] * streams, length=length, seed=1, batch=streams)

    return run


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


def _own_process(program: str, *arguments: str) -> str:
    """What a program prints in a process of its own, with one thread for numpy."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env={**os.environ, **one}).stdout
