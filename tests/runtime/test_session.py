"""Sessions of ONNX Runtime: threads, and that it writes nothing and opens no socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import Sampler, UsageError
from charrnn_runtime.generator import OnnxBlockDrawer
from charrnn_runtime.session import OnnxCell
from charrnn_runtime.threads import bounded_threads, usable_cpus

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


def test_no_more_threads_than_processors(caplog: pytest.LogCaptureFixture) -> None:
    assert bounded_threads(1) == 1
    assert not caplog.records
    assert bounded_threads(100_000) == usable_cpus() <= (os.cpu_count() or 1)
    assert "may use" in caplog.text
    for wrong in (0, -1, 1.5, None, "2"):
        with pytest.raises(UsageError, match="threads"):
            bounded_threads(wrong)  # type: ignore[arg-type]


PROGRAM = """
import sys
from charrnn_runtime import Engine, Request, Sampler
sampler = Sampler("model.onnx", threads=2)
sampler.sample("bad", length=50)
sampler.score("bad face" * 100)
with Engine(sampler) as engine:
    job = engine.submit(Request(length=20))
    while not job.ended:
        pass
"""


@pytest.fixture
def place(tiny: TinyModel, tmp_path: Path) -> Path:
    """A working folder with a model, beside an empty home and an empty temporary folder."""
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "model.onnx").write_bytes(tiny.data())
    return tmp_path


def environment(place: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    return {**kept, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "PYTHONDONTWRITEBYTECODE": "1", **more}


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def test_a_process_that_samples_writes_nothing(place: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=place / "work", env=environment(place), check=True, timeout=60)
    assert files(place) == ["work/model.onnx"]


def test_a_value_that_the_user_has_set_is_kept(place: Path) -> None:
    code = PROGRAM + "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for env, expected in ((environment(place), "1"), (environment(place, ORT_DISABLE_TELEMETRY="0"), "0")):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place / "work", env=env, capture_output=True, check=True, timeout=60
        )
        assert done.stdout.decode().split() == [expected]


def test_no_processor_is_busy_between_calls(tiny: TinyModel) -> None:
    sampler = Sampler(tiny.data(), threads=2)
    sampler.sample(length=500, seed=1)
    sampler.score("bad face" * 100)
    begin = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begin < 0.05


def test_a_model_that_only_draws_has_no_session_of_steps(tiny: TinyModel) -> None:
    """Each session holds the weights once more."""
    sampler = Sampler(tiny.data())
    sampler.sample("bad", length=100, seed=1)
    sampler.sample_batch(["bad", ""], length=100, seed=1, top_p=0.9)
    assert isinstance(sampler.cell, OnnxCell)
    assert sampler.cell._session._value is None
    scorer = Sampler(tiny.data())
    scorer.score("bad")
    assert isinstance(scorer.cell, OnnxCell)
    assert isinstance(scorer.cell.blocks, OnnxBlockDrawer)
    assert scorer.cell.blocks._graphs[False].session._value is None, "opened to check the file, then closed"
    assert scorer.sample("bad", length=100, seed=1) == sampler.sample("bad", length=100, seed=1)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_process_that_samples_opens_no_socket_and_no_file_for_writing(place: Path) -> None:
    log = place / "trace"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=network,openat,open,creat,mkdir,rename,unlink"]
    probe = subprocess.run([*strace, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("strace may not trace here")
    command = [*strace, sys.executable, "-c", PROGRAM]
    subprocess.run(command, cwd=place / "work", env=environment(place), check=True, timeout=120)
    calls = log.read_text().splitlines()
    assert any("model.onnx" in call for call in calls)
    assert [call for call in calls if "socket(" in call or "connect(" in call] == []
    changing = ("O_WRONLY", "O_RDWR", "O_CREAT", "mkdir(", "rename(", "unlink(", "creat(")
    changed = [call for call in calls if any(word in call for word in changing) and '"/dev/' not in call]
    assert changed == []
