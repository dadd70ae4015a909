"""``charrnn heatmap``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import CharrnnError, UsageError

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


def test_command(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    wide = tmp_path / "wide.txt"
    wide.write_text("the cat sat", encoding="utf-16")
    for options, code in ((["--encoding", "utf-16"], 0), ([], 1), (["--encoding", "klingon"], 2)):
        assert charrnn("heatmap", run.model, "--text", wide, "-o", page, *options).code == code
    done = charrnn("heatmap", run.model, "--text", run.text, "--length", 2000, "--units", 3, "-o", page)
    assert done.code == 0, done.err
    assert "2,000 characters" in done.out
    assert "left out" in done.out
    again = tmp_path / "again.html"
    assert charrnn("heatmap", run.folder, "--sample", "--length", 200, "--seed", 3, "-o", again).code == 0
    assert "<!doctype html>" in again.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--sample"),
        (["--sample", "--text", "x"], 2, "--sample"),
        (["--text", "missing.txt"], 1, "missing.txt"),
        (["--sample", "--units", 0], 2, "units"),
        (["--sample", "--length", 0], 2, "length"),
        (["--text", "{text}", "--length", 400_000], 2, "300,000"),
        (["--sample", "--out", "/missing/page.html"], 1, "/missing/page.html"),
    ],
)
def test_bad_input(run: Run, charrnn: Charrnn, tmp_path: Path, arguments: list[object], code: int, words: str) -> None:
    given = [str(a).format(text=run.text) for a in arguments]
    done = charrnn("heatmap", run.model, "-o", tmp_path / "p.html", *given)
    assert (done.code, words in done.err) == (code, True), done.err


def test_an_empty_text_and_unknown_characters_are_told(run: Run, charrnn: Charrnn, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for text, options, code in (("", [], 1), ("the €", [], 2), ("€", ["--unknown", "skip"], 1)):
        path.write_text(text, encoding="utf-8")
        assert charrnn("heatmap", run.model, "--text", path, "-o", tmp_path / "p.html", *options).code == code
    path.write_text("the €cat", encoding="utf-8")
    out = tmp_path / "p.html"
    assert charrnn("heatmap", run.model, "--text", path, "--unknown", "skip", "-o", out).code == 0


def test_an_exported_model_needs_no_torch(run: Run, tmp_path: Path) -> None:
    model, commands = str(run.model), []
    commands.append(["heatmap", model, "--sample", "--length", "50", "-o", str(tmp_path / "p.html")])
    commands += [["sample", model, "--length", "9"], ["eval", model, str(run.text), "--per-line"], ["inspect", model]]
    code = (
        "import sys; from charrnn.cli import main\n"
        f"for command in {commands!r}:\n"
        "    sys.argv = ['charrnn', *command]\n"
        "    try: main()\n    except SystemExit as e: assert not e.code\n"
        "    assert 'torch' not in sys.modules, command"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert issubclass(UsageError, CharrnnError)
