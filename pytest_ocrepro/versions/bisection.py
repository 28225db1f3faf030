"""Which build to try next, and what may be answered: the search over ordered builds with noisy trials. Pure.

The gain of a trial is what it tells of the history given (p, q); a build that must be downloaded first pays for that
out of the next few trials of it. An answer is a class of builds that no trial can tell apart: builds that cannot be
tried stay in it. Where the evidence does not reach a class, the answer is a set of them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from pytest_ocrepro.judge.rates import fisher, needed
from pytest_ocrepro.versions.posterior import FALSE_RATES, Counts, Pair, Posterior, Question, posterior

BLOCKS = (1, 2, 4, 8)  # trials in a row that one download may be spread over
BATCH_LOOKAHEAD = 3  # unseen outcomes that are averaged over; beyond it the oldest of a batch count as not asked
CANDIDATES = 6  # of which larger blocks are worked out
HITS_WANTED, HITS_WANTED_WHEN_RARE = 2, 3  # at the failing end, before anything else is tried
RARE = 0.2
MOST_CALIBRATION = 60  # without a hit a rate above 5 % is excluded at 95 %
STRICTER = 0.8  # of the error under one change: right on average over all rates must be right at each of them
STRICTER_WHEN_RARE = 0.5  # at p 0.1, q 0.01: wrong in 5.7 % of 2,000 runs with 0.8, in 3.5 % of 1,600 with this
FRESH_CONFIDENCE = 0.99  # that a confirmation batch shows the failure where it is
FEWEST_FRESH, MOST_FRESH = 8, 60
SURELY = 0.9
UNEVEN = 0.05  # p of Fisher's test, after Bonferroni, from which rates are said to differ between builds


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a trial, and of a download; ``here[v]``: build v needs none.

    ``chance[v]``: that build v can be tried once it is here; empty: always.
    """

    trial_s: float
    download_s: float
    here: tuple[bool, ...]
    chance: tuple[float, ...] = ()


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: absent from build ``clean``, present from build ``failing`` on, the next one that can be tried.

    ``clean`` None: present in the first one already; ``failing`` None: absent from the last one still.
    """

    clean: int | None
    failing: int | None
    probability: float


class Phase(StrEnum):
    """What is to be done, or why nothing is."""

    CALIBRATE = "calibrate"
    SEARCH = "search"
    CONFIRM = "confirm"
    CONTROL = "control"
    ANSWERED = "answered"
    NOT_SEEN = "not seen at the failing end"
    NOTHING_LEFT = "no version is left that could be tried"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """``builds`` to try at the same time; empty in the last three phases."""

    phase: Phase
    builds: tuple[int, ...] = ()


def answers(question: Question, found: Posterior) -> tuple[Boundary, ...]:
    """All answers that trials can tell apart, likeliest first; together 1 but for rounding."""
    can = [build for build, is_open in enumerate(question.open_to_trial) if is_open]
    if not can:
        return ()
    first, last = can[0], can[-1]
    before = found.always + math.fsum(found.onset[1 : first + 1])
    after = found.never + math.fsum(found.onset[last + 1 :])
    between = (
        Boundary(clean=a, failing=b, probability=math.fsum(found.onset[a + 1 : b + 1]))
        for a, b in itertools.pairwise(can)
    )
    told = [
        Boundary(clean=None, failing=first, probability=before),
        *between,
        Boundary(clean=last, failing=None, probability=after),
    ]
    return tuple(sorted(told, key=lambda one: -one.probability))


def credible(told: Sequence[Boundary], confidence: float) -> tuple[Boundary, ...]:
    """The fewest answers that together are at least so likely (all, where they are not)."""
    sums = list(itertools.accumulate(one.probability for one in told))
    enough = next((number for number, total in enumerate(sums, 1) if total >= confidence), len(sums))
    return tuple(told[:enough])


def choose(question: Question, counts: Counts, cost: Cost, *, how_many: int = 1) -> tuple[int, ...]:
    """Builds to try next, ``how_many`` at the same time (a build may be there twice); empty: nothing can be tried.

    The first is the one with the most bits a second, a download spread over a block of trials; each further one
    the same, averaged over the unseen outcomes of those before it.
    """
    picked: list[int] = []
    for _ in range(how_many):
        worlds = _worlds(question, counts, picked[-BATCH_LOOKAHEAD:])
        best = _best(question, worlds, cost, picked)
        if best is None:
            break
        picked.append(best)
    return tuple(picked)


def decide(question: Question, counts: Counts, cost: Cost, *, confidence: float, how_many: int = 1) -> Decision:
    """Make sure of the failing end, then search until one answer is likely enough."""
    can = [build for build, is_open in enumerate(question.open_to_trial) if is_open]
    if not can:
        return Decision(phase=Phase.NOTHING_LEFT)
    end = can[-1]
    hits, trials = counts.hits[end], counts.trials[end]
    if not hits and trials >= MOST_CALIBRATION:
        return Decision(phase=Phase.NOT_SEEN)
    rare = trials >= 2 * HITS_WANTED_WHEN_RARE and hits < RARE * trials
    if hits < (HITS_WANTED_WHEN_RARE if rare else HITS_WANTED) and trials < MOST_CALIBRATION:
        return Decision(phase=Phase.CALIBRATE, builds=(end,) * how_many)
    if _is_sure(question, counts, confidence):
        return Decision(phase=Phase.ANSWERED)
    builds = choose(question, counts, cost, how_many=how_many)
    return Decision(phase=Phase.SEARCH if builds else Phase.NOTHING_LEFT, builds=builds)


def fresh_trials(hits: int, trials: int) -> int:
    """Confirmation trials a side, by the rate where the failure is: it would show in 99 % of such batches.

    At least 8, so that a clean side excludes a rate above 31 %; at most 60.
    """
    rate = min(0.99, max(0.05, hits / trials)) if trials else 0.99
    return min(MOST_FRESH, max(FEWEST_FRESH, needed(rate, FRESH_CONFIDENCE)))


def uneven(counts: Counts, found: Posterior) -> tuple[int, float] | None:
    """The build whose rate fits least to the others of its side, and p; None: all fit.

    One common rate is assumed where the failure is, and at most the highest false rate where it is not; where that
    is wrong the posterior is too sure.
    """
    tried = [v for v, trials in enumerate(counts.trials) if trials]
    there = [v for v in tried if found.present[v] > SURELY]
    hits, trials = sum(counts.hits[v] for v in there), sum(counts.trials[v] for v in there)
    odd = [
        (fisher(counts.hits[v], counts.trials[v], hits - counts.hits[v], trials - counts.trials[v]), v) for v in there
    ]
    gone = [v for v in tried if found.present[v] < 1 - SURELY]
    odd += [(_at_least(counts.hits[v], counts.trials[v], FALSE_RATES[-1][0]), v) for v in gone]
    p, worst = min(odd, default=(1.0, 0))
    return (worst, p * len(odd)) if p * len(odd) < UNEVEN else None


# --- below: how


def _is_sure(question: Question, counts: Counts, confidence: float) -> bool:
    """One answer is likely enough, and likelier still as far as the error is that of a history with one change.

    Most of what is left after a search is the doubt whether the failure was there before, which is never wrong of a
    history with one change: to ask for more there would only cost trials.
    """
    found = posterior(question, counts)
    best = answers(question, found)[0]
    if best.probability < confidence:
        return False
    simple = msgspec.structs.replace(question, monotone=True)
    same = next(one for one in answers(simple, posterior(simple, counts)) if one.failing == best.failing)
    stricter = STRICTER_WHEN_RARE if found.rate < RARE else STRICTER
    return (1 - found.not_monotone) * (1 - same.probability) <= stricter * (1 - confidence)


def _worlds(question: Question, counts: Counts, picked: Sequence[int]) -> list[tuple[float, Posterior]]:
    """(probability, posterior) of each outcome of the trials that were picked and not yet seen."""
    worlds = [(1.0, counts, posterior(question, counts))]
    for build in picked:
        worlds = [world for one in worlds for world in _split(question, one, build)]
    return [(weight, found) for weight, _, found in worlds]


def _split(
    question: Question, world: tuple[float, Counts, Posterior], build: int
) -> Iterator[tuple[float, Counts, Posterior]]:
    weight, counts, found = world
    hit = math.fsum(one.weight * _mixed_rate(one, build) for one in found.pairs)
    for outcome, share in ((True, hit), (False, 1 - hit)):
        if share > 1e-6:  # noqa: PLR2004  not worth a posterior
            after = counts.with_trial(build, hit=outcome)
            yield weight * share, after, posterior(question, after)


def _mixed_rate(one: Pair, build: int) -> float:
    return one.present[build] * one.p + (1 - one.present[build]) * one.q


def _best(question: Question, worlds: list[tuple[float, Posterior]], cost: Cost, picked: Sequence[int]) -> int | None:
    """The build with the most bits a second; the earliest of equals."""
    chance = cost.chance or (1.0,) * question.size
    gains = [chance[v] * sum(weight * found.gain[v] for weight, found in worlds) for v in range(question.size)]
    can = [v for v in range(question.size) if question.open_to_trial[v] and gains[v] > 0]
    by_gain = sorted(can, key=lambda v: (-gains[v], v))
    free = [v for v in by_gain if cost.here[v] or cost.download_s <= 0 or v in picked]
    paid = [v for v in by_gain if v not in free]
    told = [(gains[v] / max(cost.trial_s, 1e-3), -v) for v in free[:1]]
    told += [
        (chance[v] * _bits_a_second(worlds, v, cost.download_s, cost.trial_s), -v)
        for v in (paid[:CANDIDATES] if free else paid[: 2 * CANDIDATES])
    ]
    return -max(told)[1] if told else None


def _bits_a_second(worlds: list[tuple[float, Posterior]], build: int, download_s: float, trial_s: float) -> float:
    def bits(trials: int) -> float:
        return sum(weight * _block_gain(found.pairs, build, trials) for weight, found in worlds)

    return max(bits(trials) / (trials * max(trial_s, 1e-3) + download_s) for trials in BLOCKS)


def _block_gain(pairs: Sequence[Pair], build: int, trials: int) -> float:
    """Bits of so many trials of one build: state against number of hits."""
    bits = 0.0
    for one in pairs:
        c = one.present[build]
        for hits in range(trials + 1):
            there, gone = _binomial(hits, trials, one.p), _binomial(hits, trials, one.q)
            mixed = c * there + (1 - c) * gone
            for share, chance in ((c, there), (1 - c, gone)):
                if share * chance > 0:
                    bits += one.weight * share * chance * math.log2(chance / mixed)
    return bits


def _at_least(hits: int, trials: int, rate: float) -> float:
    """P(so many hits or more)."""
    return math.fsum(_binomial(more, trials, rate) for more in range(hits, trials + 1))


@functools.cache
def _binomial(hits: int, trials: int, rate: float) -> float:
    return math.comb(trials, hits) * rate**hits * (1 - rate) ** (trials - hits)
