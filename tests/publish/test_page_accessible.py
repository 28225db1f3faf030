"""The page under axe-core, in headless Chromium: every section, folded and open, narrow and wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from pytest_ocrepro.judge.offsets import Offset
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.comparison import compare_paths
from pytest_ocrepro.publish.comparison_section import comparison_blocks
from pytest_ocrepro.publish.page import write_report
from tests.data.publish import driven, reproducing, sample_run

pytestmark = pytest.mark.browser
SECTIONS = {"clearest", "verdict", "cases", "window", "progress", "trials", "evidence", "compared", "problems", "how"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page that has every section there is."""
    reports = tmp_path_factory.mktemp("reports")
    run = RunDir.create(reports)
    run.write_info(sample_run.run_info(run.path.name))
    for trial in (1, 2):
        for case in (sample_run.overlap, sample_run.alone, sample_run.question, sample_run.killed_server):
            sample_run.store(run, case("1.18.34", trial))
    sample_run.store(run, sample_run.write_lock("1.14.48", 1))  # of the others that cell of the matrix is empty
    sample_run.store(run, (*sample_run.overlap("1.18.34", 3)[:2], None))
    whole = reproducing.overlap()
    sample_run.store(run, (whole.info, list(whole.history), whole.judgement))
    swept = run.results()[0]
    for number, at in enumerate((0, 200, 400)):
        offset = Offset(asked_ms=at, took_ms=at + 5, low_ms=0, high_ms=400, after="the start of first")
        run.append_result(
            msgspec.structs.replace(swept, scenario="s.py::test_swept", offset=offset, bundle=f"trials/s{number}")
        )
    (run.bundles()[0] / "judgement.json").write_text("{")  # one that cannot be read
    other = sample_run.make_run(reports / "other", trials=1)
    return write_report(run, comparison_blocks(compare_paths([other.path], [run.path]))).resolve().as_uri()


def findings(page: Page) -> list[str]:
    """What axe calls serious or critical, with the first place of each."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1280)])
def test_axe_has_nothing_serious_to_say(browser: Browser, url: str, scheme: str, width: int) -> None:
    reader = driven.Reader(browser, color_scheme=scheme)
    reader.page.set_viewport_size({"width": width, "height": 900})
    page = reader.opens(url)
    assert {one.get_attribute("id") for one in page.query_selector_all("main > section")} == SECTIONS
    assert findings(page) == []
    page.keyboard.press("?")
    assert findings(page) == [], "with the list of keys open"
    page.keyboard.press("Escape")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert findings(page) == [], "with all that is folded open"


def test_axe_finds_what_is_wrong(reader: driven.Reader, url: str) -> None:
    page = reader.opens(url)
    page.evaluate("document.querySelector('main').prepend(document.createElement('button'))")
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    told = "\n".join(findings(page))
    assert "button-name" in told
    assert "color-contrast" in told


def test_not_one_request_and_not_one_message_while_everything_is_used(reader: driven.Reader, url: str) -> None:
    page = reader.opens(url)
    for key in ("]", "]", "[", "t", "g", "m", "r", "j", "k", "Enter", "?", "Escape", "/"):
        page.keyboard.press(key)
    page.keyboard.type("s:reproduced")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    reader.until("document.getElementById('found').textContent.length > 0")
    page.reload()
    reader.until(driven.READY)
    assert [one for one in reader.asked if not one.startswith(("file:", "data:"))] == []
    assert {one.partition("#")[0] for one in reader.asked if one.startswith("file:")} == {url}
    assert reader.complaints == []


def test_a_page_that_asks_and_complains_is_caught(reader: driven.Reader, tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.html"
    guilty.write_text("<!DOCTYPE html><img src=http://ocrepro-canary.invalid/a.png><script>nowhere()</script>")
    reader.opens(guilty.as_uri(), scripts=False)
    assert any("ocrepro-canary" in one for one in reader.asked)
    assert any("nowhere" in one for one in reader.complaints)


FIRST = {
    "the sentence": "h1",
    "what was broken": "#clearest .reason",
    "the rate": "#clearest .rate-line",
    "who waits for whom": "#clearest ol.chain",
    "the swimlane": "#clearest svg.swimlane",
    "the way to the evidence": "#clearest a.button[href^='#trial-']",
    "the trace": "#clearest a[download]",
    "the way to issue text and script": "#clearest a[href='#case-0']",
    "the matrix": ".matrix td.reproduced",
    "the trials": "#rows tbody tr",
}


def test_with_scripts_off_the_first_screen_is_complete(browser: Browser, url: str) -> None:
    reader = driven.Reader(browser, java_script_enabled=False)
    page = reader.opens(url, scripts=False)
    for what, selector in FIRST.items():
        assert page.locator(selector).first.is_visible(), what
    assert page.locator("[data-do]:visible").count() == 0, "a button that nobody would answer"
    swimlane = page.locator("#clearest svg.swimlane").bounding_box()
    assert swimlane is not None
    assert swimlane["y"] + 100 < 800, "some of it is seen without scrolling"
    page.click("#clearest a.button[href^='#trial-']")
    assert page.locator("details.trial[open] svg.swimlane").first.is_visible()
    assert reader.complaints == []
