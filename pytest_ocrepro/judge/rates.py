"""How often: k of n with intervals, what "not seen" excludes, the comparison of two arms, looks fixed in advance.

Pure functions of counts. ``k`` reproductions in ``n`` independent trials; rates and confidences are fractions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

_HALVINGS = 60  # of [0, 1]: the error of a quantile is below 1e-18
_FRACTION_STEPS = 10_000
_TINY = 1e-300
_SAME = 1e-7  # relative; tables that are exactly as probable must count although rounding parts them
_IN_USE = 0.95


class Interval(msgspec.Struct, frozen=True):
    """Both ends of a rate or of a difference of rates, as fractions."""

    low: float
    high: float

    def __contains__(self, rate: float) -> bool:
        return self.low <= rate <= self.high


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """``k`` reproductions in ``n`` trials. Raises ValueError where that cannot be."""

    k: int
    n: int

    def __post_init__(self) -> None:
        _check(self.k, self.n)

    @property
    def share(self) -> float | None:
        """The fraction, or None without a trial."""
        return self.k / self.n if self.n else None

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"

    def in_words(self, confidence: float = _IN_USE) -> str:
        """``5/8 (62 %; 95 % interval 31-86 %)``; for 0 of n what that excludes; ``not tried`` for 0 of 0."""
        if not self.n:
            return "not tried"
        if not self.k:
            return (
                f"{self} (a rate above {percent(excludes(self.n, confidence))} is excluded at {percent(confidence)})"
            )
        found = wilson(self.k, self.n, confidence)
        ends = f"{percent(found.low).removesuffix(' %')}-{percent(found.high)}"
        return f"{self} ({percent(self.k / self.n)}; {percent(confidence)} interval {ends})"


def percent(rate: float) -> str:
    """``62 %``; below 10 % and above 99 % with a decimal where it says something."""
    digits = 1 if (0 < rate < 0.1 or 0.99 < rate < 1) and round(rate * 1000) % 10 else 0  # noqa: PLR2004
    return f"{rate * 100:.{digits}f} %"


def wilson(k: int, n: int, confidence: float = _IN_USE) -> Interval:
    """Wilson's score interval without continuity correction (Newcombe 1998, Stat. Med. 17:857, method 3).

    Its coverage is right on average; ``n`` 0 gives (0, 1).
    """
    _check(k, n, confidence)
    if not n:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return Interval(0.0 if k == 0 else max(0.0, middle - half), 1.0 if k == n else min(1.0, middle + half))


@functools.lru_cache(maxsize=1024)
def clopper_pearson(k: int, n: int, confidence: float = _IN_USE) -> Interval:
    """The exact interval: its coverage is never below ``confidence`` (Clopper and Pearson 1934)."""
    _check(k, n, confidence)
    tail = (1 - confidence) / 2
    low = beta_quantile(tail, k, n - k + 1) if k else 0.0
    high = beta_quantile(1 - tail, k + 1, n - k) if k < n else 1.0
    return Interval(low, high)


def excludes(n: int, confidence: float = _IN_USE) -> float:
    """The highest rate that may still be there when ``n`` trials did not show it: 1 - (1 - confidence)^(1/n)."""
    _check(0, n, confidence)
    return 1.0 if n == 0 else -math.expm1(math.log1p(-confidence) / n)


def needed(rate: float, confidence: float = _IN_USE) -> int:
    """Trials after which something with this rate would have been seen: ceil(ln(1 - confidence) / ln(1 - rate))."""
    if not 0 < rate <= 1:
        raise ValueError(f"a rate of {rate} cannot be excluded by trials; it must be above 0 and at most 1")
    return 1 if rate == 1 else max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate) - 1e-9))


def fisher(k1: int, n1: int, k2: int, n2: int) -> float:
    """Two-sided p of Fisher's exact test: the tables with these margins that are no likelier than this one."""
    _check(k1, n1)
    _check(k2, n2)
    hits = k1 + k2
    lowest, highest = max(0, hits - n2), min(hits, n1)
    logs = [_log_choose(n1, k) + _log_choose(n2, hits - k) for k in range(lowest, highest + 1)]
    scale = max(logs)
    weights = [math.exp(log - scale) for log in logs]
    limit = weights[k1 - lowest] * (1 + _SAME)
    return min(1.0, math.fsum(weight for weight in weights if weight <= limit) / math.fsum(weights))


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Each p corrected for there being several, in the same order (Holm 1979, Scand. J. Stat. 6:65).

    The smallest is multiplied by how many there are, the next by one less, and so on, never falling; whichever are
    below a limit then, the chance that any of them is so by chance alone is at most that limit.
    """
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, ps[number] * (len(ps) - rank)))
        adjusted[number] = highest
    return tuple(adjusted)


def newcombe(k1: int, n1: int, k2: int, n2: int, confidence: float = _IN_USE) -> Interval:
    """Interval of k1/n1 - k2/n2, from both Wilson intervals (Newcombe 1998, Stat. Med. 17:873, method 10)."""
    if not n1 or not n2:
        return Interval(-1.0, 1.0)
    p1, p2 = k1 / n1, k2 / n2
    one, two = wilson(k1, n1, confidence), wilson(k2, n2, confidence)
    below = math.hypot(p1 - one.low, two.high - p2)
    above = math.hypot(one.high - p1, p2 - two.low)
    return Interval(p1 - p2 - below, p1 - p2 + above)


class Looks:
    """When we may look and stop, fixed before the first trial: ``Looks(10, 30, 60, 100)`` in trials an arm.

    Each look spends the same part of the error (Bonferroni), so looking several times does not make us less sure.
    Raises ValueError when the sizes do not grow.
    """

    def __init__(self, *sizes: int, confidence: float = _IN_USE) -> None:
        if not sizes or sizes[0] < 1 or any(b <= a for a, b in itertools.pairwise(sizes)):
            raise ValueError(f"looks {sizes} must be growing numbers of trials from 1")
        _check(0, 0, confidence)
        self.sizes = sizes
        self.confidence = confidence

    @property
    def confidence_each(self) -> float:
        """The confidence of the interval at one look."""
        return 1 - (1 - self.confidence) / len(self.sizes)

    @property
    def rule(self) -> str:
        """The rule in words, to be printed before the first trial."""
        at = ", ".join(map(str, self.sizes))
        return (
            f"look after {at} trials and at no other time; stop at the first look that decides, with intervals of "
            f"{percent(self.confidence_each)} at each so that all {len(self.sizes)} together err in at most "
            f"{percent(1 - self.confidence)}"
        )

    def next_after(self, n: int) -> int | None:
        """Trials to have at the next look; None after the last."""
        return next((size for size in self.sizes if size > n), None)

    def interval(self, k: int, n: int) -> Interval:
        """Clopper-Pearson at the confidence of one look."""
        return clopper_pearson(k, n, self.confidence_each)

    def decides(self, k: int, n: int, *, against: float) -> bool:
        """At this look: is a rate of ``against`` excluded? Never between looks."""
        return n in self.sizes and against not in self.interval(k, n)

    def tells_apart(self, k1: int, n1: int, k2: int, n2: int) -> bool:
        """At this look of both arms: do they differ by Fisher's test? Never between looks."""
        return n1 in self.sizes and n2 in self.sizes and fisher(k1, n1, k2, n2) < 1 - self.confidence_each


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x at which the regularised incomplete beta function of (a, b) is ``share``, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_share(middle, a, b) < share else (low, middle)
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the mirror image converges fast
        return 1 - beta_share(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    return math.exp(front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction by Lentz's method."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _FRACTION_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:  # noqa: PLR2004  the last digit of a double
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check(k: int, n: int, confidence: float = _IN_USE) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} trials cannot be: k must be from 0 to n")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} cannot be: it must be between 0 and 1, 0.95 for 95 %")
