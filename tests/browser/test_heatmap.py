"""The heat map's page in a browser: chosen, hovered, touched, walked through by key; and no text becomes HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from charrnn.reports.heatmap.analysis import Analysis, Unit
from charrnn.reports.heatmap.page import heatmap_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import NewPage

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def heat(tmp_path: Path) -> Path:
    """A page of 100,000 characters, three units, and hostile text wherever text can stand."""
    shown = (f"{EVIL} some 'text'\n\tand € 漢\n" * 2000)[:100_000]
    n = len(shown)
    waves = [np.sin(np.arange(n, dtype=np.float32) / k) for k in (3, 30, 300)]
    analysis = Analysis(
        shown=shown,
        bits=np.linspace(0, 9, n, dtype=np.float32),
        guesses=np.tile(np.arange(5, dtype=np.int32), (n, 1)),
        probabilities=np.tile(np.array([0.5, 0.2, 0.1, 0.1, 0.05], np.float32), (n, 1)),
        labels=("/", "<", "&", "'", EVIL),
        units=tuple(
            Unit(state="c_0", index=i, correlations={EVIL: 0.9 - i / 10, "digit": i / 10}, values=wave)
            for i, wave in enumerate(waves)
        ),
    )
    path = tmp_path / "heat.html"
    path.write_text(heatmap_page(analysis, title=EVIL, facts={"text:": EVIL}), encoding="utf-8")
    return path


def opened(page: Page, heat: Path) -> Page:
    page.goto(heat.as_uri())
    page.wait_for_selector("body[data-ready]")
    return page


def colour(page: Page, x: int, y: int) -> list[int]:
    values: list[int] = page.evaluate(
        "([x, y]) => [...document.getElementById('canvas').getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    return values


def test_choosing_and_walking(page: Page, heat: Path) -> None:
    opened(page, heat)
    assert page.inner_text("h1") == EVIL
    assert EVIL in page.inner_text("#facts")
    assert page.locator("img").count() == 0
    assert page.locator("#guesses li").count() == 5
    assert "50 %" in page.inner_text("#guesses li:first-child")
    # The second character is what the first guess at the first one said.
    assert page.locator("#guesses li.hit").inner_text().startswith("/")
    before = colour(page, 20, 15)
    page.locator("#list input").first.check(force=True)
    page.wait_for_selector("body[data-unit=surprise]")
    page.wait_for_function("document.getElementById('chosen').textContent.includes('surprise')")
    page.wait_for_timeout(100)
    assert colour(page, 20, 15) != before
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    assert "character 2 " in page.inner_text("#where")
    page.keyboard.press("Control+End")
    assert "character 100,000 " in page.inner_text("#where")
    assert "9.00 bits" in page.inner_text("#where")
    assert page.evaluate("document.getElementById('scroller').scrollTop") > 10_000
    page.keyboard.press("Control+Home")
    page.mouse.move(
        *page.evaluate("(() => { const b = canvas.getBoundingClientRect(); return [b.x + 60, b.y + 20] })()")
    )
    page.wait_for_function("!document.getElementById('where').textContent.includes('character 1 ')")
    page.select_option("#feature", "digit")
    assert "+0.20" in page.locator("#list label").nth(1).inner_text()
    page.check("#under")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_phone_by_touch(new_page: NewPage, heat: Path) -> None:
    page = opened(
        new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"), heat
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.is_visible("#panel")
    page.tap("#choose")
    assert page.is_visible("#panel")
    page.tap("#list label:nth-child(3)")
    page.wait_for_selector("body[data-unit='c_0[1]']")
    page.wait_for_selector("#panel", state="hidden")
    page.touchscreen.tap(60, 400)
    page.wait_for_function("!document.getElementById('where').textContent.includes('character 1 ')")
