"""Coins with known rates, and searches driven by them: ours, one of its rivals, and a tuned plain bisection.

All of them are given the same coins: the nth trial of a build of run ``seed`` falls the same way for everybody.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import msgspec

from pytest_ocrepro.versions.bisection import Cost, Phase, answers, decide
from pytest_ocrepro.versions.posterior import Counts, Question, posterior

# mean trials of the search that knows neither p nor q, at 95 %, N = 70 (bisection.md 3.7, "Bayes unknown")
TABLE = {
    (0.1, 0.0): 206, (0.3, 0.0): 62, (0.6, 0.0): 25.5, (0.9, 0.0): 14.3,
    (0.1, 0.01): 348, (0.3, 0.01): 83, (0.6, 0.01): 30.4, (0.9, 0.01): 15.2,
}  # fmt: skip
CANDIDATES = 70


class Coins:
    """Whether trial number ``n`` of a build shows the failure, for one true history."""

    def __init__(self, seed: int, p: float, q: float, present: Callable[[int], bool]) -> None:
        self._seed, self._p, self._q, self._present = seed, p, q, present
        self._sides: dict[int, random.Random] = {}
        self.thrown = 0

    def throw(self, build: int) -> bool:
        """One more trial."""
        side = self._sides.setdefault(build, random.Random(f"{self._seed}/{build}"))  # noqa: S311  a seeded coin
        self.thrown += 1
        return side.random() < (self._p if self._present(build) else self._q)


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """``clean``, ``failing``: the answer's two sides; both None where the search ended without one."""

    trials: int
    clean: int | None
    failing: int | None
    counts: Counts
    phase: Phase


def drawn(seed: int, candidates: int = CANDIDATES) -> int:
    """The first failing build of run ``seed``, 1..candidates."""
    return random.Random(f"first/{seed}").randrange(1, candidates + 1)  # noqa: S311  a seeded coin


def first_at(build: int) -> Callable[[int], bool]:
    return lambda v: v >= build


def ours(coins: Coins, question: Question, *, confidence: float = 0.95, most: int = 1500) -> Ended:
    """The search as it is, downloads free."""
    counts = Counts.none(question.size)
    cost = Cost(trial_s=1.0, download_s=0.0, here=(True,) * question.size)
    while True:
        decided = decide(question, counts, cost, confidence=confidence)
        if not decided.builds or coins.thrown >= most:
            break
        counts = counts.with_trial(decided.builds[0], hit=coins.throw(decided.builds[0]))
    found = decided.phase is Phase.ANSWERED
    best = answers(question, posterior(question, counts))[0]
    return Ended(
        trials=coins.thrown,
        clean=best.clean if found else None,
        failing=best.failing if found else None,
        counts=counts,
        phase=decided.phase,
    )


def tuned(p: float, q: float, steps: float = math.log2(CANDIDATES), error: float = 0.05) -> tuple[int, int]:
    """(k, m) of a plain bisection that knows p and q: k trials a step, bad from m hits on, fewest k for the error."""
    for k in range(1, 1000):
        for m in range(1, k + 1):
            missed, false = _below(m, k, p), 1 - _below(m, k, q)
            if 1 - ((1 - missed) * (1 - false)) ** (steps / 2) <= error:
                return k, m
    raise ValueError(f"no k below 1000 tells {p} from {q}")


def _below(m: int, k: int, rate: float) -> float:
    return math.fsum(math.comb(k, hits) * rate**hits * (1 - rate) ** (k - hits) for hits in range(m))


def plain(coins: Coins, size: int, k: int, m: int) -> Ended:
    """An ordinary bisection with k trials a midpoint, each step ended as soon as it is decided."""
    good, bad = 0, size - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        hits = tried = 0
        while hits < m and hits + k - tried >= m:
            hits += coins.throw(middle)
            tried += 1
        good, bad = (good, middle) if hits >= m else (middle, bad)
    return Ended(trials=coins.thrown, clean=good, failing=bad, counts=Counts.none(size), phase=Phase.ANSWERED)


def share_wrong(ended: Sequence[Ended], truth: Sequence[int]) -> float:
    """Of all runs; one that ended without an answer counts as wrong."""
    return sum(one.failing != first for one, first in zip(ended, truth, strict=True)) / len(ended)
