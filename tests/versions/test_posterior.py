from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro.versions.posterior import (
    CHANGES_BACK,
    END_NOT_AS_SAID,
    FALSE_RATES,
    RATES,
    Counts,
    Question,
    posterior,
)

NEAR = 2e-3  # pairs of rates below the kept share are left out
Outcomes = list[tuple[int, int]]  # (hits, misses) of each build


def counts_of(outcomes: Outcomes) -> Counts:
    return Counts(hits=tuple(hit for hit, _ in outcomes), trials=tuple(map(sum, outcomes)))


def histories(size: int, *, monotone: bool) -> dict[tuple[bool, ...], float]:
    """Every history that the prior knows, and its weight, written down one by one."""
    back = 0.0 if monotone or size < 4 else CHANGES_BACK
    known = {(True,) * size: END_NOT_AS_SAID, (False,) * size: END_NOT_AS_SAID}
    for number, share in ((1, 1 - back), (3, back)):
        places = list(itertools.combinations(range(1, size), number)) if share else []
        for changes in places:
            history = tuple(sum(place <= v for place in changes) % 2 == 1 for v in range(size))
            known[history] = (1 - 2 * END_NOT_AS_SAID) * share / len(places)
    return known


def by_hand(outcomes: Outcomes, *, monotone: bool) -> dict[tuple[bool, ...], float]:
    """Posterior of each history, by enumeration; and P(all outcomes) under the key ()."""
    found: dict[tuple[bool, ...], float] = {}
    for history, weight in histories(len(outcomes), monotone=monotone).items():
        found[history] = 0.0
        for p in RATES:
            for q, share in FALSE_RATES:
                rates = [p if present else q for present in history]
                chances = [rate**k * (1 - rate) ** n for rate, (k, n) in zip(rates, outcomes, strict=True)]
                found[history] += weight * share / len(RATES) * math.prod(chances)
    whole = math.fsum(found.values())
    return {history: chance / whole for history, chance in found.items()} | {(): whole}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=2, max_size=7),
    st.booleans(),
)
def test_it_agrees_with_the_enumeration_of_all_histories(outcomes: Outcomes, monotone: bool) -> None:  # noqa: FBT001
    size = len(outcomes)
    question = Question(open_to_trial=(True,) * size, monotone=monotone)
    found = posterior(question, counts_of(outcomes))
    hand = by_hand(outcomes, monotone=monotone)
    assert found.log_evidence == pytest.approx(math.log(hand.pop(())), abs=1e-3)
    assert all(0 <= share <= 1 for one in found.pairs for share in one.present)
    for v in range(size):
        assert found.present[v] == pytest.approx(sum(w for h, w in hand.items() if h[v]), abs=NEAR)
    for v in range(1, size):
        came = sum(w for h, w in hand.items() if all(h[v:]) and not h[v - 1])
        assert found.onset[v] == pytest.approx(came, abs=NEAR)
        assert found.changes[v] == pytest.approx(sum(w for h, w in hand.items() if h[v] != h[v - 1]), abs=NEAR)
    assert found.always == pytest.approx(hand[(True,) * size], abs=NEAR)
    assert found.never == pytest.approx(hand[(False,) * size], abs=NEAR)
    several = sum(w for h, w in hand.items() if sum(a != b for a, b in itertools.pairwise(h)) == 3)
    assert found.not_monotone == pytest.approx(several, abs=NEAR)


def test_what_cannot_be_tried_stays_a_hypothesis() -> None:
    question = Question(open_to_trial=(True, True, False, True, True), monotone=True)
    found = posterior(question, counts_of([(0, 9), (0, 30), (0, 0), (9, 0), (3, 0)]))
    assert found.onset[2] == pytest.approx(found.onset[3])
    assert found.onset[2] > 0.45


def test_one_hit_is_no_proof_where_the_oracle_may_err() -> None:
    outcomes = [(0, 3), (1, 6), (0, 12), (6, 4), (5, 5)]
    open_to_trial = (True,) * 5
    doubtful = posterior(Question(open_to_trial=open_to_trial), counts_of(outcomes))
    certain = posterior(Question(open_to_trial=open_to_trial, oracle_is_certain=True), counts_of(outcomes))
    assert doubtful.present[1] < 0.3
    assert certain.present[1] == pytest.approx(1.0)
    assert certain.false_rate == 0.0
    assert doubtful.false_rate > 0.0


def test_thousands_of_trials_do_not_underflow() -> None:
    found = posterior(
        Question(open_to_trial=(True,) * 4), counts_of([(0, 3000), (2, 2500), (900, 2100), (1500, 1500)])
    )
    assert found.onset[2] == pytest.approx(1.0, abs=1e-6)
    assert math.isfinite(found.log_evidence)


def test_the_gain_is_greatest_where_nothing_is_known() -> None:
    found = posterior(Question(open_to_trial=(True,) * 9), counts_of([(0, 5)] * 3 + [(0, 0)] * 3 + [(5, 0)] * 3))
    assert max(range(9), key=lambda v: found.gain[v]) in {3, 4, 5}
    assert all(gain >= -1e-12 for gain in found.gain)


def test_equal_input_gives_equal_bits() -> None:
    question, counts = Question(open_to_trial=(True,) * 30), Counts.none(30).with_trial(29, hit=True)
    first = posterior(question, counts)
    posterior.cache_clear()
    again = posterior(question, counts)
    assert again is not first
    assert again == first
