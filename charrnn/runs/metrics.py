"""metrics.jsonl: a line of JSON at regular steps and at each validation, consistent with the checkpoints.

A run that was killed may have written lines after its last checkpoint, and the
last line may be incomplete. When a run is resumed, the lines after the
checkpoint are removed, so that no step is missing or there twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from charrnn_runtime import UsageError

from charrnn.errors import WriteError
from charrnn.files import write_atomically
from charrnn.runs.folder import read_file

NAME = "metrics.jsonl"


class MetricsFile:
    """Appends to a run's metrics.

    Args:
        folder: the run folder.
        step: lines after this step are removed; 0 begins a new file.
        tensorboard: also write all values as scalars for TensorBoard.

    Raises:
        UsageError: the package tensorboard is not installed.
        WriteError: the file cannot be written.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self._path = folder / NAME
        self._writer = _summary_writer(folder, step) if tensorboard else None
        self._begin(step)

    def _begin(self, step: int) -> None:
        kept = [line for line in read_metrics(self._path.parent) if line["step"] <= step] if step else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self._path, text.encode())
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Appends a line; it must hold ``step``."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise WriteError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        if self._writer is not None:
            for name, value in values.items():
                if name != "step":
                    self._writer.add_scalar(name, value, values["step"])

    def drop_after(self, step: int) -> None:
        """Removes the lines after a step, when training goes back to that step."""
        self._file.close()
        self._begin(step)

    def sync(self) -> None:
        """Flushes all lines to the disk. Called before each checkpoint, which must not be ahead."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise WriteError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoMetrics(MetricsFile):
    """A metrics file that writes nothing, for all processes of a run but the first."""

    def __init__(self) -> None:
        self._writer = None

    def write(self, **values: Any) -> None:
        """Nothing."""

    def drop_after(self, step: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def __exit__(self, *_: object) -> None:
        pass


def require_tensorboard() -> None:
    """Checks that TensorBoard is installed, before a run begins or an earlier run is removed.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError("--tensorboard needs a package of that name; run: pip install tensorboard") from error


def _summary_writer(folder: Path, step: int) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    # purge_step: TensorBoard hides what a killed run wrote after its last checkpoint.
    return SummaryWriter(folder / "tensorboard", purge_step=step)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run up to the first line that is incomplete or damaged.

    Raises:
        RunFolderError: the file cannot be read.
    """
    return list(_whole_lines(read_file(folder / NAME)))


def _whole_lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:
            return
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            return
        yield value
