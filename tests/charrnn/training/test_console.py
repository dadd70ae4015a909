"""What a run looks like on a terminal and in a file, whatever the model writes."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from charrnn import events
from charrnn.training import console
from charrnn.training.advice import size_advice

HOSTILE = "[bold]not bold[/bold] [/] :smile: \x1b[31mred\x1b[0m \x07\r\b\0 \ud800 \u202e ｗｉｄｅ\n[link=x]\t[\\"

STARTED = events.Started(
    folder=Path("runs/x"),
    description="a [red]text[/red] \x1b]0;title\x07",
    device="cpu",
    precision="fp32",
    threads=2,
    characters=1_000_000,
    train_characters=900_000,
    batches=None,
    vocab_size=65,
    parameters=300_000,
    dropout=0.0,
    settings="lstm 1×256",
    budget="10 steps",
    step=0,
)
PROGRESS = events.Progress(step=3, epoch=0.5, fraction=0.3, loss=2.5, chars_per_second=12345.6, seconds_left=75.0)
VALIDATED = events.Validated(
    step=5,
    epoch=0.75,
    elapsed=10.0,
    train_loss=2.5,
    val_loss=2.625,
    best=True,
    sample=HOSTILE,
    checkpoint=Path("runs/x/epoch0.75-loss2.6250.pt"),
)
FINISHED = events.Finished(
    interrupted=False,
    step=10,
    epoch=1.5,
    elapsed=61.0,
    train_loss=2.0,
    val_loss=2.125,
    val_error=0.03125,
    best_val_loss=2.0625,
    best=Path("runs/x/best.pt"),
    last=Path("runs/x/last.pt"),
    advice="a word of advice",
)


def tell(listener: events.Listener) -> None:
    """A whole run in events."""
    listener.on_start(STARTED)
    listener.on_notice("a [blink]notice[/blink]")
    for fraction in (0.0, 0.3, 1.0):
        listener.on_progress(replace(PROGRESS, fraction=fraction, loss=math.nan if fraction else 2.5))
    listener.on_progress(replace(PROGRESS, seconds_left=math.inf))
    listener.on_validation(VALIDATED)
    listener.on_validation(replace(VALIDATED, sample="", best=False))
    listener.on_finish(FINISHED)


def harmless(text: str) -> bool:
    return not set(text) & set("\x1b\x07\r\b\0")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> tuple[console.LiveListener, io.StringIO]:
    """The live listener on a terminal that is recorded."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=100, color_system=None, record=True, _environ={})
    monkeypatch.setattr(console, "Console", lambda file: terminal)
    return console.LiveListener(), written


def test_the_live_listener_shows_samples_as_they_are(live: tuple[console.LiveListener, io.StringIO]) -> None:
    listener, _ = live
    with listener:
        tell(listener)
    shown = listener._console.export_text()
    assert harmless(shown)
    for part in (
        "a [red]text[/red]",
        "[bold]not bold[/bold] [/] :smile: \N{REPLACEMENT CHARACTER}[31mred",
        "ｗｉｄｅ",
        "[link=x]",
        "a [blink]notice[/blink]",
        "step 5  epoch 0.75  train 2.5000  val 2.6250  best",
        "finished after 1 min 01 s, 10 steps, 1.50 epochs: validation loss 2.1250 ± 0.0312 nats",
        "(best 2.0625 in runs/x/best.pt)",
        "a word of advice",
    ):
        assert part in shown


def test_the_progress_bar_shows_where_the_run_is(live: tuple[console.LiveListener, io.StringIO]) -> None:
    listener, written = live
    with listener:
        listener.on_start(STARTED)
        listener.on_validation(VALIDATED)
        listener.on_progress(PROGRESS)
        listener._progress.refresh()
    for part in ("30%", "loss 2.5000", "val 2.6250", "epoch 0.50", "12,346 chars/s", "1 min 15 s left"):
        assert part in written.getvalue()


def test_the_terminal_is_given_back_when_a_run_fails(live: tuple[console.LiveListener, io.StringIO]) -> None:
    listener, written = live
    with contextlib.suppress(KeyboardInterrupt), listener:
        listener.on_start(STARTED)
        assert listener._progress.live.is_started
        raise KeyboardInterrupt
    assert not listener._progress.live.is_started
    assert written.getvalue().rstrip("\n").endswith("\x1b[?25h"), "the cursor is shown again"


def test_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    with console.listener() as listener:
        assert isinstance(listener, console.PlainListener)
        tell(listener)
    out = capsys.readouterr().out
    assert harmless(out)
    lines = out.splitlines()
    assert "note   a [blink]notice[/blink]" in lines
    assert "step 3  epoch 0.50  loss 2.5000  12,346 chars/s  1 min 15 s left" in lines
    assert "step 3  epoch 0.50  loss 2.5000  12,346 chars/s  ? left" in lines
    assert "step 5  epoch 0.75  train 2.5000  val 2.6250  best" in lines
    assert any(line.startswith("    | [bold]not bold[/bold]") for line in lines)
    assert lines[-1] == "a word of advice"


class FullDisk(io.TextIOWrapper):
    """An output that has room for a few bytes, as a log on a full disk."""

    def __init__(self, room: int, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace")
        self.room = room

    def write(self, text: str) -> int:
        if self.room < 0:
            raise OSError(28, "No space left on device")
        self.room -= len(text)
        return super().write(text)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [console.PlainListener, console.LiveListener])
@pytest.mark.parametrize("room", [-1, 10, 1000])
def test_a_run_goes_on_when_its_output_fails(
    kind: type[console.PlainListener | console.LiveListener], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", FullDisk(room))
    listener = kind()
    if isinstance(listener, console.LiveListener):
        with listener:
            tell(listener)
    else:
        tell(listener)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "shift_jis", "utf-8"])
def test_the_output_has_a_form_for_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = FullDisk(1_000_000, encoding)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with console.LiveListener() as listener:
        tell(listener)
    plain = console.PlainListener()
    plain.on_start(STARTED)
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    shown = out.buffer.getvalue().decode(encoding)
    assert "\\u2588" not in shown
    assert ("lstm 1×256" if encoding in ("utf-8", "cp1252", "shift_jis") else "lstm 1x256") in shown
    assert any(level in shown for level in "▁▂▃▄▅▆▇█") == (encoding == "utf-8")


def test_plain_progress_is_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    listener = console.PlainListener()
    for _ in range(100):
        listener.on_progress(PROGRESS)
    assert capsys.readouterr().out == ""


def test_an_interrupted_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    console.PlainListener().on_finish(replace(FINISHED, interrupted=True))
    out = capsys.readouterr().out
    assert "interrupted and saved after 1 min 01 s" in out
    assert "charrnn train --resume --out runs/x" in out
    assert "advice" not in out


@pytest.mark.parametrize(
    ("parameters", "characters", "part"),
    [(1000, 1_000_000, "plenty of text"), (1_000_000, 1_000_000, "same order"), (10_000_000, 1_000, "by heart")],
)
def test_size_advice(parameters: int, characters: int, part: str) -> None:
    advice = size_advice(parameters, characters, dropout=0.0)
    assert part in advice
    assert f"{parameters:,} parameters for {characters:,} training characters" in advice
