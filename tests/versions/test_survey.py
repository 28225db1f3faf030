from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from pytest_ocrepro import cli
from pytest_ocrepro.errors import BuildError, UsageError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions import releases, survey
from pytest_ocrepro.versions.journal import Chosen, Journal, Plan, Tried
from pytest_ocrepro.versions.releases import Releases
from pytest_ocrepro.versions.survey import Asked, Surveyed

Serve = Callable[..., Path]
VERSIONS = ("1.0.0", "1.0.1", "1.0.2", "1.1.0")
FILE = '''
import pytest


@pytest.mark.ocrepro(issue="a/b#1")
def test_fails(ocrepro):
    """It must not."""


@pytest.mark.ocrepro(issue="a/b#1", control=True)
def test_control(ocrepro):
    """It never does."""
'''


def run(chosen: Chosen) -> Iterator[Tried]:
    for scenario, version, seed in chosen.trials:
        bad = "fails" in scenario and version >= "1.0.2"
        yield Tried(batch=0, phase="", scenario=scenario, version=version, seed=seed, seconds=1.0,
                    result="reproduced" if bad else "not-seen", signs=("oc-1 crashed",) if bad else ())  # fmt: skip


def surveyed(*scenarios: str, **fields: Any) -> Surveyed:
    asked = msgspec.structs.replace(Asked(scenarios=scenarios), **fields)
    return survey.survey(asked, tell=lambda _: None, run=run)


@pytest.fixture
def here(serve: Serve) -> Path:
    serve(VERSIONS, "9.9.9")
    Path("test_two.py").write_text(FILE)
    return Path.cwd()


TWO = ("test_two.py::test_fails", "test_two.py::test_control")


def test_the_table_is_written_in_three_forms_and_the_marks_on_demand(here: Path) -> None:
    done = surveyed(*TWO, write_known=True)
    assert (done.why, done.grid.trials) == ("", 5 * 2 * len(VERSIONS))
    assert "fails: appears between 1.0.1 (0/5) and 1.0.2 (5/5)" in done.markdown.read_text()
    assert len(json.loads(done.json.read_text())["cells"]) == 8
    assert "<table" in done.page.read_text()
    assert [path.name for path in done.changed] == ["test_two.py"]
    assert (here / "test_two.py").read_text() == FILE.replace(
        'issue="a/b#1")', 'issue="a/b#1", known={"1.0.2": "5/5", "1.1.0": "5/5"})'
    )


def test_without_being_told_no_file_is_changed(here: Path) -> None:
    assert surveyed(*TWO).changed == ()
    assert (here / "test_two.py").read_text() == FILE


def test_it_goes_on_where_it_stands(here: Path) -> None:
    first = surveyed(*TWO, budget_s=0.0)
    assert (first.why, first.grid.trials) == ("the time is up", 0)
    with pytest.raises(UsageError, match="exists: go on with --resume"):
        surveyed(*TWO)
    assert surveyed(resume=True).why == ""
    with pytest.raises(UsageError, match="is the journal of 2 scenarios and 4 versions, others than these"):
        surveyed(TWO[0], resume=True)
    with pytest.raises(UsageError, match="others than these"):
        surveyed(resume=True, versions="1.0.0,1.0.1")


def test_trials_of_pytest_s_own_runs_fill_their_cells_and_only_the_others_are_run(here: Path, tmp_path: Path) -> None:
    subject.fetch("1.0.2")
    demand = '\n    ocrepro.claim("it is so", held=True, because="it is")\n'
    Path("test_two.py").write_text(FILE.replace('"""It must not."""\n', f'"""It must not."""{demand}'))
    words = ["--ocrepro-version=1.0.2", "--ocrepro-trials=2", "--ocrepro-expect=any", "-pno:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--ocrepro", *words, f"--ocrepro-reports={tmp_path / 'own'}", TWO[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in ran.stdout, ran.stdout
    first = surveyed(*TWO, trials=2, runs=(tmp_path / "own",), budget_s=0.0)
    assert first.grid.trials == 2
    assert str(first.grid.cell(TWO[0], "1.0.2").rate) == "0/2"
    done = surveyed(resume=True, trials=2, runs=(tmp_path / "own",))
    assert (done.why, done.grid.trials) == ("", 2 * 2 * len(VERSIONS))
    assert str(done.grid.cell(TWO[0], "1.0.2").rate) == "0/2"


def test_offline_takes_what_is_here(here: Path) -> None:
    subject.fetch("1.0.2")
    releases.obtain(releases.platform_package(releases.this_machine()))
    done = surveyed(*TWO, offline=True, trials=1)
    assert done.grid.trials == 2
    assert surveyed(resume=True, trials=1).grid.trials == 8


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("", VERSIONS),
        ("..", VERSIONS),
        ("1.0.1..", VERSIONS[1:]),
        ("..1.0.1", VERSIONS[:2]),
        ("1.0.1..1.0.2", VERSIONS[1:3]),
        ("latest, 1.0.0", ("1.0.0", "1.1.0")),
    ],
)
def test_a_range_or_a_list(text: str, versions: tuple[str, ...]) -> None:
    released = Releases(package="p", versions=VERSIONS, tags=(("latest", "1.1.0"),))
    assert survey.parse_versions(released, text) == versions


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"versions": "1.1.0..1.0.0"}, "the range is reversed"),
        ({"versions": "1.0.9"}, r"opencode 1\.0\.9 is not published"),
        ({"versions": " , "}, "no version is named"),
        ({"resume": True}, "there is no journal ocrepro-matrix.jsonl to go on with"),
    ],
)
def test_what_cannot_be_meant_is_told(here: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, BuildError), match=words):
        surveyed(*TWO, **fields)


def test_the_journal_of_a_bisection_is_another_thing(here: Path) -> None:
    with Journal(Path("j")) as journal:
        journal.append(Plan(kind="bisect", scenarios=TWO[:1], versions=VERSIONS))
    with pytest.raises(UsageError, match="is the journal of a bisection"):
        surveyed(journal=Path("j"), resume=True)


def test_the_command_runs_whole_trials(serve: Serve) -> None:
    serve(("1.0.0", "1.0.1"), "1.0.1")
    words = ["matrix", "test_stand_in.py::test_answers", "--trials", "1", "--reports", "kept"]
    done = CliRunner().invoke(cli.main, words, prog_name="ocrepro")
    assert done.exit_code == 0, done.output
    assert "| 1.0.0 | 0/1 |" in done.stdout
    assert "| 1.0.1 | 1/1 |" in done.stdout
    assert Path("ocrepro-matrix.html").is_file()
