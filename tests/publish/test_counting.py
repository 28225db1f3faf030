from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.counting import DUMP, Cell, Row, headline, scenario_of, tally, unjudged
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


def cell(version: str, k: int, n: int) -> Cell:
    result = Result.REPRODUCED if k else Result.NOT_SEEN if n else Result.INCONCLUSIVE
    return Cell(
        version=version, k=k, n=n, inconclusive=0, verdict="", reason="", result=result, anchor="", expected=()
    )


def row(*cells: Cell | None, control: bool = False) -> Row:
    return Row(scenario="s/test_a.py::test_b", title="It answers", issue=(), control=control, cells=cells)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([("9.9.9", 1, 1), ("9.10.0", 0, 1)], "Reproduced in 1 of 1 trial on opencode 9.9.9, in none of 1 on 9.10.0"),
        (
            [("1.1", 20, 20), ("1.2", 2, 20), ("1.3", 0, 20), ("1.4", 0, 10), ("1.5", 0, 0)],
            (
                "Reproduced in 20 of 20 trials on opencode 1.1, in 2 of 20 trials on 1.2, "
                "in none of 30 on 1.3 and 1.4, inconclusive on 1.5"
            ),
        ),
        (
            [("1.1", 1, 2), ("1.2", 1, 2), ("1.3", 1, 2), ("1.4", 1, 2), ("1.5", 0, 7)],
            "Reproduced in 4 of 8 trials on opencode 1.1, 1.2, 1.3 and 1.4, in none of 7 on 1.5",
        ),
        ([("1.1", 0, 3), ("1.2", 0, 2)], "Not seen in 5 trials on opencode 1.1 and 1.2"),
        ([("1.1", 0, 3), ("1.2", 0, 0)], "Not seen in 3 trials on opencode 1.1, inconclusive on 1.2"),
        ([("1.1", 0, 0), ("1.2", 0, 0)], "Inconclusive on opencode 1.1 and 1.2"),
    ],
)
def test_a_rate_is_that_of_the_versions_that_it_is_told_of(cells: list[tuple[str, int, int]], says: str) -> None:
    told = [row(*(cell(*one) for one in cells), None), row(cell("1.1", 0, 99), control=True)]
    assert headline(told) == f"{says}: It answers"


def test_what_a_version_lacks_is_neither_seen_nor_unseen_nor_a_doubt() -> None:
    def lacking(version: str) -> Cell:
        return msgspec.structs.replace(cell(version, 0, 0), skipped=True)

    assert (lacking("1.1").glyph, lacking("1.1").word, lacking("1.1").rate) == ("-", "skipped", "n/a")
    assert headline([row(lacking("1.1"))]) == "Skipped: opencode 1.1 lacks what the 1 scenario would need"
    assert headline([row(lacking("1.1"), cell("1.2", 1, 2))]).startswith(
        "Reproduced in 1 of 2 trials on opencode 1.2"
    )
    two = [row(lacking("1.1")), row(cell("1.1", 0, 2)), row(cell("1.1", 0, 1))]
    assert headline(two) == "Not seen: none of 2 scenarios reproduced on opencode 1.1"
    assert [one.count for one in tally(two)] == [0, 2, 0]
    assert headline([row(lacking("1.1")), row(cell("1.1", 0, 0)), row(cell("1.1", 0, 1))]).startswith("Inconclusive")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(0, 2)], "Only one control was run, and it did not fail on opencode 1.1"),
        ([(1, 2)], "Only one control was run, and it failed on opencode 1.1"),
        ([(0, 0)], "Only one control was run, and it could not tell on opencode 1.1"),
        ([(0, 2), (0, 2)], "Only controls were run: none of 2 failed on opencode 1.1"),
        ([(1, 2), (0, 2), (0, 0)], "Only controls were run: 1 of 3 failed, 1 inconclusive on opencode 1.1"),
    ],
)
def test_a_run_of_controls_alone_claims_no_scenario(rows: list[tuple[int, int]], says: str) -> None:
    assert headline([row(cell("1.1", k, n), control=True) for k, n in rows]) == says
