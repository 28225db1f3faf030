from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.records import RunInfo, Subject
from pytest_ocrepro.versions.journal import Opened, Plan, Tried
from pytest_ocrepro.versions.matrix import fold_grid
from pytest_ocrepro.versions.taking import taken

PLAN = Plan(kind="matrix", scenarios=("s.py::test_a", "s.py::test_b[two]"), versions=("1.0.0", "1.0.1"))
RESULT = TrialResult(
    run_id="r",
    scenario="s.py::test_a",
    title="a",
    issue=(),
    chain=(),
    processes=(),
    findings=(),
    leaked=(),
    version="1.0.0",
    binary_sha256="aa",
    trial=1,
    seed=7,
    result="reproduced",
    reason="it hangs",
    verdict="deadlock",
    grade="strong",
    seconds_to_verdict=1.0,
    signature="oc-1 hangs",
    bundle="trials/one",
)


def run_of(reports: Path, *results: TrialResult, source: str = "cache") -> Path:
    run = RunDir.create(reports)
    subject = Subject(version="1.0.0", sha256="aa", source=source)
    run.write_info(msgspec.structs.replace(run.info, subjects=(subject,)))
    for result in results:
        run.append_result(result)
    return run.path


def variant(**changes: object) -> TrialResult:
    return msgspec.structs.replace(RESULT, **changes)


def test_trials_of_the_plan_are_taken_once_and_others_are_left(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "a",
        RESULT,
        variant(scenario="s.py::test_b[two]", result="not-seen", bundle="trials/two"),
        variant(scenario="s.py::test_b[one]", bundle="trials/three"),
        variant(scenario="s.py::test_c", bundle="trials/four"),
        variant(version="0.9.0", bundle="trials/five"),
        variant(version="1.0.1", result="inconclusive", skipped="no such tool", bundle="trials/six"),
    )
    found = list(taken([run, run.parent], PLAN, [PLAN]))
    assert [(one.scenario, one.version, one.result, one.phase) for one in found] == [
        ("s.py::test_a", "1.0.0", "reproduced", "taken"),
        ("s.py::test_b[two]", "1.0.0", "not-seen", "taken"),
        ("s.py::test_a", "1.0.1", "skipped", "taken"),
    ]
    assert (found[0].signs, found[0].seed) == (("oc-1 hangs",), 7)
    assert found[0].bundle == str(run / "trials/one")
    assert list(taken([run], PLAN, [PLAN, *found])) == []
    assert len(list(taken([run], PLAN, [PLAN, found[0]]))) == 2


def test_a_build_that_only_says_a_version_is_not_that_release(tmp_path: Path) -> None:
    for source in ("path", "PATH", ""):
        assert list(taken([run_of(tmp_path / f"x{source}", RESULT, source=source)], PLAN, [PLAN])) == []
    merged = RunDir.create(tmp_path / "merged")
    part = RunInfo(run_id="p", subjects=(Subject(version="1.0.0", sha256="aa", source="npm"),))
    merged.write_info(msgspec.structs.replace(merged.info, parts=(part,)))
    merged.append_result(RESULT)
    assert len(list(taken([merged.path], PLAN, [PLAN]))) == 1


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        list(taken([tmp_path], PLAN, [PLAN]))


def test_a_table_counts_them_and_one_that_was_inconclusive_is_no_trouble_of_now(tmp_path: Path) -> None:
    lines = [variant(result="inconclusive", bundle=f"trials/{number}") for number in range(12)]
    found = list(taken([run_of(tmp_path, RESULT, *lines)], PLAN, [PLAN]))
    grid = fold_grid([PLAN, *found, Opened()])
    assert str(grid.cell("s.py::test_a", "1.0.0").rate) == "1/1"
    assert (grid.trials, grid.trouble_in_a_row, grid.pending) == (13, 0, None)
    later = Tried(batch=0, phase="", scenario="s.py::test_a", version="1.0.0", seed=1, result="inconclusive")
    assert fold_grid([PLAN, *found, Opened(), later]).trouble_in_a_row == 1
