"""The commands of the examples' READMEs, with small budgets, and what their scripts do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from charrnn_runtime import Sampler

from charrnn.cli import app
from tests.conftest import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md") if path.parent.name != "generator")
# Programs that run until they are stopped; they have tests of their own below.
ENDLESS = ("python -m http.server", "python bot.py", "python autocomplete.py")
STEPS = {"log_watcher": 80}


def commands(folder: str) -> list[str]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLES / folder / "README.md").read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def perform(folder: str, command: str) -> str:
    """Runs a command of a README in this process and in the current folder; returns what it printed."""
    words = shlex.split(command)
    source = words[words.index("<") + 1] if "<" in words else None
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: min(words.index(mark) for mark in "<>" if mark in words)] if source or target else words
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        if source:
            patch.setattr(sys, "stdin", io.StringIO(Path(source).read_text("utf-8")))
        if words[0] == "charrnn":
            if words[1] == "train":
                at = words.index("--time")
                words[at : at + 2] = ["--steps", str(STEPS.get(folder, 3)), "--hidden-size", "24", "--device", "cpu"]
            if "--web" in words:
                words.append("--cdn")  # without it, ONNX Runtime is fetched
            app(words[1:], standalone_mode=False)
        else:
            assert words[0] == "python"
            script = (EXAMPLES / folder / words[1]).resolve()
            small = ["--num", "400"] if script.name in ("make_names.py", "make_log.py", "smiles.py") else []
            if "--num" not in words or int(words[words.index("--num") + 1]) > 1000:
                words += small
            patch.setattr(sys, "argv", [str(script), *words[2:]])
            runpy.run_path(str(script), run_name="__main__")
    text = printed.buffer.getvalue().decode()
    if target:
        Path(target).write_text(text, encoding="utf-8")
    return str(text)


def test_every_folder_has_its_readme_in_the_list() -> None:
    listed = set(re.findall(r"\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text("utf-8")))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.is_dir() and any(path.iterdir())}
    assert set(FOLDERS) == listed - {"generator"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_commands_of_the_readme(folder: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder == "molecules":
        pytest.importorskip("rdkit", reason="no RDKit; run: pip install -r examples/molecules/requirements.txt")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    lines = commands(folder)
    assert any("charrnn train" in line for line in lines)
    printed = {line: perform(folder, line) for line in lines if not line.startswith(ENDLESS)}
    for line in lines:
        if line.startswith(ENDLESS) and ".onnx" in line:
            assert any(word.endswith(".onnx") and (tmp_path / word).exists() for word in line.split()), line
    CHECKS.get(folder, lambda printed: None)(list(printed.values()))


def _check_names(printed: list[str]) -> None:
    styles = set(runpy.run_path(str(EXAMPLES / "names" / "make_names.py"))["STYLES"])
    names = dict(line.split("\t")[::-1] for line in printed[0].splitlines())
    assert set(names.values()) == styles
    assert all(name.endswith(("son", "dóttir")) for name, style in names.items() if style == "Icelandic")
    assert len(printed[2].splitlines()) == 5
    assert styles & set(printed[3].split())
    assert styles <= set(printed[4].split())


def _check_molecules(printed: list[str]) -> None:
    assert re.match(r"\d+ of 400 are valid: \d\d", printed[1])
    assert re.match(r"\d+ of \d+ are valid: .*\n\d+ of the valid .*\n\d+ of the distinct ", printed[4])


def _check_log_watcher(printed: list[str]) -> None:
    strange = runpy.run_path(str(EXAMPLES / "log_watcher" / "make_log.py"))["STRANGE"]
    flagged = [line.split("\t", 1)[1] for line in printed[4].splitlines()]
    assert sum(line in strange for line in flagged) == 2
    assert len(flagged) <= 4


CHECKS: dict[str, Any] = {"names": _check_names, "molecules": _check_molecules, "log_watcher": _check_log_watcher}


def test_autocomplete_offers_the_most_probable_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prompt_toolkit", reason="no prompt_toolkit; run: pip install prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    program = runpy.run_path(str(EXAMPLES / "autocomplete" / "autocomplete.py"))
    sampler = Sampler(run.model)
    expected = [str(found.text) for found in sampler.complete("The ca", n=5)]
    offered = list(program["ModelCompleter"](sampler).get_completions(Document("The ca"), CompleteEvent()))
    assert [found.text for found in offered] == expected
    assert [found.display_text for found in offered] == ["ca" + text for text in expected]
    printed = io.StringIO()
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("hello\r\x04")  # a line, and Ctrl-D
        with contextlib.redirect_stdout(printed):
            program["main"](str(run.model))
    assert printed.getvalue() == "hello\n"


@pytest.fixture
def bot_program() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "bot" / "bot.py"))


def test_the_bot_keeps_a_conversation_for_each_user(run: Run, bot_program: dict[str, Any]) -> None:
    sampler = Sampler(run.model)

    def alone(*messages: str) -> list[str]:
        talk = sampler.start(temperature=0)
        replies = []
        for message in messages:
            talk.feed(message)
            replies.append(talk.sample(bot_program["MOST_CHARACTERS"], stop="\n"))
        return replies

    async def together() -> tuple[list[str], str]:
        bot = bot_program["Bot"](sampler, temperature=0, most_users=2)
        said = [("anna", "The old"), ("ben", "A dog"), ("anna", "The cat"), ("ben", "The")]
        replies = await asyncio.gather(*(bot.reply(*message) for message in said))
        await bot.reply("carl", "The")  # there is room for two: anna is forgotten
        return replies, await bot.reply("anna", "The old")

    replies, again = asyncio.run(together())
    assert replies[::2] == alone("The old", "The cat")
    assert replies[1::2] == alone("A dog", "The")
    assert again == alone("The old")[0]


def test_the_bot_answers_lines(run: Run, bot_program: dict[str, Any]) -> None:
    sampler = Sampler(run.model)

    async def talk() -> tuple[list[str], bytes]:
        server = await bot_program["serve"](bot_program["Bot"](sampler, temperature=0), 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write("anna: The cat ☃\nben: A dog\n".encode())
            lines = sorted([(await reader.readline()).decode() for _ in range(2)])
            writer.write(b"x" * 100_000)  # a line without end: the bot hangs up
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            try:
                rest = await reader.read()
            except ConnectionError:
                rest = b""
            writer.close()
        return lines, rest

    lines, rest = asyncio.run(talk())
    expected = []
    for user, message in (("anna", "The cat "), ("ben", "A dog")):
        alone = sampler.start(temperature=0)
        alone.feed(message)
        expected.append(f"{user}: {alone.sample(bot_program['MOST_CHARACTERS'], stop=chr(10))}\n")
    assert lines == expected
    assert rest == b""
