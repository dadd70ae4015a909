"""Pages in a headless Chromium: no console error, no request to another host, or the test fails.

Wants the package playwright and a Chromium, such as Debian's; where either is
missing the tests are skipped, with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = ("localhost", "127.0.0.1", "::1", "[::1]", "")
LOCAL = ("file", "data", "blob", "about")


class NewPage(Protocol):
    """``new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, …)``."""

    def __call__(self, **context_options: Any) -> Page: ...


# One browser a module: while Playwright runs, asyncio.run cannot be used in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; run: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        own = playwright.chromium.executable_path
        if found is None and not Path(own).exists():
            pytest.skip("no Chromium; on Debian: apt-get install chromium")
        # Chromium refuses its sandbox to root; what it opens here is ours.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@contextmanager
def watched(browser: Browser) -> Iterator[NewPage]:
    """Makes pages; when it ends, none of them may have logged an error, thrown, or asked another host for anything."""
    contexts = []
    wrong: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(f"console: {message.text} ({message.location.get('url', '')})")

    def guard(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in LOCAL or url.hostname in HERE:
            route.continue_()
        else:
            wrong.append(f"request to another host: {route.request.url}")
            route.abort()

    def make(**context_options: Any) -> Page:
        context = browser.new_context(**context_options)
        contexts.append(context)
        context.set_default_timeout(60_000)  # a busy machine
        context.route("**/*", guard)
        page = context.new_page()
        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """Makes pages, ``watched``, each in a context of its own with the options of ``Browser.new_context``."""
    with watched(browser) as make:
        yield make


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    """A page of 1280×800 for several tests, ``watched``."""
    with watched(browser) as make:
        yield make(viewport={"width": 1280, "height": 800})


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """A page of 1280×800 in a fresh context, watched as ``new_page`` says."""
    return new_page(viewport={"width": 1280, "height": 800})
