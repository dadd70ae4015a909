"""A training run shown on a terminal or in a notebook, or as plain lines where the output is a file or a pipe.

Training must not end because its output cannot be written: a closed pipe, a full disk, a closed
terminal. After the first failure nothing more is shown; the files of the run say how it went.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from charrnn_runtime.command_line import discard_unwritten
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from charrnn import events
from charrnn.config import format_duration
from charrnn.reports.plots import ASCII_LEVELS, BLOCKS, sparkline
from charrnn.runs.samples import visible
from charrnn.training.advice import size_advice

CURVE = 12  # characters of the loss curve
PLAIN_SECONDS = 10.0  # between progress lines where the output is no terminal
READING_SECONDS = 1.0  # seconds of reading before a bar is shown


@contextmanager
def listener() -> Iterator[events.Listener]:
    """The listener that fits the standard output, or the notebook that this runs in."""
    if not (sys.stdout.isatty() or _in_notebook()):
        yield PlainListener()
        return
    with LiveListener() as live:
        yield live


def _in_notebook() -> bool:
    """Whether a bar can be shown in a notebook: rich needs ipywidgets for that."""
    return Console().is_jupyter and importlib.util.find_spec("ipywidgets") is not None


@contextmanager
def reading() -> Iterator[events.Listener]:
    """A listener for commands that only read a text: a bar and notices on the standard error."""
    shown = _Reading(Console(file=_output(sys.stderr)))
    try:
        yield shown
    finally:
        shown.bar.stop()


class _ForgivingStream:
    """A text stream whose failures are ignored: after the first one nothing more is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, if the stream has not failed yet."""
        self._attempt(self._stream.write, _in_encoding(text, self._stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it has not failed yet."""
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[..., object], *arguments: str) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._failed = True
            discard_unwritten(self._stream)


def _output(stream: TextIO) -> TextIO:
    return cast(TextIO, _ForgivingStream(stream))


_PLAIN = str.maketrans({"×": "x", "±": "+-", "–": "-", "…": "..."})


def _in_encoding(text: str, encoding: str | None) -> str:
    """The text with plain characters for our own signs, where the encoding lacks one of its characters."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN)
    return text


class ReadingBar:
    """A progress bar for reading a text, on a terminal, if it takes longer than a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: float | None = None
        self._progress: Progress | None = None

    def update(self, event: events.Reading) -> None:
        """Shows the progress; the last event, at 100 %, removes the bar."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if event.done >= event.total:
            self.stop()
            return
        if self._progress is None:
            if now - self._began < READING_SECONDS or not self._console.is_terminal:
                return
            self._progress = Progress(
                TextColumn("reading the text"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f}%"),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=self._console,
                expand=True,
                transient=True,
            )
            self._task = self._progress.add_task("", total=event.total)
            self._progress.start()
        self._progress.update(self._task, completed=event.done)

    def stop(self) -> None:
        """Removes the bar; another text may follow."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._began = None


class _Reading(events.Listener):
    def __init__(self, console: Console) -> None:
        self._console = console
        self.bar = ReadingBar(console)

    def on_read_progress(self, event: events.Reading) -> None:
        self.bar.update(event)

    def on_notice(self, message: str) -> None:
        self._console.print(Text(f"note   {visible(message)}"), soft_wrap=True)


class _Printer(events.Listener):
    """Base class of both ways to show a run; ``_line`` prints one line."""

    def _line(self, text: str) -> None:
        raise NotImplementedError

    def on_start(self, event: events.Started) -> None:
        self._line(f"text   {event.description}: {event.characters:,} characters, {event.vocab_size} distinct")
        if event.vocabulary:
            self._line(f"       {event.vocabulary}")
        self._line(f"model  {event.settings}")
        self._line(f"       {size_advice(event.parameters, event.train_characters, event.dropout)}")
        if event.batches:
            self._line(f"split  {event.batches[0]} batches, {event.batches[1]} of them for training")
        where = event.device
        if where == "cpu":
            where += f", {event.threads} thread{'s' if event.threads > 1 else ''}"
        self._line(f"run    {event.folder}, {event.budget} on {where} ({event.precision})")
        if event.step:
            self._line(f"       resumed at step {event.step:,}")

    def on_notice(self, message: str) -> None:
        self._line(f"note   {message}")

    def on_finish(self, event: events.Finished) -> None:
        how = "interrupted and saved" if event.interrupted else "finished"
        self._line(
            f"{how} after {format_duration(event.elapsed)}, {event.step:,} steps, {event.epoch:.2f} epochs: "
            f"validation loss {event.val_loss:.4f} ± {event.val_error:.4f} nats "
            f"(best {event.best_val_loss:.4f} in {event.best})"
        )
        if not event.interrupted:
            self._line(event.advice)
        else:
            self._line(f"continue with: charrnn train --resume --out {event.best.parent}")


def _validation(event: events.Validated) -> str:
    return (
        f"step {event.step:,}  epoch {event.epoch:.2f}  train {event.train_loss:.4f}  val {event.val_loss:.4f}"
        f"{'  best' if event.best else ''}"
    )


class PlainListener(_Printer):
    """Lines for a file or a pipe."""

    def __init__(self) -> None:
        self._out = _output(sys.stdout)
        self._shown_at = time.monotonic()

    def on_read_progress(self, event: events.Reading) -> None:
        now = time.monotonic()
        if event.done < event.total and now - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = now
            self._line(f"reading the text: {event.done / event.total:.0%}")

    def _line(self, text: str) -> None:
        self._out.write(visible(text) + "\n")
        self._out.flush()

    def on_progress(self, event: events.Progress) -> None:
        now = time.monotonic()
        if now - self._shown_at < PLAIN_SECONDS:
            return
        self._shown_at = now
        self._line(
            f"step {event.step:,}  epoch {event.epoch:.2f}  loss {event.loss:.4f}  "
            f"{event.chars_per_second:,.0f} chars/s  {format_duration(event.seconds_left)} left"
        )

    def on_validation(self, event: events.Validated) -> None:
        self._line(_validation(event))
        if event.sample:
            self._line("\n".join(f"    | {line}" for line in event.sample.splitlines()))


class LiveListener(_Printer):
    """A progress bar at the bottom; validations and samples scroll above it."""

    def __init__(self) -> None:
        self._console = Console(file=_output(sys.stdout))
        self._levels = ASCII_LEVELS if self._console.options.ascii_only else BLOCKS
        self._bar = ReadingBar(self._console)
        self._losses: list[float] = []
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[curve]}"),
            TextColumn("[bold]loss {task.fields[loss]}[/]  val {task.fields[val]}"),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("{task.fields[speed]} chars/s"),
            TextColumn("{task.fields[left]} left"),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=1.0, curve="", loss="–", val="–", epoch="0", speed="–", left="?")

    def __enter__(self) -> LiveListener:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._progress.stop()

    def on_read_progress(self, event: events.Reading) -> None:
        self._bar.update(event)

    def _line(self, text: str) -> None:
        self._progress.console.print(Text(visible(text)), soft_wrap=True)

    def on_start(self, event: events.Started) -> None:
        super().on_start(event)
        self._progress.start()

    def on_progress(self, event: events.Progress) -> None:
        self._losses.append(event.loss)
        if len(self._losses) > 2 * CURVE:  # every other one: the curve shows the whole run
            self._losses = self._losses[1::2]
        self._progress.update(
            self._task,
            curve=sparkline(self._losses if len(self._losses) <= CURVE else self._losses[1::2], self._levels),
            completed=event.fraction,
            loss=f"{event.loss:.4f}",
            epoch=f"{event.epoch:.2f}",
            speed=f"{event.chars_per_second:,.0f}",
            left=format_duration(event.seconds_left),
        )

    def on_validation(self, event: events.Validated) -> None:
        self._progress.update(self._task, val=f"{event.val_loss:.4f}")
        title = Text(_validation(event), style="bold" if event.best else "")
        if event.sample:
            self._progress.console.print(Panel(Text(visible(event.sample)), title=title, title_align="left"))
        else:
            self._progress.console.print(title)

    def on_finish(self, event: events.Finished) -> None:
        if not event.interrupted:
            self._progress.update(self._task, completed=1.0, left="0 s")
        self._progress.stop()
        super().on_finish(event)
