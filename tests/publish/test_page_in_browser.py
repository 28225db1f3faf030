"""The page in headless Chromium, driven over the DevTools protocol on a pipe; nothing is installed for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.publish import chromium

Browser = chromium.Browser
pytestmark = pytest.mark.browser

# what the page would do if it could: three ways of asking and two of complaining
GUILTY = """<!DOCTYPE html><title>guilty</title><img src="http://ocrepro-canary.invalid/a.png">
<link rel=stylesheet href="http://ocrepro-canary.invalid/a.css"><script>console.error("guilty"); nowhere()</script>"""


@pytest.fixture
def browser(devtools: Browser) -> Iterator[Browser]:
    """One that others have used, and that looks at a screen of 1,280 again."""
    devtools.resize(1280)
    yield devtools
    devtools.send("Emulation.setEmulatedMedia", media="", features=[])
    devtools.open("about:blank")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Browser]:
    """One whose log of the network is this test's alone."""
    browser = Browser(tmp_path)
    try:
        yield browser
    finally:
        browser.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: Browser, page_url: str) -> None:
    browser.open(page_url)
    assert browser.requests() == [page_url, "data:,"] or browser.requests() == [page_url]
    assert browser.complaints() == []
    assert "scenarios reproduced" in browser.evaluate("document.querySelector('h1').textContent")


def test_a_guilty_page_is_caught(own: Browser, tmp_path: Path) -> None:
    (tmp_path / "guilty.html").write_text(GUILTY, encoding="utf-8")
    own.open((tmp_path / "guilty.html").as_uri())
    assert len([url for url in own.requests() if "ocrepro-canary" in url]) == 2
    assert any("guilty" in complaint for complaint in own.complaints())
    assert any("nowhere" in complaint for complaint in own.complaints())
    own.close()
    assert "ocrepro-canary.invalid" in own.net_log.read_text(encoding="utf-8")


def test_not_even_a_name_is_looked_up(own: Browser, page_url: str) -> None:
    own.open(page_url)
    assert own.evaluate("document.querySelectorAll('a[href^=\"https://github.com/\"]').length") > 3
    own.close()
    assert "github.com" not in own.net_log.read_text(encoding="utf-8")


def test_the_policy_stops_what_a_hole_in_the_escaping_would_let_in(
    own: Browser, page_url: str, tmp_path: Path
) -> None:
    text = Path(page_url.removeprefix("file://")).read_text(encoding="utf-8")
    hole = "<script>document.title = 'in'</script>"
    hole += "<img src='http://ocrepro-canary.invalid/b.png' onerror='document.title = 1'>"
    (tmp_path / "hole.html").write_text(text.replace("<main>", f"<main>{hole}"), encoding="utf-8")
    own.open((tmp_path / "hole.html").as_uri())
    assert "reproduced" in own.evaluate("document.title")
    assert any("Content Security Policy" in complaint for complaint in own.complaints())
    own.close()
    assert "ocrepro-canary.invalid" not in own.net_log.read_text(encoding="utf-8").replace("hole.html", "")


def test_it_looks_the_same_on_a_telephone_and_in_the_dark(browser: Browser, page_url: str, tmp_path: Path) -> None:
    browser.open(page_url)
    pictures = {
        (width, scheme): browser.picture(tmp_path / f"{width}-{scheme}.png", width=width, scheme=scheme)
        for width in (400, 1280, 1920)
        for scheme in ("light", "dark")
    }
    assert len(set(pictures.values())) == len(pictures)
    assert all(len(png) > 50_000 for png in pictures.values())
    for width in (400, 1280):
        browser.resize(width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert browser.evaluate(LOW_CONTRAST) == []
    browser.evaluate("document.querySelector('h1').style.color = '#555'")
    assert [found[:2] for found in browser.evaluate(LOW_CONTRAST)] == ["H1"]


# Text whose contrast with the ground behind it is under 4.5 to 1 (WCAG 2.2, 1.4.3)
LOW_CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = parts(colour).map(linear);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const speaks = element => [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  document.querySelectorAll('details').forEach(details => details.open = true);
  const low = new Set();
  for (const element of document.querySelectorAll('body *:not(svg *):not(.glyph)')) {
    if (!speaks(element) || !element.checkVisibility()) continue;
    const both = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const ratio = (both[0] + .05) / (both[1] + .05);
    if (ratio < 4.5) low.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...low];
})()
"""


def test_a_fragment_leads_into_a_folded_trial(browser: Browser, page_url: str) -> None:
    browser.open(page_url)
    folded = "document.querySelector('details.trial:not([open])')"
    anchor = browser.evaluate(f"{folded}.id")
    browser.open("about:blank")
    browser.open(f"{page_url}#{anchor}-timeline")
    assert browser.evaluate(f"document.getElementById('{anchor}').open") is True
    assert browser.evaluate(f"document.getElementById('{anchor}-timeline').getBoundingClientRect().top") < 900


def test_a_print_has_all_of_the_trial_that_is_open_and_a_line_of_each_other(browser: Browser, page_url: str) -> None:
    browser.open(page_url)
    shown = "getComputedStyle(document.querySelector('{}'), '::details-content').contentVisibility"
    part = shown.format("details.trial[open] details.part:not([open])")
    trial = shown.format("details.trial:not([open])")
    assert (browser.evaluate(part), browser.evaluate(trial)) == ("hidden", "hidden")
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert (browser.evaluate(part), browser.evaluate(trial)) == ("visible", "hidden")
    assert browser.evaluate("document.querySelectorAll('.toolbar button').length") > 0
    seen = "[...document.querySelectorAll('.toolbar button')].filter(one => one.checkVisibility()).length"
    assert browser.evaluate(seen) == 0, "nobody presses a button on paper"


def test_every_stop_of_the_tab_key_can_be_seen(browser: Browser, page_url: str) -> None:
    browser.open(page_url)
    for _ in range(12):
        for kind in ("keyDown", "keyUp"):
            browser.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert browser.evaluate("document.activeElement !== document.body") is True
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_missing_browser_fails_with_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no chromium on PATH.*apt-get install chromium"):
        Browser(tmp_path)
