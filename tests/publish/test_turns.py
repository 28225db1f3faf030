from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.counting import Cell, Row
from pytest_ocrepro.publish.page import render
from pytest_ocrepro.publish.turns import turns
from tests.data.publish import sample_run


def row(**rates: tuple[int, int]) -> Row:
    cells = tuple(
        Cell(
            version=version.replace("_", ".").removeprefix("v"),
            k=k,
            n=n,
            inconclusive=0,
            verdict="blocked",
            reason="",
            result=Result.REPRODUCED if k else Result.NOT_SEEN,
            anchor="",
            expected=(),
        )
        for version, (k, n) in rates.items()
    )
    return Row(scenario="s", title="It answers", issue=(), control=False, cells=(*cells, None))


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({"v1_2_1": (0, 3), "v1_3_0": (3, 3)}, ["not seen on 1.2.1, seen on 1.3.0"]),
        ({"v1_2_1": (1, 9), "v1_3_0": (0, 9)}, ["seen on 1.2.1, not seen on 1.3.0"]),
        (
            {"v1_2_1": (0, 3), "v1_3_0": (3, 3), "v1_4_0": (0, 3)},
            ["not seen on 1.2.1, seen on 1.3.0", "seen on 1.3.0, not seen on 1.4.0"],
        ),
        ({"v1_2_1": (0, 3), "v1_3_0": (2, 2), "v1_4_0": (3, 3)}, ["not seen on 1.2.1, seen on 1.4.0"]),
        ({"v1_2_1": (0, 2), "v1_3_0": (3, 3)}, []),
        ({"v1_2_1": (1, 3), "v1_3_0": (3, 3)}, []),
        ({}, []),
    ],
)
def test_a_turn_is_told_where_both_sides_have_trials_enough(
    rates: dict[str, tuple[int, int]], told: list[str]
) -> None:
    assert [turn.in_words for turn in turns(row(**rates))] == told


def test_only_published_versions_can_be_compared() -> None:
    (published,) = turns(row(v1_2_1=(0, 3), v1_3_0=(3, 3)))
    assert published.url == "https://github.com/anomalyco/opencode/compare/v1.2.1...v1.3.0"
    (own,) = turns(row(v1_2_1=(0, 3), local=(3, 3)))
    assert own.url == ""


def test_the_page_leads_to_what_changed(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    sample_run.store(run, sample_run.overlap("1.15.4", 1))
    (seen,) = run.results()
    for number in (2, 3, 4, 5, 6):
        fields = {"trial": number, "bundle": f"trials/x{number}"}
        if number > 3:
            fields |= {"version": "1.18.34", "result": "not-seen"}
            fields |= {"scenario": seen.scenario.replace("1.15.4", "1.18.34")}
        run.append_result(msgspec.structs.replace(seen, **fields))
    page = render(run)
    assert "seen on 1.15.4, not seen on 1.18.34: <a href=" in page
    assert 'href="https://github.com/anomalyco/opencode/compare/v1.15.4...v1.18.34"' in page
