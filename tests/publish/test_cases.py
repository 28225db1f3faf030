from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import cases, choose, keep_proof, proof_of, trial_of
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.records import TrialInfo, TrialResult
from pytest_ocrepro.publish.repro import Script
from tests.data.publish import sample_run


def entry(test: str, version: str, result: str, trial: int = 1, *, chain: int = 1, control: bool = False) -> Entry:
    scenario = f"scenarios/test_x.py::{test}"
    info = TrialInfo(scenario=scenario, title=f"title of {test}", version=version, trial=trial, control=control)
    told = TrialResult(
        run_id="r", scenario=scenario, title=info.title, issue=(), version=version, binary_sha256="b" * 64,
        trial=trial, seed=0, result=result, reason="", verdict="blocked", grade="proved", seconds_to_verdict=1.0,
        chain=("link",) * chain, processes=(), findings=(), leaked=(), signature="",
        bundle=f"trials/{test}-{version}-{trial}",
    )  # fmt: skip
    return Entry(result=told, info=info, path=Path(f"{test}-{version}-{trial}"))


ENTRIES = [
    entry("test_a", "1.9.0", "reproduced"),
    entry("test_a", "1.10.0", "reproduced", 1, chain=0),
    entry("test_a", "1.10.0", "reproduced", 2),
    entry("test_a", "1.10.0", "not-seen", 3),
    entry("test_a", "1.18.0", "not-seen"),
    entry("test_b", "1.10.0", "reproduced", chain=0),
    entry("test_c", "1.10.0", "not-seen"),
    entry("test_control", "1.10.0", "not-seen", control=True),
]


def test_a_case_is_the_clearest_trial_of_the_newest_version_that_reproduced() -> None:
    a, b = cases(ENTRIES)
    assert (a.scenario, a.version, a.entry.result.trial) == ("scenarios/test_x.py::test_a", "1.10.0", 2)
    assert str(a.rate) == "2/3"
    assert a.name == "test_x-test_a-1.10.0"
    assert b.version == "1.10.0"
    assert [row.title for row in a.controls] == ["title of test_control"]


@pytest.mark.parametrize("name", ["test_b", "b", "title of test_b", "scenarios/test_x.py::test_b"])
def test_a_case_has_several_names(name: str) -> None:
    assert choose(cases(ENTRIES), name).scenario.endswith("::test_b")


def test_without_a_name_the_clearest_is_meant() -> None:
    assert choose(cases(ENTRIES), None).scenario.endswith("::test_a")


def test_a_name_that_is_none_is_told_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"test_c names no scenario that reproduced; give one of test_a, test_b"):
        choose(cases(ENTRIES), "test_c")


def test_a_run_without_a_reproduction_has_no_case() -> None:
    assert not cases(ENTRIES[-2:])
    with pytest.raises(UsageError, match="nothing reproduced in this run"):
        choose((), None)


def test_a_proof_is_of_one_script_and_counts_what_told_nothing(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    case = cases(ENTRIES)[0]
    script = Script(text="one")
    before = proof_of(run, case, script)
    assert before is None
    kept = keep_proof(run, case, script, [1, 1, 0, 2, None], [1.04, 2, 3, 4, 5])
    assert proof_of(run, case, script) == kept
    assert kept.in_words == "reproduced 2 of 3 by this script; 2 more could not tell"
    assert kept.seconds == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert proof_of(run, case, Script(text="another")) is None


def test_where_the_clearest_trial_is_damaged_another_stands_in(tmp_path: Path) -> None:
    run = sample_run.make_run(tmp_path, trials=3)
    case = choose(cases(entries_in(run)), None)
    clearest = trial_of(case)
    assert clearest.path == case.entry.path
    (clearest.path / "judgement.json").unlink()
    second = trial_of(case)
    assert second.path == case.others[0].path
    assert second.judgement is not None
    (second.path / "history.jsonl").write_bytes(b"rubbish\n" * 3)
    assert trial_of(case).path == case.others[1].path
    (case.others[1].path or tmp_path).joinpath("judgement.json").unlink()
    assert trial_of(case).path == clearest.path, "of what is left the clearest says most"
