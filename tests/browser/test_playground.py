"""The playground in a browser: text is written, stopped, coloured and shown as text."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from charrnn_runtime import Sampler, Vocabulary

from tests.runtime.conftest import TinyModel

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import NewPage
    from tests.server.conftest import Served


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    conftest = pytest.importorskip("tests.server.conftest", reason="no fastapi; run: pip install 'charrnn[serve]'")
    markup = Sampler(TinyModel(Vocabulary.from_text("\n <img src=x onerror=alert(1)>&\"'😀")).data())
    with conftest.serving({"markup": markup}, max_tokens=10**9) as served:
        yield served


def opened(page: Page, served: Served) -> Page:
    page.goto(served.url)
    page.wait_for_selector("#model option", state="attached")  # the page's policy forbids polling by eval
    return page


def wait_for_text(page: Page) -> None:
    until = time.monotonic() + 10
    while page.evaluate("document.querySelector('#text').textContent.length") < 500:
        assert time.monotonic() < until, "no text arrives"
        page.wait_for_timeout(20)


def test_a_text_is_written_and_is_its_single_run(page: Page, served: Served) -> None:
    opened(page, served)
    prompt = "<img src=x onerror=alert(1)>"
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Characters").fill("2000")
    for surprise in (False, True):
        page.get_by_label("Colour by surprise").set_checked(surprise)
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("#copy:enabled")
        shown = page.evaluate("document.querySelector('#text').textContent")
        assert shown == prompt + served.sampler.sample(prompt, length=2000, temperature=0.8, seed=7)
        assert page.locator("#text img").count() == 0, "a text is never parsed as HTML"
        assert bool(page.locator("#text .s3").count()) == surprise
        assert "2,000" in page.locator("#figures").inner_text()
        assert "seed 7" in page.locator("#figures").inner_text()


def test_keys_write_and_stop(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("Characters").fill("100000000")
    page.get_by_label("Prompt").focus()
    page.keyboard.type("img")
    page.keyboard.press("Control+Enter")
    wait_for_text(page)
    page.keyboard.press("Escape")
    page.wait_for_selector("#copy:enabled")
    assert served.quiet(), "the server has stopped too"
    assert re.match(r"Stopped after \d+ characters", page.locator("#status").inner_text())
    length = page.evaluate("document.querySelector('#text').textContent.length")
    page.wait_for_timeout(150)
    assert page.evaluate("document.querySelector('#text').textContent.length") == length
    page.get_by_role("button", name="Write").click()
    wait_for_text(page)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#go:enabled")
    assert served.quiet()


def test_a_stop_string(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("Stop at").fill("\\n")
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector("#go:enabled")
    expected = served.sampler.sample(length=1000, temperature=0.8, seed=3, stop="\n")
    assert page.evaluate("document.querySelector('#text').textContent") == expected


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_page(new_page: NewPage, served: Served, width: int) -> None:
    page = opened(new_page(viewport={"width": width, "height": 844}), served)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("button", name="Write").is_visible()


def test_every_control_has_a_name_and_takes_the_focus(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("Prompt").focus()
    seen = []
    for _ in range(9):
        seen.append(page.evaluate("document.activeElement.id"))
        page.keyboard.press("Tab")
    assert seen == ["prompt", "model", "temperature", "length", "seed", "stop", "pattern", "surprise", "go"]
    unnamed = "[...document.querySelectorAll('input,select,textarea')].filter(e => !e.labels.length).length"
    assert page.evaluate(unnamed) == 0


def test_a_pattern_holds(page: Page, served: Served) -> None:
    opened(page, served)
    page.get_by_label("Seed").fill("3")
    page.get_by_label("Pattern").fill(r"[imgsrc]{2,5}=x \w+")
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector("#copy:enabled")
    shown = page.evaluate("document.querySelector('#text').textContent")
    expected = served.sampler.sample(length=1000, temperature=0.8, seed=3, pattern=r"[imgsrc]{2,5}=x \w+")
    assert shown == expected


def test_a_label_is_chosen_from_a_list(page: Page) -> None:
    from tests.server.conftest import serving

    special = {"begin": 5, "end": 6, "label:<b>Polish</b>": 7, "label:Irish": 8}
    sampler = Sampler(TinyModel(Vocabulary(symbols=(*map(ord, "abcde"), -1, -1, -1, -1), special=special)).data())
    with serving({"labelled": sampler}) as labelled:
        opened(page, labelled)
        chooser = page.get_by_role("combobox", name="Label")
        assert chooser.locator("option").all_inner_texts() == ["any", "<b>Polish</b>", "Irish"]
        page.get_by_label("Seed").fill("3")
        for label in ("", "<b>Polish</b>", "Irish"):
            chooser.select_option(value=label)
            page.get_by_role("button", name="Write").click()
            page.wait_for_selector("#copy:enabled")
            shown = page.evaluate("document.querySelector('#text').textContent")
            assert shown == sampler.sample(length=1000, temperature=0.8, seed=3, label=label or None)


def test_tab_takes_a_suggestion(page: Page, served: Served) -> None:
    opened(page, served)
    prompt = page.get_by_label("Prompt")
    prompt.focus()
    page.keyboard.type("<img s")
    page.wait_for_selector("#suggestions:not([hidden])")
    expected = [item.text for item in served.sampler.complete("<img s", n=3)]
    assert page.locator("#suggestions button").all_text_contents() == expected
    page.keyboard.press("Tab")
    assert prompt.input_value() == "<img s" + expected[0]
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.wait_for_selector("#suggestions:not([hidden])")
    page.keyboard.press("Escape")
    assert page.locator("#suggestions").is_hidden()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") != "prompt", "Tab leaves the field when nothing is suggested"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+End")
    page.keyboard.type(" ")
    page.wait_for_selector("#suggestions:not([hidden])")
    before = prompt.input_value()
    second = page.locator("#suggestions button").nth(1)
    taken = second.text_content()
    second.click()
    assert prompt.input_value() == before + str(taken)
