from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.counting import DUMP, Cell, Row, headline, scenario_of, unjudged
from pytest_ocrepro.publish.records import TrialInfo


@pytest.mark.parametrize(
    ("scenario", "version", "key"),
    [
        ("s/test_a.py::test_b[1.15.4]", "1.15.4", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b[immediate-1.15.4]", "1.15.4", "s/test_a.py::test_b[immediate]"),
        ("s/test_a.py::test_b[1.15.4-x]", "1.15.4", "s/test_a.py::test_b[x]"),
        ("s/test_a.py::test_b[0.0.0-dev-2026-t7]", "0.0.0-dev-2026", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b", "1.15.4", "s/test_a.py::test_b"),
        ("s/test_a.py::test_b[1.15.40]", "1.15.4", "s/test_a.py::test_b[1.15.40]"),
    ],
)
def test_a_scenario_is_the_same_on_every_version(scenario: str, version: str, key: str) -> None:
    info = TrialInfo(scenario=scenario, title="t", version=version, trial=7)
    assert scenario_of(unjudged("r", info, Path("x"))) == key


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (Result.REPRODUCED, "blocked"),
        (Result.NOT_SEEN, "nothing is seen to hang"),
        (Result.INCONCLUSIVE, "whether they hang could not be told"),
    ],
)
def test_the_headline_of_a_dump_speaks_of_no_trials(result: Result, said: str) -> None:
    cell = Cell(
        version="1.18.34",
        k=int(result is Result.REPRODUCED),
        n=int(result is not Result.INCONCLUSIVE),
        inconclusive=0,
        verdict="blocked",
        reason="so",
        result=result,
        anchor="",
        expected=(),
    )
    row = Row(scenario=DUMP, title="opencode processes that were running", issue=(), control=False, cells=(cell,))
    assert headline([row]) == f"opencode processes that were running (1.18.34): {said}"
