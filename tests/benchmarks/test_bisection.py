"""The search beside its rivals on the same coins, and what a decision costs; printed as ratios of one run.

Run by hand: ``pytest tests/benchmarks/test_bisection.py -m benchmark -s``; OCREPRO_BENCHMARK_RUNS makes it longer. It
needs the extra ``benchmark`` (git_bayesect, which is driven through its own class).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_ocrepro.judge.rates import clopper_pearson
from pytest_ocrepro.versions.bisection import Cost, Phase, decide
from pytest_ocrepro.versions.posterior import Counts, Question, posterior
from tests.data.versions import coins

pytestmark = pytest.mark.benchmark
RUNS = int(os.environ.get("OCREPRO_BENCHMARK_RUNS", "20"))
FIRST_RUN = int(os.environ.get("OCREPRO_BENCHMARK_FIRST", "0"))
NOMINAL = 0.05
SIZE = coins.CANDIDATES + 1
DECISION_LIMIT_S = 0.2


def runs_for(p: float) -> range:
    return range(FIRST_RUN, FIRST_RUN + max(1, round(RUNS * min(1.0, 5 * p))))


def errs_more_than_said(wrong: int, runs: int) -> bool:
    """As far as so many runs can tell: the whole 90 % interval lies above the nominal error."""
    return clopper_pearson(wrong, runs, 0.9).low > NOMINAL


def show(name: str, p: float, q: float, ended: Sequence[coins.Ended], truth: Sequence[int]) -> tuple[int, float]:
    mean = statistics.mean(one.trials for one in ended)
    pairs = zip(ended, truth, strict=True)
    named_wrong = sum(one.failing is not None and one.failing != first for one, first in pairs)
    table, without = coins.TABLE[p, q], sum(one.failing is None for one in ended)
    print(f"\nbenchmark: p {p} q {q} {name:26}: {mean:6.1f} trials / {table:g} (the table): ratio {mean / table:.2f};"
          f" wrong {named_wrong}/{len(truth)}, without an answer {without}", end="")  # fmt: skip
    return named_wrong, mean


@pytest.mark.parametrize(("p", "q"), sorted(coins.TABLE))
def test_trials_and_errors_over_the_grid(p: float, q: float) -> None:
    """One change is assumed, as in the table's column; p and q are unknown and calibration is counted."""
    truth = [coins.drawn(seed) for seed in runs_for(p)]
    at = list(zip(runs_for(p), truth, strict=True))
    question = Question(open_to_trial=(True,) * SIZE, monotone=True)
    ours = [coins.ours(coins.Coins(seed, p, q, coins.first_at(first)), question) for seed, first in at]
    wrong, mean = show("ours (goal at most 1.25)", p, q, ours, truth)
    k, m = coins.tuned(p, q)
    plain = [coins.plain(coins.Coins(seed, p, q, coins.first_at(first)), SIZE, k, m) for seed, first in at]
    show(f"plain, told p and q ({k},{m})", p, q, plain, truth)
    show(
        "git_bayesect", p, q, [bayesect(coins.Coins(seed, p, q, coins.first_at(first))) for seed, first in at], truth
    )
    assert not errs_more_than_said(wrong, len(truth))
    assert mean <= 1.25 * coins.TABLE[p, q]


@pytest.mark.parametrize(("p", "q"), [key for key in sorted(coins.TABLE) if key[0] > 0.1])
def test_what_it_costs_to_allow_for_several_changes(p: float, q: float) -> None:
    """The default: histories with three changes are hypotheses too, so that two onsets are not taken for one."""
    truth = [coins.drawn(seed) for seed in runs_for(p)]
    question = Question(open_to_trial=(True,) * SIZE)
    ended = [
        coins.ours(coins.Coins(seed, p, q, coins.first_at(first)), question)
        for seed, first in zip(runs_for(p), truth, strict=True)
    ]
    wrong, _ = show("three changes allowed", p, q, ended, truth)
    assert not errs_more_than_said(wrong, len(truth))


def test_a_failure_that_was_there_before() -> None:
    """Present in builds 20 to 39 and from 55 on: the later onset is the answer, and the earlier one is to be seen."""
    question = Question(open_to_trial=(True,) * SIZE)
    there = frozenset([*range(20, 40), *range(55, SIZE)])
    ended = [coins.ours(coins.Coins(seed, 0.6, 0.0, there.__contains__), question) for seed in runs_for(1)]
    wrong = sum(one.failing not in (55, None) for one in ended)
    told = sum(posterior(question, one.counts).not_monotone > NOMINAL for one in ended)
    print(f"\nbenchmark: two onsets, p 0.6 q 0: {statistics.mean(one.trials for one in ended):6.1f} trials; wrong "
          f"{wrong}/{len(ended)}, told as not monotone {told}/{len(ended)}", end="")  # fmt: skip
    assert not errs_more_than_said(wrong, len(ended))


def bayesect(thrown: coins.Coins) -> coins.Ended:
    """git_bayesect's own class: index 0 is the newest, and the oldest cannot be the culprit."""
    try:
        module: Any = importlib.import_module("git_bayesect")
    except ImportError:
        pytest.fail("git_bayesect is not installed; this benchmark compares with it: pip install '.[benchmark]'")
    search = module.Bisector([1.0] * coins.CANDIDATES + [1e-9])
    while search.distribution.max() < 1 - NOMINAL and thrown.thrown < 1500:
        index = search.select()
        search.record(index, thrown.throw(SIZE - 1 - index))
    failing = SIZE - 1 - int(search.distribution.argmax())
    return coins.Ended(
        trials=thrown.thrown, clean=failing - 1, failing=failing, counts=Counts.none(SIZE), phase=Phase.ANSWERED
    )


def test_a_decision_among_a_thousand_builds() -> None:
    """Every decision of a search, caches cold at each; and the slowest of them; in time of the processor."""
    question = Question(open_to_trial=(True,) * 1000)
    cost = Cost(trial_s=10.0, download_s=30.0, here=tuple(v % 7 == 0 for v in range(1000)))
    thrown = coins.Coins(1, 0.6, 0.0, coins.first_at(612))
    counts, spent = Counts.none(1000), []
    while True:
        posterior.cache_clear()
        begun = time.process_time()
        decided = decide(question, counts, cost, confidence=0.95)
        spent.append(time.process_time() - begun)
        if not decided.builds:
            break
        counts = counts.with_trial(decided.builds[0], hit=thrown.throw(decided.builds[0]))
    usual, worst = statistics.median(spent), max(spent)
    print(f"\nbenchmark: deciding among 1000 builds {usual * 1000:.0f} ms (slowest {worst * 1000:.0f} ms) / 200 ms: "
          f"ratio {usual / DECISION_LIMIT_S:.2f} (goal at most 1)")  # fmt: skip
    assert decided.phase is Phase.ANSWERED
    assert usual <= DECISION_LIMIT_S
