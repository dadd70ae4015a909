"""Files that are written as a whole or not at all, and the folder for cached files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from charrnn.errors import WriteError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file beside the target, flushes it to the disk and renames it into place.

    Raises:
        WriteError: the folder is missing or cannot be written, or the disk is
            full. An earlier file of this name is unchanged.
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
    """Checks that a file can be written, before long work for it begins.

    Raises:
        WriteError: it cannot be written.
    """
    if path.is_dir():
        raise WriteError(f"{path}: is a folder; name a file in it")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


NO_CACHE = "there is no cache, since the user has no home folder; set CHARRNN_CACHE to a folder"


def cache_folder() -> Path | None:
    """The folder for downloads and prepared texts: ``$CHARRNN_CACHE``, or the user's cache folder.

    It need not exist yet, and it may be impossible to write. It is None if the
    user has no home folder, as in containers that run under a bare user id.
    """
    import platformdirs

    if given := os.environ.get("CHARRNN_CACHE"):
        return Path(given)
    try:
        folder = Path(platformdirs.user_cache_dir("charrnn"))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions of platformdirs return "~/.cache/charrnn"


def temporary_folder() -> str:
    """The system's temporary folder, for messages; "a temporary folder" if no such folder can be written."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "a temporary folder"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # A rename is on the disk when its folder is. Windows has no such call.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
