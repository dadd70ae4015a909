"""The README's commands are run as they stand, with short budgets and a small text."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from charrnn.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("charrnn ")]


@pytest.mark.slow
def test_commands_and_python_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["It was the best of times", "it was the worst of times", "He said nothing"]
    (tmp_path / "book.txt").write_text("\n".join(words[i % 3] + f", {i % 17}." for i in range(150)))
    titles = "".join(
        f"The {'Dragon' if i % 2 else 'Robot'} {i}, {'Fantasy' if i % 2 else 'Future'}\n" for i in range(90)
    )
    (tmp_path / "titles.csv").write_text("title, genre\n" + titles)
    commands = _commands()
    assert len(commands) >= 8
    for command in commands:
        if "--time" in command:  # minutes in the README, moments here
            at = command.index("--time")
            command[at : at + 2] = ["--steps", "10"]
        if "--seconds" in command:
            command[command.index("--seconds") + 1] = "0.05"
        if command[1] == "train":
            command += [] if "--resume" in command else ["--batch-size", "8"]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code, f"{shlex.join(command)}: {capsys.readouterr().err}"
    programs = [program.replace('time="10m"', "steps=10, batch_size=4") for program in _blocks("python")]
    assert ["steps=10" in program for program in programs] == [True, False]
    for program in programs:
        capsys.readouterr()
        exec(compile(program, "README.md", "exec"), {})
        assert len(capsys.readouterr().out) > 200


def test_the_tree_names_every_folder() -> None:
    root = Path(__file__).parents[1]
    tree = README[README.index("    charrnn/  ") : README.index("[CONTRIBUTING.md]")]
    lines = tree.strip("\n").splitlines()
    assert len(lines) <= 13
    named = {name for line in lines for name in re.findall(r"([\w/]+)/(?=,| )", line[:40])}
    packages = {path.parent for path in (root / "charrnn").glob("*/__init__.py")}
    assert {name for name in named if (root / "charrnn" / name).is_dir()} >= {path.name for path in packages}
    assert all((root / name).is_dir() or (root / "charrnn" / name).is_dir() for name in named)
