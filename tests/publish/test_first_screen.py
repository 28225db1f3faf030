from __future__ import annotations

import base64
import gzip
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish import first_screen as f
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.counting import Entry, matrix, place
from pytest_ocrepro.publish.pictures.outcomes import MOST_BARS, outcomes
from pytest_ocrepro.publish.trial_view import View, seconds_told, view_of
from tests.data.publish import sample_run

BAD, GOOD, DOUBT = Result.REPRODUCED, Result.NOT_SEEN, Result.INCONCLUSIVE


def entries(tmp_path: Path, *cases: sample_run.Case) -> list[Entry]:
    run = RunDir.create(tmp_path)
    found = []
    for case in cases:
        path = sample_run.store(run, case)
        info, result, _ = TrialBundle.peek(path)
        assert result is not None
        found.append(Entry(result=result, info=info, path=path))
    return sorted(found, key=place)


def read(entry: Entry) -> View:
    assert entry.path is not None
    return view_of(entry, TrialBundle.read(entry.path))


def screen(listed: list[Entry]) -> f.FirstScreen:
    view = f.clearest_of(listed, read)
    assert view is not None
    return f.first_screen(view, listed, matrix(listed), frozenset(entry.anchor for entry in listed))


def test_the_shortest_of_the_best_proved_is_shown_with_its_rate(tmp_path: Path) -> None:
    cases = [sample_run.overlap("1.15.4", n) for n in (1, 2, 3)]
    found = screen(entries(tmp_path, *cases, sample_run.question("1.15.4", 1), sample_run.alone("1.15.4", 1)))
    assert found.entry.anchor.endswith("another_installs_its_plugin-1.15.4-t1")
    assert found.rate == "3/3 (100 %; 95 % interval 44-100 %)"
    assert "3 of 3 trials reproduced, in order" in found.order
    assert [(one.label, one.anchor[-9:]) for one in found.companions] == [
        ("a typical one", "1.15.4-t2"),
        ("one that went well", "1.15.4-t1"),  # of the control, which has the same issue
    ]


def test_the_line_below_the_picture_has_the_number_of_the_sentence(tmp_path: Path) -> None:
    """The verdict rests on a look; that it is told comes a moment later."""
    (entry,) = entries(tmp_path, sample_run.overlap("1.15.4", 1))
    later = msgspec.structs.replace(entry.result, seconds_to_verdict=99.0)
    found = screen([msgspec.structs.replace(entry, result=later)])
    judged = read(entry).judgement
    assert judged is not None
    assert found.seconds == next(one.seconds for one in judged.processes if one.role == "second") != 99.0


def test_without_a_broken_demand_it_is_the_time_to_the_verdict(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, sample_run.alone("1.15.4", 1))
    assert seconds_told(read(entry)) == entry.result.seconds_to_verdict


def test_a_clearest_case_that_cannot_be_read_makes_room_for_the_next(tmp_path: Path) -> None:
    listed = entries(tmp_path, *(sample_run.overlap("1.15.4", n) for n in (1, 2)))
    found = f.clearest_of(listed, lambda entry: None if entry is listed[0] else read(entry))
    assert found is not None
    assert found.entry is listed[1]
    assert f.clearest_of(listed, lambda _: None) is None
    assert f.clearest_of(entries(tmp_path / "good", sample_run.alone("1.15.4", 1)), read) is None


def test_the_trace_travels_with_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = entries(tmp_path, sample_run.overlap("1.15.4", 1))
    found = screen(listed).trace
    assert found is not None
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.trace\.json\.gz", found.name)
    content = base64.b64decode(found.href.removeprefix("data:application/gzip;base64,"))
    assert len(content) == found.size_bytes
    assert msgspec.json.decode(gzip.decompress(content))["traceEvents"]
    monkeypatch.setattr(f, "TRACE_BYTES", 100)
    assert screen(listed).trace is None


# --- outcomes in order ------------------------------------------------------------------------------------------


def bars(results: list[Result]) -> list[tuple[str, float, float]]:
    svg = ET.fromstring(outcomes(results))  # noqa: S314 - made a moment ago by us
    return [
        ((rect.get("class") or "").removeprefix("bar "), float(rect.get("x") or 0), float(rect.get("height") or 0))
        for rect in svg.iter("{http://www.w3.org/2000/svg}rect")
    ]


def test_each_outcome_is_a_bar_of_its_own_height() -> None:
    assert bars([BAD, GOOD, DOUBT]) == [("reproduced", 0, 26), ("not-seen", 5, 6.5), ("inconclusive", 10, 15.6)]


def test_of_very_many_a_bar_has_its_shares() -> None:
    found = bars([BAD, GOOD] * MOST_BARS)
    assert found[:2] == [("not-seen", 0, 13), ("reproduced", 0, 13)]
    assert len(found) == 2 * MOST_BARS
    assert {x for _, x, _ in found} == {5 * n for n in range(MOST_BARS)}
