from __future__ import annotations

import random

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Looks
from pytest_ocrepro.looks import LookPlan, parse_looks
from pytest_ocrepro.publish.records import TrialResult


def told(words: str, *, scenario: str = "s.py::test_s", build: str = "a" * 64) -> list[TrialResult]:
    """A trial a letter: x reproduced, o not seen, ? inconclusive, a blank is one that has not ended."""
    meaning = {"x": "reproduced", "o": "not-seen", "?": "inconclusive"}
    return [
        TrialResult(
            run_id="r", scenario=scenario, title="", issue=(), version="1.2.0", binary_sha256=build, trial=number,
            seed=0, result=meaning[letter], reason="", verdict="", grade="", seconds_to_verdict=0.0, chain=(),
            processes=(), findings=(), leaked=(), signature="", bundle=f"trials/{number}",
        )
        for number, letter in enumerate(words, 1)
        if letter != " "
    ]  # fmt: skip


def decided(words: str, plan: LookPlan) -> str:
    return plan.decided(told(words), "s.py::test_s", "a" * 64)


PLAN = LookPlan(sizes=(8, 20))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("xxxxxxxx", "not needed: 8/8 at the look after 8 trials decides, it reproduces more often than in 50 %"),
        ("oooooooo", "not needed: 0/8 at the look after 8 trials decides, it reproduces less often than in 50 %"),
        ("xxxxxxxxooo", "not needed: 8/8 at the look after 8 trials decides, it reproduces more often than in 50 %"),
        ("x?xxxx?xxx", "not needed: 8/8 at the look after 8 trials decides, it reproduces more often than in 50 %"),
        ("xxxxxxx", ""),  # no look yet, however clear
        ("xxxxxxxo", ""),  # 7/8: 47 to 100 % at the confidence of one of two looks
        ("xxxx xxxxx", ""),  # the fifth has not ended
        ("x?xxxx?xx", ""),  # seven that told something
        ("ooooooox" + "o" * 12, ""),  # behind the last look nothing is left to spare
        ("", ""),
    ],
)
def test_a_trial_is_needed_until_a_look_decides(words: str, why: str) -> None:
    assert decided(words, PLAN) == why


def test_the_rate_that_is_asked_about_decides_too() -> None:
    assert decided("xxxooooo", PLAN) == ""
    rare = LookPlan(sizes=(8, 20), against=0.05)
    assert decided("xxxooooo", rare).endswith(
        "3/8 at the look after 8 trials decides, it reproduces more often than in 5 %"
    )
    assert decided("o" * 8, rare) == ""


def test_other_scenarios_and_builds_do_not_count() -> None:
    strangers = told("x" * 9, scenario="s.py::other") + told("x" * 9, build="b" * 64)
    assert PLAN.decided(strangers, "s.py::test_s", "a" * 64) == ""
    assert PLAN.decided(strangers, "s.py::test_s", "b" * 64) != ""


@pytest.mark.parametrize("ending", ["in order", "shuffled"])
def test_looking_often_errs_no_more_than_promised(ending: str) -> None:
    """At a true rate of just the one that is asked about every decision is wrong."""
    dice, plan, wrong, runs = random.Random(7), LookPlan(sizes=(8, 14, 20, 40)), 0, 300  # noqa: S311
    for _ in range(runs):
        trials = told("".join(dice.choice("xo") for _ in range(39)))
        if ending == "shuffled":
            dice.shuffle(trials)
        wrong += any(plan.decided(trials[:count], "s.py::test_s", "a" * 64) for count in (8, 14, 20, 39))
    assert wrong <= 0.05 * runs


def test_looking_after_each_trial_would_err_more() -> None:
    """The check above can fail: without the correction, and at every trial, a coin is soon called biased."""
    dice, wrong, runs = random.Random(7), 0, 200  # noqa: S311
    for _ in range(runs):
        k = 0
        for n in range(1, 21):
            k += dice.random() < 0.5
            if n >= 5 and 0.5 not in Looks(n).interval(k, n):
                wrong += 1
                break
    assert wrong > 0.08 * runs


@pytest.mark.parametrize(
    ("text", "sizes", "against", "words"),
    [
        ("8", (8, 20), 0.5, "8, 20 @ 50 %"),
        ("8,14", (8, 14, 20), 0.5, "8, 14, 20 @ 50 %"),
        (" 8 , 20 @ 10 % ", (8, 20), 0.1, "8, 20 @ 10 %"),
        ("1@2.5%", (1, 20), 0.025, "1, 20 @ 2.5 %"),
    ],
)
def test_a_plan_is_read(text: str, sizes: tuple[int, ...], against: float, words: str) -> None:
    plan = parse_looks(text, "--ocrepro-looks", 20)
    assert (plan.sizes, plan.against, str(plan)) == (sizes, against, words)
    assert plan.rule.startswith(f"a rate above or below {words.split(' @ ')[1]}? look after ")


@pytest.mark.parametrize(
    "text", ["", "x", "0", "8,8", "14,8", "8;14", "8 @ 0 %", "8 @ 100 %", "8 @ x", "-3", "8 @ 0.5"]
)
def test_a_plan_that_is_none_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(UsageError, match=r"^OCREPRO_LOOKS is .*; write growing numbers of trials"):
        parse_looks(text, "OCREPRO_LOOKS", 20)


def test_a_look_behind_the_last_trial_is_refused() -> None:
    with pytest.raises(UsageError, match="--ocrepro-looks looks after 8 trials, of 1 that are run"):
        parse_looks("8", "--ocrepro-looks", 1)
