"""The loops over time in C (``loops.c``), which are compiled when they are first needed.

They need a C compiler, ``$CC`` or ``cc``, and run on Linux only: on macOS, asking for a compiler that is not
installed opens a window. Where there is none, the layers use their loops of PyTorch's operators.
The library is kept in the cache folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from charrnn.files import cache_folder

SOURCE = Path(__file__).with_name("loops.c")
# What the vectorizer needs: it may compute what is not used, and treat -0 as 0.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-shared", "-fPIC"]
COMPILE_SECONDS = 60


class _Loop(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("steps", "batch", "hidden", "first", "end")),
        ("resets", ctypes.c_void_p),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops; None if there are none on this machine."""
    if sys.platform != "linux":
        return None
    try:
        compiler = shlex.split(os.environ.get("CC") or "cc")
        if (folder := cache_folder()) is None:
            with tempfile.TemporaryDirectory() as temporary:  # a library that is loaded may be deleted
                return ctypes.CDLL(str(_compiled(compiler, Path(temporary))))
        return ctypes.CDLL(str(_compiled(compiler, folder / "native")))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _compiled(compiler: list[str], folder: Path) -> Path:
    """The library in ``folder``, compiled there unless it has been before, for the same kind of processor."""
    source = SOURCE.read_bytes()
    processor = {
        line for line in Path("/proc/cpuinfo").read_bytes().splitlines() if line.startswith((b"flags", b"Features"))
    }
    key = hashlib.sha256(b"\n".join([source, *(c.encode() for c in compiler + FLAGS), *sorted(processor)]))
    path = folder / f"loops-{key.hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / path.name
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
            made.replace(path)
    return path


def usable(*tensors: Tensor) -> bool:
    """Whether the loops in C can compute with these tensors: on the CPU, and not in float64."""
    return all(t.device.type == "cpu" and t.dtype != torch.float64 for t in tensors) and library() is not None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The processor's mode is each thread's own.
    return ThreadPoolExecutor(threads, "charrnn", initializer=torch.set_flush_denormal, initargs=(True,))


def run(name: str, shape: torch.Size, resets_TB: Tensor | None, *tensors: Tensor) -> None:
    """Calls a function of ``loops.c``, with the batch divided between PyTorch's number of threads.

    Args:
        name: of the function.
        shape: of the layer's output, (T, B, H).
        resets_TB: bool, or None.
        tensors: the function's arrays: float32 and contiguous.

    Raises:
        MemoryError: there is not enough memory.
    """
    loops = library()
    assert loops is not None
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
    if resets_TB is not None:
        resets_TB = resets_TB.contiguous()
    steps, batch, hidden = shape
    threads = min(torch.get_num_threads(), batch)

    def share(number: int) -> int:
        # Each thread refers to the tensors, so that they outlive it even if this call is interrupted.
        resets = None if resets_TB is None else resets_TB.data_ptr()
        loop = _Loop(steps, batch, hidden, batch * number // threads, batch * (number + 1) // threads, resets)
        failed: int = loops[name](ctypes.byref(loop), *(ctypes.c_void_p(t.data_ptr()) for t in tensors))
        return failed

    others = [_pool(threads - 1).submit(share, number) for number in range(1, threads)]
    if any([share(0), *(other.result() for other in others)]):
        raise MemoryError(f"not enough memory for a layer of {hidden} units")
