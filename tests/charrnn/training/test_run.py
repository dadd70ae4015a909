"""Training from Python: every option reaches the run and changes it, and the results are at hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import charrnn as library
from charrnn.config import BUDGETS, options
from charrnn.events import Finished, Listener, Started, Validated
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.settings import CONFIGS

if TYPE_CHECKING:
    from tests.conftest import Charrnn

OPTIONS = {option.name: option for config in CONFIGS for option in options(config)}
TINY: dict[str, Any] = {
    "hidden_size": 8,
    "embedding_size": 4,
    "batch_size": 4,
    "seq_len": 16,
    "steps": 6,
    "dropout": 0.0,
    "lr": 0.01,
    "eval_steps": 6,
}
Base = tuple[Path, Callable[[dict[str, Any]], Any]]
LINE = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", value)]
DECAY = {"schedule": "decay", "lr_decay": 0.5, "lr_decay_every": 0.01}
# A value for each option, and the options without which it would change nothing.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "cell": ("gru", {}),
    "hidden_size": (9, {}),
    "num_layers": (2, {}),
    "embedding_size": (5, {}),
    "dropout": (0.25, {}),
    "weight_dropout": (0.25, {}),
    "bytes": (True, {}),
    "encoding": ("cp1252", {}),
    "normalize": ("NFD", {}),
    "val_frac": (0.2, {}),
    "test_frac": (0.2, {}),
    "split": ("streams", {}),
    "val_max": (50, {}),
    "lines": (True, {}),
    "separator": (".", {}),
    "column": ("text", {}),
    "delimiter": (".", {"column": "text"}),
    "label": ("file", {"lines": True}),
    "label_dropout": (0.5, {"lines": True, "label": "file"}),
    "newlines": ("lf", {}),
    "min_count": (3, {}),
    "time": (0.05, {}),
    "epochs": (0.1, {}),
    "steps": (7, {}),
    "batch_size": (3, {}),
    "seq_len": (17, {}),
    "init": ("char-rnn", {}),
    "optimizer": ("adamw", {}),
    "lr": (0.003, {}),
    "schedule": ("decay", {}),
    "lr_decay": (0.25, DECAY),
    "lr_decay_every": (0.02, DECAY),
    "lr_decay_after": (0.02, DECAY),
    "weight_decay": (0.5, {}),
    "grad_clip": (0.1, {}),
    "grad_clip_value": (0.001, {}),
    "loss_sum": (True, {"optimizer": "rmsprop", "grad_clip": 0.0, "grad_clip_value": 0.001}),
    "warmup_steps": (3, {}),
    "lr_boost": (2.0, {}),
    "eval_steps": (2, {}),
    "seed": (5, {}),
    "device": ("cuda:99", {}),
    "threads": (2, {}),
    "max_epochs": (0.01, {}),  # an error, since TINY has no time
    "patience": (1, {"eval_steps": 1, "lr": 20.0, "warmup_steps": 0, "patience": 0}),
    "replay": (f"{Path(__file__)}:0.25", {}),
    "precision": ("bf16", {"precision": "fp32"}),
}
# Sets of options that go together on one command line.
TOGETHER: list[set[str]] = [
    {"cell", "hidden_size", "num_layers", "embedding_size", "dropout", "weight_dropout", "init", "optimizer", "lr"},
    {
        "encoding",
        "normalize",
        "val_frac",
        "test_frac",
        "val_max",
        "split",
        "newlines",
        "min_count",
        "epochs",
        "batch_size",
        "seq_len",
    },
    {
        "hidden_size",
        "dropout",
        "bytes",
        "lines",
        "time",
        "schedule",
        "lr_decay",
        "lr_decay_every",
        "lr_decay_after",
        "max_epochs",
        "weight_decay",
    },
    {
        "separator",
        "steps",
        "grad_clip",
        "grad_clip_value",
        "loss_sum",
        "warmup_steps",
        "lr_boost",
        "eval_steps",
        "seed",
        "threads",
        "patience",
        "replay",
    },
    {"column", "delimiter", "seq_len"},
    {"lines", "label", "label_dropout"},
]
WITHOUT_A_CPU_VALUE = {"device", "precision"}  # what they accept depends on the machine


def write_book(folder: Path, text: str) -> Path:
    """A table with one column: lines that also are a text with CRLF, an accent and rare characters."""
    path = folder / "book.csv"
    path.write_bytes(b"text\r\n" + text[:2500].replace("\n", "\r\n").encode() + "été zoë\r\n".encode())
    return path


@pytest.fixture
def book(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_book(tmp_path, text)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, text: str) -> Base:
    """A text, and what a run on it is with some options, trained once."""
    folder = tmp_path_factory.mktemp("base")
    book, known = write_book(folder, text), dict[str, Any]()

    def get(given: dict[str, Any]) -> Any:
        if repr(given) not in known:
            known[repr(given)] = outcome(book, str(folder / f"{len(known)}"), given)
        return known[repr(given)]

    return book, get


class Recorder(Listener):
    """Keeps what a run says about itself, without times."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.notes: list[str] = []

    def on_start(self, event: Started) -> None:
        self.events.append(replace(event, folder=Path()))

    def on_finish(self, event: Finished) -> None:
        self.events.append(replace(event, elapsed=0.0, best=Path(), last=Path()))

    def on_notice(self, message: str) -> None:
        self.notes.append(message)


def outcome(book: Path, out: str, given: dict[str, Any]) -> Any:
    """Everything that a run with these options is, or the error that it ends with."""
    heard = Recorder()
    try:
        run = library.train(book, out=out, listener=heard, **given)
    except library.CharrnnError as error:
        return str(error)
    weights = {name: weight.tolist() for name, weight in load_checkpoint(run.folder / "last.pt").weights.items()}
    return heard.events, weights, [(row["step"], row["val_loss"]) for row in run.history]


def test_there_is_a_change_for_every_option() -> None:
    assert set(CHANGES) == set(OPTIONS)
    assert set().union(*TOGETHER) == set(OPTIONS) - WITHOUT_A_CPU_VALUE


def test_the_same_options_give_the_same_run(base: Base, tmp_path: Path) -> None:
    book, outcome_of = base
    assert outcome(book, str(tmp_path / "again"), TINY) == outcome_of(TINY)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_the_run_and_changes_it(base: Base, tmp_path: Path, name: str) -> None:
    book, outcome_of = base
    value, needed = CHANGES[name]
    given = TINY | needed
    assert given.get(name, OPTIONS[name].default) != value
    kept = {key: given[key] for key in given if not (name in BUDGETS and key in BUDGETS)}
    changed = outcome(book, str(tmp_path / "changed"), kept | {name: value})
    assert changed != outcome_of(given)
    if not isinstance(changed, str):
        config = json.loads((tmp_path / "changed" / "config.json").read_text())
        assert (config["model"] | config["data"] | config["train"])[name] == value


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: min(names))
def test_every_option_of_the_command_line_is_that_of_python(book: Path, charrnn: Charrnn, names: set[str]) -> None:
    given = {name: CHANGES[name][0] for name in names}
    if not {"time", "epochs"} & names:
        given = TINY | given
    else:
        given = {key: value for key, value in TINY.items() if key != "steps"} | given
    line: list[object] = []
    for name, value in given.items():
        line += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    assert charrnn("train", book, "--out", "line", *line).code == 0
    run = library.train(book, out="python", progress=False, **given)
    configs = [json.loads(Path(folder, "config.json").read_text()) for folder in ("line", "python")]
    assert configs[0] == configs[1]
    assert {name: run.settings[name] for name in given} == given
    if "time" not in names:  # else the number of steps is that of the moment
        of_line = load_checkpoint(Path("line/last.pt")).weights
        of_python = load_checkpoint(Path("python/last.pt")).weights
        assert all(of_line[name].equal(of_python[name]) for name in of_line)


def test_a_run_has_its_results_at_hand(book: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = library.train("book.csv", progress=False, **TINY | {"steps": 12})
    assert run.folder == Path("runs/book")
    assert (run.interrupted, run.signal) == (False, None)
    assert [row["step"] for row in run.history] == [6, 12]
    assert all(set(row) == {"step", "epoch", "elapsed", "train_loss", "val_loss", "val_error"} for row in run.history)
    assert run.best_val_loss == min(row["val_loss"] for row in run.history)
    assert run.settings["seed"] == 1
    assert repr(run).startswith("Run('runs/book': finished after 12 steps")
    assert run._repr_html_().count("<tr>") == 3
    assert run.sampler is run.sampler
    assert run.sample("The", length=20, seed=3) == run.sampler.sample("The", length=20, seed=3)
    assert run.plot(x="step")._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    with pytest.raises(library.CharrnnError, match="unknown x axis 'hours'"):
        run.plot(x="hours")
    exported = run.export("book.onnx", dtype="int8", max_loss_increase=1.0)
    assert exported.path is not None
    assert exported.path.read_bytes() == exported.data
    assert exported.info.dtype == "int8"
    assert "of validation text" in str(exported)
    assert repr(exported) == str(exported)
    assert library.load("book.onnx").vocabulary == run.sampler.vocabulary
    more = library.resume("runs/book", steps=18, progress=False)
    assert [row["step"] for row in more.history] == [6, 12, 18]
    assert capfd.readouterr() == ("", "")


def test_the_errors_are_those_of_the_command_line(book: Path, charrnn: Charrnn) -> None:
    library.train(book, out="run", progress=False, **TINY)
    for call, line in (
        ({"out": "run"}, ["--out", "run"]),
        ({"dropout": 2.0}, ["--dropout", 2]),
        ({"time": "soon"}, ["--time", "soon"]),
        ({"preset": "nanogpt"}, ["--preset", "nanogpt"]),
        ({"init_from": "none.pt"}, ["--init-from", "none.pt"]),
    ):
        with pytest.raises(library.CharrnnError) as error:
            library.train(book, progress=False, **call)
        outcome = charrnn("train", book, *line)
        assert (outcome.err, outcome.code) == (f"error: {error.value}\n", error.value.exit_code)
    with pytest.raises(library.CharrnnError, match="leave out --cell gru"):
        library.resume("run", cell="gru", progress=False)
    assert library.train(book, out="run", overwrite=True, progress=False, **TINY).history[-1]["step"] == 6


@pytest.mark.parametrize(
    ("name", "hint"),
    [("hiden_size", "did you mean hidden_size"), ("lr-decay", "lr_decay"), ("wings", "charrnn train --help")],
)
def test_an_unknown_option_is_refused_and_near_ones_are_named(book: Path, name: str, hint: str) -> None:
    options: dict[str, Any] = {name: 1}
    for call in (library.train, library.resume):
        with pytest.raises(library.CharrnnError, match=f"there is no option {name!r}; .*{hint}"):
            call(book, **options)


@pytest.mark.parametrize("texts", [(7,), (["a.txt", "b.txt"],), (b"book.txt",)])
def test_texts_that_are_not_names_are_refused(book: Path, texts: tuple[Any, ...]) -> None:
    with pytest.raises(library.CharrnnError, match="a text is named by a string or a path"):
        library.train(*texts)


@pytest.mark.parametrize("program_has_a_handler", [False, True])
def test_an_interrupted_run_is_saved_and_returned(book: Path, program_has_a_handler: bool) -> None:
    class Interrupting(Recorder):
        def on_validation(self, event: Validated) -> None:
            if event.step == 6:
                signal.raise_signal(signal.SIGINT)

    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGINT, handler if program_has_a_handler else signal.default_int_handler)
    try:
        run = library.train(book, listener=Interrupting(), **TINY | {"steps": 12})
        assert signal.getsignal(signal.SIGINT) == (handler if program_has_a_handler else signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.interrupted == (not program_has_a_handler)
    assert run.signal == (None if program_has_a_handler else signal.SIGINT)
    assert run.history[-1]["step"] == (12 if program_has_a_handler else 6)
    if run.interrupted:
        assert "interrupted after 6 steps" in repr(run)
        assert library.resume(run.folder, progress=False).history[-1]["step"] == 12


def test_training_leaves_the_program_s_random_numbers_alone(book: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    library.train(book, progress=False, **TINY)
    assert torch.rand(3).equal(expected)


def test_the_package_is_light_and_lists_its_names() -> None:
    assert library.__all__ == sorted(library.__all__)
    assert set(library.__all__) <= set(dir(library))
    for name in library.__all__:
        assert getattr(library, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'wings'"):
        library.wings  # noqa: B018
    program = "import sys, charrnn; sys.exit(bool({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_text_in_memory_trains_like_a_file(book: Path) -> None:
    text = book.read_text()
    run = library.train(text=book.read_bytes(), progress=False, **TINY)
    assert run.folder == Path("runs/text")
    library.train(book, out="file", progress=False, **TINY)
    of_memory, of_file = (load_checkpoint(folder / "last.pt").weights for folder in (run.folder, Path("file")))
    assert all(of_memory[name].equal(of_file[name]) for name in of_file)
    more: dict[str, Any] = {"steps": 12, "progress": False}
    with pytest.raises(library.CharrnnError, match=r"given by a program \(text=…\) and cannot be read again; give the"):
        library.resume(run.folder, **more)
    with pytest.raises(library.CharrnnError, match=r"another text \(text=…\)"):
        library.resume(run.folder, text=text + "!", **more)
    with pytest.raises(library.CharrnnError, match="give text=…, not items=…"):
        library.resume(run.folder, items=[text], **more)
    assert library.resume(run.folder, text=book.read_bytes(), **more).history[-1]["step"] == 12
    with pytest.raises(library.CharrnnError, match=r"cannot be read again; name a text to measure on: --text FILE"):
        run.export(dtype="int8", max_loss_increase=1.0)


def test_items_in_memory_train_like_lines(book: Path) -> None:
    lines = book.read_bytes().decode().split("\r\n")
    run = library.train(items=(line for line in lines), progress=False, **TINY)
    assert run.folder == Path("runs/items")
    library.train(book, out="lines", lines=True, progress=False, **TINY)
    of_memory, of_file = (load_checkpoint(folder / "last.pt").weights for folder in (run.folder, Path("lines")))
    assert all(of_memory[name].equal(of_file[name]) for name in of_file)
    assert library.resume(run.folder, items=lines, steps=12, progress=False).history[-1]["step"] == 12
    # The same items may also come from a file.
    assert library.resume(run.folder, book, steps=18, progress=False).history[-1]["step"] == 18
    with pytest.raises(library.CharrnnError, match="leave out separator"):
        library.train(items=lines, separator=";")


@pytest.mark.parametrize("texts", [("book.csv",), ()])
def test_a_text_is_given_in_one_way(book: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(library.CharrnnError, match="in one way"):
        library.train(*texts, text="ab", items=["ab"])
    with pytest.raises(library.CharrnnError, match="give it as text=…"):
        library.train("first line\nsecond line\n")


def test_a_run_goes_on_from_another_folder(book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert charrnn("train", "-", "--out", "piped", *LINE, stdin=book.read_bytes()).code == 0
    library.train("book.csv", out="run", progress=False, **TINY)
    (book.parent / "elsewhere").mkdir()
    monkeypatch.chdir(book.parent / "elsewhere")
    assert charrnn("train", "--resume", "--out", "../run", "--steps", 12).code == 0
    outcome = charrnn("export", "../run", "m.onnx", "--dtype", "int8", "--max-loss-increase", 1)
    assert outcome.code == 0, outcome.err
    refused = charrnn("train", "--resume", "--out", "../piped", "--steps", 12)
    assert refused.code == 1
    assert "came through standard input and cannot be read again; give the same text again: charrnn" in refused.err
    assert charrnn("train", "../book.csv", "--resume", "--out", "../piped", "--steps", 12).code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_one_folder_has_one_run(book: Path, charrnn: Charrnn) -> None:
    child = os.fork()
    if child == 0:
        library.train(book, out="run", progress=False, **TINY | {"steps": 10**9, "eval_steps": 6})
        os._exit(1)
    try:
        while not Path("run/best.pt").exists():
            time.sleep(0.01)
        for line in (["--resume"], ["--overwrite"], []):
            outcome = charrnn("train", book, "--out", "run", *line, *LINE)
            assert outcome.code == 2
            assert f"another run is writing into it (process {child} on " in outcome.err
        with pytest.raises(library.CharrnnError, match="another run"):
            library.resume("run")
        assert charrnn("plot", "run", "-o", "loss.png").code == 0
        assert charrnn("inspect", "run").code == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    step = load_checkpoint(Path("run/last.pt")).progress["step"]
    assert library.resume("run", steps=step + 6, progress=False).history[-1]["step"] == step + 6


def test_a_run_that_came_in_between_is_not_overwritten(book: Path) -> None:
    class Late(Listener):
        def on_notice(self, _: str) -> None:
            Path("run/last.pt").touch()

    Path("run").mkdir()
    with pytest.raises(library.CharrnnError, match="a run in it already"):
        library.train(book, out="run", listener=Late(), **TINY | {"batch_size": 512})
