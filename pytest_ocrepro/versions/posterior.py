"""What trials say of an ordered list of builds, of which each shows a failure in some trials or in none. Pure.

Builds are numbered 0..N-1, from the side expected clean to the side expected to fail; a search for a fix is the same
in a list that was turned around. The failure shows with an unknown rate p where it is present, and with an unknown
false-positive rate q where it is not; (p, q) lie on a grid. A history of N builds has one change, or three (appears,
goes, comes back); all histories with equally many changes are equally likely, and "always" and "never" are hypotheses
too. The posterior is exact: forward and backward over (build, changes so far) for each (p, q).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import msgspec

RATES = (0.05, 0.08, 0.12, 0.18, 0.26, 0.36, 0.48, 0.60, 0.72, 0.84, 0.93, 0.99)
FALSE_RATES = ((0.0, 0.5), (0.002, 0.2), (0.01, 0.2), (0.03, 0.1))  # (rate, prior weight)
CHANGES_BACK = 0.05  # prior weight of a history that is not monotone; 0.1 costs a seventh more trials
END_NOT_AS_SAID = 0.02  # of "always there", and of "never there"
KEPT = 1e-5  # pairs (p, q) less likely than this share of the best one are left out
_RESCALE = 1e150


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched. ``open_to_trial[v]`` False: v cannot be tried, but stays a hypothesis.

    ``oracle_is_certain``: the oracle cannot fire on a healthy build, so q is 0.
    """

    open_to_trial: tuple[bool, ...]
    monotone: bool = False
    oracle_is_certain: bool = False

    @property
    def size(self) -> int:
        """Builds, those that cannot be tried included."""
        return len(self.open_to_trial)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """``hits[v]`` reproductions in ``trials[v]`` conclusive trials of build v."""

    hits: tuple[int, ...]
    trials: tuple[int, ...]

    @classmethod
    def none(cls, size: int) -> Counts:
        """Before the first trial of so many builds."""
        return cls(hits=(0,) * size, trials=(0,) * size)

    def with_trial(self, build: int, *, hit: bool) -> Counts:
        """One more trial."""
        hits, trials = list(self.hits), list(self.trials)
        hits[build] += hit
        trials[build] += 1
        return Counts(hits=tuple(hits), trials=tuple(trials))


class Pair(msgspec.Struct, frozen=True):
    """One (p, q) that is still possible, its weight, and P(present) of each build under it."""

    p: float
    q: float
    weight: float
    present: tuple[float, ...]


class Posterior(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities after the trials.

    ``present[v]``: the failure is in build v. ``onset[v]``: it came (for the last time) with build v.
    ``changes[v]``: something changed between v - 1 and v. ``gain[v]``: bits that one trial of v tells of the history.
    ``rate``, ``false_rate``: means of p and q. ``log_evidence``: natural logarithm of P(all these outcomes).
    """

    present: tuple[float, ...]
    onset: tuple[float, ...]
    changes: tuple[float, ...]
    gain: tuple[float, ...]
    always: float
    never: float
    not_monotone: float
    rate: float
    false_rate: float
    log_evidence: float
    pairs: tuple[Pair, ...]


@functools.lru_cache(maxsize=256)
def posterior(question: Question, counts: Counts) -> Posterior:
    """Everything that the trials say. Exact but for pairs below ``KEPT``; the same input gives the same bits."""
    prior = _Prior.of(question)
    grid = [(p, q, weight / len(RATES)) for p in RATES for q, weight in _false_rates(question)]
    tried = [(v, counts.hits[v], n - counts.hits[v]) for v, n in enumerate(counts.trials) if n]
    logs = [math.log(weight) + _log_likelihood(prior, tried, p, q) for p, q, weight in grid]
    best = max(logs)
    kept = [(p, q, math.exp(log - best)) for (p, q, _), log in zip(grid, logs, strict=True) if log - best > _LOG_KEPT]
    total = math.fsum(weight for _, _, weight in kept)
    passes = [(p, q, weight / total, _both_ways(prior, tried, p, q)) for p, q, weight in kept]
    return _mixed(passes, question.size, best + math.log(total))


def entropy(share: float) -> float:
    """Bits of a coin."""
    if share <= 0 or share >= 1:
        return 0.0
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share))


# --- below: how

_LOG_KEPT = math.log(KEPT)
_Tried = list[tuple[int, int, int]]  # (build, hits, misses) of those that were tried, in order
_entropy_of_rate = functools.cache(entropy)


class _Prior(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one history with one change, of one with three, of "always", of "never"; together 1."""

    size: int
    one: float
    three: float
    always: float
    never: float

    @classmethod
    def of(cls, question: Question) -> _Prior:
        places = question.size - 1
        back = 0.0 if question.monotone or places < 3 else CHANGES_BACK  # noqa: PLR2004  three changes
        once = 1 - 2 * END_NOT_AS_SAID
        return cls(
            size=question.size,
            one=once * (1 - back) / max(1, places),
            three=once * back / math.comb(places, 3) if back else 0.0,
            always=END_NOT_AS_SAID,
            never=END_NOT_AS_SAID,
        )


class _Pass(msgspec.Struct, frozen=True, kw_only=True):
    """What one (p, q) says of each build; all shares of 1."""

    present: list[float]
    onset: list[float]
    changes: list[float]
    always: float
    never: float
    three: float


def _false_rates(question: Question) -> tuple[tuple[float, float], ...]:
    return ((0.0, 1.0),) if question.oracle_is_certain else FALSE_RATES


@functools.cache
def _log(rate: float) -> float:
    return math.log(rate) if rate > 0 else -math.inf


def _emissions(tried: _Tried, p: float, q: float) -> Iterator[tuple[int, float, float, float]]:
    """(build, absent, present, log scale); the larger of the two is 1."""
    hit_there, missed_there, hit_gone, missed_gone = _log(p), _log(1 - p), _log(q), _log(1 - q)
    for build, hits, missed in tried:
        there = hits * hit_there + missed * missed_there
        gone = (hits * hit_gone if hits else 0.0) + missed * missed_gone
        scale = max(there, gone)
        yield build, math.exp(gone - scale), math.exp(there - scale), scale


def _log_likelihood(prior: _Prior, tried: _Tried, p: float, q: float) -> float:
    """Of all trials under one (p, q), stepping over builds that were not tried."""
    f0, f1, f2, f3 = 1.0, 0.0, 0.0, 0.0  # histories so far with 0..3 changes
    always, never, log, at = 1.0, 1.0, 0.0, 0
    for build, absent, present, scale in _emissions(tried, p, q):
        d = build - at  # places for a change since the last build that was tried
        d2, d3 = d * (d - 1) / 2, d * (d - 1) * (d - 2) / 6
        f3 = present * (f3 + d * f2 + d2 * f1 + d3 * f0)
        f2 = absent * (f2 + d * f1 + d2 * f0)
        f1 = present * (f1 + d * f0)
        f0 *= absent
        always *= present
        never *= absent
        log += scale
        at = build
        if max(f0, f1, f2, f3, always) < 1 / _RESCALE:
            f0, f1, f2, f3 = f0 * _RESCALE, f1 * _RESCALE, f2 * _RESCALE, f3 * _RESCALE
            always, never, log = always * _RESCALE, never * _RESCALE, log - math.log(_RESCALE)
    d = prior.size - 1 - at
    d2, d3 = d * (d - 1) / 2, d * (d - 1) * (d - 2) / 6
    whole = prior.one * (f1 + d * f0) + prior.three * (f3 + d * f2 + d2 * f1 + d3 * f0)
    whole += prior.always * always + prior.never * never
    return math.log(whole) + log if whole > 0 else -math.inf


def _both_ways(prior: _Prior, tried: _Tried, p: float, q: float) -> _Pass:
    """Forward, backward, and what follows for each build."""
    size = prior.size
    absent, present = [1.0] * size, [1.0] * size
    for build, gone, there, _ in _emissions(tried, p, q):
        absent[build], present[build] = gone, there
    forward = _forward(absent, present)
    backward, tails = _backward(prior, absent, present)
    always, never = prior.always * tails[0], prior.never * forward[-1][0]
    one, three = prior.one, prior.three
    _, once, _, thrice = forward[-1]
    whole = one * once + three * thrice + always + never
    if whole <= 0:  # underflow without rescaling: such a pair has no weight beside the better ones
        return _Pass(present=[0.5] * size, onset=[0.0] * size, changes=[0.0] * size, always=0, never=0, three=0)
    inside = [min(1.0, (f[1] * b[1] + f[3] * b[3] + always) / whole) for f, b in zip(forward, backward, strict=True)]
    onset, changes = [0.0], [0.0]
    for v in range(1, size):
        f, b = forward[v - 1], backward[v]
        onset.append(tails[v] * (f[0] * one + f[2] * three) / whole)
        moved = present[v] * (f[0] * b[1] + f[2] * b[3]) + absent[v] * f[1] * b[2]
        changes.append(moved / whole)
    return _Pass(
        present=inside,
        onset=onset,
        changes=changes,
        always=always / whole,
        never=never / whole,
        three=three * thrice / whole,
    )


def _forward(absent: list[float], present: list[float]) -> list[tuple[float, float, float, float]]:
    """[v][k]: all histories up to v with k changes, v included."""
    f0, f1, f2, f3 = absent[0], 0.0, 0.0, 0.0
    rows = [(f0, f1, f2, f3)]
    for gone, there in zip(absent[1:], present[1:], strict=True):
        f3 = there * (f3 + f2)
        f2 = gone * (f2 + f1)
        f1 = there * (f1 + f0)
        f0 *= gone
        rows.append((f0, f1, f2, f3))
    return rows


def _backward(
    prior: _Prior, absent: list[float], present: list[float]
) -> tuple[list[tuple[float, float, float, float]], list[float]]:
    """([v][k]: all continuations after v, with their prior), and the product of ``present`` from v on."""
    b0, b1, b2, b3, tail = 0.0, prior.one, 0.0, prior.three, present[-1]
    rows, tails = [(b0, b1, b2, b3)], [tail]
    for gone, there in zip(absent[:0:-1], present[:0:-1], strict=True):
        b0 = gone * b0 + there * b1
        b1 = there * b1 + gone * b2
        b2 = gone * b2 + there * b3
        b3 *= there
        rows.append((b0, b1, b2, b3))
    for there in present[-2::-1]:
        tail *= there
        tails.append(tail)
    return rows[::-1], tails[::-1]


def _mixed(passes: list[tuple[float, float, float, _Pass]], size: int, log_evidence: float) -> Posterior:
    def mean(name: str) -> tuple[float, ...]:
        weighted = [(weight, getattr(one, name)) for _, _, weight, one in passes]
        return tuple(sum(weight * row[v] for weight, row in weighted) for v in range(size))

    pairs = tuple(Pair(p, q, weight, tuple(one.present)) for p, q, weight, one in passes)
    return Posterior(
        present=mean("present"),
        onset=mean("onset"),
        changes=mean("changes"),
        gain=_gains(pairs, size),
        always=math.fsum(weight * one.always for _, _, weight, one in passes),
        never=math.fsum(weight * one.never for _, _, weight, one in passes),
        not_monotone=math.fsum(weight * one.three for _, _, weight, one in passes),
        rate=math.fsum(p * weight for p, _, weight, _ in passes),
        false_rate=math.fsum(q * weight for _, q, weight, _ in passes),
        log_evidence=log_evidence,
        pairs=pairs,
    )


def _gains(pairs: Sequence[Pair], size: int) -> tuple[float, ...]:
    """Bits of one trial; given (p, q), so that nothing is paid for learning the rates for their own sake."""
    sums = [0.0] * size
    for pair in pairs:
        p, q, weight = pair.p, pair.q, pair.weight
        if_there, if_gone = _entropy_of_rate(p), _entropy_of_rate(q)
        for v, c in enumerate(pair.present):
            if 1e-9 < c < 1 - 1e-9:  # noqa: PLR2004  nothing to learn there
                sums[v] += weight * (entropy(c * p + (1 - c) * q) - c * if_there - (1 - c) * if_gone)
    return tuple(sums)
