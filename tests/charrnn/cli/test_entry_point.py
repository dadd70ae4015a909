"""The real command in processes of its own: start-up, signals, pipes, exit codes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charrnn.cli import main
from charrnn.runs.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

COMMAND = [sys.executable, "-m", "charrnn"]
SMALL = ["--hidden-size", "8", "--embedding-size", "4", "--batch-size", "4", "--seq-len", "16", "--dropout", "0"]
# What only commands that train, export or sample may load.
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "requests", "filelock", "matplotlib")


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sample", "-h"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = f"""
import sys
from charrnn.cli import main
sys.argv = ["charrnn", *{arguments!r}]
try:
    main()
except SystemExit as exit:
    assert not exit.code
print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(program).splitlines()[-1] == "loaded: []"


def test_sampling_from_a_model_file_does_not_load_torch(run: Run) -> None:
    program = f"""
import sys
from charrnn.cli import main
sys.argv = ["charrnn", "sample", {str(run.model)!r}, "--length", "20", "--seed", "1", "--quiet"]
try:
    main()
except SystemExit as exit:
    assert not exit.code
assert "onnxruntime" in sys.modules
print("loaded:", [name for name in ("torch", "onnx", "onnxscript") if name in sys.modules])
"""
    assert python(program).splitlines()[-1] == "loaded: []"


def test_nonsense_is_told_without_loading_torch() -> None:
    program = """
import sys
from charrnn.cli import main
sys.argv = ["charrnn", "train", "--time", "soon"]
try:
    main()
except SystemExit as exit:
    assert exit.code == 2
print("loaded:", [name for name in ("torch",) if name in sys.modules])
"""
    assert python(program).splitlines()[-1] == "loaded: []"


@pytest.mark.slow
def test_an_interrupt_saves_exits_with_130_and_the_run_resumes(
    run: Run, tmp_path: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*COMMAND, "train", str(run.text), "--out", "run", *SMALL]
    process = subprocess.Popen(
        [*arguments, "--steps", "1000000", "--eval-steps", "20"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not (tmp_path / "run" / "best.pt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == ""
    assert "interrupted and saved after" in out
    step = load_checkpoint(tmp_path / "run" / "last.pt").progress["step"]
    assert step >= 20
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.endswith(".tmp")]
    monkeypatch.chdir(tmp_path)
    done = charrnn("train", "--resume", "--out", "run", "--steps", step + 5)
    assert done.code == 0, done.err
    assert f"resumed at step {step:,}" in done.out
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress["step"] == step + 5


def test_text_from_a_pipe_and_a_terminal_that_knows_ascii_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with the streams that Python makes for such a terminal."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(("Grüße, 世界! " * 60).encode())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["charrnn", "train", "-", "--out", "run", "--steps", "3", *SMALL])
    with os.fdopen(reading, encoding="ascii") as piped, monkeypatch.context() as patch:
        for name, stream in (("stdin", piped), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            main()
        out.flush()
        err.flush()
    assert ended.value.code in (0, None), err.buffer.getvalue()
    assert err.buffer.getvalue() == b""
    assert b"1x8" in out.buffer.getvalue()  # 1×8, in what ASCII has


def test_exit_codes(run: Run, tmp_path: Path) -> None:
    for arguments, code in (
        (["no-such-command"], 2),
        (["sample", "none.onnx"], 1),
        (["sample", str(run.model), "--length", "0"], 2),
    ):
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == code
        assert done.stdout == ""
        assert "rror" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough(run: Run) -> None:
    process = subprocess.Popen(
        [*COMMAND, "sample", str(run.model), "--length", "200000", "--seed", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=180)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_standard_output(run: Run, options: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "sample", str(run.model), "--length", "20", "--seed", "1", *options],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=180, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
