from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.publish.counting import TORN, Entry, unjudged
from pytest_ocrepro.publish.records import Fact, RunInfo, TrialInfo
from pytest_ocrepro.publish.wholeness import portions, shortfall


def trials(count: int, run_id: str = "r", *, reason: str = "3 claims held") -> list[Entry]:
    torn = unjudged(run_id, TrialInfo(scenario="s", title="t"), Path("x"))
    return [Entry(result=msgspec.structs.replace(torn, reason=reason))] * count


def run(planned: int | None, run_id: str = "r") -> RunInfo:
    return RunInfo(run_id=run_id, planned=planned, machine=(Fact(name="system", value=f"Linux of {run_id}"),))


def merged(*parts: RunInfo) -> RunInfo:
    return RunInfo(run_id="merged-1", parts=parts)


@pytest.mark.parametrize(
    ("planned", "begun", "torn", "says"),
    [
        (20, 6, 1, "of 20 planned trials 14 were never begun; 1 trial ended before the verdict"),
        (2, 1, 0, "of 2 planned trials 1 was never begun"),
        (None, 6, 2, "2 trials ended before the verdict"),
    ],
)
def test_a_run_that_was_cut_short_says_by_how_much(planned: int | None, begun: int, torn: int, says: str) -> None:
    entries = trials(begun - torn) + trials(torn, reason=TORN)
    told = shortfall(run(planned), entries)
    assert told == f"This run was cut short: {says}. What follows tells of the rest alone."


@pytest.mark.parametrize(("planned", "begun", "unread"), [(None, 6, 0), (6, 6, 0), (6, 7, 0), (6, 5, 1)])
def test_of_a_run_that_got_to_its_end_nothing_is_said(planned: int | None, begun: int, unread: int) -> None:
    assert shortfall(run(planned), trials(begun), unread=unread) == ""


def test_a_merged_run_says_which_of_its_runs_was_cut_short() -> None:
    frame = merged(run(5, "one"), run(3, "two"), run(None, "three"))
    entries = trials(2, "one") + trials(2, "two") + trials(1, "two", reason=TORN) + trials(9, "three")
    assert shortfall(frame, entries) == (
        "Of these runs not all was run: of 5 trials planned in run one 3 not here; 1 trial ended before the verdict. "
        "What follows tells of the rest alone."
    )
    assert [(one.run_id, one.system, one.here, one.planned, one.missing) for one in portions(frame, entries)] == [
        ("one", "Linux of one", 2, 5, 3),
        ("two", "Linux of two", 3, 3, 0),
        ("three", "Linux of three", 9, None, 0),
    ]


def test_of_many_runs_that_were_cut_short_the_worst_are_named() -> None:
    told = shortfall(merged(*(run(n, f"run-{n}") for n in range(1, 7))), [])
    assert "run run-6 6 not here; of 5 trials planned in run run-5 5 not here; of 4 trials" in told
    assert "of 3 more runs 6 trials not here" in told


def test_what_cannot_be_read_excuses_a_run_that_it_may_be_of() -> None:
    frame = merged(run(2, "one"), run(3, "two"))
    assert shortfall(frame, trials(1, "one") + trials(3, "two"), unread=1) == ""
    assert "of 3 trials planned in run two 3" in shortfall(frame, trials(1, "one"), unread=1)


def test_a_run_that_is_not_merged_has_no_portions() -> None:
    assert portions(run(3), trials(3)) == ()
