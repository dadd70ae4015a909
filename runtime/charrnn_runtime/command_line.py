"""Runs a command: handles missing or full standard streams, and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from charrnn_runtime.errors import CharrnnError

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run_command(command: Callable[[], int | None]) -> NoReturn:
    """Runs a command and exits with its code.

    A ``CharrnnError``, a failing stream or file, and a lack of memory become one line on the standard error
    and exit code 1, or the exit code of the error. If the reader of the output closes its end of the pipe, the
    command ends silently with 0.

    Args:
        command: the command; it returns its exit code, or None for 0, or raises SystemExit.
    """
    prepare_streams()
    code = exit_code(command)
    # What is still buffered may fail as well. Without this Python would print a traceback while it exits.
    code = code or exit_code(_flush)
    for stream in (sys.stdout, sys.stderr):
        discard_unwritten(stream)
    sys.exit(code)


def prepare_streams() -> None:
    """Makes standard input, output and error usable, whatever the parent process left of them.

    A closed descriptor is opened again on the null device, so that no file opened later takes its number, in a
    mode in which any use raises OSError as on a closed one. Characters that a stream's encoding lacks are
    written as escapes (``\\u2588``).
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # os.open takes the lowest free number, which is this one.
            os.open(os.devnull, os.O_WRONLY if mode == "r" else os.O_RDONLY)
        if getattr(sys, name) is None:
            # Python sets the stream of a closed descriptor to None.
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a stream that a host program has set may lack it
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code. Errors are printed, and not raised."""
    try:
        return command() or 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        return _failed(str(end.code), 1)
    except CharrnnError as error:
        return _failed(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        return _failed(f"error: {place}{error.strerror or error}", 1)
    except MemoryError:
        return _failed("error: there is not enough memory for this", 1)


def _failed(message: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # a standard error that cannot be written leaves the code alone
        print(message, file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()


def discard_unwritten(stream: object) -> None:
    """Redirects a stream, with what it could not write, to the null device.

    Without this Python tries again when it exits, prints a traceback and changes the exit code.
    """
    try:
        stream.flush()  # type: ignore[attr-defined]
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # type: ignore[attr-defined]
            os.close(null)
