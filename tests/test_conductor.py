"""The moves of a schedule as they are made, on a stand-in."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.events import FaultHealed, FaultInjected, Note, ProcessExited, ProcessStarted, SignalSent
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.schedule import parse
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.subject import Build

WAIT_S = 30.0
Under = Callable[..., Trial]


@pytest.fixture
def under(stand_in: Path, tmp_path: Path) -> Iterator[Under]:
    session = Session(RunDir.create(tmp_path / "reports"))
    build = Build(version="9.9.9", path=str(stand_in), sha256="", source="binary")
    made: list[Trial] = []

    def begin(*moves: str) -> Trial:
        info = TrialInfo(scenario="s", title="t", version=build.version)
        made.append(Trial(session, build, info, "s", schedule=parse(moves)))
        return made[-1]

    yield begin
    for trial in made:
        trial.finish()
    session.close()


def notes(trial: Trial) -> list[str]:
    return [event.text for event in trial.history.of_type(Note)]


def test_without_moves_programs_start_one_after_the_other(under: Under) -> None:
    trial = under()
    for _ in range(3):
        trial.run("hi", model="silent")
    started = [event.at_ns for event in trial.history.of_type(ProcessStarted)]
    ended = [event.at_ns for event in trial.history.of_type(ProcessExited)]
    assert len(ended) >= 2
    assert all(end <= start for end, start in zip(ended, started[1:], strict=False))
    assert notes(trial) == ["the starts are serial but for this schedule: no moves"]


def test_a_start_that_overlaps(under: Under) -> None:
    trial = under("start 2 0.2 s after start 1")
    first = trial.run("hi", model="hang")
    second = trial.run("hi", model="hang")
    assert first.alive
    assert (second.started_ns - first.started_ns) / 1e9 >= 0.2


def test_kill_at_start(under: Under) -> None:
    trial = under("kill 1 at start")
    first = trial.run("hi", model="hang")
    assert first.wait_for_end() == -9
    until(lambda: trial.history.of_type(FaultInjected), timeout_s=WAIT_S, what="the fault")
    (fault,) = trial.history.of_type(FaultInjected)
    assert (fault.fault, fault.detail) == ("SIGKILL to first", "when it starts")


def test_a_suspension_with_an_end_heals_itself_and_is_no_fault_for_good(under: Under) -> None:
    trial = under("suspend 1 at start for 0.2 s")
    first = trial.run("hi", model="hang")
    until(lambda: trial.history.of_type(FaultHealed), timeout_s=WAIT_S, what="the end of the suspension")
    (fault,), (healed,) = trial.history.of_type(FaultInjected), trial.history.of_type(FaultHealed)
    assert not fault.silent_for_good
    assert (healed.at_ns - fault.at_ns) / 1e9 >= 0.2
    assert [one.signal for one in trial.history.of_type(SignalSent) if one.pid == first.pid] == ["SIGSTOP", "SIGCONT"]


def test_a_suspension_for_good_stays_until_the_end(under: Under) -> None:
    trial = under("suspend 1 at start for good")
    first = trial.run("hi", model="hang")
    until(lambda: trial.history.of_type(FaultInjected), timeout_s=WAIT_S, what="the fault")
    assert trial.history.of_type(FaultInjected)[0].silent_for_good
    assert not trial.history.of_type(FaultHealed)
    judged = trial.watch(first)
    assert judged.seconds < 45, "its deadline is not waited for"
    assert judged.verdict is Verdict.ALIVE


def test_starving_is_many_short_suspensions(under: Under) -> None:
    trial = under("starve 1 from start by 0.01 s")
    first = trial.run("hi", model="hang")
    until(
        lambda: sum(one.signal == "SIGCONT" for one in trial.history.of_type(SignalSent)) >= 3,
        timeout_s=WAIT_S,
        what="three pulses",
    )
    sent = [one.signal for one in trial.history.of_type(SignalSent) if one.pid == first.pid]
    assert sent[:6] == ["SIGSTOP", "SIGCONT"] * 3


@pytest.mark.parametrize(
    ("words", "for_good"), [("registry never answers", True), ("registry answers 2 s late", False)]
)
def test_the_registry(under: Under, words: str, *, for_good: bool) -> None:
    (fault,) = under(words).history.of_type(FaultInjected)
    assert (fault.fault, fault.silent_for_good) == ("registry", for_good)


def test_a_move_that_was_not_made_is_told(under: Under) -> None:
    trial = under("suspend 1 at lock-directory for good")
    trial.run("hi", model="silent").wait_for_end()
    until(lambda: len(notes(trial)) > 1, timeout_s=WAIT_S, what="the note")
    assert notes(trial)[1].startswith(
        "the move 'suspend 1 at lock-directory for good' was not made: first takes a lock"
    )
    assert not trial.history.of_type(FaultInjected)


def test_who_starts_third_is_not_meant_by_a_move_about_the_second(under: Under) -> None:
    trial = under("kill 2 at start")
    ends = [trial.run("hi", model=model).wait_for_end() for model in ("silent", "hang", "silent")]
    assert ends == [0, -9, 0]


def test_a_helper_of_ours_is_no_start(under: Under) -> None:
    trial = under("kill 1 at start")
    trial.sandbox.database.parent.mkdir(parents=True, exist_ok=True)
    sqlite3.connect(trial.sandbox.database).close()
    trial.sandbox.database.touch()
    with trial.hold_database():
        assert not [one for one in trial.history.of_type(FaultInjected) if one.fault.startswith("SIGKILL")]
