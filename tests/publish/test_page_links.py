"""Every link into the page leads there, also after a reload; the first screen's buttons do what they say."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec
import pytest

from pytest_ocrepro.publish.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.data.publish import driven, sample_run
else:

    def _loaded(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "data" / "publish" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"ocrepro_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    driven, sample_run = _loaded("driven"), _loaded("sample_run")

pytestmark = pytest.mark.browser
DRAWN = "trial-test_overlap-test_later_run_while_another_installs_its_plugin-1.18.34-t1"
PACKED = "trial-test_overlap-test_later_run_while_another_installs_its_plugin-1.18.34-t2"
PARTS = ("", "-timeline", "-graph", "-threads")
LINKS = ["clearest", "verdict", "cases", "case-0", "case-0-issue", "progress", "trials", "evidence", "how"]
LINKS += [f"{trial}{part}" for trial in (DRAWN, PACKED) for part in PARTS]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(sample_run.make_run(tmp_path_factory.mktemp("reports"), trials=3)).resolve().as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driven.browser() as running:
        yield running


@pytest.fixture
def reader(browser: Browser) -> Iterator[driven.Reader]:
    reader = driven.Reader(browser)
    try:
        yield reader
    finally:
        reader.context.close()


def in_sight(anchor: str) -> str:
    return f"""(one => one && one.checkVisibility() && one.getBoundingClientRect().top < innerHeight
      && one.getBoundingClientRect().bottom > 0)(document.getElementById({anchor!r}))"""


def test_a_link_leads_there_and_survives_a_reload(reader: driven.Reader, url: str) -> None:
    for link in LINKS:
        reader.page.goto("about:blank")
        page = reader.opens(f"{url}#{link}?q=s%3Areproduced&o=-seconds")
        for _ in range(2):
            reader.until(in_sight(link))
            assert page.input_value("#query") == "s:reproduced", link
            assert page.evaluate("document.querySelector('[aria-sort=descending]').innerText").startswith("seconds")
            assert page.evaluate("location.hash") == f"#{link}?q=s%3Areproduced&o=-seconds"
            page.reload()
            reader.until(driven.READY)
    assert reader.complaints == []


def test_no_link_of_the_page_leads_nowhere(reader: driven.Reader, url: str) -> None:
    page = reader.opens(url)
    links = set(page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(one => one.hash.slice(1))"))
    assert {DRAWN, f"{DRAWN}-timeline", "case-0", "trials"} <= links
    drawn = set(page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)"))
    for link in sorted(links - drawn):
        page.evaluate(f"location.hash = {link!r}")
        reader.until(f"document.getElementById({link!r})")


def test_open_the_clearest_run(reader: driven.Reader, url: str) -> None:
    page = reader.opens(url)
    page.click("text=Open the clearest run")
    reader.until(in_sight(DRAWN))
    assert page.evaluate(f"document.getElementById({DRAWN!r}).open")


def test_download_trace_gives_the_trace(reader: driven.Reader, url: str, tmp_path: Path) -> None:
    page = reader.opens(url)
    with page.expect_download() as found:
        page.click("text=Download trace")
    assert found.value.suggested_filename.endswith(".trace.json.gz")
    found.value.save_as(tmp_path / "trace.json.gz")
    trace = msgspec.json.decode(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) > 20
    assert reader.complaints == []
