from __future__ import annotations

import pytest

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.outcome import Outcome, decide
from pytest_ocrepro.settings import Mark

SEEN, GONE = Result.REPRODUCED, Result.NOT_SEEN


@pytest.mark.parametrize(
    ("result", "own", "outcome", "words"),
    [
        (SEEN, None, Outcome.XFAILED, "known on v (3/12 in our runs)"),
        (SEEN, Rate(k=0, n=4), Outcome.XFAILED, "known on v (3/12 in our runs)"),  # too few to say never
        (SEEN, Rate(k=0, n=5), Outcome.FAILED, "not known on v with these parameters (0/5 in our runs)"),
        (SEEN, Rate(k=1, n=5), Outcome.XFAILED, "known on v (1/5 in our runs)"),
        (GONE, None, Outcome.PASSED, "not seen"),
        (GONE, Rate(k=4, n=4), Outcome.PASSED, "not seen"),
        (
            GONE,
            Rate(k=5, n=5),
            Outcome.FAILED,
            "seems fixed on v: known there in 5/5 trials; check and edit the mark",
        ),
        (GONE, Rate(k=4, n=5), Outcome.PASSED, "not seen"),
    ],
)
def test_what_our_trials_saw_of_the_very_parameters_counts_more_than_the_mark(
    result: Result, own: Rate | None, outcome: Outcome, words: str
) -> None:
    decision = decide(result, expect="known", mark=Mark(known={"v": "3/12"}), version="v", own=own)
    assert (decision.outcome, decision.why) == (outcome, words)
    assert decision.known is (outcome is not Outcome.FAILED or result is GONE)


def test_what_the_mark_does_not_list_stays_unknown() -> None:
    decision = decide(SEEN, expect="known", mark=Mark(), version="v", own=Rate(k=5, n=5))
    assert (decision.outcome, decision.why) == (Outcome.FAILED, "not listed as known on v")
