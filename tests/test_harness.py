from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.events import ProcessStarted, ProviderReply, ProviderRequest, Trouble
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.budget import SessionBudget
from pytest_ocrepro.stage.subject import Build
from pytest_ocrepro.stage.turns import text


@pytest.fixture
def trial(stand_in: Path, tmp_path: Path) -> Iterator[Trial]:
    session = Session(RunDir.create(tmp_path / "reports"))
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    made = Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    yield made
    made.finish()
    session.close()


def test_who_asks_before_we_know_its_pid_is_told_by_its_marker(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on a busy machine: a process had asked the model before its start was reported back to us."""
    monkeypatch.setattr(trial.roster, "pids", list)
    trial.provider.script(text("done"))
    process = trial.run("hi", model="ask")
    assert process.wait_for_end() == 0
    (request,) = trial.history.of_type(ProviderRequest)
    assert request.pid == process.pid
    assert {reply.pid for reply in trial.history.of_type(ProviderReply)} == {process.pid}


def test_a_trial_that_cannot_begin_leaves_nothing(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the configuration is written: the sandbox is there by then."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def full(*_: object) -> None:
        raise StageError("cannot write opencode.json: No space left on device")

    monkeypatch.setattr("pytest_ocrepro.stage.sandbox.Sandbox.configure", full)
    before = set(threading.enumerate())
    session = Session(RunDir.create(tmp_path / "reports"))
    ours = set(threading.enumerate())
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    with pytest.raises(StageError, match="No space left"):
        Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert set(threading.enumerate()) == ours
    session.close()
    assert set(threading.enumerate()) == before


def test_a_pipe_in_the_place_of_a_file_keeps_no_trial_from_its_end(trial: Trial) -> None:
    """Whoever opens a pipe that nobody writes into waits for ever, and all who wait for him."""
    (trial.sandbox.data / "log").mkdir(parents=True)
    os.mkfifo(trial.sandbox.data / "log/opencode.log")
    trial.provider.script(text("done"))
    process = trial.run("hi", model="ask")
    process.stdout_path.unlink(missing_ok=True)
    os.mkfifo(process.stdout_path)
    assert process.wait_for_end() == 0
    ended: list[object] = []
    ending = threading.Thread(target=lambda: ended.append(trial.finish()), daemon=True)
    ending.start()
    ending.join(60.0)
    assert ended, "it waits for a pipe"


@pytest.mark.parametrize("moment", ["stage.sandbox.Sandbox.configure", "harness.Sampler", "harness.Conductor.begin"])
def test_ctrl_c_in_the_first_moments_of_a_trial_leaves_no_sandbox(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """There is no trial yet that whoever is interrupted could finish."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(f"pytest_ocrepro.{moment}", Mock(side_effect=KeyboardInterrupt))
    session = Session(RunDir.create(tmp_path / "reports"))
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    with pytest.raises(KeyboardInterrupt):
        Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    assert len(list((tmp_path / "tmp").iterdir())) == 1, "it was begun"
    session.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_session_whose_evidence_is_over_its_budget_begins_no_further_trial(stand_in: Path, tmp_path: Path) -> None:
    session = Session(RunDir.create(tmp_path / "reports"), session_budget=SessionBudget(evidence_bytes=1))
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s").finish()
    with pytest.raises(StageError, match="the evidence of this session has"):
        Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    assert len(session.run_dir.bundles()) == 1
    session.close()


def test_a_session_whose_workers_have_too_many_processes_ends_a_trial_and_begins_none(
    stand_in: Path, tmp_path: Path
) -> None:
    few = SessionBudget(processes=12)  # pytest, the supervisor, its guard and the deputy are some of them
    session = Session(RunDir.create(tmp_path / "reports"), session_budget=few)
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    trial = Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    crowd = trial.spawn(
        ["/bin/sh", "-c", "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 300 & done; sleep 300 & wait"], role="crowd"
    )
    assert crowd.wait(60)
    (why,) = [trouble.what for trouble in trial.history.of_type(Trouble)]
    assert re.match(
        r"cut off: all workers have \d+ processes, the budget of a session is 12; \d+% of it is this trial's$", why
    )
    assert trial.finish()[0].result is Result.INCONCLUSIVE
    session._session_budget = SessionBudget(processes=1)
    with pytest.raises(StageError, match=r"is 1: no further trial begins; run with fewer workers$"):
        Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
    session.close()


def test_a_variable_that_is_no_text_is_refused_at_the_call_and_the_trial_goes_on(trial: Trial) -> None:
    start: Any
    for start in (trial.run, trial.serve, lambda **given: trial.spawn(["opencode"], **given)):
        with pytest.raises(TypeError, match=r'env is a dict: give each variable by itself, as NAME="value"'):
            start(env={"A": "b"})
        with pytest.raises(TypeError, match=r"A is a int"):
            start(A=1)
    assert not trial.history.of_type(ProcessStarted)
    trial.provider.script(text("done"))
    assert trial.run("hi", model="ask").wait_for_end() == 0


def test_a_look_that_hangs_does_not_keep_what_is_left_from_its_end(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of proc(5) of a stuck process can block whoever reads it."""
    process = trial.run("hi", model="hang")
    hang = threading.Event()
    monkeypatch.setattr("pytest_ocrepro.harness.LAST_LOOK_S", 0.1)
    monkeypatch.setattr(trial.sampler, "light", hang.wait)
    monkeypatch.setattr(trial, "_guard", Mock(stop=hang.wait))
    try:
        trial.finish()
    finally:
        hang.set()
    assert not process.alive
    assert not trial.sandbox.root.exists()
    told = [event.what for event in trial.history.of_type(Trouble)]
    assert [line for line in told if "no end within" in line] == [
        "could not look once more: no end within 0.1 s; a file that is read may hang",
        "could not stop to look at the budget: no end within 0.1 s; a file that is read may hang",
    ]
