"""A danger window: how often something fails against how long after one thing another one began.

Pure functions of the trials so far. Each trial has one offset of a fixed grid over the range; the next one is where
the rate is known least, so that trials gather at the edges of the window and spread out where nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from pytest_ocrepro.judge.rates import wilson

POINTS = 17  # of the grid: 200 ms apart over 3.2 s
REACH = 3.0  # grid steps over which a trial tells of its neighbours, less the further away
PRIOR = 0.5  # Jeffreys' for a rate
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it spread evenly over a range at every number of them


class Offset(msgspec.Struct, frozen=True, kw_only=True):
    """Of one trial: how long after ``after`` it went on, as asked and as it came out.

    ``took_ms`` is measured to the start of the next process, None where none followed. ``low_ms`` to ``high_ms`` is
    the range of the sweep.
    """

    asked_ms: float
    took_ms: float | None
    low_ms: float
    high_ms: float
    after: str = ""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One conclusive trial of a sweep."""

    offset_ms: float
    failed: bool


class WindowRow(msgspec.Struct, frozen=True, kw_only=True):
    """``failed`` of ``n`` trials at this offset; ``low`` and ``high`` are Wilson's 95 % interval, as fractions."""

    offset_ms: float
    failed: int
    n: int
    low: float
    high: float


def grid(low_ms: float, high_ms: float) -> tuple[float, ...]:
    """The offsets that a sweep of this range uses, in whole milliseconds."""
    step = (high_ms - low_ms) / (POINTS - 1)
    return tuple(dict.fromkeys(float(round(low_ms + at * step)) for at in range(POINTS)))


def next_offset(low_ms: float, high_ms: float, tried: Iterable[Tried], *, seed: int) -> float:
    """The offset of the grid whose rate is known least, where a trial also tells of its neighbours.

    Among equals the seed decides, evenly over the range, so that several workers that do not know of each other,
    and trials that each are a run of their own, cover it all the same.
    """
    points, known = grid(low_ms, high_ms), tuple(tried)
    step = (points[-1] - points[0]) / max(1, len(points) - 1)
    doubt = [_doubt(point, step, known) for point in points]
    most = max(doubt)
    equals = [point for point, one in zip(points, doubt, strict=True) if math.isclose(one, most, rel_tol=1e-9)]
    return equals[int(seed * _GOLDEN % 1 * len(equals))]


def window_rows(tried: Iterable[Tried]) -> tuple[WindowRow, ...]:
    """A row for each offset that was tried, the smallest first."""
    by_offset: dict[float, list[bool]] = {}
    for one in tried:
        by_offset.setdefault(one.offset_ms, []).append(one.failed)
    return tuple(_row(offset, failures) for offset, failures in sorted(by_offset.items()))


def in_danger(rows: Sequence[WindowRow]) -> tuple[WindowRow, ...]:
    """From the first offset that was seen to fail to the last."""
    failing = [at for at, row in enumerate(rows) if row.failed]
    return tuple(rows[failing[0] : failing[-1] + 1]) if failing else ()


def _row(offset_ms: float, failures: Sequence[bool]) -> WindowRow:
    rate = wilson(sum(failures), len(failures))
    return WindowRow(offset_ms=offset_ms, failed=sum(failures), n=len(failures), low=rate.low, high=rate.high)


def _doubt(point: float, step: float, known: Sequence[Tried]) -> float:
    """The variance of the rate here, from the trials nearby."""
    a = b = PRIOR
    for one in known:
        weight = max(0.0, 1 - abs(one.offset_ms - point) / (REACH * step)) if step else 1.0
        a, b = a + weight * one.failed, b + weight * (not one.failed)
    return a * b / ((a + b) ** 2 * (a + b + 1))
