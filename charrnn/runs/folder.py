"""The folder of a run: best.pt, last.pt, periodic checkpoints, config.json, and a lock while a run writes into it."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charrnn.errors import RunFolderError, WriteError
from charrnn.files import check_writable

CHECKPOINTS = ("best.pt", "last.pt", "epoch*-loss*.pt")
OURS = (*CHECKPOINTS, "config.json", "metrics.jsonl", "samples.txt", "items-*.npy", "tune.*")
LEFTOVERS = tuple(f".{pattern}.*.tmp" for pattern in OURS)  # left by a process that was killed while it wrote
LOCK = ".lock"


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
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror or error}") from error
    except WriteError as error:
        raise RunFolderError(f"{folder}: cannot be written; choose another folder with --out ({error})") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for a run that writes into it, and removes what a killed one has left half written.

    The system releases the lock when the process ends, however it ends. On a file system without locks, nothing is
    held. To read the files of a run, no lock is needed.

    Raises:
        RunFolderError: another run holds the folder; names its process.
    """
    import filelock

    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(path).acquire(timeout=0))
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), "utf-8")
            for leftover in _files(folder, LEFTOVERS):
                leftover.unlink(missing_ok=True)
        except filelock.Timeout:
            raise RunFolderError(
                f"{folder}: another run is writing into it ({_holder(path)}); wait until that has ended, "
                "or choose another folder with --out"
            ) from None
        except (OSError, NotImplementedError):  # locks are not supported here
            pass
        yield


def check_unlocked(folder: Path) -> None:
    """Finds out early, before a text is read, that another run holds the folder. Changes nothing.

    Raises:
        RunFolderError: another run holds it.
    """
    if (folder / LOCK).exists():
        with locked(folder):
            pass


def _holder(lock: Path) -> str:
    """The process that holds a lock, in words."""
    try:
        holder = json.loads(lock.read_text("utf-8"))
        return f"process {int(holder['pid'])} on {str(holder['host'])[:80]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not written its number yet"


def find_checkpoint(path: Path) -> Path:
    """The checkpoint or model file that a path means.

    For a run folder it is best.pt. Before its first validation a run has only last.pt, which is then taken, with a
    warning. Otherwise it is the path itself.
    """
    best, last = path / "best.pt", path / "last.pt"
    try:
        if best.exists():
            return best
        if last.exists():
            _warn_once(f"note: {path}: this run has no best.pt; its last.pt is used")
            return last
    except OSError:  # for example a name that is too long; opening the file gives the error message
        pass
    return path


@functools.cache
def _warn_once(message: str) -> None:
    # Without a handler, logging prints the bare message to the standard error.
    logging.getLogger(__name__).warning(message)


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]
