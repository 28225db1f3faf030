from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.judge.passage import Passage, Reached
from pytest_ocrepro.publish.counting import Entry, unjudged
from pytest_ocrepro.publish.document import Part, Picture, Sheet
from pytest_ocrepro.publish.progress_times import progress_times
from pytest_ocrepro.publish.records import TrialInfo

SVG = "{http://www.w3.org/2000/svg}"


def entry(result: str, *passages: Passage, version: str = "1.15.4") -> Entry:
    info = TrialInfo(scenario="s.py::test_a", title="A", version=version)
    stored = unjudged("r", info, Path("x"))
    return Entry(result=msgspec.structs.replace(stored, result=result, passages=passages))


def passage(*steps: tuple[str, float], watched_s: float, by_itself: bool = False, awaited: str = "") -> Passage:
    reached = tuple(Reached(milestone=name, seconds=at) for name, at in steps)
    return Passage(role="first", pid=1, reached=reached, watched_s=watched_s, by_itself=by_itself, awaited=awaited)


def drawn(*entries: Entry) -> tuple[Picture, Sheet]:
    (part,) = progress_times(entries)
    _, picture, table = part.blocks
    assert isinstance(picture, Picture)
    assert isinstance(table, Part)
    assert isinstance(table.blocks[0], Sheet)
    return picture, table.blocks[0]


def cells(table: Sheet) -> list[list[str]]:
    return [["".join(str(piece) for piece in cell) for cell in row] for row in table.rows]


STUCK = passage(("database-opened", 1.0), ("config-loading", 2.0), watched_s=9.0, awaited="services-started")
WELL = passage(
    ("database-opened", 1.0), ("config-loading", 1.5), ("services-started", 3.0), watched_s=4.0, by_itself=True
)


def test_the_milestone_that_was_not_reached_tells_them_apart() -> None:
    picture, table = drawn(entry("reproduced", STUCK), entry("reproduced", STUCK), entry("not-seen", WELL))
    assert cells(table) == [
        ["database-opened", "reproduced", "2", "100 %", "1.00", "0", "0"],
        ["database-opened", "others", "1", "100 %", "1.00", "0", "0"],
        ["config-loading", "reproduced", "2", "100 %", "2.00", "0", "0"],
        ["config-loading", "others", "1", "100 %", "1.50", "0", "0"],
        ["services-started", "reproduced", "2", "0 %", "\u2013", "2", "0"],
        ["services-started", "others", "1", "100 %", "3.00", "0", "0"],
    ]
    svg = ET.fromstring(picture.svg)  # noqa: S314 - made a moment ago by us
    curves = [node for node in svg.iter(f"{SVG}path") if "curve" in (node.get("class") or "")]
    assert [node.get("class") for node in curves] == ["curve bad", "curve good"] * 3
    ends = [node.get("d") for node in svg.iter(f"{SVG}path") if node.get("class") == "open-end bad"]
    assert [bool(end) for end in ends] == [False, False, True]


def test_who_is_past_a_milestone_has_reached_it() -> None:
    silent = passage(("session-created", 2.5), watched_s=4.0, by_itself=True)
    _, table = drawn(entry("reproduced", STUCK), entry("not-seen", silent))
    assert ["config-loading", "others", "1", "100 %", "2.50", "0", "0"] in cells(table)


def test_one_that_ended_before_is_counted_as_never() -> None:
    gone = passage(("database-opened", 1.0), watched_s=1.2, by_itself=True, awaited="config-loading")
    _, table = drawn(entry("reproduced", gone), entry("reproduced", STUCK))
    assert ["config-loading", "reproduced", "2", "50 %", "2.00", "0", "1"] in cells(table)


@pytest.mark.parametrize(
    "entries",
    [[], [entry("not-seen", WELL)], [entry("reproduced")], [entry("inconclusive", STUCK)]],
    ids=["nothing", "no reproduction", "stored before times were told", "inconclusive"],
)
def test_without_times_of_a_reproduction_there_is_no_section(entries: list[Entry]) -> None:
    assert progress_times(entries) == []


def test_each_version_has_its_own_part_and_the_first_that_can_be_compared_is_open() -> None:
    bad = [entry("reproduced", STUCK, version=v) for v in ("1.10.0", "1.9.0")]
    parts = progress_times([*bad, entry("not-seen", WELL, version="1.10.0")])
    assert [(part.note.split(" · ")[0], part.opened) for part in parts] == [
        ("opencode 1.9.0", False),
        ("opencode 1.10.0", True),
    ]
    assert not any(part.opened for part in progress_times(bad))
