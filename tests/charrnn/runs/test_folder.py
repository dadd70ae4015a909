"""The folder of a run: nothing of an earlier run is lost by accident, and other files stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from charrnn.errors import RunFolderError
from charrnn.runs.folder import check_free, clear, find_checkpoint, make, read_file

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


def test_making_a_folder_removes_what_a_kill_left_half_written(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b")
    folder = fill(tmp_path / "a" / "b", ".last.pt.x7.tmp", ".metrics.jsonl.q.tmp", "last.pt", ".other.tmp")
    make(folder)
    assert {path.name for path in folder.iterdir()} == {"last.pt", ".other.tmp"}


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file, not a folder"):
        make(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"cannot be made: Not a directory"):
        make(tmp_path / "run" / "inner")


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) == tmp_path
    assert find_checkpoint(fill(tmp_path, "best.pt")) == tmp_path / "best.pt"
    assert find_checkpoint(tmp_path / "best.pt") == tmp_path / "best.pt"
    assert find_checkpoint(Path("x" * 300)) == Path("x" * 300)


def test_a_file_that_is_missing_is_empty(tmp_path: Path) -> None:
    assert read_file(tmp_path / "metrics.jsonl") == b""
    assert read_file(fill(tmp_path, "metrics.jsonl") / "metrics.jsonl") == b"metrics.jsonl"
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_file(tmp_path)
