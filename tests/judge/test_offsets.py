from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from pytest_ocrepro.judge.offsets import POINTS, Tried, grid, in_danger, next_offset, window_rows

RANGE = (0.0, 3200.0)


def sweep(fails: dict[float, float], trials: int, seed: int = 1) -> list[Tried]:
    """What an adaptive sweep tries where the rate at each offset is ``fails``, else 0."""
    coin, tried = random.Random(seed), list[Tried]()  # noqa: S311  a coin
    for number in range(trials):
        offset = next_offset(*RANGE, tried, seed=number)
        tried.append(Tried(offset_ms=offset, failed=coin.random() < fails.get(offset, 0.0)))
    return tried


def test_the_grid_has_both_ends_and_even_steps() -> None:
    points = grid(*RANGE)
    assert (points[0], points[-1], len(points)) == (*RANGE, POINTS)
    assert {b - a for a, b in itertools.pairwise(points)} == {200.0}
    assert grid(0, 3) == (0.0, 1.0, 2.0, 3.0), "never finer than a millisecond"


def test_a_sweep_covers_the_range_before_it_goes_anywhere_twice() -> None:
    tried = sweep({}, POINTS)
    assert max(Counter(one.offset_ms for one in tried).values()) <= 2
    gaps = sorted({*RANGE, *(one.offset_ms for one in tried)})
    assert max(b - a for a, b in itertools.pairwise(gaps)) <= 600


def test_trials_gather_where_the_rate_is_not_known() -> None:
    """Outside the window nothing fails and inside all does; the edges, and what is even, are tried most."""
    window = {600.0: 0.5, 800.0: 1.0, 1000.0: 1.0, 1200.0: 0.5}
    tried = sweep(window, 60)
    near = sum(200 <= one.offset_ms <= 1600 for one in tried)
    assert near > 60 * 8 / POINTS * 1.3, "an even sweep would spend 8 of 17 there"
    seen = in_danger(window_rows(tried))
    assert {row.offset_ms for row in seen} <= set(window)
    assert seen[0].offset_ms <= 800


def test_without_anything_known_seeds_alone_cover_the_range() -> None:
    """Trials that each are a run of their own, as those of a matrix, know nothing of each other."""
    offsets = {next_offset(*RANGE, (), seed=seed) for seed in range(2 * POINTS)}
    assert len(offsets) == POINTS


def test_the_choice_follows_from_what_was_tried_alone() -> None:
    tried = sweep({800.0: 0.5}, 20)
    assert next_offset(*RANGE, tried, seed=3) == next_offset(*RANGE, list(reversed(tried)), seed=3)


def test_rows_are_counts_with_their_intervals() -> None:
    tried = [Tried(offset_ms=400.0, failed=failed) for failed in (True, False, True, True)]
    low, row = window_rows([*tried, Tried(offset_ms=0.0, failed=False)])
    assert (low.offset_ms, low.failed, low.n, low.low) == (0.0, 0, 1, 0.0)
    assert (row.failed, row.n) == (3, 4)
    assert (row.low, row.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert in_danger((low,)) == ()
    assert in_danger((low, row)) == (row,)
