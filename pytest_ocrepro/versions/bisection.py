"""Which build brought (or removed) a failure that shows only in some trials: a pure search over ordered builds.

Builds are numbered 0..N-1, from the side expected clean to the side expected to fail; a search for a fix is the same
search in a list that was turned around. The failure shows with an unknown rate p where it is present and with an
unknown false-positive rate q where it is not; (p, q) lie on a grid. A history of N builds has one change, or three
(appears, goes, comes back); all histories with equally many changes are equally likely, and "always" and "never" are
hypotheses too. The posterior is exact: forward and backward over (build, changes so far) for each (p, q).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec

RATES = (0.05, 0.08, 0.12, 0.18, 0.26, 0.36, 0.48, 0.60, 0.72, 0.84, 0.93, 0.99)
FALSE_RATES = ((0.0, 0.5), (0.002, 0.2), (0.01, 0.2), (0.03, 0.1))  # (rate, prior weight)
CHANGES_BACK = 0.1  # prior weight of a history that is not monotone
ENDS_WRONG = 0.05  # of "always there", and of "never there"
KEPT = 1e-4  # pairs (p, q) less likely than this share of the best one are left out
BLOCKS = (1, 2, 4, 8)  # trials in a row that one download may be spread over
BATCH_LOOKAHEAD = 3  # unseen outcomes that are averaged over; the rest of a batch is picked as if they were known
CANDIDATES = 6  # of which larger blocks are worked out
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

    def with_trial(self, build: int, *, hit: bool) -> Counts:
        """One more trial."""
        hits, trials = list(self.hits), list(self.trials)
        hits[build] += hit
        trials[build] += 1
        return Counts(hits=tuple(hits), trials=tuple(trials))


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a trial, and of a download; ``here[v]``: build v needs none."""

    trial_s: float
    download_s: float
    here: tuple[bool, ...]


class Posterior(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities after the trials.

    ``present[v]``: the failure is in build v. ``onset[v]``: it came (for the last time) with build v.
    ``changes[v]``: something changed between v - 1 and v. ``gain[v]``: bits that one trial of v tells of the history.
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
    pairs: tuple[Pair, ...]


class Pair(msgspec.Struct, frozen=True):
    """One (p, q) that is still possible, its weight, and P(present) of each build under it."""

    p: float
    q: float
    weight: float
    present: tuple[float, ...]


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: the failure is absent from ``clean`` and present from ``failing`` on.

    Builds between the two cannot be tried, so no trial can tell at which of them it came.
    """

    clean: int
    failing: int
    probability: float


@functools.lru_cache(maxsize=256)
def posterior(question: Question, counts: Counts) -> Posterior:
    """Everything that the trials say. Pure and exact but for pairs below ``KEPT``; same input, same bits."""
    prior = _Prior.of(question)
    grid = [(p, q, weight) for p in RATES for q, weight in _false_rates(question) if p > q]
    logs = [math.log(weight) + _evidence(prior, counts, p, q) for p, q, weight in grid]
    best = max(logs)
    kept = [(p, q, math.exp(log - best)) for (p, q, _), log in zip(grid, logs, strict=True) if log - best > _LOG_KEPT]
    total = math.fsum(weight for _, _, weight in kept)
    passes = [(p, q, weight / total, _both_ways(prior, counts, p, q)) for p, q, weight in kept]
    return _mixed(passes, question.size)


def boundaries(question: Question, found: Posterior) -> tuple[Boundary, ...]:
    """All answers that trials can tell apart, likeliest first."""
    can = [build for build, is_open in enumerate(question.open_to_trial) if is_open]
    answers = (
        Boundary(clean=a, failing=b, probability=math.fsum(found.onset[a + 1 : b + 1]))
        for a, b in itertools.pairwise(can)
    )
    return tuple(sorted(answers, key=lambda one: (-one.probability, one.failing)))


def credible(answers: Sequence[Boundary], confidence: float) -> tuple[Boundary, ...]:
    """The fewest answers that together are at least so likely (all, where they are not)."""
    sums = list(itertools.accumulate(one.probability for one in answers))
    enough = next((number for number, total in enumerate(sums, 1) if total >= confidence), len(sums))
    return tuple(answers[:enough])


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


def confirmation(rate: float, *, confidence: float = 0.99, most: int = 44) -> int:
    """Fresh trials a side, so that a failure with this rate shows: ceil(ln(1 - confidence) / ln(1 - rate))."""
    bounded = min(max(rate, 0.05), 0.99)
    return min(most, max(2, math.ceil(math.log(1 - confidence) / math.log(1 - bounded) - 1e-9)))


# --- below: the model

_LOG_KEPT = math.log(KEPT)


class _Prior(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one history with one change, of one with three, of "always", of "never"."""

    size: int
    one: float
    three: float
    always: float
    never: float

    @classmethod
    def of(cls, question: Question) -> _Prior:
        places = question.size - 1
        back = 0.0 if question.monotone or places < 3 else CHANGES_BACK  # noqa: PLR2004  three changes
        return cls(
            size=question.size,
            one=(1 - back) / max(1, places),
            three=back / math.comb(places, 3) if back else 0.0,
            always=ENDS_WRONG,
            never=ENDS_WRONG,
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


def _emissions(counts: Counts, p: float, q: float) -> Iterator[tuple[int, float, float, float]]:
    """(build, absent, present, log scale) of every build that was tried; the larger of the two is 1."""
    for build, tried in enumerate(counts.trials):
        if not tried:
            continue
        hits = counts.hits[build]
        missed = tried - hits
        there = hits * _log(p) + missed * _log(1 - p)
        gone = (hits * _log(q) if hits else 0.0) + missed * _log(1 - q)
        scale = max(there, gone)
        yield build, math.exp(gone - scale), math.exp(there - scale), scale


def _evidence(prior: _Prior, counts: Counts, p: float, q: float) -> float:
    """Log likelihood of all trials, stepping over builds that were not tried."""
    f0, f1, f2, f3 = 1.0, 0.0, 0.0, 0.0
    always, never, log, at = 1.0, 1.0, 0.0, 0
    for build, absent, present, scale in _emissions(counts, p, q):
        d = build - at
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


def _both_ways(prior: _Prior, counts: Counts, p: float, q: float) -> _Pass:
    """Forward, backward, and what follows for each build. Scales cancel: each build is normalised by itself."""
    size = prior.size
    absent, present = [1.0] * size, [1.0] * size
    for build, gone, there, _ in _emissions(counts, p, q):
        absent[build], present[build] = gone, there
    forward = _forward(absent, present)
    backward, tails = _backward(prior, absent, present)
    always, never = prior.always * tails[0], prior.never * forward[-1][0]
    one, three = prior.one, prior.three
    _, once, _, thrice = forward[-1]
    whole = one * once + three * thrice + always + never
    if whole <= 0:  # underflow: this pair says nothing that could be told from the better ones
        return _Pass(present=[0.5] * size, onset=[0.0] * size, changes=[0.0] * size, always=0, never=0, three=0)
    inside = [(f[1] * b[1] + f[3] * b[3] + always) / whole for f, b in zip(forward, backward, strict=True)]
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


def _mixed(passes: list[tuple[float, float, float, _Pass]], size: int) -> Posterior:
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
        pairs=pairs,
    )


# --- below: what a trial would tell


def _entropy(share: float) -> float:
    """Bits of a coin."""
    if share <= 0 or share >= 1:
        return 0.0
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share))


_entropy_of_rate = functools.cache(_entropy)


def _gains(pairs: Sequence[Pair], size: int) -> tuple[float, ...]:
    """Bits of one trial; given (p, q), so that nothing is paid for learning the rates for their own sake."""
    sums = [0.0] * size
    for pair in pairs:
        p, q, weight = pair.p, pair.q, pair.weight
        if_there, if_gone = _entropy_of_rate(p), _entropy_of_rate(q)
        for v, c in enumerate(pair.present):
            if 1e-9 < c < 1 - 1e-9:  # noqa: PLR2004  nothing to learn there
                sums[v] += weight * (_entropy(c * p + (1 - c) * q) - c * if_there - (1 - c) * if_gone)
    return tuple(sums)


def _block_gain(pairs: Sequence[Pair], build: int, trials: int) -> float:
    """Bits of so many trials of one build: state against number of hits."""
    bits = 0.0
    for pair in pairs:
        c = pair.present[build]
        for hits in range(trials + 1):
            there, gone = _binomial(hits, trials, pair.p), _binomial(hits, trials, pair.q)
            mixed = c * there + (1 - c) * gone
            for share, chance in ((c, there), (1 - c, gone)):
                if share * chance > 0:
                    bits += pair.weight * share * chance * math.log2(chance / mixed)
    return bits


@functools.cache
def _binomial(hits: int, trials: int, rate: float) -> float:
    return math.comb(trials, hits) * rate**hits * (1 - rate) ** (trials - hits)


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
    c = ((pair.weight, pair.present[build], pair.p, pair.q) for pair in found.pairs)
    chance = math.fsum(w * (there * p + (1 - there) * q) for w, there, p, q in c)
    for hit, share in ((True, chance), (False, 1 - chance)):
        if share > 1e-6:  # noqa: PLR2004  not worth a posterior
            after = counts.with_trial(build, hit=hit)
            yield weight * share, after, posterior(question, after)


def _best(question: Question, worlds: list[tuple[float, Posterior]], cost: Cost, picked: Sequence[int]) -> int | None:
    """The build with the most bits a second; the earliest of equals."""
    gains = [sum(weight * found.gain[v] for weight, found in worlds) for v in range(question.size)]
    can = [v for v in range(question.size) if question.open_to_trial[v] and gains[v] > 0]
    if not can:
        return None
    free = [v for v in can if cost.here[v] or v in picked]
    paid = [v for v in can if v not in free]
    top = [sorted(some, key=lambda v: (-gains[v], v))[:CANDIDATES] for some in (free, paid)]
    if not top[1]:
        return top[0][0]
    if not top[0] and cost.download_s <= 0:
        return top[1][0]
    candidates = [(v, 0.0) for v in top[0][:1]] + [(v, cost.download_s) for v in top[1]]
    return max(candidates, key=lambda one: (_bits_a_second(worlds, one[0], one[1], cost.trial_s), -one[0]))[0]


def _bits_a_second(worlds: list[tuple[float, Posterior]], build: int, download_s: float, trial_s: float) -> float:
    def bits(trials: int) -> float:
        return sum(weight * _block_gain(found.pairs, build, trials) for weight, found in worlds)

    blocks = BLOCKS if download_s else BLOCKS[:1]
    return max(bits(trials) / (trials * max(trial_s, 1e-3) + download_s) for trials in blocks)
