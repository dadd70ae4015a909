"""The folder of a run: nothing of an earlier run is lost by accident, and other files stay."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import filelock
import pytest

from charrnn.errors import RunFolderError
from charrnn.runs.folder import LOCK, check_free, check_unlocked, clear, find_checkpoint, locked, make, read_file

OTHERS = ("notes.txt", "model.onnx", "best.pt.bak", "epoch.txt")


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "epoch1.50-loss1.4032.pt"])
def test_a_folder_with_a_checkpoint_is_not_free(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFolderError, match=r"--resume.*--overwrite.*--out"):
        check_free(fill(tmp_path, name))


def test_a_folder_without_checkpoints_is_free(tmp_path: Path) -> None:
    check_free(fill(tmp_path / "failed", "config.json", "metrics.jsonl", *OTHERS))
    check_free(tmp_path / "missing")


def test_clearing_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    own = ("best.pt", "last.pt", "epoch1-loss2.pt", "config.json", "metrics.jsonl", "samples.txt", "items-3.npy")
    clear(fill(tmp_path, *own, *OTHERS))
    assert {path.name for path in tmp_path.iterdir()} == set(OTHERS)


def test_a_run_that_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "best.pt").mkdir()
    with pytest.raises(RunFolderError, match="the run in it cannot be removed: "):
        clear(tmp_path)


def test_a_lock_removes_what_a_kill_left_half_written(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b")
    folder = fill(tmp_path / "a" / "b", ".last.pt.x7.tmp", ".metrics.jsonl.q.tmp", "last.pt", ".other.tmp")
    with locked(folder):
        assert {path.name for path in folder.iterdir()} == {"last.pt", ".other.tmp", LOCK}


def test_a_locked_folder_is_refused_and_the_process_named(tmp_path: Path) -> None:
    check_unlocked(tmp_path)
    assert not list(tmp_path.iterdir())
    for _ in range(2):  # a lock file of an earlier run is no obstacle
        with locked(tmp_path):
            fill(tmp_path, ".last.pt.x7.tmp")
            for take in (check_unlocked, lambda folder: locked(folder).__enter__()):
                with pytest.raises(RunFolderError, match=rf"another run is writing .*process {os.getpid()} on .*--out"):
                    take(tmp_path)
            assert (tmp_path / ".last.pt.x7.tmp").exists()
        check_unlocked(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"7", b'{"pid": "x", "host": 1}', b"\xff"])
def test_a_lock_whose_holder_is_not_known(tmp_path: Path, content: bytes) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(RunFolderError, match="a process that has not written its number yet"):
            check_unlocked(tmp_path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            (tmp_path / "ready").touch()
            time.sleep(60)
        os._exit(1)
    while not (tmp_path / "ready").exists():
        time.sleep(0.005)
    with pytest.raises(RunFolderError, match=f"process {child} on"):
        check_unlocked(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file, not a folder"):
        make(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"cannot be made: Not a directory"):
        make(tmp_path / "run" / "inner")


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_checkpoint(tmp_path) == tmp_path
    for _ in range(2):
        assert find_checkpoint(fill(tmp_path, "last.pt")) == tmp_path / "last.pt"
    assert caplog.messages == [f"note: {tmp_path}: this run has no best.pt; its last.pt is used"]
    assert find_checkpoint(fill(tmp_path, "best.pt")) == tmp_path / "best.pt"
    assert find_checkpoint(tmp_path / "best.pt") == tmp_path / "best.pt"
    assert find_checkpoint(Path("x" * 300)) == Path("x" * 300)


def test_a_file_that_is_missing_is_empty(tmp_path: Path) -> None:
    assert read_file(tmp_path / "metrics.jsonl") == b""
    assert read_file(fill(tmp_path, "metrics.jsonl") / "metrics.jsonl") == b"metrics.jsonl"
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_file(tmp_path)
