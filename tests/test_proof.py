from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro import proof
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import Case, cases
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.records import Proof, TrialInfo, TrialResult
from pytest_ocrepro.publish.repro import Script
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.subject import Build

HASH = "b" * 64


@pytest.fixture
def build(stand_in: Path) -> Build:
    return Build(version="9.9.9", path=str(stand_in), sha256=HASH, source="binary")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    info = TrialInfo(scenario="test_x.py::test_a", title="a", version="9.9.9")
    result = TrialResult(
        run_id="r", scenario=info.scenario, title="a", issue=(), version="9.9.9", binary_sha256=HASH, trial=1, seed=0,
        result="reproduced", reason="", verdict="blocked", grade="proved", seconds_to_verdict=1.0, chain=(),
        processes=(), findings=(), leaked=(), signature="", bundle="trials/a",
    )  # fmt: skip
    return cases([Entry(result=result, info=info, path=tmp_path)])[0]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "reports")


def prove(run: RunDir, case: Case, build: Build, tmp_path: Path, times: int = 1) -> tuple[object, list[str]]:
    told: list[str] = []
    found = proof.prove(run, case, build, times=times, ledger=tmp_path / "ledger", tell=told.append)
    return found, told


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the case's script is; it is looked at when it is run. Nothing of it is left behind."""
    text: list[str] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # so that its processes are told from anybody else's
    monkeypatch.setattr(proof, "trial_of", lambda _: None)
    monkeypatch.setattr(proof, "script_of", lambda *_: Script(text="\n".join(text), why_not="none of it"))
    yield text
    marked = list(Reader().marked(MARKER, "*"))
    assert not [one for one in marked if str(tmp_path) in " ".join(Reader().argv(one.pid) or ())]


def test_a_script_runs_with_the_build_first_on_its_path(
    run: RunDir, case: Case, build: Build, script: list[str], tmp_path: Path
) -> None:
    script += ["command -v python3 >/dev/null || exit 3", '[ "$(opencode --version)" = 9.9.9 ] && exit 1']
    found, told = prove(run, case, build, tmp_path, times=2)
    assert isinstance(found, Proof)
    assert (found.k, found.n, found.untold) == (2, 2, 0)
    assert [path.name for path in (run.path / "issues").iterdir()] == [
        f"test_x-test_a-9.9.9-{found.script_sha256[:10]}.json"
    ]
    assert [line.partition(" after ")[0] for line in told] == [
        "repro script of test_x-test_a-9.9.9: run 1 of 2 ended with 1",
        "repro script of test_x-test_a-9.9.9: run 2 of 2 ended with 1",
    ]


def test_a_script_that_does_not_end_is_ended_with_all_that_it_started(
    run: RunDir, case: Case, build: Build, script: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LIMIT_S", 1.0)
    pid = tmp_path / "pid"
    script += [f"setsid sleep 300 & echo $! > {pid}; wait"]
    found, _ = prove(run, case, build, tmp_path)
    assert isinstance(found, Proof)
    assert (found.k, found.n, found.untold) == (0, 0, 1)
    identity = Reader().identify(int(pid.read_text()))
    assert identity is None or not Reader().alive(identity)


def test_another_build_proves_nothing(
    run: RunDir, case: Case, build: Build, script: list[str], tmp_path: Path
) -> None:
    script += ["exit 1"]
    other = msgspec.structs.replace(build, sha256="c" * 64)
    with pytest.raises(UsageError, match=r"was seen on a build with sha256 bbbbbbbbbbbb, and .* is cccccccccccc"):
        prove(run, case, other, tmp_path)


def test_a_case_without_a_script_says_why(
    run: RunDir, case: Case, build: Build, script: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "entries_in", lambda _: ())
    monkeypatch.setattr(proof, "cases", lambda _: (case,))
    assert script == []
    lines = list(proof.prove_all(run, [build], times=1, ledger=tmp_path / "ledger", tell=print))
    assert lines == ["repro script of test_x-test_a-9.9.9: none of it"]
    other = msgspec.structs.replace(build, sha256="c" * 64)
    assert list(proof.prove_all(run, [other], times=1, ledger=tmp_path / "ledger", tell=print)) == []
