"""Makes the pictures of README and docs/: a training in a terminal, and a heat map.

    python docs/pictures.py [--time 2m] [--model runs/first]

Needs Chromium and the package playwright (pip install ".[browser]"). With ``--model`` only the heat map is made, of
that model; otherwise it is that of the training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

import charrnn
from charrnn.reports.heatmap.build import build_heatmap
from charrnn.training import console

IMAGES = Path(__file__).parent / "images"
TEXT = Path(__file__).parents[1] / "charrnn" / "training" / "cadence.py"


class Shown(console.LiveListener):
    """The live view, with long lines wrapped as a terminal does."""

    def _line(self, text: str) -> None:
        self._progress.console.print(Text(text))


def recorded(file: io.TextIOBase) -> Console:  # noqa: ARG001  # it is not shown
    """A console that is not a terminal, so that the bar is written once, at the end; what it shows is recorded."""
    return Console(record=True, width=100, file=io.StringIO())


def training(folder: Path, time: str) -> None:
    """Trains on the standard library's source, and saves what a terminal has shown at the end."""
    with contextlib.chdir(folder), mock.patch.object(console, "Console", recorded), Shown() as shown:
        charrnn.train(time=time, out="runs/first", listener=shown)
    # Without the font that rich's form would load from another host.
    form = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    title = f"charrnn train --time {time} --out runs/first"
    shown._console.save_svg(str(IMAGES / "training.svg"), title=title, code_format=form)


def heat_map(model: Path) -> None:
    """Saves the top of a heat map's page, coloured by a unit."""
    text = TEXT.read_text("utf-8")
    page = build_heatmap(charrnn.load(model), text, title="Heat map", text_name=TEXT.name).page
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "heatmap.html"
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 620}, color_scheme="light")
        tab.goto(path.as_uri())
        tab.locator("#list input").nth(1).check(force=True)
        tab.screenshot(path=IMAGES / "heat-map.png")
        browser.close()


def main() -> None:
    """Makes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", default="2m")
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    if arguments.model:
        heat_map(arguments.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        training(Path(folder), arguments.time)
        heat_map(Path(folder) / "runs" / "first")


if __name__ == "__main__":
    main()
