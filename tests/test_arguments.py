"""Arbitrary option values on the command line: whatever is typed, there is no traceback and no hang.

``CHARRNN_EXAMPLES=2000 pytest tests/test_arguments.py`` tries more.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.cli import app
from tests.conftest import Charrnn, Run

EXAMPLES = int(os.environ.get("CHARRNN_EXAMPLES", "30"))
SECONDS = 60  # after which a command is said to hang

pytestmark = pytest.mark.slow

# What each command is given beside the drawn options; the last of an option that is given twice counts.
BASES: dict[str, list[str]] = {
    "train": ["{text}", "--out", "out", "--overwrite", "--steps", "1", "--hidden-size", "8", "--val-max", "500"],
    "tune": ["{text}", "--out", "out", "--overwrite", "--time", "1s"],  # too short for a search: refused, in words
    "export": ["{run}", "model.onnx", "--text", "{text}"],
    "sample": ["{model}", "--length", "20"],
    "eval": ["{model}", "{text}"],
    "classify": ["{model}", "text"],
    "inspect": ["{model}"],
    "plot": ["{run}", "-o", "loss.svg"],
    "heatmap": ["{model}", "--sample", "--length", "30", "-o", "heat.html"],
    "bench": ["{model}", "--seconds", "0.01"],
}
# Options whose large values are a request for much work, and legal.
BOUNDED = {"--length", "--num", "--seconds", "--time", "--epochs", "--steps", "--streams", "--window", "--batch"}
# Options that reach for the network, or would ask it for a known text.
EXCLUDED = {"--web", "--help", "--version", "--install-completion", "--show-completion"}

SMALL = st.sampled_from(["0", "1", "2", "3", "-1", "1.5", "0.01", "+2", "1s", "0s", "nan", "-inf", "x", "1_0", "\t"])
NUMBERS = SMALL | st.sampled_from(["16", "1e3", "-7", "1e999", "9" * 30, "10000000", str(2**63), str(2**64), "٣"])
FILES = ["{text}", "{run}", "{model}", "missing", "", ".", "a\udcffb", "x" * 300, "/dev/null", "-", "sub/file.html"]
WORDS = st.sampled_from(
    """lstm gru cpu cuda auto error skip int8 fp16 fp32 NFC lf end streams val char-rnn adam decay step
    a=1 = a= a=nan utf-16 \\n \\n\\n c_0[1] c_9[1]""".split()  # noqa: SIM905
)
TEXTS = st.text(max_size=5) | st.sampled_from(["the", "\udcff", "\0", "\x1b[31m", "e\u0301", "\U0001f600", "é" * 50])
VALUES = NUMBERS | st.sampled_from(FILES) | WORDS | TEXTS


def _options() -> dict[str, list[tuple[str, bool]]]:
    """(name, whether it is a flag) of all options, by command."""
    group: Any = typer.main.get_command(app)
    return {
        name: [
            (parameter.opts[0], parameter.is_flag)
            for parameter in group.commands[name].params
            if parameter.opts[0].startswith("-") and parameter.opts[0] not in EXCLUDED
        ]
        for name in BASES
    }


def drawn_arguments() -> st.SearchStrategy[list[str]]:
    """A command and some of its options, with values of any kind."""

    def options_of(command: str, known: list[tuple[str, bool]]) -> st.SearchStrategy[list[str]]:
        one = [
            st.tuples(st.just(name), *(() if flag else (SMALL if name in BOUNDED else VALUES,))) for name, flag in known
        ]
        some = st.lists(st.one_of(one), min_size=1, max_size=4)
        return some.map(lambda parts: [command, *BASES[command], *itertools.chain.from_iterable(parts)])

    return st.one_of([options_of(command, known) for command, known in _options().items()])


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what runs longer."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Works in a folder of its own; fills in the names of a text, a run and a model there."""
    names = {"text": shutil.copy(run.text, tmp_path / "text.txt"), "model": shutil.copy(run.model, tmp_path / "m.onnx")}
    names["run"] = shutil.copytree(run.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def fill(argument: str) -> str:
        for name, path in names.items():
            argument = argument.replace(f"{{{name}}}", str(path))
        return argument

    return fill


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn_arguments())
def test_no_value_makes_a_traceback(charrnn: Charrnn, place: Callable[[str], str], arguments: list[str]) -> None:
    with limited(SECONDS):
        # The fixture fails on any exception but SystemExit, and on a traceback that is printed.
        outcome = charrnn(*map(place, arguments), stdin=b"the cat sat\n" * 40)
    assert outcome.code in (0, 1, 2)
    if outcome.code:
        assert outcome.err.strip()
