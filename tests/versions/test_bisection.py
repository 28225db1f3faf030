from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro.versions.bisection import (
    Boundary,
    Cost,
    Phase,
    answers,
    choose,
    credible,
    decide,
    fresh_trials,
    uneven,
)
from pytest_ocrepro.versions.posterior import Counts, Question, posterior
from tests.data.versions import coins

FREE = 0.0


def free(size: int) -> Cost:
    return Cost(trial_s=1.0, download_s=FREE, here=(True,) * size)


def told(*outcomes: tuple[int, int]) -> Counts:
    """(hits, trials) of each build."""
    return Counts(hits=tuple(hits for hits, _ in outcomes), trials=tuple(trials for _, trials in outcomes))


# --- a small part of tests/benchmarks/test_bisection.py, on fixed seeds


@pytest.mark.parametrize(("p", "q", "runs"), [(0.9, 0.0, 30), (0.9, 0.01, 30), (0.6, 0.0, 20)])
def test_the_right_build_is_found_in_few_trials(p: float, q: float, runs: int) -> None:
    question = Question(open_to_trial=(True,) * (coins.CANDIDATES + 1), monotone=True)
    truth = [coins.drawn(seed) for seed in range(runs)]
    ended = [coins.ours(coins.Coins(seed, p, q, coins.first_at(first)), question) for seed, first in enumerate(truth)]
    assert coins.share_wrong(ended, truth) <= 0.05
    assert statistics.mean(one.trials for one in ended) <= 1.25 * coins.TABLE[p, q]


def test_a_history_with_two_stretches_is_flagged_and_the_last_one_dated() -> None:
    question = Question(open_to_trial=(True,) * 71)
    ended = [
        coins.ours(coins.Coins(seed, 0.6, 0.0, lambda v: 20 <= v < 40 or v >= 55), question) for seed in range(12)
    ]
    found = [posterior(question, one.counts) for one in ended]
    assert [one.failing for one in ended].count(55) >= 11
    assert sum(one.not_monotone > 0.5 for one in found) >= 11


def test_the_one_change_search_would_have_been_fooled_by_it() -> None:
    question = Question(open_to_trial=(True,) * 71, monotone=True)
    ended = [
        coins.ours(coins.Coins(seed, 0.6, 0.0, lambda v: 20 <= v < 40 or v >= 55), question) for seed in range(12)
    ]
    assert [one.failing for one in ended].count(20) >= 4


def test_builds_that_cannot_be_tried_make_the_answer_a_set() -> None:
    is_open = tuple(v not in (29, 30) for v in range(41))
    question = Question(open_to_trial=is_open, monotone=True)
    ended = coins.ours(coins.Coins(1, 0.9, 0.0, coins.first_at(30)), question)
    assert (ended.clean, ended.failing) == (28, 31)
    assert ended.counts.trials[29] == ended.counts.trials[30] == 0


# --- ends that are not as said


def test_a_failing_end_that_never_fails_ends_the_search_without_a_name() -> None:
    question = Question(open_to_trial=(True,) * 71)
    ended = coins.ours(coins.Coins(3, 0.0, 0.0, lambda _: False), question)
    assert (ended.phase, ended.failing, ended.trials) == (Phase.NOT_SEEN, None, 60)


def test_a_clean_end_that_fails_is_the_answer() -> None:
    question = Question(open_to_trial=(True,) * 40)
    ended = coins.ours(coins.Coins(3, 0.7, 0.0, lambda _: True), question)
    assert ended.phase is Phase.ANSWERED
    assert (ended.clean, ended.failing) == (None, 0)


@pytest.mark.parametrize("is_open", [(False,) * 5, ()])
def test_without_a_build_that_can_be_tried_nothing_is_left(is_open: tuple[bool, ...]) -> None:
    question = Question(open_to_trial=is_open)
    assert (
        decide(question, Counts.none(len(is_open)), free(len(is_open)), confidence=0.95).phase is Phase.NOTHING_LEFT
    )


def test_an_unavailable_failing_end_is_replaced_by_the_next_build() -> None:
    question = Question(open_to_trial=(True,) * 8 + (False, False))
    decided = decide(question, Counts.none(10), free(10), confidence=0.95)
    assert (decided.phase, decided.builds) == (Phase.CALIBRATE, (7,))


# --- answers


def test_answers_are_a_partition() -> None:
    question = Question(open_to_trial=(False, True, True, False, True, True, False))
    counts = told((0, 0), (0, 4), (1, 5), (0, 0), (2, 3), (3, 3), (0, 0))
    found = answers(question, posterior(question, counts))
    assert sum(one.probability for one in found) == pytest.approx(1.0)
    assert {(one.clean, one.failing) for one in found} == {(None, 1), (1, 2), (2, 4), (4, 5), (5, None)}
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)


def test_a_credible_set_is_the_fewest_that_reach_the_confidence() -> None:
    found = [Boundary(clean=v, failing=v + 1, probability=p) for v, p in enumerate((0.6, 0.25, 0.1, 0.05))]
    assert [len(credible(found, level)) for level in (0.5, 0.6, 0.61, 0.9, 1.0)] == [1, 1, 2, 3, 4]


def test_rates_that_differ_between_builds_are_noticed() -> None:
    question = Question(open_to_trial=(True,) * 4)
    even = told((0, 9), (5, 9), (6, 9), (5, 9))
    assert uneven(even, posterior(question, even)) is None
    # a common rate cannot explain 8 of 40 beside 39 of 40: taken for false positives, which it is too much for
    below = told((0, 40), (8, 40), (39, 40), (38, 40))
    assert (uneven(below, posterior(question, below)) or (0, 1))[0] == 1
    among = told((0, 40), (15, 40), (39, 40), (38, 40))
    assert (uneven(among, posterior(question, among)) or (0, 1))[0] == 1


@pytest.mark.parametrize(
    ("hits", "trials", "fresh"),
    [(18, 18, 8), (9, 10, 8), (6, 10, 8), (3, 10, 13), (10, 100, 44), (1, 100, 60), (0, 0, 8)],
)
def test_the_rarer_the_failure_the_more_fresh_trials(hits: int, trials: int, fresh: int) -> None:
    assert fresh_trials(hits, trials) == fresh


# --- the choice


def test_a_download_is_paid_for_by_what_several_trials_tell() -> None:
    question = Question(open_to_trial=(True,) * 33, monotone=True)
    counts = Counts.none(33).with_trial(32, hit=True).with_trial(32, hit=True)
    here = tuple(v in (0, 28, 32) for v in range(33))
    cheap = Cost(trial_s=10.0, download_s=1.0, here=here)
    dear = Cost(trial_s=10.0, download_s=600.0, here=here)
    assert choose(question, counts, cheap)[0] not in (0, 28, 32)
    assert choose(question, counts, dear) == (28,)


def test_a_build_that_may_not_start_is_worth_less() -> None:
    question = Question(open_to_trial=(True,) * 9, monotone=True)
    counts = Counts.none(9).with_trial(8, hit=True).with_trial(8, hit=True)
    (usual,) = choose(question, counts, free(9))
    doubted = Cost(
        trial_s=1.0, download_s=0.0, here=(True,) * 9, chance=tuple(0.1 if v == usual else 1.0 for v in range(9))
    )
    assert choose(question, counts, doubted) != (usual,)


def test_workers_are_given_different_builds() -> None:
    question = Question(open_to_trial=(True,) * 71, monotone=True)
    counts = Counts.none(71).with_trial(70, hit=True).with_trial(70, hit=True)
    picked = choose(question, counts, free(71), how_many=4)
    assert len(set(picked)) == 4


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_only_open_builds_are_ever_chosen(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 12))
    is_open = tuple(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    trials = [data.draw(st.integers(0, 5)) if is_open[v] else 0 for v in range(size)]
    counts = told(*[(data.draw(st.integers(0, n)), n) for n in trials])
    here = tuple(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    cost = Cost(trial_s=data.draw(st.sampled_from([0.0, 5.0])), download_s=30.0, here=here)
    picked = choose(Question(open_to_trial=is_open), counts, cost, how_many=3)
    assert all(is_open[v] for v in picked)
    assert picked == choose(Question(open_to_trial=is_open), counts, cost, how_many=3)
