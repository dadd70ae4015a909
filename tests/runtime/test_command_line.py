"""The frame of a command line, in processes of their own: missing and failing streams, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from charrnn_runtime import CharrnnError, UsageError
from charrnn_runtime.command_line import run_command

def command():
    {body}

run_command(command)
"""


def run(body: str, redirected: str = "") -> subprocess.CompletedProcess[bytes]:
    """Runs the body of a command through a shell that redirects its streams."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, PROGRAM.format(body=body)]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"})


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("print('done')", 0, b""),
        ("return 3", 3, b""),
        ("sys.exit('no')", 1, b"no\n"),
        ("raise UsageError('wrong')", 2, b"error: wrong\n"),
        ("raise CharrnnError('failed')", 1, b"error: failed\n"),
        ("open('/missing')", 1, b"error: /missing: No such file or directory\n"),
        ("raise MemoryError", 1, b"error: there is not enough memory for this\n"),
        ("raise KeyboardInterrupt", 130, b""),
        ("raise BrokenPipeError", 0, b""),
    ],
)
def test_exit_codes_and_messages(body: str, code: int, message: bytes) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (code, message)


def test_what_the_encoding_lacks_is_escaped() -> None:
    assert run(r"print('\u2588 caf\xe9')").stdout == rb"\u2588 caf\xe9" + b"\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)", "print('x', flush=True)"])
def test_a_full_output_is_one_line(body: str) -> None:
    done = run(body, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="shell redirections")
def test_closed_streams() -> None:
    assert run("print('x')", ">&-").returncode == 1
    assert run("print('x')", ">&-").stderr == b"error: Bad file descriptor\n"
    assert run("sys.stdin.read()", "<&-").stderr == b"error: Bad file descriptor\n"
    assert run("pass", "<&- >&- 2>&-").returncode == 0
    assert run("print('x', file=sys.stderr, flush=True)", "2>&-").returncode == 1
    assert run("raise UsageError('wrong')", "2>&-").returncode == 2
    # A file opened later must not take a standard stream's number.
    done = run("print(open(sys.executable).fileno() > 2)", "<&- 2>&-")
    assert done.stdout == b"True\n"


def test_streams_of_a_host_program_may_lack_reconfigure() -> None:
    done = run("pass", "")
    assert done.returncode == 0
    program = "import io, sys; real = sys.stdout; sys.stdout = io.StringIO(); " + (
        "from charrnn_runtime.command_line import prepare_streams; prepare_streams(); print('x'); "
        "real.write(sys.stdout.getvalue())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"x\n"
