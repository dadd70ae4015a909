"""The code blocks of README and of the pages of docs/ are run as they stand, with short budgets and small texts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import charrnn_export.export as export_module
import numpy as np
import onnx
import pytest
from charrnn_export.trace import trace
from onnx import numpy_helper

from docs import hooks
from tests.documents import RUN, Page, blocks, node_packages

if TYPE_CHECKING:
    from charrnn_export import StepModule

    from tests.conftest import Charrnn

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "server/README.md", "runtime/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
TEXTS = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
LOCAL = "http://127.0.0.1:8000"
WORDS = ["It was the best of times", "it was the worst of times", "He said nothing"]
# Every character of the prompts on the pages.
ALPHABET = "ROMEO: JULIET: def __init__(x): [A-Z] return sel; import os 0123456789 abcdefghijklmnopqrstuvwxyz "
ALPHABET += "BCDFGHKNPQSVWXY '<>{}'\n"


@pytest.fixture(scope="module", autouse=True)
def _traces_by_form() -> Iterator[None]:
    """A step of one form is traced once, because a trace takes seconds: other weights are put into its graph.

    A wrong graph would fail the check that every export makes.
    """
    traces: dict[str, onnx.ModelProto] = {}

    def trace_once(step: StepModule, *, opset: int) -> onnx.ModelProto:
        tensors = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in step.state_dict().items()}
        form = f"{opset} {step} {[(name, array.shape) for name, array in tensors.items()]}"
        if form not in traces:
            traces[form] = trace(step, opset=opset)
        copy = onnx.ModelProto()
        copy.CopyFrom(traces[form])
        for stored in copy.graph.initializer:
            if stored.name in tensors:
                stored.CopyFrom(numpy_helper.from_array(tensors[stored.name], stored.name))
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "trace", trace_once)
        yield


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small texts, a run and its model file, of which each page gets a copy."""
    import charrnn

    folder = tmp_path_factory.mktemp("book")
    text = "\n".join(WORDS[i % 3] + f", {i % 17}." + "\n" * (i % 9 == 0) for i in range(150)) + "\n" + ALPHABET * 4
    (folder / "book.txt").write_text(text)
    (folder / "books" / "old").mkdir(parents=True)
    (folder / "books" / "one.txt").write_text(text)
    (folder / "books" / "old" / "two.txt").write_text(text[::2])
    titles = "".join(f"{'Dragon' if i % 2 else 'Robot'} {i}, {'Fantasy' if i % 2 else 'Future'}\n" for i in range(90))
    (folder / "titles.csv").write_text("title, genre\n" + titles)
    run = charrnn.train(
        folder / "book.txt", steps=30, hidden_size=16, batch_size=4, out=folder / "runs" / "book", progress=False
    )
    run.export(folder / "book.onnx")
    shutil.copy(folder / "book.onnx", folder / "model.onnx")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language in RUN for b in blocks(TEXTS[page]))])
def test_the_blocks_of_a_page_run(
    page: str, book: Path, charrnn: Charrnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXTS[page]
    folder = tmp_path / "page"
    shutil.copytree(book, folder)
    if re.search(r"^charrnn train book.txt(?!.*--out)", text, re.M):
        shutil.rmtree(folder / "runs")  # the page trains it
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    if any(block.language == "js" for block in blocks(text)):
        with node_packages(folder) as found:
            if not found:
                pytest.skip("no Node or onnxruntime-node; make web-test installs it")
    if LOCAL not in "".join(block.code for block in blocks(text) if block.language in RUN):
        Page(page, charrnn).run(text)
        return
    from charrnn_runtime import Sampler

    from tests.server.conftest import serving

    with serving({"book": Sampler("book.onnx")}) as served:
        Page(page, charrnn, {LOCAL: served.url}).run(text)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("```sh\ncharrnn sample book.onnx --lenght 10\n```", "line 1.*No such option"),
        ("```sh\nmake demo\n```", "tests cannot run this"),
        ("\n```python\nprint(unknown)\n```", "line 2.*NameError"),
        ('```python\nprint("3 texts")\n```\n```text title="Output"\n5 lines\n```', "the output is"),
        ('```python\nprint("a\\nb")\n```\n```text title="Output, drawn by the model"\na\n```', "another shape"),
        ("```console\n$ charrnn train book.txt --tine 5m\n```", "No such option"),
        ("```console\n$ charrnn trian book.txt\n```", "no such command"),
        ("```\nx\n```", "no language"),
        ("```sh\nx\n", "not understood"),
    ],
)
def test_a_broken_block_fails(
    broken: str, message: str, book: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(book)
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        Page("page.md", charrnn).run(broken)


def test_shapes_of_outputs(charrnn: Charrnn) -> None:
    page = Page("page.md", charrnn)
    page.run('```python\nprint("3,141 texts in 2.5e-3 s: a, b")\n```\n```text title="Output"\n2 texts in 7 s: …\n```')
    page.run('```python\nprint("abc")\n```\n```text title="Output, drawn by the model"\nxyz\n```')
    assert page.run_blocks == 2


def test_most_code_is_run() -> None:
    found = [block.language for text in TEXTS.values() for block in blocks(text)]
    assert sum(language in RUN for language in found) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    sources = {source: shown for shown, source in hooks.SHOWN.items()}
    hooks.linked(TEXTS[page], sources.get(page, page.removeprefix("docs/")))


def test_the_tree_names_every_folder() -> None:
    text = TEXTS["docs/ARCHITECTURE.md"]
    tree = text[text.index("    charrnn/  ") : text.index("The contract between")]
    named = {name for line in tree.splitlines() for name in re.findall(r"([\w/]+)/(?=,| )", line[:40])}
    packages = {path.parent for path in (ROOT / "charrnn").glob("*/__init__.py")}
    assert {name for name in named if (ROOT / "charrnn" / name).is_dir()} >= {path.name for path in packages}
    assert all((ROOT / name).is_dir() or (ROOT / "charrnn" / name).is_dir() for name in named)


@pytest.mark.parametrize(
    ("page", "answer"),
    [
        ("train on a folder", r"## Train on a folder\n+```sh\ncharrnn train \w+ "),
        ("resume", r"charrnn train --resume --out"),
        ("embed in Node", r"## Node\n+```console\n\$ npm install"),
        ("what a seed promises", r"## Seeds: the same seed, the same text"),
    ],
)
def test_readme_leads_to_an_answer_in_one_click(page: str, answer: str) -> None:
    """From README, the answer stands on the page behind a link."""
    linked = re.findall(r"\]\(((?:docs|runtime|server)/[\w/.-]+\.md)\)", TEXTS["README.md"])
    assert any(re.search(answer, TEXTS[target]) for target in linked), page


def test_made_pages_follow_the_program() -> None:
    from charrnn.cli import app

    commands = hooks.command_line()
    for command in app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"## `charrnn {name}`" in commands
    for option in ("--time", "--resume", "--particles", "--max-loss-increase"):
        assert f"* `{option}" in commands
    fields = hooks.openapi()
    for name in ("## POST /v1/completions", "## CompletionRequest", "| `temperature` | number", "| `max_tokens` |"):
        assert name in fields


def test_links_become_links_between_pages() -> None:
    shown = hooks.linked("[a](docs/how-to/int8.md#x) [b](examples) [c](https://x.org) `[d](e)`", "index.md")
    assert shown == "[a](how-to/int8.md#x) b [c](https://x.org) `[d](e)`"
    text = "[a](../../runtime/README.md#patterns)\n```sh\n[a](b)\n```\n[m](../reference/command-line.md)"
    shown = hooks.linked(text, "how-to/patterns.md", "https://host/blob/main/")
    assert shown == "[a](../reference/runtime.md#patterns)\n```sh\n[a](b)\n```\n[m](../reference/command-line.md)"
    with pytest.raises(FileNotFoundError, match=r"gone\.md does not exist"):
        hooks.linked("[a](gone.md)", "how-to/patterns.md")
