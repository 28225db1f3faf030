"""Issue texts and scripts on the page, and that what lies on the clipboard is they, in headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import escape
from playwright.sync_api import Browser

from pytest_ocrepro.publish import cases
from pytest_ocrepro.publish import takeaway as room
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.page import render, write_report
from pytest_ocrepro.publish.takeaway import Takeaway, takeaways
from tests.data.publish import driven, reproducing, sample_run


def made(reports: Path) -> RunDir:
    """Two cases: the clearest has a script, which was run; the other has moves that no script can tell."""
    run = RunDir.create(reports)
    whole = reproducing.overlap()
    sample_run.store(run, (whole.info, list(whole.history), whole.judgement))
    sample_run.store(run, sample_run.question("1.18.34", 1))
    case = cases.choose(cases.cases(entries_in(run)), None)
    script = cases.script_of(case, cases.trial_of(case))
    assert script.text
    cases.keep_proof(run, case, script, (1, 1, 0), (2.0, 2.0, 2.0))
    return run


def taken_of(run: RunDir) -> tuple[Takeaway, ...]:
    return takeaways(run, entries_in(run)).all


def test_each_case_has_its_text_and_what_its_script_did(tmp_path: Path) -> None:
    run = made(tmp_path)
    clearest, other = taken_of(run)
    assert clearest.script.startswith("#!")
    assert clearest.script in clearest.issue
    assert clearest.proof == "reproduced 2 of 3 by this script"
    assert clearest.proof in clearest.issue
    assert (other.script, other.proof) == ("", "")
    assert other.why_not
    page = render(run)
    for text in (clearest.issue, clearest.script, other.issue):
        assert f">\n{escape(text)}</pre>" in page
    assert page.index("reproduced 2 of 3 by this script") < page.index('id="verdict"'), "on the first screen"
    assert f"There is no script without the harness: {escape(other.why_not)}." in page


def test_the_first_screen_shows_the_trial_whose_text_it_copies(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    for version, trial in (("1.14.48", 1), ("1.18.34", 2)):  # the older one is the shorter, the newer one is told
        sample_run.store(run, sample_run.overlap(version, trial))
    assert taken_of(run)[0].version == "1.18.34"
    page = render(run)
    first = page[page.index('id="clearest"') : page.index('id="verdict"')]
    assert "trial reproduced on opencode 1.18.34" in first


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    run = made(tmp_path)
    spoiled = cases.choose(cases.cases(entries_in(run)), None).entry
    assert spoiled.path is not None
    (spoiled.path / "judgement.json").write_text("{")
    found = takeaways(run, entries_in(run))
    assert len(found.all) == 1
    assert len(found.problems) == 1
    assert spoiled.path.name in found.problems[0]
    assert found.clearest is not None
    assert found.clearest is not spoiled


def test_of_very_many_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path)
    monkeypatch.setattr(room, "MOST_CASES", 1)
    found = takeaways(run, entries_in(run))
    assert (len(found.all), found.left_out) == (1, 1)
    assert "1 more" in render(run)


def test_where_nothing_reproduced_there_is_nothing_to_copy(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.alone("1.18.34", 1))
    page = render(run)
    assert 'data-do="issue"' not in page
    assert 'id="cases"' not in page


# --- on the clipboard -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def url(run: RunDir) -> str:
    found = write_report(run).resolve().as_uri()
    assert found.startswith("file:///")
    return found


REFUSED = "navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'));"
MISSING = "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined });"


@pytest.mark.browser
@pytest.mark.parametrize("way", ["", REFUSED, MISSING], ids=["allowed", "refused", "missing"])
@pytest.mark.parametrize("by", ["button", "key"])
@pytest.mark.parametrize(("what", "key"), [("issue", "m"), ("script", "r")])
def test_what_is_pasted_is_the_text_to_the_letter(
    reader: driven.Reader, run: RunDir, url: str, what: str, key: str, by: str, way: str
) -> None:
    if way:
        reader.page.add_init_script(way)
    page = reader.opens(url)
    if by == "key":
        page.keyboard.press(key)
    else:
        page.click(f"#clearest [data-do={what}]")
    text = getattr(taken_of(run)[0], what)
    assert f"{len(text):,} characters" in reader.said("Copied the ")
    assert reader.pasted() == text
    assert reader.complaints == []


@pytest.mark.browser
def test_the_text_of_the_trial_that_is_open_is_copied(reader: driven.Reader, run: RunDir, url: str) -> None:
    other = next(entry for entry in entries_in(run) if "question" in entry.anchor)
    page = reader.opens(f"{url}#{other.anchor}")
    page.keyboard.press("m")
    reader.said("Copied the issue text")
    assert reader.pasted() == taken_of(run)[1].issue
    page.keyboard.press("r")
    reader.said("There is no script without the harness: ")
    page.evaluate("document.querySelector('#case-0').open = true")
    page.click("#case-0 [data-do=script]")
    reader.said("Copied the repro script")
    assert reader.pasted() == taken_of(run)[0].script


@pytest.mark.browser
def test_where_there_is_no_script_its_button_is_off_and_the_reason_stands_beside_it(
    reader: driven.Reader, tmp_path: Path
) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.question("1.18.34", 1))
    (told,) = taken_of(run)
    assert told.why_not
    page = reader.opens(write_report(run).resolve().as_uri())
    button = page.locator("#clearest button", has_text="Copy repro script")
    assert button.is_disabled()
    assert button.is_visible()
    beside = page.locator(f"#clearest #{button.get_attribute('aria-describedby')}")
    assert beside.inner_text() == f"no script: {told.why_not}"
    page.keyboard.press("r")
    reader.said("There is no script without the harness: ")


@pytest.mark.browser
def test_where_nothing_lets_us_copy_the_text_lies_selected(reader: driven.Reader, run: RunDir, url: str) -> None:
    reader.page.add_init_script(f"{MISSING} document.execCommand = () => false;")
    page = reader.opens(url)
    page.click("#clearest [data-do=issue]")
    reader.said("press Ctrl+C")
    assert page.evaluate("getSelection().toString()").strip() == taken_of(run)[0].issue.strip()
    assert page.is_visible("#case-0-issue")


@pytest.mark.browser
def test_nothing_to_copy_is_told(reader: driven.Reader, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.alone("1.18.34", 1))
    page = reader.opens(write_report(run).resolve().as_uri())
    for key in "mr":
        page.keyboard.press(key)
        reader.said("nothing to copy")


@pytest.mark.browser
def test_without_scripts_the_text_can_be_read(browser: Browser, run: RunDir, url: str) -> None:
    reader = driven.Reader(browser, java_script_enabled=False)
    page = reader.opens(f"{url}#case-0-issue", scripts=False)
    assert page.is_visible("#case-0-issue")
    assert page.text_content("#case-0-issue") == taken_of(run)[0].issue
    assert page.locator("[data-do=issue]:visible, [data-do=script]:visible").count() == 0
    reader.context.close()
