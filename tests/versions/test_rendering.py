from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import msgspec
import pytest

from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.certificate import Answer, Certificate, Side, Tally
from pytest_ocrepro.versions.rendering import as_markdown, as_page, headline, picture_of, sure
from pytest_ocrepro.versions.search import Why

HOSTILE = '1.2.1"><script>alert(1)</script>&<img src=x onerror=y>'


def side(version: str) -> Side:
    return Side(version=version, fresh=Rate(k=5, n=8), whole=Rate(k=5, n=9))


SIXTY = Tally(version="1.2.3", rate=Rate(k=0, n=60), present=0.5)
OLDER = Answer(suspects=("1.2.1",), clean="1.2.0", failing="1.2.1", probability=0.37)
FOUND = Certificate(
    scenario="scenarios/test_x.py::test_x",
    find_fix=False,
    why=Why.FOUND,
    confidence=0.95,
    first="1.2.0",
    last="1.2.3",
    answers=(Answer(suspects=("1.2.2",), clean="1.2.1", failing="1.2.2", probability=0.97),),
    sides=(
        Side(version="1.2.2", fresh=Rate(k=8, n=8), whole=Rate(k=12, n=13)),
        Side(version="1.2.1", fresh=Rate(k=0, n=8), whole=Rate(k=0, n=20)),
    ),
    p=0.00016,
    compare="https://github.com/anomalyco/opencode/compare/v1.2.1...v1.2.2",
    monotone=False,
    not_monotone=0.02,
    transitions=(),
    false_rate=0.003,
    uneven="",
    foreign=(("oc-9 crashed", 2),),
    wanted=("oc-1",),
    by_sign=(),
    tallies=(
        Tally(version="1.2.0", rate=Rate(k=0, n=0), present=0.01),
        Tally(version="1.2.1", rate=Rate(k=0, n=20), present=0.02, same=("1.2.1-x",)),
        Tally(version="1.2.2", rate=Rate(k=12, n=13), present=0.99),
        Tally(version="1.2.3", rate=Rate(k=0, n=0), present=1.0, closed="does not start"),
    ),
    trials=35,
    inconclusive=1,
    downloads=3,
    seconds=150.0,
    load=(0.5, 2.0),
    same_bytes=False,
    edited=(7,),
)


def changed(**fields: object) -> Certificate:
    return msgspec.structs.replace(FOUND, **fields)


def test_the_headline_says_among_which_builds() -> None:
    assert headline(FOUND) == (
        "Introduced in 1.2.2: the first failing build among those served here "
        "(posterior 97 %, confirmed by fresh trials)"
    )
    fixed = changed(find_fix=True, answers=(msgspec.structs.replace(FOUND.answers[0], suspects=("1.2.1",)),))
    assert headline(fixed).startswith("Fixed in 1.2.1: the first clean build among those served here")
    assert headline(changed(not_monotone=0.9)).startswith("Introduced in 1.2.2, not for the first time: the first")
    back = msgspec.structs.replace(fixed, not_monotone=0.9)
    assert headline(back).startswith("Fixed in 1.2.1, and it came back later: the first clean")


def test_the_finer_search_is_handed_over() -> None:
    run = "ocrepro bisect-run scenarios/test_x.py::test_x --binary PATH --build COMMAND --rate 0.46"
    assert f"`git bisect start v1.2.2 v1.2.1 && git bisect run {run}`" in as_markdown(FOUND)
    fixed = as_markdown(changed(find_fix=True))
    start = "git bisect start --term-old broken --term-new fixed v1.2.1 v1.2.2"
    assert f"`{start} && git bisect run {run} --find-fix`" in fixed


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (changed(why=Why.NEVER, answers=(), sides=(), tallies=(SIXTY,)),
         "Not reproduced at the failing end: 1.2.3 0/60 (a rate above 4.9 % is excluded at 95 %); no build is named"),
        (changed(why=Why.ALWAYS, sides=(side("1.2.0"),)),
         "There already in the oldest build, 1.2.0: 5/8"),
        (changed(why=Why.ALWAYS, sides=(side("1.2.1"),)),
         "There already in the oldest build that could be tried, 1.2.1"),
        (changed(why=Why.ALWAYS, find_fix=True, sides=(side("1.2.3"),)),
         "Still there in the newest build, 1.2.3"),
        (changed(same_bytes=True), "A contradiction: 1.2.2 and 1.2.1 are the same file"),
        (changed(why=Why.NOTHING_LEFT, answers=()), "No answer: no version is left that could be tried"),
        (changed(why=Why.BUDGET, answers=(msgspec.structs.replace(FOUND.answers[0], probability=0.6), OLDER)),
         "No name yet, the budget is spent: introduced in one of 1.2.1, 1.2.2 (2 builds, 97 %)"),
        (changed(why=Why.BUDGET, sides=()),
         "introduced in 1.2.2 perhaps (97 %, but fresh trials have not confirmed it)"),
        (changed(answers=(Answer(suspects=("1.2.1", "1.2.2"), clean="1.2.0", failing="1.2.2", probability=0.99),)),
         "Introduced in one of 1.2.1, 1.2.2 (which no trial can tell apart)"),
    ],
)  # fmt: skip
def test_no_name_is_given_that_the_evidence_does_not_reach(told: Certificate, words: str) -> None:
    assert words in headline(told)


def test_certainty_is_never_claimed() -> None:
    assert [sure(share) for share in (1.0, 0.99999, 0.9994, 0.95)] == ["over 99.9 %", "over 99.9 %", "99.9 %", "95 %"]


def test_the_text_holds_the_evidence_and_its_limits() -> None:
    text = as_markdown(FOUND)
    for words in (
        "Asked: scenario `scenarios/test_x.py::test_x` on the 4 builds served from 1.2.0 to 1.2.3.",
        "| failing | 1.2.2 | 8/8 (100 %; 95 % interval 68-100 %) | 12/13",
        "| clean | 1.2.1 | 0/8 (a rate above 31 % is excluded at 95 %) |",
        "p = 0.00016",
        "Changes: https://github.com/anomalyco/opencode/compare/v1.2.1...v1.2.2",
        "- 1.2.3 was not tried: does not start",
        "- builds that this registry does not serve",
        "- the failure came more than once with probability 2 %",
        "- 1 inconclusive trials",
        "- 2 trials ended with another failure, `oc-9 crashed`, and say nothing",
        "- the journal was edited by hand (lines 7)",
        "(same bytes: 1.2.1-x)",
    ):
        assert words in text
    assert "**more than one change is likely**" in as_markdown(changed(not_monotone=0.8))
    assert "another rate than the others" in as_markdown(changed(uneven="1.2.2"))
    assert "```" not in as_markdown(FOUND, picture=False)


def test_the_picture_is_well_formed_and_shows_every_build() -> None:
    drawn = ET.fromstring(picture_of(FOUND))  # noqa: S314  our own text
    titles = [one.text or "" for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
    for row in FOUND.tallies:
        assert any(title.startswith(f"{row.version}: ") for title in titles)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))


@pytest.mark.parametrize("word", ["", HOSTILE])
def test_the_page_is_inert(word: str) -> None:
    told = changed(
        scenario=word,
        foreign=((word, 1),),
        tallies=(*FOUND.tallies, Tally(version=f"9{word}", rate=Rate(k=1, n=2), present=0.5, closed=word)),
    )
    page = as_page(told)
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "img", "link", "iframe", "object", "a", "form"}
    attributes = [(name, value) for _, attrs in tags.seen for name, value in attrs]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [value for name, value in attributes if name in ("src", "href")]
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(", page)
