"""samples.txt: a sample of the model at each validation, consistent with the checkpoints.

An entry is a line of figures and then the sample. Each line of the sample is
indented by two spaces, so that it cannot be taken for the beginning of an entry:

    step 500  epoch 0.25  train 1.8123  val 1.9012
      the first line of the sample
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from charrnn.errors import WriteError
from charrnn.files import write_atomically
from charrnn.runs.folder import read_file

NAME = "samples.txt"
_INDENT = "  "
_HEAD = re.compile(r"step (\d{1,15})  epoch (\S{1,30})  train (\S{1,30})  val (\S{1,30})")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample, and the step, the epoch and the losses (nats per character) at which it was drawn."""

    step: int
    epoch: float
    train_loss: float
    val_loss: float
    text: str

    def to_text(self) -> str:
        """The entry; control characters, which a terminal would obey, are replaced by U+FFFD."""
        head = f"step {self.step}  epoch {self.epoch:.4f}  train {self.train_loss:.4f}  val {self.val_loss:.4f}\n"
        return head + "".join(f"{_INDENT}{visible(line)}\n" for line in self.text.split("\n"))


def visible(text: str) -> str:
    """The text with U+FFFD in place of each character that would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def append_sample(folder: Path, sample: Sample) -> None:
    """Adds an entry at the end of the file in one write, and flushes it to the disk.

    Raises:
        WriteError: the file cannot be written.
    """
    path = folder / NAME
    try:
        with path.open("ab") as file:
            file.write(sample.to_text().encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def drop_samples_after(folder: Path, step: int) -> None:
    """Removes the entries after a step, and an incomplete last entry. Step 0 removes all entries.

    Raises:
        RunFolderError: the file cannot be read.
        WriteError: it cannot be written.
    """
    path = folder / NAME
    if not path.exists():
        return
    kept = "".join(sample.to_text() for sample in read_samples(folder) if sample.step <= step) if step else ""
    write_atomically(path, kept.encode())


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a run without those that are damaged or incomplete.

    Raises:
        RunFolderError: the file cannot be read.
    """
    lines = read_file(folder / NAME).decode("utf-8", "replace").split("\n")
    lines.pop()  # after the last newline: nothing, or an incomplete line
    entries: list[tuple[re.Match[str], list[str]]] = []
    for line in lines:
        if line.startswith(_INDENT):
            if entries:
                entries[-1][1].append(line.removeprefix(_INDENT))
        elif head := _HEAD.fullmatch(line):
            entries.append((head, []))
    return [sample for head, body in entries if (sample := _sample(head, body))]


def _sample(head: re.Match[str], body: list[str]) -> Sample | None:
    try:
        epoch, train_loss, val_loss = (float(head[i]) for i in (2, 3, 4))
    except ValueError:
        return None
    if not body:
        return None
    return Sample(step=int(head[1]), epoch=epoch, train_loss=train_loss, val_loss=val_loss, text="\n".join(body))
