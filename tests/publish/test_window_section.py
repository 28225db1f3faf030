from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.judge.offsets import Offset, Tried, window_rows
from pytest_ocrepro.judge.passage import Passage, Reached
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.counting import Entry, unjudged
from pytest_ocrepro.publish.document import Paragraph, Part, Picture, Sheet
from pytest_ocrepro.publish.page import render
from pytest_ocrepro.publish.pictures.window import Passed, window
from pytest_ocrepro.publish.records import TrialInfo, TrialResult
from pytest_ocrepro.publish.window_section import milestones_of, window_parts

SVG = "{http://www.w3.org/2000/svg}"


def trial(result: str, asked_ms: float | None, number: int = 1, *, after: str = "the start of first") -> TrialResult:
    stored = unjudged("r", TrialInfo(scenario="s.py::test_a", title="A", version="1.15.4", trial=number), Path("x"))
    reached = (Reached(milestone="config-loading", seconds=0.2 + number / 10),)
    passage = Passage(role="first", pid=1, reached=reached, watched_s=2.0, by_itself=True, awaited="")
    offset = None
    if asked_ms is not None:
        offset = Offset(asked_ms=asked_ms, took_ms=asked_ms + 7, low_ms=0, high_ms=800, after=after)
    return msgspec.structs.replace(
        stored, result=result, passages=(passage,), offset=offset, bundle=f"trials/t{number}"
    )


SWEEP = [("not-seen", 0), ("reproduced", 200), ("reproduced", 400), ("not-seen", 400), ("inconclusive", 800)]


def test_a_sweep_is_a_sentence_a_picture_and_a_table() -> None:
    (part,) = window_parts(Entry(result=trial(result, at, n)) for n, (result, at) in enumerate(SWEEP, 1))
    sentence, picture, table = part.blocks
    assert isinstance(sentence, Paragraph)
    assert "seen at 200 to 400 ms; 2 of 4 trials" in str(sentence.text)
    assert "at most 7 ms later than asked" in str(sentence.text)
    assert isinstance(picture, Picture)
    assert isinstance(table, Part)
    rows, milestones = table.blocks
    assert isinstance(rows, Sheet)
    assert [row[:3] for row in rows.rows] == [
        (("0",), ("0",), ("1",)),
        (("200",), ("1",), ("1",)),
        (("400",), ("1",), ("2",)),
    ]
    assert isinstance(milestones, Sheet)
    assert milestones.rows == ((("config-loading",), ("0.50",), ("0.40",), ("0.60",)),)


def test_without_an_offset_there_is_no_section(tmp_path: Path) -> None:
    assert window_parts([Entry(result=trial("reproduced", None))]) == []
    run = RunDir.create(tmp_path)
    run.append_result(trial("reproduced", None))
    assert 'id="window"' not in render(run)
    for number, (result, at) in enumerate(SWEEP, 2):
        run.append_result(trial(result, at, number))
    assert 'id="window"' in render(run)


def test_milestones_are_of_the_process_that_the_offset_is_counted_from() -> None:
    assert [one.median_ms for one in milestones_of("the start of first", [trial("reproduced", 0, 1)])] == [
        pytest.approx(300)
    ]
    assert milestones_of("the start of second", [trial("reproduced", 0, 1)]) == []
    assert milestones_of("a milestone of first", [trial("reproduced", 0, 1)]) == []


def test_points_lie_where_rate_and_offset_say() -> None:
    rows = window_rows([Tried(offset_ms=at, failed=failed) for at, failed in ((0, False), (400, True), (800, False))])
    inside = Passed(name="inside", low_ms=300, median_ms=350, high_ms=420)
    beyond = Passed(name="beyond", low_ms=900, median_ms=950, high_ms=990)
    picture = ET.fromstring(window(rows, 0, 800, "t", [inside, beyond]))  # noqa: S314 - made by us
    points = [(float(c.get("cx") or 0), float(c.get("cy") or 0)) for c in picture.iter(f"{SVG}circle")]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][0] * 2 == points[0][0] + points[2][0]
    assert points[1][1] < points[0][1] == points[2][1], "a failure lies higher"
    names = [node.text for node in picture.iter(f"{SVG}text")]
    assert "◆ inside" in names
    assert "◆ beyond" not in names
