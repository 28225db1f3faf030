"""What looking costs, and whether it changes what is looked at: printed, never a limit.

Run by hand: ``OCREPRO_PAIRS=5 pytest tests/benchmarks/test_observing.py -m benchmark -s``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro import for_ever, text
from pytest_ocrepro.events import LightSample, ObservingCost, ProcessExited
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.rates import fisher, wilson
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.subject import PINNED, Build, fetch

pytestmark = [pytest.mark.benchmark, pytest.mark.real]
PAIRS = int(os.environ.get("OCREPRO_PAIRS", "2"))
SUBJECTS = 8
WATCHED_S = 15.0
GOAL_SHARE = 0.02  # of one core


@pytest.fixture(scope="module")
def build() -> Build:
    return fetch(PINNED)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(RunDir.create(tmp_path / "reports"))
    yield made
    made.close()


def new_trial(session: Session, build: Build, name: str) -> Trial:
    return Trial(session, build, TrialInfo(scenario=f"benchmark::{name}", title=name, version=build.version), name)


def test_sampling_eight_idle_servers(session: Session, build: Build) -> None:
    trial = new_trial(session, build, "idle")
    for number in range(SUBJECTS):
        trial.serve(role=f"server-{number}")
    before = trial.sampler.cost()
    time.sleep(WATCHED_S)  # what is measured is a time in which nothing happens
    after = trial.sampler.cost()
    rows = trial.history.of_type(LightSample)[-1].rows
    trial.finish("a benchmark")
    assert len(rows) == SUBJECTS
    samples = after.samples - before.samples
    share = (after.cpu_ns - before.cpu_ns) / 1e9 / (after.seconds - before.seconds)
    assert samples >= 0.8 * WATCHED_S / 0.25, "the default rate was not kept"
    print(f"\nbenchmark: sampling {SUBJECTS} idle servers at the default rate: {share * 100:.2f} % of a core, "
          f"{samples} samples, {share / samples * WATCHED_S * 1000:.2f} ms each: ratio to the goal "
          f"{share / GOAL_SHARE:.2f} (goal: at most 1)")  # fmt: skip


class Arm(msgspec.Struct, frozen=True):
    """One trial: how many of the runs at once failed, when the last one had ended, and what looking cost."""

    failed: int
    seconds: float
    cost: ObservingCost


def runs_at_once(session: Session, build: Build, name: str, *, observed: bool) -> Arm:
    trial = new_trial(session, build, name)
    if not observed:
        trial.sampler.stop()
    trial.provider.script(for_ever(text("done")))
    begun = time.monotonic()
    runs = [trial.run(f"task {number}") for number in range(SUBJECTS)]
    trial.wait_until(lambda: not any(run.alive for run in runs), what="all have ended", timeout_s=120.0)
    seconds = time.monotonic() - begun
    trial.finish("a benchmark")
    ended = trial.history.of_type(ProcessExited)
    assert len(ended) == SUBJECTS
    (cost,) = trial.history.of_type(ObservingCost)
    assert bool(cost.samples > 1) is observed, "the arms do not differ"
    return Arm(sum(one.code != 0 for one in ended), seconds, cost)


def test_observed_beside_unobserved(session: Session, build: Build) -> None:
    """The same race, of runs at once on an empty data directory, with and without the sampler, in turns."""
    arms: dict[bool, list[Arm]] = {True: [], False: []}
    for turn in range(PAIRS):
        for observed in (True, False) if turn % 2 else (False, True):
            arms[observed].append(runs_at_once(session, build, f"arm-{turn}-{observed}", observed=observed))
    n = PAIRS * SUBJECTS
    for observed, word in ((True, "observed"), (False, "unobserved")):
        k = sum(arm.failed for arm in arms[observed])
        low, high = msgspec.structs.astuple(wilson(k, n))
        seconds = statistics.median(arm.seconds for arm in arms[observed])
        print(f"\nbenchmark: {word}: {k}/{n} runs failed ({low * 100:.0f} to {high * 100:.0f} %), "
              f"{PAIRS} trials of {SUBJECTS} at once, median {seconds:.1f} s")  # fmt: skip
    (k1, k2) = (sum(arm.failed for arm in arms[observed]) for observed in (True, False))
    share = statistics.median(arm.cost.share for arm in arms[True])
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(arms[True], arms[False], strict=True))
    print(f"\nbenchmark: observed / unobserved: time ratio {ratio:.3f} (median of pairs), Fisher p of the rates "
          f"{fisher(k1, n, k2, n):.2f}, sampler {share * 100:.2f} % of a core (goal: at most 2 %)")  # fmt: skip
