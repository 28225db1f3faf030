"""Every link into the page leads there, also after a reload; the first screen's buttons do what they say."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest

from tests.data.publish import driven

pytestmark = pytest.mark.browser
DRAWN = "trial-test_overlap-test_later_run_while_another_installs_its_plugin-1.18.34-t1"
PACKED = "trial-test_overlap-test_later_run_while_another_installs_its_plugin-1.18.34-t2"
PARTS = ("", "-timeline", "-graph", "-threads")
LINKS = ["clearest", "verdict", "cases", "case-0", "case-0-issue", "progress", "trials", "evidence", "how"]
LINKS += [f"{trial}{part}" for trial in (DRAWN, PACKED) for part in PARTS]


def in_sight(anchor: str) -> str:
    return f"""(one => one && one.checkVisibility() && one.getBoundingClientRect().top < innerHeight
      && one.getBoundingClientRect().bottom > 0)(document.getElementById({anchor!r}))"""


def test_a_link_leads_there_and_survives_a_reload(reader: driven.Reader, page_url: str) -> None:
    page = reader.opens(page_url)

    def there(link: str) -> None:
        reader.until(in_sight(link))
        assert page.input_value("#query") == "s:reproduced", link
        assert page.evaluate("document.querySelector('[aria-sort=descending]').innerText").startswith("seconds")
        assert page.evaluate("location.hash") == f"#{link}?q=s%3Areproduced&o=-seconds"

    for link in LINKS:
        page.goto(f"{page_url}#{link}?q=s%3Areproduced&o=-seconds")  # in the page that is open
        there(link)
        page.reload()
        reader.until(driven.READY)
        there(link)
    assert reader.complaints == []


def test_no_link_of_the_page_leads_nowhere(reader: driven.Reader, page_url: str) -> None:
    page = reader.opens(page_url)
    links = set(page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(one => one.hash.slice(1))"))
    assert {DRAWN, f"{DRAWN}-timeline", "case-0", "trials"} <= links
    drawn = set(page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)"))
    for link in sorted(links - drawn):
        page.evaluate(f"location.hash = {link!r}")
        reader.until(f"document.getElementById({link!r})")


def test_open_the_clearest_run(reader: driven.Reader, page_url: str) -> None:
    page = reader.opens(page_url)
    page.click("text=Open the clearest run")
    reader.until(in_sight(DRAWN))
    assert page.evaluate(f"document.getElementById({DRAWN!r}).open")


def test_download_trace_gives_the_trace(reader: driven.Reader, page_url: str, tmp_path: Path) -> None:
    page = reader.opens(page_url)
    with page.expect_download() as found:
        page.click("text=Download trace")
    assert found.value.suggested_filename.endswith(".trace.json.gz")
    found.value.save_as(tmp_path / "trace.json.gz")
    trace = msgspec.json.decode(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) > 20
    assert reader.complaints == []
