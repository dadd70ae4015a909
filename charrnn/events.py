"""Events of a training run, and the ``Listener`` that receives them. The training loop itself prints nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How much of a text has been read; sent a few times a second, and at the end."""

    description: str
    done: int  # bytes
    total: int


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run is about to begin."""

    folder: Path
    description: str
    device: str
    precision: str
    threads: int  # that compute on the CPU
    characters: int
    train_characters: int
    batches: tuple[int, int] | None  # of the whole text and of its training part; only with char-rnn's division
    vocab_size: int
    parameters: int
    dropout: float
    settings: str
    budget: str
    step: int
    vocabulary: str = ""  # a line on its rarest characters


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run is; sent a few times a second at most."""

    step: int
    epoch: float
    fraction: float  # of the budget, 0 to 1
    loss: float  # nats, mean of the last 100 steps
    chars_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A validation, its checkpoint and a sample."""

    step: int
    epoch: float
    elapsed: float
    train_loss: float
    val_loss: float
    best: bool
    sample: str
    checkpoint: Path


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run has ended."""

    interrupted: bool
    step: int
    epoch: float
    elapsed: float
    train_loss: float
    val_loss: float
    val_error: float  # standard error of val_loss: the validation text is a sample
    best_val_loss: float
    best: Path
    last: Path
    advice: str


class Listener:
    """Receives the events of a training run. Override the methods you need; the others do nothing."""

    def on_read_progress(self, event: Reading) -> None:
        """Some of the text has been read."""

    def on_start(self, event: Started) -> None:
        """The run begins."""

    def on_progress(self, event: Progress) -> None:
        """Some steps have been made."""

    def on_validation(self, event: Validated) -> None:
        """A validation has been made and a checkpoint written."""

    def on_notice(self, message: str) -> None:
        """Something the user should know."""

    def on_finish(self, event: Finished) -> None:
        """The run has ended."""


def to_stderr(message: str) -> None:
    """Tells the user something without a listener."""
    sys.stderr.write(f"note   {message}\n")
