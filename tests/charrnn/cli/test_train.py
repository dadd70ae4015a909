"""``charrnn train``: what it refuses, what it leaves alone, how it resumes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from charrnn.runs.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Outcome, Run

QUICK = ("--steps", 4, "--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--seq-len", 16, "--dropout", 0)


@pytest.fixture
def book(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short text in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(text[:2000])
    return tmp_path / "book.txt"


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    assert outcome.code == code, outcome
    message = outcome.err.removeprefix("error: ")
    assert message != outcome.err or "Usage:" in message
    for part in parts:
        assert part in message
    assert outcome.out == ""


def test_the_default_folder_is_named_after_the_text(book: Path, charrnn: Charrnn) -> None:
    outcome = charrnn("train", "book.txt", *QUICK)
    assert outcome.code == 0
    assert outcome.err == ""
    assert Path("runs/book/best.pt").exists()
    lines = outcome.out.splitlines()
    assert lines[0].startswith("text   book.txt: 2,000 characters")
    assert "parameters for 1,800 training characters" in outcome.out
    assert lines[-2].startswith("finished after ")
    assert "(best " in lines[-2]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--time", "soon"], "'soon' is not a duration"),
        (["--time", "-5m"], "not a duration"),
        (["--time", "0"], "above 0"),
        (["--time", "1m", "--steps", "5"], "give one budget"),
        (["--steps", "0"], "steps must be"),
        (["--steps", "many"], "--steps"),
        (["--epochs", "nan"], "epochs must be a number above 0"),
        (["--cell", "transformer"], "'lstm'"),
        (["--hidden-size", "0"], "hidden_size"),
        (["--num-layers", "-1"], "num_layers"),
        (["--dropout", "1"], "dropout"),
        (["--val-frac", "1"], "val_frac"),
        (["--normalize", "NFX"], "normalize"),
        (["--bytes", "--normalize", "NFC"], "--normalize"),
        (["--batch-size", "0"], "batch_size"),
        (["--seq-len", "0"], "seq_len"),
        (["--lr", "-1"], "lr must be a number above 0"),
        (["--lr", "inf"], "lr must be a number above 0"),
        (["--seed", "-1"], "seed"),
        (["--optimizer", "sgd"], "'rmsprop'"),
        (["--precision", "fp8"], "'bf16'"),
        (["--device", "gpu"], "known: auto, cpu, cuda, cuda:N, mps"),
        (["--device", "cuda"], "--device cuda: "),
        (["--device", "cuda:" + "9" * 30], "unknown device"),
        (["--resume", "--overwrite"], "leave out --overwrite"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_nonsense_is_a_usage_error_and_leaves_nothing(
    book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, options: list[str], part: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "--resume" in options:
        Path("runs").mkdir()
    before = sorted(book.parent.iterdir())
    refused(charrnn("train", "book.txt", *options), 2, part)
    assert sorted(book.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "there is no text in it"),
        (b"a" * 1000, "one distinct character"),
        (b"ab" * 5, "at least 20 are needed"),
        (b"abc\xff" * 100, "book.txt: not UTF-8: byte 0xff at offset 3"),
    ],
)
def test_texts_that_cannot_be_trained_on(book: Path, charrnn: Charrnn, data: bytes, part: str) -> None:
    book.write_bytes(data)
    refused(charrnn("train", "book.txt", *QUICK), 1, part)
    assert not Path("runs").exists()


def test_a_text_that_is_not_there_and_a_folder_without_one(book: Path, charrnn: Charrnn) -> None:
    Path("empty").mkdir()
    refused(charrnn("train", "boook.txt"), 1, "boook.txt: no such file")
    refused(charrnn("train", "empty"), 1, "a folder without text files")
    refused(charrnn("train", "*.md"), 1, "no file has a name like this")
    refused(charrnn("train", "-", *QUICK), 1, "there is no text in it")


def test_standard_input(book: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "-", *QUICK, stdin=book.read_bytes()).code == 0
    assert load_checkpoint(Path("runs/stdin/last.pt")).corpus["characters"] == 2000


@pytest.mark.parametrize("out", ["/dev/null/run", "book.txt/run", "x" * 300])
def test_a_folder_that_cannot_be_made(book: Path, charrnn: Charrnn, out: str) -> None:
    refused(charrnn("train", "book.txt", "--out", out, *QUICK), 2 if len(out) < 300 else 1, out[:60])


def test_a_file_in_the_place_of_the_folder(book: Path, charrnn: Charrnn) -> None:
    before = book.read_bytes()
    for option in ((), ("--overwrite",)):
        refused(charrnn("train", "book.txt", "--out", "book.txt", *option, *QUICK), 2, "is a file, not a folder")
    assert book.read_bytes() == before


def test_an_existing_run_is_refused_and_left_as_it_is(book: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "book.txt", *QUICK).code == 0
    before = {path.name: path.read_bytes() for path in Path("runs/book").iterdir()}
    refused(charrnn("train", "book.txt", *QUICK), 2, "a run in it already", "--resume", "--overwrite", "--out")
    assert {path.name: path.read_bytes() for path in Path("runs/book").iterdir()} == before


def test_overwrite_replaces_the_run_and_leaves_other_files(book: Path, charrnn: Charrnn) -> None:
    folder = Path("runs/book")
    assert charrnn("train", "book.txt", *QUICK, "--eval-steps", 1).code == 0
    old = {path.name for path in folder.iterdir()}
    others = {"notes.txt": b"mine", "pretrained.pt": b"mine too", "sub/best.pt": b"and this", "model.onnx": b"x"}
    for name, data in others.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    assert charrnn("train", "book.txt", "--overwrite", *QUICK, "--steps", 3, "--eval-steps", 3).code == 0
    assert {name: (folder / name).read_bytes() for name in others} == others
    assert load_checkpoint(folder / "last.pt").progress["step"] == 3
    periodic = list(folder.glob("epoch*.pt"))
    assert len(periodic) == 1, f"checkpoints of the old run stayed: {sorted(old)}"


@pytest.mark.parametrize(
    "wrong", [["boook.txt"], ["book.txt", "--device", "cuda"], ["short.txt"], ["book.txt", "--tensorboard"]]
)
def test_overwrite_keeps_the_run_if_the_new_one_cannot_begin(
    book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    assert charrnn("train", "book.txt", *QUICK, "--out", "run").code == 0
    Path("short.txt").write_text("short")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert charrnn("train", *wrong, "--out", "run", "--overwrite", *QUICK).code in (1, 2)
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_folder_with_other_files_is_no_run(book: Path, charrnn: Charrnn) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("x")
    assert charrnn("train", "book.txt", "--out", "mine", *QUICK).code == 0
    assert Path("mine/notes.txt").read_text() == "x"


def test_a_short_text_shrinks_with_a_notice(book: Path, charrnn: Charrnn) -> None:
    book.write_text(book.read_text()[:200])
    outcome = charrnn("train", "book.txt", *QUICK, "--seq-len", 64)
    assert outcome.code == 0
    assert "note   the training text has 180 characters" in outcome.out
    assert "shrunk to 2 × 64" in outcome.out


def test_resume_continues_with_the_settings_of_the_run(book: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "book.txt", *QUICK, "--cell", "gru", "--normalize", "NFC").code == 0
    outcome = charrnn("train", "--resume", "--out", "runs/book", "--steps", 9, "--weight-decay", 0.5)
    assert outcome.code == 0
    assert "resumed at step 4" in outcome.out
    checkpoint = load_checkpoint(Path("runs/book/last.pt"))
    assert checkpoint.progress["step"] == 9
    assert checkpoint.model_config.cell == "gru"
    assert checkpoint.data_config.normalize == "NFC"
    assert checkpoint.train_config.weight_decay == 0.5
    groups = checkpoint.resume["optimizers"][1]["param_groups"]
    assert groups[0]["weight_decay"] == 0.5
    # the same again, the text and settings named once more
    again = charrnn("train", "book.txt", "--resume", "--cell", "gru", "--batch-size", 4, "--epochs", 1)
    assert again.code == 0
    assert load_checkpoint(Path("runs/book/last.pt")).progress["epoch"] >= 1


def test_resume_with_something_else_names_the_differences(book: Path, charrnn: Charrnn, text: str) -> None:
    assert charrnn("train", "book.txt", *QUICK).code == 0
    before = Path("runs/book/last.pt").read_bytes()
    more = ("--resume", "--out", "runs/book", "--steps", 9)
    refused(
        charrnn("train", *more, "--cell", "gru", "--hidden-size", 8, "--num-layers", 2, "--batch-size", 2),
        1,
        "--cell gru (the run has lstm)",
        "--num-layers 2 (the run has 1)",
        "--batch-size 2 (the run has 4)",
    )
    refused(charrnn("train", *more, "--bytes"), 1, "--bytes True (the run has False)")
    Path("other.txt").write_text(text[2000:4000])
    refused(charrnn("train", "other.txt", *more), 1, "was trained on another text (book.txt)")
    book.unlink()
    refused(charrnn("train", *more), 1, "book.txt: no such file")
    assert Path("runs/book/last.pt").read_bytes() == before


def test_resume_begins_goes_on_and_is_finished(book: Path, charrnn: Charrnn) -> None:
    command = ("train", "book.txt", "--resume", "--preset", "char-rnn", "--out", "run", *QUICK)
    assert charrnn(*command).code == 0
    before = Path("run/last.pt").read_bytes()
    again = charrnn(*command)
    assert again.code == 0
    assert "note   run: finished after 4 steps" in again.out
    assert "to go on, give a larger budget" in again.out
    assert Path("run/last.pt").read_bytes() == before
    assert charrnn(*command[:-2], "--dropout", 0, "--steps", 6).code == 0
    assert load_checkpoint(Path("run/last.pt")).progress["step"] == 6
    # The default folder as well, and --init-from for the beginning only.
    for _ in range(2):
        assert charrnn("train", "book.txt", "--resume", "--init-from", "run", "--steps", 2).code == 0
    assert load_checkpoint(Path("runs/book/last.pt")).progress["step"] == 2


def test_resume_where_there_is_nothing(book: Path, charrnn: Charrnn, run: Run) -> None:
    refused(charrnn("train", "--resume", "--out", "typo"), 1, "nothing to resume", "name a text to begin a run")
    assert not Path("typo").exists()
    Path("run").mkdir()
    Path("run/last.pt").write_bytes(run.best.read_bytes()[:1000])
    refused(charrnn("train", "book.txt", "--resume", "--out", "run"), 1, "cut short or damaged")
    Path("run/last.pt").rename("run/best.pt")
    refused(charrnn("train", "book.txt", "--resume", "--out", "run"), 2, "there is a run in it already")


def test_a_run_with_last_pt_only_can_be_used(
    book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a kill before the first validation leaves."""
    from charrnn.training import trainer
    from charrnn.training.cadence import Cadence

    monkeypatch.setattr(trainer, "Cadence", lambda: Cadence(first_save_seconds=0))
    monkeypatch.setattr(trainer.Trainer, "_validate", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert charrnn("train", "book.txt", "--out", "run", *QUICK, "--eval-steps", 9).code == 130
    assert not Path("run/best.pt").exists()
    checkpoint = load_checkpoint(Path("run/last.pt"))
    assert (checkpoint.progress["step"], checkpoint.history, checkpoint.progress["val_loss"]) == (1, [], None)
    for command in (
        ["sample", "run", "--length", 5],
        ["eval", "run", "book.txt"],
        ["export", "run", "model.onnx"],
        ["inspect", "run"],
        ["inspect", "model.onnx"],
    ):
        outcome = charrnn(*command)
        assert outcome.code == 0, outcome.err
    notes = [message for message in caplog.messages if message.startswith("note")]
    assert notes == ["note: run: this run has no best.pt; its last.pt is used"]
    monkeypatch.undo()
    monkeypatch.chdir(book.parent)
    assert charrnn("train", "--resume", "--out", "run").code == 0
    assert load_checkpoint(Path("run/best.pt")).progress["step"] == 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_exits_with_its_code(
    book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    from charrnn.training.optim import Optimizers

    update, updates = Optimizers.step, []

    def interrupting(self: Optimizers, factor: float) -> torch.Tensor:
        updates.append(factor)
        if len(updates) == 3:
            signal.raise_signal(number)
        return update(self, factor)

    handler = signal.getsignal(number)
    monkeypatch.setattr(Optimizers, "step", interrupting)
    outcome = charrnn("train", "book.txt", *QUICK, "--steps", 50)
    assert outcome.code == code
    assert signal.getsignal(number) is handler
    assert "interrupted and saved after" in outcome.out
    assert "continue with: charrnn train --resume --out runs/book" in outcome.out
    assert load_checkpoint(Path("runs/book/last.pt")).progress["step"] == 3  # the step in hand is finished


def test_a_second_interrupt_breaks_off(book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    from charrnn.training.optim import Optimizers

    def impatient(self: Optimizers, factor: float) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(Optimizers, "step", impatient)
    outcome = charrnn("train", "book.txt", *QUICK)
    assert outcome.code == 130
    assert "interrupted" not in outcome.out


def test_divergence_is_an_error_with_a_remedy(book: Path, charrnn: Charrnn) -> None:
    wild = ("--lr", 1e12, "--grad-clip", 0, "--warmup-steps", 0, "--optimizer", "adamw", "--cell", "rnn")
    outcome = charrnn("train", "book.txt", *QUICK, "--steps", 60, *wild)
    assert outcome.code == 1
    assert "diverged" in outcome.err
    assert "lower --lr" in outcome.err
