"""Files that are either the old one or the new one, never half of one; and where cached files are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from charrnn.errors import WriteError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside the target, flushes to the disk, renames into place.

    Raises:
        WriteError: the folder is missing or cannot be written, or the disk is
            full; an earlier file of this name is still there, whole.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


def check_writable(path: Path) -> None:
    """Finds out now, and not after hours of work, that a file cannot be written.

    Raises:
        WriteError: says why.
    """
    if path.is_dir():
        raise WriteError(f"{path}: is a folder; name a file in it")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def cache_folder() -> Path:
    """Where downloads and prepared texts are kept: ``$CHARRNN_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("CHARRNN_CACHE") or platformdirs.user_cache_dir("charrnn"))


def temporary_folder() -> str:
    """The system's temporary folder, as it is called in messages; there may be none that can be written."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "a temporary folder"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # A rename is on the disk once its folder is. Windows has no such call.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
