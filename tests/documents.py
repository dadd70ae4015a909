"""Runs the code blocks of a Markdown page in order in one folder, as its reader would, with short budgets.

Blocks of ``sh`` hold commands: each line is one, of those that ``_command`` knows. Blocks of ``python`` share their
names. A block with ``title="name.py"`` is a file: it is written, and then imported. A block of ``text`` with the title
"Output" is what the block before it has printed: numbers may differ, and ``…`` stands for anything. With the title
"Output, drawn by the model" the text may differ, and as many lines or as many characters must have been printed.
What cannot run, such as an installation, is a block of ``console``; the options of its commands are checked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
RUN = {"sh", "python", "js"}
SHOWN = {"text", "console", "json", "html"}
OUTPUT, DRAWN = "Output", "Output, drawn by the model"
_FENCE = re.compile(
    r"""^(?P<indent>[ ]*)```(?P<language>\w*)(?:[ ]title="(?P<title>[^"]*)")?\n(?P<code>.*?)^(?P=indent)```$""",
    re.MULTILINE | re.DOTALL,
)
# Moments in the tests in place of minutes.
_BUDGET = re.compile(r"--(?:time|epochs|steps) \S+")
_PYTHON_BUDGET = re.compile(r'\b(?:time="\w+"|epochs=\d+|steps=\d+)')
STEPS, MORE_STEPS = 10, 20
_NUMBER = re.compile(r"-?\d[\d,.]*(?:e[-+]?\d+)?")

Run = Callable[..., Any]  # the command line as a function, see conftest.py


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    title: str
    code: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """The code blocks of a page.

    Raises:
        AssertionError: a block has a language that is neither run nor only shown.
    """
    found = []
    for match in _FENCE.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        indent = match["indent"]
        code = "".join(part.removeprefix(indent) for part in match["code"].splitlines(keepends=True))
        assert match["language"] in RUN | SHOWN, f"line {line}: a code block in {match['language'] or 'no language'!r}"
        found.append(Block(match["language"], match["title"] or "", code, line))
    assert len(re.findall(r"^ *```", markdown, re.M)) == 2 * len(found), "a fence is not understood"
    return found


class Page:
    """A page that is run. Only one at a time: it works in the current folder."""

    def __init__(self, name: str, charrnn: Run, replaced: dict[str, str] | None = None) -> None:
        self.name, self.charrnn, self.replaced = name, charrnn, replaced or {}
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.run_blocks = 0

    def run(self, markdown: str) -> None:
        """Runs all blocks.

        Raises:
            AssertionError: a block fails or prints something else; the message names its line.
        """
        printed = ""
        for block in blocks(markdown):
            where = f"{self.name}, block at line {block.line}"
            try:
                if block.language in RUN:
                    printed = self._run(block)
                    self.run_blocks += 1
                elif block.language == "console":
                    _check_options(block.code)
                elif block.title in (OUTPUT, DRAWN):
                    _compare(block, printed)
            except Exception as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error

    def _run(self, block: Block) -> str:
        code = block.code
        for old, new in self.replaced.items():
            code = code.replace(old, new)
        if block.language == "sh":
            lines = re.sub(r" *\\\n *", " ", code).splitlines()
            return "".join(self._line(line) for line in lines if line.strip() and not line.startswith("#"))
        if block.language == "js":
            assert block.title, "a block of js needs a title, the name of its file"
            Path(block.title).write_text(code, encoding="utf-8")
            return ""
        code = _PYTHON_BUDGET.sub(lambda found: _python_budget(code, found), code)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if block.title:
                Path(block.title).write_text(code, encoding="utf-8")
                _import(Path(block.title))
            else:
                exec(compile(code, f"{self.name}:{block.line}", "exec"), self.namespace)
        return printed.getvalue()

    def _line(self, line: str) -> str:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words = list(lexer)
        data, out = b"", None
        if ">" in words:
            out = words[words.index(">") + 1]
            del words[words.index(">") :]
        while words:
            end = words.index("|") if "|" in words else len(words)
            data, words = self._command(words[:end], data), words[end + 1 :]
        if out:
            Path(out).write_bytes(data)
            return ""
        return data.decode()

    def _command(self, words: list[str], data: bytes) -> bytes:
        match words:
            case ["charrnn", *arguments]:
                done = self.charrnn(*_short(arguments), stdin=data)
                assert done.code == 0, f"{shlex.join(words)}: {done.err}"
                return bytes(done.out, "utf-8")
            case ["python", "-m", ("charrnn_runtime" | "charrnn_server") as module, *arguments]:
                return _python(module, arguments, data)
            case ["python", script, *arguments] if script.endswith(".py"):
                return _python(script, arguments, data)
            case ["cat", *files]:
                return b"".join(Path(file).read_bytes() for file in files)
            case ["curl" | "node", *_]:
                return subprocess.run(words, input=data, capture_output=True, check=True, timeout=60).stdout
            case _:
                raise AssertionError(f"{shlex.join(words)}: tests cannot run this; make it a console block")


def _short(arguments: list[str]) -> list[str]:
    """A training with a budget of some steps and a small model; other commands as they are."""
    if arguments[0] == "bench":
        return [*arguments, "--seconds", "0.05"]
    if arguments[0] != "train":
        return arguments
    resumes, line = "--resume" in arguments, shlex.join(arguments)
    line = _BUDGET.sub(f"--steps {MORE_STEPS if resumes and '--epochs' in line else STEPS}", line)
    line = re.sub(r"--hidden-size \d+", "--hidden-size 16", line)
    if arguments[1].startswith("--") and not resumes:  # the default text is a large one
        line = line.replace("train", "train book.txt", 1)
    if not resumes and "--batch-size" not in line:
        line += " --batch-size 4"
    if "--preset" in line:
        line += " --seq-len 16"
    if not resumes and not re.search("--hidden-size|--init-from|--preset", line):
        line += " --hidden-size 16"
    return shlex.split(line)


def _python_budget(code: str, found: re.Match[str]) -> str:
    before = code[: found.start()]
    if before.rfind("resume(") > before.rfind("train("):
        return f"steps={MORE_STEPS}"
    call = code[before.rfind("train(") :].partition(")")[0]
    small = "" if "hidden_size" in call or "init_from" in call else ", hidden_size=16"
    return f"steps={STEPS}, batch_size=4{small}"


def _python(program: str, arguments: list[str], data: bytes) -> bytes:
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(data), "utf-8"), "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8")}
    kept, argv = {name: getattr(sys, name) for name in streams}, sys.argv
    try:
        for name, stream in streams.items():
            setattr(sys, name, stream)
        sys.argv = [program, *arguments]
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            code = importlib.import_module(f"{program}.__main__").main(arguments)
            assert not code, f"{program} {shlex.join(arguments)}: exit code {code}"
    finally:
        for name, stream in kept.items():
            setattr(sys, name, stream)
        sys.argv = argv
    streams["stdout"].flush()
    return streams["stdout"].buffer.getvalue()


def _import(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def _compare(block: Block, printed: str) -> None:
    """Checks the shape of an output.

    Raises:
        AssertionError: it has another shape.
    """
    if block.title == DRAWN:
        same_lines = len(printed.splitlines()) == len(block.code.splitlines())
        assert printed.strip(), "nothing was printed"
        assert same_lines or len(printed) == len(block.code), f"the output has another shape: {printed!r}"
        return
    shown, real = (_NUMBER.sub("#", " ".join(text.split())) for text in (block.code, printed))
    pattern = ".*".join(map(re.escape, shown.split("…")))
    assert re.fullmatch(pattern, real, re.S), f"the output is\n{real}\nand not\n{shown}"


def _check_options(code: str) -> None:
    """Parses the commands of charrnn in a block of console, without running them."""
    from charrnn.cli import app

    for line in re.sub(r" *\\\n *", " ", code).splitlines():
        found = re.search(r"^\$ .*?(?:\| |-m )?\bcharrnn (?P<arguments>\w.*)", line)
        if not found or "pip install" in line:
            continue
        arguments = shlex.split(found["arguments"].split(" | ")[0].split(" > ")[0], comments=True)
        command = typer.main.get_command(app)
        command = command.commands.get(arguments[0])  # type: ignore[attr-defined]
        assert command is not None, f"{line}: there is no such command"
        with contextlib.suppress(typer.Exit):
            command.make_context(arguments[0], arguments[1:])


@contextlib.contextmanager
def node_packages(folder: Path) -> Iterator[bool]:
    """Puts the packages that programs for Node import below a folder; says whether Node and they are here."""
    packages = ROOT / "tests" / "web" / "node_modules"
    found = shutil.which("node") is not None and (packages / "onnxruntime-node").exists()
    if found:
        (folder / "node_modules").mkdir()
        for package in packages.iterdir():
            (folder / "node_modules" / package.name).symlink_to(package)
        (folder / "node_modules" / "charrnn").symlink_to(ROOT / "runtime" / "js")
    yield found
