from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import pytest_ocrepro
from pytest_ocrepro import coverage as room
from pytest_ocrepro.catalogue import all_scenarios
from pytest_ocrepro.cli import main
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.settings import Mark
from pytest_ocrepro.tally import RUNS, counted, read_counts, store
from pytest_ocrepro.tally import TRIALS as TABLE

ROOT = Path(pytest_ocrepro.__file__).parent.parent
REPORTS = """report\tthe same\tmechanism\tnot covered
oc#1\toc#11\tone thing\t
oc#2\t\tanother\tv2
a/b#3\t\ta third\t
"""
TRIALS = """scenario\tversion\treproduced\ttrials\tinconclusive\tsignature
scenarios/test_s.py::test_one[x]\t1.15.4\t2\t3\t1\tblocked@x
scenarios/test_s.py::test_one[y]\t1.15.4\t1\t3\t0\tblocked@x
scenarios/test_s.py::test_one[x]\t1.14.48\t0\t3\t0\t
"""
SCENARIOS = """
import pytest
MORE = ("oc#1",)
KNOWN = {"1.15.4": "3/6"}
@pytest.mark.ocrepro(issue="anomalyco/opencode#11", covers=(*MORE, "a/b#3"), known=KNOWN, profile="ci", title="first")
@pytest.mark.parametrize("how", ["x", "y"])
def test_one(ocrepro, how):
    \"\"\"A thing.

    What we found: it is the
    lock. And more.
    \"\"\"
@pytest.mark.ocrepro(issue="oc#2", control=True)
def test_two(ocrepro): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / room.REPORTS).write_text(REPORTS)
    (tmp_path / TABLE).write_text(TRIALS)
    (tmp_path / "test_s.py").write_text(SCENARIOS)
    return tmp_path


def result(scenario: str, outcome: str, version: str = "1.15.4", signature: str = "", run: str = "r") -> TrialResult:
    return TrialResult(
        run_id=run, scenario=scenario, title="t", issue=(), version=version, binary_sha256="", trial=1, seed=0,
        result=outcome, reason="", verdict="", grade="", seconds_to_verdict=1.0, chain=(), processes=(), findings=(),
        leaked=(), signature=signature, bundle="",
    )  # fmt: skip


def test_a_scenario_with_its_reports_results_and_cause(folder: Path) -> None:
    found = room.coverage(folder)
    (row,) = found.rows  # the control covers nothing
    assert (row.title, row.covers, row.profile) == ("first", ("oc#1", "a/b#3"), "ci")
    assert row.repeats == ("oc#11",)
    assert row.results == {"1.14.48": Rate(k=0, n=3), "1.15.4": Rate(k=3, n=6)}
    assert (row.signature, row.cause) == ("blocked@x", "It is the lock.")
    assert [one.name for one in found.covered] == ["oc#1", "a/b#3"]
    assert [one.name for one in found.missing] == ["oc#2"]


def test_the_words_for_a_terminal_and_for_the_readme(folder: Path) -> None:
    found = room.coverage(folder)
    text = room.as_text(found)
    assert "first  (test_s.py::test_one, ci)\n  reports: oc#1, a/b#3\n  seen: 1.14.48 0/3 (a rate above" in text
    assert "2 of 3 reports are covered by 1 scenario. Not covered:\n  of version 2" in text
    markdown = room.as_markdown(found)
    assert "| first | oc#1, a/b#3 | 0/3 | 3/6 | It is the lock. |" in markdown
    assert (
        "scenario. One that repeats another is counted as that, in brackets: oc#11 (oc#1). Not covered:" in markdown
    )
    assert re.search(r"^- of version 2, .* \(1\): oc#2$", markdown, re.MULTILINE)


def test_what_isolates_a_worker_is_a_table_of_its_own(folder: Path) -> None:
    met = {"write lock with nothing": "reproduced", "write lock with HOME": "not-seen"}
    met["cold start with nothing"] = "not-seen"
    store([result(f"scenarios/{room.RECIPES}[{name}]", outcome) for name, outcome in met.items()], folder)
    markdown = room.as_markdown(room.coverage(folder))
    assert "| its own | cold start | write lock |\n| --- | --- | --- |\n| `nothing` | 0/1 | 1/1 |" in markdown
    assert "| `HOME` |  | 0/1 |" in markdown


def test_results_of_runs_are_added_and_no_run_counts_twice(folder: Path) -> None:
    name = "scenarios/test_s.py::test_one[x]"
    told = [result(name, "reproduced", signature="s")] * 2 + [result(name, "inconclusive")]
    (count,) = counted(told)
    assert (count.rate, count.inconclusive, count.signature) == (Rate(k=2, n=2), 1, "s")
    told.append(result("mine.py::test_x", "reproduced"))  # a scenario of the user's own is none of the catalogue
    told.append(result(name, "not-seen", "1.18.34", run="q"))
    assert room.coverage(folder, results=told).rows[0].results["1.15.4"] == Rate(k=5, n=8)
    for _ in range(2):
        store(told, folder)
        kept = {(one.scenario, one.version): one for one in read_counts(folder / TABLE)}
        assert len(kept) == 4
        assert (kept[name, "1.15.4"].rate, kept[name, "1.15.4"].inconclusive) == (Rate(k=4, n=5), 2)
        assert (folder / RUNS).read_text() == "r\nq\n"
        assert room.coverage(folder, results=told).rows[0].results["1.15.4"] == Rate(k=5, n=8)
    store([result(name, "not-seen", run="p")] * 4, folder)
    assert room.coverage(folder).rows[0].results["1.15.4"] == Rate(k=5, n=12)
    assert room.coverage(folder).rows[0].signature == "s"
    assert (folder / RUNS).read_text() == "r\nq\np\n"


def test_a_list_of_runs_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / RUNS).write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"runs.txt cannot be read .* install it again"):
        room.coverage(folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (room.REPORTS, REPORTS + "oc#4\tx\n", r"reports.tsv:5 has 2 cells and not 4: mend the line"),
        ("test_s.py", SCENARIOS.replace("(*MORE,", "(*SOME,"), "test_s.py::test_one: .*SOME is given no value"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, file: str, text: str, words: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(UsageError, match=words):
        room.coverage(folder)


def test_a_table_that_is_missing_is_named(folder: Path) -> None:
    (folder / TABLE).unlink()
    with pytest.raises(UsageError, match=r"trials.tsv cannot be read .* install it again"):
        room.coverage(folder)


def test_the_command_counts_a_run_in(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "reports")
    run.append_result(result("scenarios/test_endless_stdin.py::test_stdin_that_never_ends", "reproduced", "9.9.9"))
    printed = CliRunner().invoke(main, ["catalogue", str(run.path)], prog_name="ocrepro")
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert "9.9.9 1/1" in printed.stdout


# -- the catalogue that is shipped


def test_every_report_that_a_scenario_names_is_in_the_table() -> None:
    found = room.coverage()
    names = {one.name for one in found.reports}
    assert len(names) == len(found.reports)
    named = {name for row in found.rows for name in row.covers}
    assert named - names <= {"KE7/helix#35"}  # the pull request that this project began with


def test_a_report_is_covered_or_says_why_not() -> None:
    found = room.coverage()
    assert {one.name for one in found.covered if one.reason} == set()
    assert {one.name for one in found.missing if one.reason not in room.REASONS} == set()


def test_every_scenario_has_a_control_in_its_file() -> None:
    """A control is one of a scenario when they share a report; one that shares none says nothing about it."""
    without = []
    for file in sorted((ROOT / "scenarios").glob("test_*.py")):
        marks = list(room.marks_of(file))
        controlled = {issue for _, mark in marks if mark.get("control") for issue in issues_of(mark)}
        scenarios = [(test, issues_of(mark)) for test, mark in marks if not mark.get("control")]
        without += [f"{file.name}::{test}" for test, issues in scenarios if not issues & controlled]
    assert without == []


def issues_of(mark: dict[str, object]) -> set[str]:
    given = mark.get("issue", ())
    return {given} if isinstance(given, str) else set(given)  # type: ignore[call-overload]


def test_the_known_lists_say_what_our_trials_saw() -> None:
    """A version stands in a mark when, and only when, the failure was seen on it, with the trials of all sets."""
    for file in sorted((ROOT / "scenarios").glob("test_*.py")):
        counts = [one for one in read_counts(file.parent / TABLE) if f"/{file.name}::" in one.scenario]
        for test, mark in room.marks_of(file):
            seen: dict[str, Rate] = {}
            for one in counts:
                if one.scenario.split("[")[0].endswith(f"::{test}"):
                    before = seen.get(one.version, Rate(k=0, n=0))
                    seen[one.version] = Rate(k=before.k + one.rate.k, n=before.n + one.rate.n)
            failed = {version: str(rate) for version, rate in seen.items() if rate.k}
            assert mark.get("known", {}) == failed, f"{file.name}::{test}"
            if mark.get("control"):
                assert not failed, f"{file.name}::{test} is a control"


def test_a_signature_stands_only_where_a_failure_was_seen() -> None:
    rows = read_counts(ROOT / "scenarios" / TABLE)
    assert [f"{one.scenario} {one.version}" for one in rows if one.signature and not one.rate.k] == []


def test_each_row_is_of_a_scenario_that_there_is() -> None:
    there = {scenario.name.split("[")[0] for scenario in all_scenarios()}
    rows = {one.scenario.split("[")[0] for one in read_counts(ROOT / "scenarios" / TABLE)}
    assert rows - there == set()


def test_the_readme_has_the_table() -> None:
    assert room.as_markdown(room.coverage()) in (ROOT / "README.md").read_text(), "run ocrepro catalogue --markdown"


def test_the_mark_takes_further_reports() -> None:
    assert "covers" in Mark.__struct_fields__
    assert msgspec.convert({"covers": ["a/b#1"]}, Mark).covers == ("a/b#1",)
