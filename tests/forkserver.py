"""Runs many commands quickly: the imports are made once, and each command runs in a fork of this process.

A line of JSON on standard input is a command; a line of JSON on standard output says how it ended. A fork sees
the environment, streams, working directory and user that the command asks for, as a new process would; only the
imports happened before. Linux and macOS alone.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import tempfile
import termios
import time
from typing import Any

# What commands import anyway; drawing and serving import the rest by themselves.
PRELOADED = [
    "charrnn.cli",
    "charrnn.inference.models",
    "charrnn.training.trainer",
    "charrnn_export.export",
    "charrnn_runtime.__main__",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "pydantic",  # by typer, for the first command
    "rich.progress",
    "torch.onnx._internal.exporter",
]
STREAMS = {"stdin": (0, os.O_RDONLY), "stdout": (1, os.O_WRONLY | os.O_CREAT), "stderr": (2, os.O_WRONLY | os.O_CREAT)}


def become(uid: int) -> None:
    """Gives up root's right to write everywhere, and keeps the right to read: the interpreter may lie in /root."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    read_search = 1 << 2  # CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(read_search, read_search, 0, 0, 0, 0)
    if libc.capset(header, data) != 0:
        os._exit(97)


def child(job: dict[str, Any], terminal: int) -> None:
    """Becomes the command's process: never returns."""
    os.setpgid(0, 0)
    for name, (number, flags) in STREAMS.items():
        path = job.get(name, os.devnull)
        if path == "terminal":
            os.dup2(terminal, number)
            continue
        if path == "broken pipe":
            reading, writing = os.pipe()
            os.dup2(writing, number)
            os.close(reading)
            os.close(writing)
            continue
        if path is None:
            continue  # closed below: what is opened in between would take its number
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    for name, (number, _) in STREAMS.items():
        if job.get(name, "") is None:
            os.close(number)
    for name, value in job["env"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(job["cwd"])
    if job.get("no_temporary_folder"):
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]  # type: ignore[attr-defined]
    if os.getuid() == 0:
        become(job.get("uid", 0))
    encoding = job.get("encoding", "utf-8")
    for name, (number, flags) in STREAMS.items():
        mode = "r" if flags == os.O_RDONLY else "w"
        # As Python starts: the stream of a closed descriptor is None.
        stream = None if job.get(name, "") is None else open(number, mode, encoding=encoding, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = job["argv"]
    code: object = 0
    try:
        if sys.argv[0] == "charrnn":
            from charrnn.cli import main

            main()
        else:
            from charrnn_runtime.__main__ import main as runtime_main
            from charrnn_runtime.command_line import run_command

            run_command(runtime_main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 98
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = 120  # as Python's own exit
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def wait(pid: int, seconds: float, terminal: int) -> dict[str, Any]:
    """How the process ended; after so many seconds it is killed. What it writes to the terminal is read and dropped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return {"code": os.waitstatus_to_exitcode(status)}
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1 << 16)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"code": None}


def keep_operator_table() -> None:
    """Lets torch's exporter build its table of operators once a process, not at each export: half of its time."""
    import functools

    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


def _export_once() -> None:
    """Traces a small step: torch's exporter prepares much at its first use, and every fork is spared that."""
    import torch
    from charrnn_export.step import StepModule
    from charrnn_export.trace import trace

    from charrnn.config import ModelConfig
    from charrnn.model.char_rnn import CharRNN

    torch.set_num_threads(1)
    trace(StepModule(CharRNN(ModelConfig(hidden_size=4), 4).export_weights()), opset=18)


def main() -> None:
    """Reads commands until standard input ends. Python must be started with ``-X warn_default_encoding``."""
    import importlib
    import warnings

    # Files are UTF-8 whatever the locale is. Python names each place that opens one in the locale's encoding; other
    # packages may have such places.
    assert sys.flags.warn_default_encoding
    warnings.simplefilter("ignore", EncodingWarning)
    warnings.filterwarnings("error", category=EncodingWarning, module="charrnn")
    for name in PRELOADED:
        importlib.import_module(name)
    keep_operator_table()
    _export_once()
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, each page of these objects
    jobs, results = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for handle in (jobs, results):
        os.set_inheritable(handle.fileno(), False)
    for line in jobs:
        job = json.loads(line)
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, job.get("columns", 80)))
        pid = os.fork()
        if pid == 0:
            child(job, theirs)
        print(json.dumps(wait(pid, job["seconds"], ours)), file=results, flush=True)
        os.close(ours)
        os.close(theirs)


if __name__ == "__main__":
    main()
