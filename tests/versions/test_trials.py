from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_ocrepro.catalogue import find_scenario
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.judgement import Finding
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions.journal import Chosen
from pytest_ocrepro.versions.trials import _TIED_PYTEST, Trials, signs_of

Serve = Callable[..., Path]
ANSWERS, BREAKS = "test_stand_in.py::test_answers", "test_stand_in.py::test_breaks"


def made(tmp_path: Path, **more: object) -> Trials:
    return Trials(tmp_path / "reports", find=lambda name: find_scenario(name).node, **more)  # type: ignore[arg-type]


def chosen(*trials: tuple[str, str, int]) -> Chosen:
    return Chosen(batch=1, phase="search", trials=trials)


@pytest.fixture
def builds(serve: Serve) -> Path:
    registry = serve(("1.0.0", "1.0.1"), "1.0.1")
    for version in ("1.0.0", "1.0.1"):
        subject.fetch(version)
    return registry


def test_a_batch_runs_and_each_trial_keeps_its_evidence(builds: Path, tmp_path: Path) -> None:
    batch = chosen((ANSWERS, "1.0.0", 5), (ANSWERS, "1.0.1", 6))
    told = sorted(made(tmp_path, workers=2).run(batch), key=lambda one: one.seed)
    assert [(one.version, one.seed, one.result) for one in told] == [
        ("1.0.0", 5, "not-seen"), ("1.0.1", 6, "reproduced"),
    ]  # fmt: skip
    assert told[0].signs == ()
    assert told[1].signs[0].startswith("oc-")
    assert told[1].signs[1].startswith("database-error: Error: database is locked")
    assert all(one.seconds > 0 and one.sha256 and one.scenario == ANSWERS for one in told)
    assert all((Path(one.bundle) / "judgement.json").is_file() for one in told)


def test_what_a_user_sets_for_whole_runs_is_not_for_trials(
    builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCREPRO_BASELINE", "no-such-file")
    monkeypatch.setenv("OCREPRO_CTRF", str(tmp_path / "ctrf.json"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    Path("pytest.ini").write_text("[pytest]\nocrepro_baseline = none\nocrepro_ctrf = ctrf.json\nocrepro_trials = 3\n")
    (told,) = made(tmp_path).run(chosen((ANSWERS, "1.0.1", 6)))
    assert told.result == "reproduced"
    assert not list(tmp_path.rglob("ctrf.json"))
    assert not (tmp_path / "summary.md").exists()


def test_a_scenario_that_breaks_is_inconclusive(builds: Path, tmp_path: Path) -> None:
    (told,) = made(tmp_path).run(chosen((BREAKS, "1.0.0", 0)))
    assert told.result == "inconclusive"
    assert told.signs == ()


def test_of_a_parametrized_test_one_set_is_asked_for(builds: Path, tmp_path: Path) -> None:
    two = "test_stand_in.py::test_has_two"
    told = made(tmp_path, workers=2).run(chosen((f"{two}[fine]", "1.0.0", 1), (f"{two}[broken]", "1.0.0", 2)))
    assert {one.scenario: one.result for one in told} == {f"{two}[fine]": "not-seen", f"{two}[broken]": "reproduced"}
    with pytest.raises(UsageError, match=r"is not one scenario: name one of \S+\[broken\], \S+\[fine\]"):
        list(made(tmp_path).run(chosen((two, "1.0.0", 3))))
    with pytest.raises(UsageError, match="is not one scenario"):
        list(made(tmp_path).run(chosen((f"{two}[other]", "1.0.0", 4))))


def test_a_pytest_that_leaves_no_result_is_inconclusive(builds: Path, tmp_path: Path) -> None:
    (told,) = made(tmp_path, timeout_s=0.01).run(chosen((ANSWERS, "1.0.0", 0)))
    assert (told.result, told.reason) == ("inconclusive", "pytest left no result: no end within 0.01 s")


def test_what_pytest_cannot_run_at_all_ends_the_search(builds: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be run on 1\.0\.7: ocrepro: opencode 1\.0\.7"):
        list(made(tmp_path).run(chosen((ANSWERS, "1.0.7", 0))))


def test_whoever_stops_asking_ends_what_still_runs(builds: Path, tmp_path: Path) -> None:
    file = ANSWERS.partition("::")[0]
    running = made(tmp_path, workers=2).run(
        chosen((f"{file}::test_waits", "1.0.0", 1), (f"{file}::test_hears", "1.0.0", 2))
    )
    assert next(running).seed == 2
    running.close()
    assert not psutil.pid_exists(int(Path("pid").read_text()))


def test_a_tied_pytest_ends_when_its_pipe_breaks(tmp_path: Path) -> None:
    (tmp_path / "test_waits.py").write_text(
        "import signal\ndef test_waits():\n    print('waits', flush=True)\n    signal.pause()\n"
    )
    command = [sys.executable, "-c", _TIED_PYTEST, "-s", "-p", "no:cacheprovider", str(tmp_path / "test_waits.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        while "waits" not in child.stdout.readline().split():
            assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=30) == 70


def result(*findings: Finding, outcome: str = "reproduced") -> TrialResult:
    return TrialResult(
        run_id="r", scenario="s", title="", issue=(), version="1.0.0", binary_sha256="", trial=1, seed=0,
        result=outcome, reason="", verdict="", grade="", seconds_to_verdict=0.0, chain=(), processes=(),
        findings=findings, leaked=(), signature="oc-123456 failed-fast", bundle="trials/x",
    )  # fmt: skip


def test_signs_are_the_same_for_the_same_failure() -> None:
    one = Finding(kind="database-error", text="first does not die: exit 1 after 1.9 s: database is locked")
    other = Finding(kind="database-error", text="third does not die: exit 1 after 12.0 s: database is locked")
    assert signs_of(result(one)) == signs_of(result(other)) == signs_of(result(one, other))
    assert signs_of(result(one)) == ("oc-123456 failed-fast", "database-error: database is locked")
    assert signs_of(result(one, outcome="not-seen")) == ()
