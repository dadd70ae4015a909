"""Every command in every environment that people run it in: no traceback, no hang, a sensible exit code.

None of them may open a file in the locale's encoding.

To add a command or an environment, add a line to COMMANDS or ENVIRONMENTS. The suite takes a fifth of the pairs, so
that each command meets a fifth of the environments; ``CHARRNN_ENVIRONMENTS=all`` takes all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux") or os.getuid() != 0, reason="needs root on Linux"),
]

# {model}, {run} and {text} are files that the user may only read; all else is relative to the working directory.
COMMANDS = {
    "help": "charrnn --help",
    "train": "charrnn train {text} --steps 2 --hidden-size 8 --out out",
    "resume": "charrnn train --resume --steps 102 --out resumed",
    "export": "charrnn export {run} model.onnx",
    "sample": "charrnn sample {model} --length 20 --seed 1",
    "sample json": "charrnn sample {model} --length 20 --num 2 --json",
    "sample checkpoint": "charrnn sample {run} --length 20 --seed 1",
    "eval": "charrnn eval {model} {text}",
    "eval lines": "charrnn eval {model} {text} --per-line",
    "eval sorted": "charrnn eval {model} {text} --sort",
    "inspect": "charrnn inspect {model}",
    "inspect json": "charrnn inspect {run} --json",
    "plot": "charrnn plot {run} -o loss.png",
    "report": "charrnn plot {run} -o report.html",
    "heatmap": "charrnn heatmap {model} --sample --length 50 -o heat.html",
    "bench": "charrnn bench {model} --seconds 0.01",
    "data list": "charrnn data list",
    "data cache": "charrnn data cache --json",
    "data clear": "charrnn data clear",
    "runtime sample": "charrnn_runtime sample {model} --length 20 --seed 1",
    "runtime json": "charrnn_runtime sample {model} --length 20 --num 2 --json",
    "runtime score": "charrnn_runtime score {model} {text}",
    "runtime score lines": "charrnn_runtime score {model} {text} --per-line",
    "runtime score text": "charrnn_runtime score {model} --text the --json",
}
WRITES_A_FILE = {"train", "resume", "export", "plot", "report", "heatmap"}
NEEDS_TEMPORARY_FILES = {"bench"}
FOREIGN = 43210  # a user that no system knows

# What is asked of the fork server. "fails": commands that may end with exit code 1 and a line; all others succeed.
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no home and a foreign user": {"uid": FOREIGN, "env": {"HOME": None, "CHARRNN_CACHE": None, "USER": None}},
    "a home that does not exist": {"env": {"HOME": "/nonexistent/home", "CHARRNN_CACHE": None}},
    "a cache that cannot be written": {"env": {"CHARRNN_CACHE": "/proc/charrnn"}, "fails": {"data clear"}},
    "a read-only working directory": {"read_only": True, "fails": WRITES_A_FILE},
    "no temporary folder": {"no_temporary_folder": True, "fails": NEEDS_TEMPORARY_FILES},
    "cp1252": {"encoding": "cp1252", "env": {"PYTHONIOENCODING": "cp1252"}},
    "ascii": {"encoding": "ascii", "env": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}},
    "closed input": {"stdin": None},
    "closed output": {"stdout": None, "fails": set(COMMANDS)},
    "closed error output": {"stderr": None, "fails": set(COMMANDS)},
    "full output": {"stdout": "/dev/full", "fails": set(COMMANDS)},
    "full error output": {"stderr": "/dev/full", "fails": set(COMMANDS)},
    "a reader that went away": {"stdout": "broken pipe", "fails": set(COMMANDS)},
    "terminal of 20 columns": {"stdout": "terminal", "columns": 20, "env": {"TERM": "xterm", "COLUMNS": None}},
    "dumb terminal": {"stdout": "terminal", "columns": 80, "env": {"TERM": "dumb", "COLUMNS": None}},
    "ascii terminal": {"stdout": "terminal", "columns": 5, "encoding": "ascii", "env": {"COLUMNS": None}},
    "odd paths": {"folder": os.fsdecode(b"a b [x] \xe5\xad\x97 'q' \xff %s $HOME -n")},
    "a notebook's environment": {"env": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}},
    "an unknown drawing backend": {"env": {"MPLBACKEND": "nonsense"}},
}
PAIRS = [
    (command, environment)
    for i, command in enumerate(COMMANDS)
    for j, environment in enumerate(ENVIRONMENTS)
    if (i + 2 * j) % 5 == 0 or os.environ.get("CHARRNN_ENVIRONMENTS") == "all"
]
# Training goes on to its end whatever becomes of its output.
ALWAYS_SUCCEEDS = {"train", "resume"}


class Server:
    """The fork server's process."""

    def __init__(self) -> None:
        program = str(Path(__file__).with_name("forkserver.py"))
        self._process = subprocess.Popen(
            # -P: the folder tests/charrnn must not hide the package.
            [sys.executable, "-P", "-X", "warn_default_encoding", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ.copy(),
        )

    def run(self, **job: Any) -> Any:
        """Runs a command; its exit code, negative for a signal, or None if it had to be killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())["code"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def files(run: Run, place: Path) -> dict[str, Path]:
    """What the commands read, where every user may read it."""
    shutil.copytree(run.folder, place / "run")
    for path in (run.text, run.model):
        shutil.copy(path, place / path.name)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"run": place / "run", "text": place / run.text.name, "model": place / run.model.name}


# What the commands above leave out of what reads and writes files; one after the other in one folder.
ITEMS = [
    "charrnn train {text} --steps 2 --hidden-size 8 --lines --out out",
    "charrnn train --resume --steps 3 --out out",
    "charrnn export out model.onnx --dtype int8 --max-loss-increase 9",
    "charrnn export out --triton triton",
    "charrnn sample out --num 2 --length 5 --unique --report",
    "charrnn eval model.onnx {text} --per-line --sort",
]


def test_no_command_relies_on_the_locale(server: Server, files: dict[str, Path], place: Path, tmp_path: Path) -> None:
    """The server's warnings are errors here; see ``forkserver``."""
    errors = place / "stderr"
    for command in ITEMS:
        errors.write_bytes(b"")
        argv = [part.format(**files) for part in command.split(" ")]
        code = server.run(argv=argv, cwd=str(tmp_path), seconds=60, stderr=str(errors), env={})
        assert code == 0, (command, errors.read_text("utf-8"))


@pytest.mark.parametrize(("command", "environment"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_command_in_environment(
    server: Server, files: dict[str, Path], place: Path, command: str, environment: str
) -> None:
    job = dict(ENVIRONMENTS[environment])
    uid = job.get("uid", 0)
    work = place / "work" / job.pop("folder", "folder")
    used = dict(files)
    try:
        work.mkdir(parents=True)
        (work.parent).chmod(0o755)
        if command == "resume":
            shutil.copytree(files["run"], work / "resumed")
        if environment == "odd paths":
            used = {name: work / f"{path.name} [b] \udcff" for name, path in files.items()}
            for name, path in used.items():
                (shutil.copytree if files[name].is_dir() else shutil.copy)(files[name], path)
        for path in (work, *work.rglob("*")):
            os.chown(path, uid, uid)
        if job.pop("read_only", False):
            for path in (*work.rglob("*"), work):
                path.chmod(0o555 if path.is_dir() else 0o444)
        names = {name: str(path) for name, path in used.items()}
        argv = [part.format(**names) for part in COMMANDS[command].split(" ")]
        errors = place / "stderr"
        errors.write_bytes(b"")
        errors.chmod(0o666)
        failing = job.pop("fails", set())
        arguments = {"stderr": str(errors), "env": {}} | job
        code = server.run(argv=argv, cwd=str(work), seconds=60, **arguments)
        told = errors.read_text("utf-8", "replace")
        assert "Traceback" not in told, told
        assert "Exception ignored" not in told, told
        succeeds = command in ALWAYS_SUCCEEDS or command not in failing
        if environment == "a read-only working directory":
            succeeds = command not in failing
        assert code == 0 if succeeds else code in (0, 1, 2), (code, told)
        if code and arguments["stderr"] == str(errors):
            lines = [line for line in told.splitlines() if line and not line.startswith(("note", "seed"))]
            # Nothing is said to somebody who has stopped reading.
            assert (0 if environment == "a reader that went away" else 1) <= len(lines) <= 3, told
    finally:
        for path in work.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(place / "work")
