"""Stand-ins that hang, and stand-ins that only look so, before the real harness and the real judge.

Once each in the default run. ``pytest tests/confusion -m confusion -s`` runs each 20 times without load and 20 times
with two busy neighbours and prints the confusion matrices; ``OCREPRO_CONFUSION_RUNS=2`` is a quick look.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Verdict
from pytest_ocrepro.judge.life import Life
from pytest_ocrepro.judge.progress import progress_of
from pytest_ocrepro.judge.verdict import judge, judge_life

if TYPE_CHECKING:
    from tests.confusion import cast, matrix, trials
else:

    def _load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    cast, matrix, trials = _load("cast"), _load("matrix"), _load("trials")

RUNS = int(os.environ.get("OCREPRO_CONFUSION_RUNS", "20"))
PROGRAMS, AT_ONCE = 7, 5
FEWER_AT_ONCE = 16  # in one process
ENOUGH_RUNS, HEALTHY_RUNS = 20, 400
TIMEOUT_S = 3.0  # of the judge that knows nothing but a timeout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[trials.Run]:
    """Each case once, many at the same time."""
    with trials.Theatre(tmp_path_factory.mktemp("confusion")) as theatre:
        return list(trials.at_the_same_time(cast.CASES, theatre.play, FEWER_AT_ONCE))


def scores_of(runs: Iterable[trials.Run], judge: matrix.Judge) -> list[matrix.Score]:
    return [score for run in runs for score in run.scores(judge)]


def test_each_once(runs: list[trials.Run]) -> None:
    scores = scores_of(runs, judge_life)
    print(f"\n{matrix.table(scores)}")
    wrong = "\n".join(matrix.describe(one) for one in scores if not one.right)
    assert not wrong, wrong


def test_the_harness_says_at_once_what_the_history_says_later(runs: list[trials.Run]) -> None:
    live = {(run.case.name, *run.live) for run in runs}
    later = {(one.case, one.role, one.judged) for one in scores_of(runs, judge_life)}
    assert live - later == set()


def findings(runs: Iterable[trials.Run], name: str) -> set[str]:
    (run,) = (run for run in runs if run.case.name == name)
    return {finding.kind for finding in judge(run.history).findings}


def test_a_lock_taken_from_the_living_is_a_finding_and_one_that_is_handed_on_is_none(runs: list[trials.Run]) -> None:
    assert "lock-taken-from-live-holder" in findings(runs, "taken from the living")
    assert findings(runs, "convoy") == set()


def renamed(judged: ProcessJudgement, verdict: Verdict) -> ProcessJudgement:
    return msgspec.structs.replace(judged, verdict=verdict, grade=Grade.WEAK)


def by_timeout(history: History, life: Life) -> ProcessJudgement:
    """Hung is who has made no step for three seconds: what watchdogs in the field do."""
    now_ns = max(event.at_ns for event in history)
    judged = judge_life(history, life)
    quiet_s = (now_ns - progress_of(history, life, now_ns)[0]) / 1e9
    return renamed(judged, Verdict.STALLED) if judged.exit is None and quiet_s > TIMEOUT_S else judged


def trusting(history: History, life: Life) -> ProcessJudgement:
    """Nobody ever hangs."""
    judged = judge_life(history, life)
    return renamed(judged, Verdict.ALIVE) if judged.verdict.hung else judged


def nameless(history: History, life: Life) -> ProcessJudgement:
    """The right verdict, and never a word of whom it waits for."""
    return msgspec.structs.replace(judge_life(history, life), chain=(), because=("it hangs",))


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (by_timeout, "a healthy process was called hung: pause asleep"),
        (trusting, "hung ones"),
        (nameless, "hung ones"),
    ],
)
def test_a_wrong_judge_does_not_pass(runs: list[trials.Run], wrong: matrix.Judge, fault: str) -> None:
    """The oracle can fail: the same runs, judged by somebody who does not look."""
    assert [one for one in matrix.faults(scores_of(runs, wrong)) if fault in one]


@pytest.mark.confusion
@pytest.mark.parametrize("neighbours", [0, 2], ids=["without-load", "with-load"])
def test_confusion_matrix(tmp_path: Path, neighbours: int) -> None:
    """No healthy one is ever called hung; 99 % of the hung ones get the right verdict and the right root cause."""
    begun = time.monotonic()
    cases = [case for case in cast.CASES for _ in range(RUNS)]
    random.Random(20261121).shuffle(cases)  # noqa: S311  so that no case has a part of the run to itself
    with trials.busy_neighbours(neighbours):
        scores = trials.scores_of_programs(cases, tmp_path, programs=PROGRAMS, at_once=AT_ONCE)
    seconds = time.monotonic() - begun
    healthy = [one for one in scores if not one.expected.hung]
    print(f"\n{matrix.table(scores)}")
    print(f"{RUNS} runs of each of {len(cast.CASES)} cases with {neighbours} busy neighbours, {PROGRAMS * AT_ONCE} "
          f"at once on {os.cpu_count()} cores, in {seconds:.0f} s; healthy ones called hung: "
          f"{sum(one.judged.hung for one in healthy)} of {len(healthy)}")  # fmt: skip
    for wrong in (one for one in scores if not one.right):
        print(f"{matrix.describe(wrong)}: {wrong.bundle}")
    assert len(scores) == RUNS * sum(len(case.expected) for case in cast.CASES)
    assert matrix.faults(scores) == []
    assert len(healthy) >= HEALTHY_RUNS or RUNS < ENOUGH_RUNS
