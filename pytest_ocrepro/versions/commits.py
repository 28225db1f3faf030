"""One step of ``git bisect run``: is the failure in what is checked out? A sequential test, and its exit code.

git takes 0 for good (old), 1 to 124, 126 and 127 for bad (new), 125 for skip; from 128 on it aborts. So whatever is
not an answer must be 125 or at least 128, also our own errors: a guess would send git the wrong way for good.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_ocrepro.catalogue import find_scenario
from pytest_ocrepro.errors import BuildError, OcreproError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions.batches import Run
from pytest_ocrepro.versions.journal import SKIPPED, Chosen, Tried
from pytest_ocrepro.versions.posterior import FALSE_RATES, RATES
from pytest_ocrepro.versions.trials import Trials

GOOD, BAD, SKIP, ABORT = 0, 1, 125, 128
STEPS = 10  # of a git bisect: a thousand commits; the error is shared among them
MOST_INCONCLUSIVE = 5


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked at one commit.

    ``rate``: the failure shows in at least this share of trials where it is present. ``confidence``: of the whole
    bisection in ``steps`` steps. ``find_fix``: git looks for the first commit without it.
    """

    scenario: str
    binary: Path
    build: str = ""
    rate: float = 0.3
    confidence: float = 0.95
    steps: int = STEPS
    most_trials: int = 60
    find_fix: bool = False
    seed: int = 0
    signature: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``code`` is the exit code, ``line`` says why."""

    code: int
    line: str


def evidence(hits: int, trials: int, *, rate: float) -> float:
    """Natural logarithm of P(outcomes | present) / P(outcomes | absent).

    Both rates are unknown: where it is present it is one of the grid from ``rate`` on, else one of the false rates.
    """
    above = [p for p in RATES if p >= rate] or [RATES[-1]]
    there = math.fsum(_chance(hits, trials, p) for p in above) / len(above)
    gone = math.fsum(weight * _chance(hits, trials, q) for q, weight in FALSE_RATES)
    return math.log(max(there, 1e-300)) - math.log(max(gone, 1e-300))


def decided(hits: int, trials: int, step: Step) -> bool | None:
    """Wald's test: present, absent, or None: go on. Each step may spend its part of the error."""
    limit = math.log(step.steps / (1 - step.confidence))
    told = evidence(hits, trials, rate=step.rate)
    return True if told >= limit else False if told <= -limit else None


def answer(step: Step, run: Run, *, tell: Callable[[str], None] = lambda _: None) -> Answer:
    """Build, try until it is decided, and say what git is to be told; never raises for what went wrong."""
    failed = _build(step)
    if failed is not None:
        return failed
    try:
        subject.from_binary(step.binary)
    except BuildError as error:
        return Answer(code=SKIP, line=f"skip: {error}")
    try:
        return _tried(step, run, tell)
    except OcreproError as error:
        return Answer(code=ABORT, line=f"abort: {error}")


def at_checkout(step: Step, reports: Path, *, tell: Callable[[str], None]) -> Answer:
    """:func:`answer` with real trials, their evidence below ``reports``. Raises UsageError: no such scenario."""
    found = find_scenario(step.scenario)
    folder = reports.resolve() / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    made = Trials(folder, find=lambda _: found.node, binary=lambda _: step.binary.resolve())
    return answer(msgspec.structs.replace(step, scenario=found.name), made.run, tell=tell)


# --- below: how


def _chance(hits: int, trials: int, rate: float) -> float:
    return rate**hits * (1 - rate) ** (trials - hits)


def _build(step: Step) -> Answer | None:
    if not step.build:
        return None
    done = subprocess.run(step.build, shell=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S602  the user's own line
    if done.returncode == 0:
        return None
    return Answer(code=SKIP, line=f"skip: the build command ended with {done.returncode}")


def _tried(step: Step, run: Run, tell: Callable[[str], None]) -> Answer:
    hits = trials = unsure = 0
    for tried in _one_by_one(step, run):
        if tried.result == SKIPPED:
            return Answer(code=SKIP, line=f"skip: {tried.reason}")
        if tried.result == "inconclusive" or not _ours(tried, step.signature):
            unsure += 1
            tell(f"inconclusive: {tried.reason or tried.signs}")
            if unsure >= MOST_INCONCLUSIVE and unsure > trials:
                return Answer(code=ABORT, line=f"abort: {unsure} of {unsure + trials} trials were inconclusive")
            continue
        hits += tried.result == "reproduced"
        trials += 1
        present = decided(hits, trials, step)
        tell(f"{Rate(k=hits, n=trials)} after {tried.result}")
        if present is not None:
            word = "present" if present else "absent"
            code = BAD if present is not step.find_fix else GOOD
            return Answer(code=code, line=f"{word}: {Rate(k=hits, n=trials).in_words()}")
    return Answer(code=SKIP, line=f"skip: undecided after {Rate(k=hits, n=trials).in_words()}")


def _ours(tried: Tried, signature: str) -> bool:
    """A reproduction of something else says nothing of what was asked for."""
    return tried.result != "reproduced" or any(sign.startswith(signature) for sign in tried.signs or ("",))


def _one_by_one(step: Step, run: Run) -> Iterator[Tried]:
    for number in range(step.most_trials):
        trial = (step.scenario, "", step.seed + number)
        yield from run(Chosen(batch=number + 1, phase="search", trials=(trial,)))
