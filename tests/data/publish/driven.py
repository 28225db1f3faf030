"""Debian's Chromium driven by Playwright: a page as a reader opens it, and what it asked and complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

READY = "document.documentElement.dataset.ready === 'yes'"


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the test is skipped on a laptop and fails where we land (CI is set)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell("no chromium on PATH: the page was not opened; install it (Debian: apt-get install chromium)")
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=60_000)
        try:
            yield running
        finally:
            running.close()


class Reader:
    """Somebody who opens one page. ``asked``: the addresses; ``complaints``: console messages and page errors."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.on("console", lambda one: self.complaints.append(one.text))
        self.page.on("pageerror", lambda one: self.complaints.append(str(one)))

    def opens(self, url: str, *, scripts: bool = True) -> Page:
        """Go there, and wait until the page's own script has begun."""
        self.page.goto(url)
        if scripts:
            self.until(READY)
        return self.page

    def until(self, condition: str, *, seconds: float = 60) -> None:
        """Wait until the page says so. Playwright's own way evaluates text later, which the policy stops."""
        self.page.evaluate(
            f"""() => new Promise((done, fail) => {{
              const latest = performance.now() + {seconds * 1000};
              const ask = () => ({condition}) ? done() : performance.now() > latest
                ? fail(new Error("waited in vain: " + document.getElementById("said")?.textContent))
                : setTimeout(ask, 10);
              ask();
            }})"""
        )

    def said(self, words: str) -> str:
        """Wait until the page has said something with these words in it; returns all of it."""
        self.until(f"document.getElementById('said').textContent.includes({words!r})")
        return str(self.page.inner_text("#said"))

    def pasted(self) -> str:
        """What the clipboard holds, pasted with the keyboard into a field that was not there before."""
        self.page.evaluate(
            "() => { const box = document.createElement('textarea'); box.id = 'paste'; "
            "document.body.append(box); box.focus(); }"
        )
        self.page.keyboard.press("Control+V")
        self.until("document.getElementById('paste').value !== ''")
        text = str(self.page.input_value("#paste"))
        self.page.evaluate("document.getElementById('paste').remove()")
        return text
