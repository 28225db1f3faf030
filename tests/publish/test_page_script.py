"""What the page's script does, in headless Chromium, with the keyboard and the mouse."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from pytest_ocrepro.judge.offsets import Offset
from pytest_ocrepro.publish import drawing
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.publish.trial_document import document
from pytest_ocrepro.publish.trial_view import view_of
from tests.data.publish import chromium, sample_run

pytestmark = pytest.mark.browser

READY = "document.documentElement.dataset.ready === 'yes'"
FOUND = "document.getElementById('found').textContent"
OVERLAP = "trial-test_overlap-test_later_run_while_another_installs_its_plugin-{}-t{}"


@pytest.fixture
def browser(devtools: chromium.Browser, page_url: str) -> chromium.Browser:
    fresh(devtools, page_url)
    return devtools


def fresh(browser: chromium.Browser, url: str) -> None:
    browser.open("about:blank")
    browser.resize(1280)
    browser.open(url)
    browser.until(READY)


def opened(browser: chromium.Browser, anchor: str) -> None:
    browser.until(f"document.getElementById({anchor!r})?.open && {READY}")


def search(browser: chromium.Browser, words: str) -> str:
    browser.evaluate("(box => { box.focus(); box.select(); })(document.getElementById('query'))")
    browser.send("Input.insertText", text=words)
    return str(browser.evaluate(FOUND))


# --- the search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", 61),
        ("s:reproduced", 36),
        ("s:not-seen", 21),
        ("!s:reproduced !s:not-seen", 4),
        ("v:1.18", 21),
        ("v:1.18 s:inc", 2),
        ("scn:overlap", 25),
        ("scn:test_overlap.py", 25),
        ("verdict:blocked", 12),
        ("sig:OC-9F3", 12),
        ("grade:proved", 12),
        ("trial:2", 15),
        ("trial:2..3", 30),
        ("trial:3..", 31),
        ("sec:>8", 21),
        ("sec:6..6.5 v:1.15", 3),
        ("sec:<0.05", 0),
        ("seed:1004", 15),
        ("database is locked", 9),
        ("'is locked'", 9),
        ('"locked is"', 0),
        ("finds !v:1.14.48", 8),
        ("test_overlap.py::test_later", 13),
    ],
)
def test_what_a_search_finds(browser: chromium.Browser, words: str, found: int) -> None:
    assert search(browser, words.replace("'", '"')) == f"{found} of 61 trials"
    rows = browser.evaluate("document.querySelectorAll('#grid tbody tr:not(.gap)').length")
    assert rows == min(found, rows)
    assert bool(rows) == bool(found)
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nothing:like-this", "0 of 61 trials; no key nothing: (searched as a word)"),
        ("v:1.18 trial:two", "0 of 61 trials; trial:two is no number and no range"),
        ("sec:>=8", "0 of 61 trials; sec:>=8 is no number and no range"),
        ("trial:..x s:inc", "0 of 61 trials; trial:..x is no number and no range"),
    ],
)
def test_a_search_that_is_not_understood_says_so(browser: chromium.Browser, words: str, told: str) -> None:
    assert search(browser, words) == told


def test_trials_are_found_by_the_offset_that_they_had(browser: chromium.Browser, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.overlap("1.15.4", 1))
    (result,) = run.results()
    for number, took_ms in enumerate((5.0, 205.0, None), start=2):
        offset = Offset(asked_ms=200 * (number - 2), took_ms=took_ms, low_ms=0, high_ms=400)
        run.append_result(msgspec.structs.replace(result, trial=number, offset=offset, bundle=f"trials/x{number}"))
    fresh(browser, write_report(run).resolve().as_uri())
    assert search(browser, "off:200..400") == "2 of 4 trials"
    assert search(browser, "!off:0..") == "1 of 4 trials"


def test_the_search_is_in_the_address_and_survives_a_reload(browser: chromium.Browser) -> None:
    search(browser, 'v:1.18 "of a & b" é')
    address = browser.evaluate("location.hash")
    assert address == f"#?q={quote('v:1.18')}+{quote(chr(34) + 'of a & b' + chr(34)).replace('%20', '+')}+%C3%A9"
    browser.reload()
    browser.until(f"{READY} && document.getElementById('query').value")
    assert browser.evaluate("document.getElementById('query').value") == 'v:1.18 "of a & b" é'
    assert browser.evaluate(FOUND) == "0 of 61 trials"


def test_a_head_sorts_and_says_so(browser: chromium.Browser) -> None:
    cells = "[...document.querySelectorAll('#grid tbody tr:not(.gap) td:nth-child(6)')]"
    column = f"{cells}.map(td => td.textContent === '\\u2013' ? -1 : +td.textContent)"  # a dash: nobody judged it
    browser.click("[data-by=seconds]")
    up = browser.evaluate(column)
    assert up == sorted(up)
    browser.click("[data-by=seconds]")
    down = browser.evaluate(column)
    assert down == sorted(down, reverse=True)
    assert down != up
    heads = browser.evaluate("[...document.querySelectorAll('#grid th')].map(th => th.ariaSort)")
    assert heads == ["none"] * 5 + ["descending"] + ["none"] * 2
    assert browser.evaluate("location.hash") == "#?o=-seconds"


def test_only_rows_that_can_be_seen_are_there_and_all_can_be_reached(browser: chromium.Browser) -> None:
    assert browser.evaluate("document.querySelectorAll('#grid tbody tr').length") < 50
    browser.evaluate("document.getElementById('grid').scrollTop = 1e6")
    browser.until("document.querySelector('#grid tr[aria-rowindex=\"62\"]')")
    height = browser.evaluate("document.querySelector('#grid table').offsetHeight")
    assert height == pytest.approx(61 * 31, abs=60)


# --- one trial --------------------------------------------------------------------------------------------------


def test_a_row_opens_what_travels_compressed_and_the_link_survives_a_reload(browser: chromium.Browser) -> None:
    anchor = OVERLAP.format("1.15.4", 3)
    assert browser.evaluate(f"document.getElementById({anchor!r})") is None
    search(browser, "v:1.15.4 scn:installs trial:3")
    browser.press("Enter")
    opened(browser, anchor)
    assert browser.evaluate("location.hash") == f"#{anchor}?q=v%3A1.15.4+scn%3Ainstalls+trial%3A3"
    assert browser.evaluate("document.activeElement.parentElement.id") == anchor
    assert -1 <= browser.evaluate(f"document.getElementById({anchor!r}).getBoundingClientRect().top") < 100
    browser.reload()
    opened(browser, anchor)
    assert browser.evaluate(FOUND) == "1 of 61 trials"
    pictures = "[...document.querySelectorAll('#opened img')].map(one => one.complete && one.naturalWidth)"
    browser.until("[...document.querySelectorAll('#opened img')].every(one => one.complete)")
    assert min(browser.evaluate(pictures)) > 100
    assert browser.complaints() == []


def test_a_click_anywhere_in_a_row_leads_to_its_evidence(browser: chromium.Browser) -> None:
    anchor = OVERLAP.format("1.15.4", 3)
    search(browser, "v:1.15.4 scn:installs trial:3")
    browser.click("#grid tr[data-at] td:nth-child(8)")
    opened(browser, anchor)
    assert browser.evaluate("location.hash.slice(1).split('?')[0]") == anchor
    assert browser.complaints() == []


def test_a_row_whose_text_is_marked_stays_where_it_is(browser: chromium.Browser) -> None:
    search(browser, "v:1.15.4 scn:installs trial:3")
    cell = "document.querySelector('#grid tr[data-at] td:nth-child(8)')"
    browser.evaluate(f"(getSelection().selectAllChildren({cell}), {cell}.click())")
    assert browser.evaluate("location.hash").startswith("#?q=")


@pytest.mark.parametrize("fragment", ["%ZZ", "q=%ZZ", "trial-nonexistent", "%E0%A4%A"])
def test_an_address_that_leads_nowhere_says_so_and_the_page_is_whole(
    browser: chromium.Browser, page_url: str, fragment: str
) -> None:
    fresh(browser, f"{page_url}#{fragment}")
    said = browser.evaluate("document.getElementById('said').textContent")
    assert said == f"Nothing in this file is called {fragment}: no such trial, or no such part of it."
    assert browser.evaluate(FOUND) == "61 of 61 trials"
    assert browser.evaluate("document.querySelectorAll('[data-scripted][hidden]').length") == 0
    assert browser.complaints() == []


def test_a_link_leads_into_a_part_of_a_compressed_trial(browser: chromium.Browser, page_url: str) -> None:
    anchor = OVERLAP.format("1.18.34", 2)
    fresh(browser, f"{page_url}#{anchor}-threads")
    opened(browser, f"{anchor}-threads")
    assert -1 <= browser.evaluate(f"document.getElementById('{anchor}-threads').getBoundingClientRect().top") < 100


def test_a_trial_without_evidence_here_is_told(browser: chromium.Browser) -> None:
    search(browser, "s:not-seen trial:4 v:1.15.4 scn:single")
    browser.press("Enter")
    browser.until("document.getElementById('said').textContent.includes('in its bundle on disk')")


class Shape(HTMLParser):
    """Tags, attributes and texts, whatever the order of attributes; pictures only by their place."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[object] = []
        self._in_svg = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("svg", "img"):
            self.seen.append("picture")
        self._in_svg += tag == "svg"
        if not self._in_svg and tag != "img":
            self.seen.append(
                (tag, sorted((name, (value or "").removesuffix(" shown")) for name, value in attrs if name != "open"))
            )

    def handle_endtag(self, tag: str) -> None:
        self._in_svg -= tag == "svg"

    def handle_data(self, data: str) -> None:
        if not self._in_svg and data.strip():
            self.seen.append(" ".join(data.split()))


@pytest.mark.parametrize("case", ["overlap", "question", "killed_server"])
def test_the_script_draws_a_trial_as_python_does(
    browser: chromium.Browser, sample: RunDir, page_url: str, case: str
) -> None:
    info = getattr(sample_run, case)("1.15.4", 2)[0]
    path = next(
        p for p in sample.bundles() if TrialBundle.peek(p)[0].scenario == info.scenario and p.name[-2:] == "t2"
    )
    _, result, _ = TrialBundle.peek(path)
    assert result is not None
    view = view_of(Entry(result=result, info=info, path=path), TrialBundle.read(path))
    by_python = Shape(drawing.trial(document(view, uid="0"))).seen
    fresh(browser, f"{page_url}#trial-{path.name}")
    opened(browser, f"trial-{path.name}")
    by_script = Shape(browser.evaluate("document.getElementById('opened').innerHTML")).seen
    assert by_script == by_python
    assert len(by_script) > 100


def test_hostile_text_stays_text_when_it_is_unpacked(browser: chromium.Browser, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    info, events, judgement = sample_run.hostile()
    for trial in (1, 2):
        sample_run.store(run, (msgspec.structs.replace(info, trial=trial), events, judgement))
    fresh(browser, write_report(run).resolve().as_uri())
    title = browser.evaluate("document.title")
    browser.press("]")  # the first is drawn, and open
    browser.until("document.querySelector('#opened details')")
    inside = "document.getElementById('opened')"
    assert (
        browser.evaluate(f"{inside}.querySelectorAll('script, iframe, style, object, [onerror], [src^=http]').length")
        == 0
    )
    assert browser.evaluate(f"{inside}.textContent.includes('</script><script>alert(1)</script><img src=x onerror=')")
    text = browser.evaluate(f"{inside}.textContent + document.getElementById('grid').textContent")
    assert not re.search("[\x00-\x08\x1b\x9b\u202e]", text)
    assert "␛[31mred" in text
    links = browser.evaluate(f"[...{inside}.querySelectorAll('a')].map(a => a.href)")
    assert {link for link in links if "//" in link and not link.startswith("file:")} == {
        "https://github.com/a/b/issues/1"
    }
    browser.until(f"[...{inside}.querySelectorAll('img')].every(one => one.complete)")
    assert browser.evaluate(f"Math.min(...[...{inside}.querySelectorAll('img')].map(one => one.naturalWidth))") > 100
    assert browser.evaluate("document.title") == title
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:"))] == []


# --- keys and buttons -------------------------------------------------------------------------------------------


def current_row(browser: chromium.Browser) -> str:
    return str(browser.evaluate("document.querySelector('#grid tr[aria-current]').getAttribute('aria-rowindex')"))


def test_rows_are_walked_with_j_and_k_and_opened_with_enter(browser: chromium.Browser) -> None:
    for _ in range(30):
        browser.press("j")
    browser.press("k")
    assert current_row(browser) == "31"
    box = "document.querySelector('#grid tr[aria-current]').getBoundingClientRect()"
    frame = "document.getElementById('grid').getBoundingClientRect()"
    assert browser.evaluate(f"{box}.bottom <= {frame}.bottom && {box}.top >= {frame}.top")
    browser.press("Enter")
    browser.until("location.hash.startsWith('#trial-')")
    anchor = browser.evaluate("location.hash.slice(1)")
    opened(browser, anchor)


def test_brackets_walk_through_the_reproductions(browser: chromium.Browser) -> None:
    walked = []
    for key in ("]", "]", "]", "["):
        browser.press(key)
        browser.until("document.querySelector('.shown')")
        anchor = browser.evaluate("location.hash.slice(1)")
        opened(browser, anchor)
        walked.append(anchor)
    assert walked[0] == OVERLAP.format("1.18.34", 2)  # after the one that is open at first
    assert walked[1] == OVERLAP.format("1.18.34", 3)
    assert walked[3] == walked[1] != walked[2]


@pytest.mark.parametrize(("key", "button", "part"), [("t", "threads", "threads"), ("g", "graph", "graph")])
def test_a_key_and_its_button_lead_to_a_part(
    browser: chromium.Browser, page_url: str, key: str, button: str, part: str
) -> None:
    anchor = f"{OVERLAP.format('1.18.34', 1)}-{part}"
    browser.press(key)
    opened(browser, anchor)
    assert browser.evaluate("location.hash") == f"#{anchor}"
    fresh(browser, page_url)
    browser.click(f"[data-do={button}]")
    opened(browser, anchor)


def test_what_a_trial_does_not_have_is_told(browser: chromium.Browser, page_url: str) -> None:
    anchor = "trial-test_restart-test_a_server_killed_in_a_bash_tool_and_started_again-1.15.4-t2"
    fresh(browser, f"{page_url}#{anchor}")
    opened(browser, anchor)
    browser.press("t")
    assert "no full snapshot" in browser.evaluate("document.getElementById('said').textContent")
    browser.press("g")
    assert "no wait-for graph" in browser.evaluate("document.getElementById('said').textContent")


def test_slash_searches_and_letters_are_letters_there(browser: chromium.Browser) -> None:
    browser.press("/")
    for letter in "tj?":
        browser.press(letter)
    assert browser.evaluate("document.getElementById('query').value") == "tj?"
    assert browser.evaluate("document.getElementById('help').open") is False
    assert browser.evaluate(FOUND) == "0 of 61 trials"


def test_the_keys_are_told_and_can_be_turned_off(browser: chromium.Browser) -> None:
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').matches(':modal')")
    told = browser.evaluate("document.getElementById('help').textContent")
    assert all(word in told for word in ("search", "threads", "reproduced"))
    browser.click("#help [data-do=keys]")
    browser.click("#help [data-do=help]")
    assert browser.evaluate("document.getElementById('help').open") is False
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').open") is False
    browser.click(".toolbar [data-do=help]")
    browser.click("#help [data-do=keys]")
    browser.press("Escape")
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').open")


def test_a_button_does_what_its_key_does(browser: chromium.Browser) -> None:
    for button, trial in (("next", 2), ("next", 3), ("previous", 2)):
        browser.click(f".toolbar [data-do={button}]")
        browser.until(f"location.hash === '#{OVERLAP.format('1.18.34', trial)}'")
        opened(browser, OVERLAP.format("1.18.34", trial))
    browser.click(".toolbar [data-do=search]")
    assert browser.evaluate("document.activeElement.id") == "query"


def test_no_button_is_there_that_no_test_presses(browser: chromium.Browser) -> None:
    there = set(browser.evaluate("[...document.querySelectorAll('[data-do]')].map(one => one.dataset.do)"))
    pressed = {"next", "previous", "search", "threads", "graph", "help", "keys"}  # above
    assert pressed < there <= pressed | {"issue", "script"}  # these by test_takeaway.py
    heads = set(browser.evaluate("[...document.querySelectorAll('#grid [data-by]')].map(one => one.dataset.by)"))
    others = browser.evaluate(
        "[...document.querySelectorAll('button:enabled:not([data-do]):not([data-by])')].map(one => one.textContent)"
    )
    assert len(heads) == 8
    assert others == []


def test_a_filter_of_the_logs_takes_out_its_lines_and_no_others(browser: chromium.Browser) -> None:
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    boxes = browser.evaluate("[...document.querySelectorAll('.logbook')[0].querySelectorAll('input')].length")
    shown = "[...document.querySelectorAll('.logbook')[0].querySelectorAll('li')].filter(li => li.checkVisibility())"
    whole = browser.evaluate(f"{shown}.length")
    told = 0
    for number in range(boxes):
        box = f"document.querySelectorAll('.logbook')[0].querySelectorAll('input')[{number}]"
        kind = browser.evaluate(f"{box}.click() || {box}.className")
        left = browser.evaluate(f"{shown}.map(li => li.className.split(' ').includes({kind!r}))")
        assert not any(left), kind
        gone = browser.evaluate(f"[...document.querySelectorAll('.logbook')[0].querySelectorAll('li.{kind}')].length")
        assert len(left) == whole - gone, kind
        told += gone
        browser.evaluate(f"{box}.click()")
    assert told == 2 * whole > 0  # each line has one voice and one level


def test_every_key_has_a_button(browser: chromium.Browser) -> None:
    keys = set(browser.evaluate("[...document.querySelectorAll('#help kbd')].map(one => one.textContent)"))
    buttons = set(
        browser.evaluate("[...document.querySelectorAll('.toolbar button kbd')].map(one => one.textContent)")
    )
    assert keys - buttons == {"j", "k", "Enter"}  # rows can be clicked


# --- without it -------------------------------------------------------------------------------------------------


def test_without_scripts_the_first_screen_is_complete(browser: chromium.Browser, page_url: str) -> None:
    browser.open("about:blank")
    browser.open(f"{page_url}#{OVERLAP.format('1.18.34', 1)}-timeline", scripts=False)
    seen = "(what => [...document.querySelectorAll(what)].filter(one => one.checkVisibility()).length)"
    assert browser.evaluate(READY) is False
    for selector in (
        "h1",
        "#clearest svg",
        "a[download]",
        "ol.chain",
        ".matrix td.reproduced",
        "#rows tbody tr",
        "details.trial",
    ):
        assert browser.evaluate(f"{seen}({selector!r})") > 0, selector
    for selector in ("#tools", "[data-scripted]", "dialog", "[data-do]"):
        assert browser.evaluate(f"{seen}({selector!r})") == 0, selector
    assert browser.evaluate(f"document.getElementById('{OVERLAP.format('1.18.34', 1)}').open")
    assert browser.complaints() == []


# --- read aloud -------------------------------------------------------------------------------------------------

SPOKEN = {"button", "link", "image", "checkbox", "searchbox", "textbox", "region", "dialog", "table"}


def spoken(browser: chromium.Browser) -> list[tuple[str, str]]:
    """Role and name of all that Chromium tells a screen reader."""
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    told = [node for node in nodes if not node.get("ignored")]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in told]


def test_everything_that_can_be_used_has_a_name_and_every_landmark_is_there(browser: chromium.Browser) -> None:
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.press("?")
    with_help = spoken(browser)
    assert "Keys" in [name for role, name in with_help if role == "dialog"]
    browser.press("Escape")
    told = [*with_help, *spoken(browser)]
    assert [pair for pair in told if pair[0] in SPOKEN and not pair[1].strip()] == []
    roles = [role for role, _ in told]
    for landmark in ("banner", "main", "contentinfo", "search", "toolbar", "searchbox", "image", "table", "checkbox"):
        assert landmark in roles, landmark
    assert roles.count("image") > 20


def test_a_control_without_a_name_is_found(browser: chromium.Browser) -> None:
    browser.evaluate("document.querySelector('main').prepend(document.createElement('button'))")
    assert ("button", "") in spoken(browser)
