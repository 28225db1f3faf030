"""How soon the verdict on the stalled-install overlap comes, on three builds: printed, never a limit.

Run by hand: ``OCREPRO_VERDICT_RUNS=10 pytest tests/benchmarks/test_verdict_latency.py -m benchmark -s``.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.events import Expectation, MilestoneReached
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Grade, Result, Verdict
from pytest_ocrepro.judge.verdict import last_progress
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.subject import fetch

pytestmark = [pytest.mark.benchmark, pytest.mark.real]
RUNS = int(os.environ.get("OCREPRO_VERDICT_RUNS", "2"))
GOAL_S = 4.0  # after the waiter's last milestone


class Told(msgspec.Struct, frozen=True):
    """One run: seconds from the waiter's last milestone, and from its last step of any kind, to the verdict."""

    since_milestone_s: float
    since_step_s: float
    milestone: str
    grade: Grade


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(RunDir.create(tmp_path / "reports"))
    yield made
    made.close()


def told(session: Session, version: str, number: int) -> Told:
    build = fetch(version)
    trial = Trial(session, build, TrialInfo(scenario="latency", title="latency", version=version), f"{number}")
    trial.registry.stall()
    trial.project.add_plugin()
    first = trial.run("hi", model="bogus/nope-1")
    trial.wait_for(trial.at_lock_directory(first))
    second = trial.run("hi", model="bogus/nope-2")
    trial.expect(second).to_finish()
    judged, _ = trial.finish()
    assert (judged.result, judged.verdict) == (Result.REPRODUCED, Verdict.BLOCKED), judged.reason
    return _told(trial.history, second.pid, judged.grade)


def _told(history: History, pid: int, grade: Grade) -> Told:
    (claim,) = history.of_type(Expectation)
    reached = [one for one in history.of_type(MilestoneReached) if one.pid == pid and one.at_ns <= claim.at_ns]
    last = max(reached, key=lambda one: one.at_ns)
    step_ns = last_progress(history, pid, claim.at_ns)[0]
    return Told((claim.at_ns - last.at_ns) / 1e9, (claim.at_ns - step_ns) / 1e9, last.milestone, grade)


@pytest.mark.parametrize("version", ["1.14.48", "1.15.4", "1.18.34"])
def test_verdict_on_the_stalled_overlap(session: Session, version: str) -> None:
    seen = [told(session, version, number) for number in range(RUNS)]
    seconds = sorted(one.since_milestone_s for one in seen)
    steps = sorted(one.since_step_s for one in seen)
    grades = {grade.value: sum(one.grade is grade for one in seen) for grade in Grade}
    print(f"\nbenchmark: {version}: blocked {seconds[0]:.1f} to {seconds[-1]:.1f} s (median "
          f"{statistics.median(seconds):.1f}) after the waiter's last milestone ({seen[0].milestone}), "
          f"{steps[0]:.1f} to {steps[-1]:.1f} s after its last step; goal {GOAL_S:g} s; {RUNS} runs, "
          f"grades {grades}")  # fmt: skip
    assert Grade.WEAK not in {one.grade for one in seen}
