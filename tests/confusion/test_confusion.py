"""Stand-ins that hang, and stand-ins that only look so, before the real harness and the real judge.

Once each in the default run. ``pytest -m confusion -s`` runs each 20 times without and 20 times with two busy
neighbours and prints the confusion matrix; ``OCREPRO_CONFUSION_RUNS=2`` is a quick look.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_ocrepro.harness import Session, Trial
from pytest_ocrepro.history import History, Trouble
from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Verdict
from pytest_ocrepro.judge.life import Life
from pytest_ocrepro.judge.progress import progress_of
from pytest_ocrepro.judge.verdict import judge_life
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.stage.subject import Build

HERE = Path(__file__).parent
if TYPE_CHECKING:
    from tests.confusion import cast, matrix
else:

    def _load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"ocrepro_confusion_{name}", HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    cast, matrix = _load("cast"), _load("matrix")

RUNS = int(os.environ.get("OCREPRO_CONFUSION_RUNS", "20"))
AT_ONCE = int(os.environ.get("OCREPRO_CONFUSION_AT_ONCE", "24"))  # most of a trial is waiting
NEIGHBOURS = 2
HEALTHY_RUNS = 400
TIMEOUT_S = 3.0  # of the judge that knows nothing but a timeout

# Calls itself opencode; the model's name chooses the stand-in
LAUNCHER = """#!/bin/bash
name=answers
for ((at = 1; at < $#; at++)); do
    if [ "${{!at}}" = -m ]; then next=$((at + 1)); name=${{!next#victim/}}; fi
done
exec -a opencode {python} -S -E -s {victims}/"$name".py "$@"
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one case, ready to be scored by any judge. ``live``: what the harness itself said of whom."""

    case: cast.Case
    loaded: bool
    history: History
    live: tuple[str, Verdict]
    bundle: Path

    def scores(self, judge: matrix.Judge) -> list[matrix.Score]:
        """One for each process that the case speaks of."""
        return [
            matrix.score(self.case.name, role, (one.verdict, one.root), self.history, judge, loaded=self.loaded)
            for role, one in self.case.expected.items()
        ]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    path = tmp_path_factory.mktemp("build") / "opencode"
    path.write_text(LAUNCHER.format(python=sys.executable, victims=cast.VICTIMS))
    path.chmod(0o755)
    return Build(version="9.9.9", path=str(path), sha256="", source="binary")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = Session(RunDir.create(tmp_path_factory.mktemp("confusion") / "reports"))
    yield made
    made.close()


def play(session: Session, build: Build, case: cast.Case, *, loaded: bool = False) -> Run:
    """One trial from start to bundle, watched as ``expect(..).to_finish()`` watches."""
    trial = Trial(session, build, TrialInfo(scenario=case.name, title=case.name, version=build.version), case.name)
    trouble = "the case was not played to its end"
    try:
        process = case.play(trial)
        judged = trial.watch(process)
        trouble = ""
    finally:
        _, result = trial.finish(trouble)
    assert not trial.history.of_type(Trouble), (case.name, trial.history.of_type(Trouble))
    bundle = session.run_dir.path / result.bundle
    return Run(case=case, loaded=loaded, history=trial.history, live=(judged.role, judged.verdict), bundle=bundle)


def play_all(cases: Iterable[cast.Case], one: Callable[[cast.Case], Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, cases))


@contextlib.contextmanager
def busy_neighbours() -> Iterator[None]:
    """Two processes that take all they can get; nothing else of the machine is touched."""
    with contextlib.ExitStack() as running:
        for _ in range(NEIGHBOURS):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            running.callback(neighbour.wait)
            running.callback(neighbour.kill)
        yield


@pytest.fixture(scope="module")
def runs(session: Session, build: Build) -> list[Run]:
    """Each case once, all at the same time."""
    return play_all(cast.CASES, lambda case: play(session, build, case))


def scores_of(runs: Iterable[Run], judge: matrix.Judge) -> list[matrix.Score]:
    return [score for run in runs for score in run.scores(judge)]


def test_each_once(runs: list[Run]) -> None:
    scores = scores_of(runs, judge_life)
    print(f"\n{matrix.table(scores)}")
    assert [matrix.describe(one) for one in scores if not one.right] == []


def test_the_harness_says_at_once_what_the_history_says_later(runs: list[Run]) -> None:
    for run in runs:
        role, verdict = run.live
        judged = next(one for one in run.scores(judge_life) if one.role == role)
        assert (run.case.name, judged.judged) == (run.case.name, verdict)


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
    judged = judge_life(history, life)
    return msgspec.structs.replace(judged, chain=(), because=("it hangs",))


@pytest.mark.parametrize(
    ("judge", "fault"),
    [
        (by_timeout, "a healthy process was called hung: pause asleep"),
        (trusting, "hung ones"),
        (nameless, "hung ones"),
    ],
)
def test_a_wrong_judge_does_not_pass(runs: list[Run], judge: matrix.Judge, fault: str) -> None:
    """The oracle can fail: the same runs, judged by somebody who does not look."""
    assert [one for one in matrix.faults(scores_of(runs, judge)) if fault in one]


@pytest.mark.confusion
def test_confusion_matrix(session: Session, build: Build) -> None:
    """No healthy one is ever called hung; 99 % of the hung ones get the right verdict and the right root cause."""
    begun, scores = time.monotonic(), []
    for loaded in (False, True):
        cases = [case for case in cast.CASES for _ in range(RUNS)]
        random.Random(20261121).shuffle(cases)  # noqa: S311  so that no case has a part of the run to itself

        def one(case: cast.Case, *, loaded: bool = loaded) -> list[matrix.Score]:
            run = play(session, build, case, loaded=loaded)
            found = run.scores(judge_life)
            if all(score.right for score in found):
                shutil.rmtree(run.bundle)
            return found

        with busy_neighbours() if loaded else contextlib.nullcontext():
            scores += [score for found in play_all(cases, one) for score in found]
    healthy = [one for one in scores if not one.expected.hung]
    print(f"\n{matrix.table(scores)}")
    print(f"{RUNS} runs of each case, as many with {NEIGHBOURS} busy neighbours; {AT_ONCE} at once, "
          f"{time.monotonic() - begun:.0f} s; healthy ones called hung: {sum(one.judged.hung for one in healthy)} of "
          f"{len(healthy)}; bundles in {session.run_dir.path}")  # fmt: skip
    for wrong in (one for one in scores if not one.right):
        print(matrix.describe(wrong))
    assert matrix.faults(scores) == []
    assert len(healthy) >= HEALTHY_RUNS or RUNS < 20  # a quick look
