from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.judge.rates import (
    Looks,
    Rate,
    beta_share,
    clopper_pearson,
    excludes,
    fisher,
    holm,
    needed,
    newcombe,
    percent,
    wilson,
)

# Newcombe 1998, Statistics in Medicine 17:857-872, table I: (k, n), score interval (3), exact interval (5)
SINGLE = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]
# Newcombe 1998, Statistics in Medicine 17:873-890, table II: method 10
DIFFERENCES = [
    (56, 70, 48, 80, 0.0524, 0.3339),
    (9, 10, 3, 10, 0.1705, 0.8090),
    (6, 7, 2, 7, 0.0582, 0.8062),
    (5, 56, 0, 29, -0.0381, 0.1926),
    (0, 10, 0, 20, -0.1611, 0.2775),
    (10, 10, 0, 20, 0.6791, 1.0000),
]
FISHER = [
    (3, 4, 1, 4, 0.4857),  # Fisher 1935, the lady tasting tea
    (10, 13, 2, 17, 0.0005367),  # Fisher 1962, criminal twins
    (5, 8, 1, 8, 0.1189),
    (0, 8, 0, 8, 1.0),
    (20, 20, 0, 20, 1.451e-11),
]


@pytest.mark.parametrize(("k", "n", "score", "exact"), SINGLE)
def test_intervals_are_those_of_the_published_table(
    k: int, n: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    found = wilson(k, n)
    assert (found.low, found.high) == pytest.approx(score, abs=6e-5)
    found = clopper_pearson(k, n)
    assert (found.low, found.high) == pytest.approx(exact, abs=6e-5)


@pytest.mark.parametrize(("k1", "n1", "k2", "n2", "low", "high"), DIFFERENCES)
def test_differences_are_those_of_the_published_table(
    k1: int, n1: int, k2: int, n2: int, low: float, high: float
) -> None:
    found = newcombe(k1, n1, k2, n2)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    mirrored = newcombe(k2, n2, k1, n1)
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low), abs=6e-5)


@pytest.mark.parametrize(("k1", "n1", "k2", "n2", "p"), FISHER)
def test_fisher(k1: int, n1: int, k2: int, n2: int, p: float) -> None:
    assert fisher(k1, n1, k2, n2) == pytest.approx(p, rel=1e-3)
    assert fisher(k2, n2, k1, n1) == pytest.approx(p, rel=1e-3)


def test_fisher_is_exact_against_whole_numbers() -> None:
    coin = random.Random(7)  # noqa: S311  a seeded coin
    for _ in range(100):
        n1, n2 = coin.randint(1, 40), coin.randint(1, 40)
        k1, k2 = coin.randint(0, n1), coin.randint(0, n2)
        hits = k1 + k2
        ways = {k: math.comb(n1, k) * math.comb(n2, hits - k) for k in range(max(0, hits - n2), min(hits, n1) + 1)}
        exact = sum(way for way in ways.values() if way <= ways[k1]) / sum(ways.values())
        assert fisher(k1, n1, k2, n2) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (5, 8), (3, 20), (50, 100), (7, 100_000)])
def test_clopper_pearson_leaves_the_same_in_both_tails(k: int, n: int) -> None:
    found = clopper_pearson(k, n, 0.9)
    if k:
        assert beta_share(found.low, k, n - k + 1) == pytest.approx(0.05)
    if k < n:
        assert beta_share(found.high, k + 1, n - k) == pytest.approx(0.95)
    assert k / n in found


@pytest.mark.parametrize(("n", "rate"), [(1, 0.95), (8, 0.3123), (17, 0.1616), (20, 0.1391), (59, 0.0495)])
def test_what_not_seen_excludes(n: int, rate: float) -> None:
    assert excludes(n) == pytest.approx(rate, abs=6e-5)
    assert (1 - excludes(n)) ** n == pytest.approx(0.05)
    assert needed(excludes(n)) == n


def test_nothing_tried_excludes_nothing() -> None:
    assert excludes(0) == 1.0
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    assert (newcombe(0, 0, 3, 8).low, newcombe(0, 0, 3, 8).high) == (-1.0, 1.0)
    assert fisher(0, 0, 3, 8) == 1.0


@pytest.mark.parametrize(("rate", "trials"), [(0.9, 2), (0.6, 6), (0.3, 13), (0.1, 44)])
def test_trials_that_a_confirmation_needs(rate: float, trials: int) -> None:
    assert needed(rate, 0.99) == trials


@pytest.mark.parametrize(
    ("k", "n", "words"),
    [
        (5, 8, "5/8 (62 %; 95 % interval 31-86 %)"),
        (0, 17, "0/17 (a rate above 16 % is excluded at 95 %)"),
        (0, 0, "not tried"),
        (8, 8, "8/8 (100 %; 95 % interval 68-100 %)"),
    ],
)
def test_a_rate_in_words(k: int, n: int, words: str) -> None:
    assert Rate(k=k, n=n).in_words() == words


def test_small_percentages_keep_what_they_say() -> None:
    assert [percent(rate) for rate in (0.0, 0.001, 0.05, 0.049, 0.5, 0.9875, 0.999, 1.0)] == [
        "0 %", "0.1 %", "5 %", "4.9 %", "50 %", "99 %", "99.9 %", "100 %",
    ]  # fmt: skip


def test_looks_are_fixed_and_say_so() -> None:
    looks = Looks(10, 30, 60, 100)
    assert [looks.next_after(n) for n in (0, 10, 11, 99, 100)] == [10, 30, 30, 100, None]
    assert looks.confidence_each == pytest.approx(0.9875)
    assert looks.rule.startswith("look after 10, 30, 60, 100 trials and at no other time")
    assert looks.decides(0, 30, against=0.3)
    assert not looks.decides(0, 29, against=0.3), "29 is no look"
    assert not looks.decides(0, 10, against=0.3)
    assert looks.tells_apart(10, 10, 0, 10)
    assert not looks.tells_apart(5, 10, 1, 10)
    assert not looks.tells_apart(10, 10, 0, 11)


def test_looking_four_times_errs_no_more_often_than_said() -> None:
    looks, runs = Looks(10, 30, 60, 100), 400
    coin = random.Random(11)  # noqa: S311  a seeded coin
    wrong = 0
    for _ in range(runs):
        hits = [coin.random() < 0.3 for _ in range(100)]
        wrong += any(looks.decides(sum(hits[:n]), n, against=0.3) for n in looks.sizes)
    assert wrong / runs <= 0.05


@pytest.mark.parametrize("sizes", [(), (0, 10), (10, 10), (30, 10)])
def test_looks_must_grow(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be growing numbers of trials"):
        Looks(*sizes)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_counts_that_cannot_be(k: int, n: int) -> None:
    for ask in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="cannot be"):
            ask(k, n)
    with pytest.raises(ValueError, match="cannot be"):
        Rate(k=k, n=n)


def test_confidence_must_be_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"0\.95 for 95 %"):
        wilson(1, 2, 95)
    with pytest.raises(ValueError, match="cannot be excluded"):
        needed(0)


def test_holm_as_published() -> None:
    """The worked example of the article on the method in Wikipedia."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)
    assert holm([0.9, 0.8]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_makes_a_p_smaller_nor_changes_their_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= corrected <= 1 for p, corrected in zip(ps, adjusted, strict=True))
    assert [corrected for _, corrected in sorted(zip(ps, adjusted, strict=True))] == sorted(adjusted)
