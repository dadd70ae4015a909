"""The folder of a run: best.pt, last.pt, periodic checkpoints, config.json."""

from __future__ import annotations

from pathlib import Path

from charrnn.errors import RunFolderError, WriteError
from charrnn.files import check_writable

CHECKPOINTS = ("best.pt", "last.pt", "epoch*-loss*.pt")
OURS = (*CHECKPOINTS, "config.json", "metrics.jsonl", "samples.txt", "items-*.npy")
LEFTOVERS = tuple(f".{pattern}.*.tmp" for pattern in OURS)  # left by a process that was killed while it wrote


def read_file(path: Path) -> bytes:
    """The contents of a file of a run; empty if the run has no such file.

    Raises:
        RunFolderError: the file cannot be read.
    """
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_free(folder: Path) -> None:
    """Checks that the folder has no run that would be overwritten. Changes nothing.

    Raises:
        RunFolderError: the folder has an earlier run.
    """
    # A run without a checkpoint has nothing worth keeping.
    if _files(folder, CHECKPOINTS):
        raise RunFolderError(
            f"{folder}: there is a run in it already; continue it with --resume, "
            "replace it with --overwrite, or choose another folder with --out"
        )


def clear(folder: Path) -> None:
    """Removes an earlier run's files; other files stay.

    Raises:
        RunFolderError: one of them cannot be removed.
    """
    try:
        for path in _files(folder, OURS):
            path.unlink()
    except OSError as error:
        raise RunFolderError(f"{folder}: the run in it cannot be removed: {error.strerror or error}") from error


def make(folder: Path) -> None:
    """Makes the folder if it does not exist, and checks that files can be written in it.

    Raises:
        RunFolderError: it cannot be made or written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder}: is a file, not a folder; choose another with --out")
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "last.pt")
        for path in _files(folder, LEFTOVERS):
            path.unlink()
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror or error}") from error
    except WriteError as error:
        raise RunFolderError(f"{folder}: cannot be written; choose another folder with --out ({error})") from error


def find_checkpoint(path: Path) -> Path:
    """The checkpoint or model file that a path means: for a run folder its best.pt, otherwise the path itself."""
    best = path / "best.pt"
    try:
        return best if best.exists() else path
    except OSError:  # for example a name that is too long; opening the file gives the error message
        return path


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]
