"""The loops over time in C (``loops.c``), which are compiled when they are first needed.

They need a C compiler, ``$CC`` or ``cc``, and run on Linux only: on macOS, asking for a compiler that is not
installed opens a window. Without a compiler, the layers use their loops of PyTorch's operators.
The library is kept in the cache folder, unless others may write there.
"""

from __future__ import annotations

import contextlib
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
from charrnn_runtime.forking import PerProcess
from torch import Tensor

from charrnn.files import cache_folder

SOURCE = Path(__file__).with_name("loops.c")
# What the vectorizer needs: it may compute what is not used, and treat -0 as 0.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-shared", "-fPIC"]
COMPILE_SECONDS = 60
_TYPES = (torch.float32, torch.bfloat16)


class _Loop(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("steps", "batch", "hidden", "first", "end", "half", "tiles")),
        ("resets", ctypes.c_void_p),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops; None if this machine cannot compile them."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        compiler = shlex.split(os.environ.get("CC") or "cc")
        with contextlib.suppress(OSError):  # the cache may be impossible to write, or its programs forbidden to run
            if folder := _private_folder():
                return ctypes.CDLL(str(_compiled(compiler, folder)))
        with tempfile.TemporaryDirectory() as temporary:  # a library that has been loaded may be deleted
            return ctypes.CDLL(str(_compiled(compiler, Path(temporary))))
    return None


def _processor() -> list[bytes]:
    """What instructions Linux says the processor has: a line, or several if its cores differ; OSError elsewhere."""
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return sorted({line for line in lines if line.startswith((b"flags", b"Features"))})


def _private_folder() -> Path | None:
    """A folder of the cache that only this user can write; None if there is no cache, or others can write there."""
    if (cache := cache_folder()) is None:
        return None
    folder = cache / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _compiled(compiler: list[str], folder: Path) -> Path:
    """The library in ``folder``, compiled there unless it has been before, for the same kind of processor."""
    source = SOURCE.read_bytes()
    key = hashlib.sha256(b"\n".join([source, *(c.encode() for c in compiler + FLAGS), *_processor()]))
    path = folder / f"loops-{key.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / path.name
            command = [*compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
            made.replace(path)
    return path


@functools.cache
def has_tiles() -> bool:
    """Whether the loops have matrix instructions for bfloat16 here (Intel's AMX)."""
    with contextlib.suppress(OSError):
        # Asked first, so that other processors need not compile anything.
        if any(b"amx_bf16" in line.split() for line in _processor()) and (loops := library()) is not None:
            return bool(loops.has_tiles())
    return False


def usable(*tensors: Tensor) -> bool:
    """Whether the loops in C can compute with these tensors: on the CPU, and not in float64."""
    return all(t.device.type == "cpu" and t.dtype in _TYPES for t in tensors) and library() is not None


@functools.cache
def _pool(threads: int) -> PerProcess[ThreadPoolExecutor]:
    # The processor's mode is each thread's own.
    return PerProcess(
        lambda: ThreadPoolExecutor(threads, "charrnn", initializer=torch.set_flush_denormal, initargs=(True,))
    )


def run(name: str, first: Tensor, y_TBH: Tensor, resets_TB: Tensor | None, *others: Tensor) -> None:
    """Calls a function of ``loops.c``, with the batch divided between PyTorch's number of threads.

    Args:
        name: of the function.
        first: its first array, float32 or bfloat16. If it is bfloat16, the products are too, where the machine has
            matrix instructions.
        y_TBH: the layer's output.
        resets_TB: bool, or None.
        others: its other arrays.

    Raises:
        MemoryError: the loops need more memory than the machine has.
    """
    arrays = (first, *others)
    assert first.dtype in _TYPES
    assert all(a.is_contiguous() and a.dtype in _TYPES for a in arrays)
    loops = library()
    assert loops is not None
    resets_TB = None if resets_TB is None else resets_TB.contiguous()
    steps, batch, hidden = y_TBH.shape
    threads = min(torch.get_num_threads(), batch)

    def share(number: int) -> int:
        # Each thread refers to the tensors, so that they outlive it even if this call is interrupted.
        texts = (batch * number // threads, batch * (number + 1) // threads)
        half = first.dtype == torch.bfloat16
        resets = None if resets_TB is None else resets_TB.data_ptr()
        loop = _Loop(steps, batch, hidden, *texts, half, half and has_tiles(), resets)
        failed: int = loops[name](ctypes.byref(loop), *(ctypes.c_void_p(a.data_ptr()) for a in arrays))
        return failed

    started = [_pool(threads - 1).get().submit(share, number) for number in range(1, threads)]
    if any([share(0), *(other.result() for other in started)]):
        raise MemoryError(f"not enough memory for a layer of {hidden} units")
