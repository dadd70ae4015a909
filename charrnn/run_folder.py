"""The folder of a run: best.pt, last.pt, periodic checkpoints, config.json."""

from __future__ import annotations

from pathlib import Path

from charrnn.errors import RunFolderError, WriteError
from charrnn.files import check_writable

OURS = ("*.pt", "config.json", "metrics.jsonl")


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Makes the folder of a new run.

    Args:
        overwrite: remove an earlier run's files there; other files stay.

    Raises:
        RunFolderError: an earlier run is there and is not to be overwritten,
            or the folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file, not a folder; choose another with --out")
    if folder.exists():
        earlier = [path for pattern in OURS for path in folder.glob(pattern)]
        if earlier and not overwrite:
            raise RunFolderError(
                f"{folder}: there is a run in it already; continue it with --resume, "
                "replace it with --overwrite, or choose another folder with --out"
            )
        for path in earlier:
            path.unlink()
    make(folder)


def make(folder: Path) -> None:
    """Makes the folder if need be, and sees that it can be written.

    Raises:
        RunFolderError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "last.pt")
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror or error}") from error
    except WriteError as error:
        raise RunFolderError(f"{folder}: cannot be written; choose another folder with --out ({error})") from error


def find_checkpoint(path: Path) -> Path:
    """The file to take for a path: a run folder stands for its best checkpoint."""
    return path / "best.pt" if path.is_dir() and (path / "best.pt").exists() else path
