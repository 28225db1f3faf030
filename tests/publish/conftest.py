"""What the tests of the page share: one page of 61 trials, browsers that stay open, and a reader in front of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.page import write_report
from tests.data.publish import chromium, driven, sample_run


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Five cases four times on three builds, and a trial that nobody judged; with its page. Nobody changes it."""
    run = sample_run.make_run(tmp_path_factory.mktemp("reports"), trials=4)
    write_report(run)
    return run


@pytest.fixture(scope="session")
def page_url(sample: RunDir) -> str:
    """The address of its page, a file's."""
    return (sample.path / "report.html").resolve().as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Driven by Playwright; of a module, since its loop would be in the way of who starts one of its own."""
    with driven.browser() as running:
        yield running


@pytest.fixture
def reader(browser: Browser) -> Iterator[driven.Reader]:
    """Somebody who has seen nothing yet."""
    reader = driven.Reader(browser)
    try:
        yield reader
    finally:
        reader.context.close()


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """Driven over the DevTools protocol, for what Playwright does not tell; of one page that tests take in turns."""
    browser = chromium.Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield browser
    finally:
        browser.close()
