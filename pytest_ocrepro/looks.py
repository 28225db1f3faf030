"""Looks between the trials of a scenario on a build, fixed before the first: whether those left are still needed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Looks, Rate, percent
from pytest_ocrepro.publish.records import TrialResult

HALF: Final = 0.5
_FORM = re.compile(r"(?P<sizes>\d{1,6}(?:\s*,\s*\d{1,6})*)(?:\s*@\s*(?P<against>\d{1,3}(?:\.\d+)?)\s*%)?")


class LookPlan(msgspec.Struct, frozen=True, kw_only=True):
    """After how many trials we look, the last look being behind the last trial; and the rate that is asked about.

    The question at each look: does it reproduce more often than ``against`` (a fraction), or less often? Trials that
    told nothing do not count as trials here.
    """

    sizes: tuple[int, ...]
    against: float = HALF

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.sizes))} @ {percent(self.against)}"

    @property
    def rule(self) -> str:
        """What is printed before the first trial."""
        return f"a rate above or below {percent(self.against)}? {Looks(*self.sizes).rule}"

    def decided(self, results: Iterable[TrialResult], scenario: str, binary_sha256: str) -> str:
        """Why no further trial of this scenario on this build is needed; "" as long as one is.

        A look counts the first trials by their numbers, and only when all of these have ended: which of those that
        run at the same time ends first must not decide.
        """
        ours = {one.trial: one for one in results if (one.scenario, one.binary_sha256) == (scenario, binary_sha256)}
        clear: list[bool] = []
        for number in range(1, max(ours, default=0) + 1):
            if number not in ours:
                return ""
            if ours[number].result == "inconclusive":
                continue
            clear.append(ours[number].result == "reproduced")
            if found := self._at(sum(clear), len(clear)):
                return found
        return ""

    def _at(self, k: int, n: int) -> str:
        looks = Looks(*self.sizes)
        if n == self.sizes[-1] or not looks.decides(k, n, against=self.against):
            return ""
        more = "more" if looks.interval(k, n).low > self.against else "less"
        often = f"{more} often than in {percent(self.against)}"
        return f"not needed: {Rate(k=k, n=n)} at the look after {n} trials decides, it reproduces {often}"


def parse_looks(text: str, source: str, trials: int) -> LookPlan:
    """``8, 14`` or ``8, 14 @ 10 %``; the look behind the last trial is added. Raises UsageError naming the source."""
    found = _FORM.fullmatch(text.strip())
    sizes = tuple(map(int, found["sizes"].split(","))) if found else ()
    against = float(found["against"]) / 100 if found and found["against"] else HALF
    try:
        Looks(*sizes)
    except ValueError:
        sizes = ()
    if not sizes or not 0 < against < 1:
        raise UsageError(
            f"{source} is {text!r}; write growing numbers of trials, and a rate above 0 and below 100 % where it is "
            "not 50 %: '8,14' or '8,14 @ 10 %'"
        )
    if sizes[-1] > trials:
        raise UsageError(
            f"{source} looks after {sizes[-1]} trials, of {trials} that are run; give --ocrepro-trials too"
        )
    return LookPlan(sizes=sizes if sizes[-1] == trials else (*sizes, trials), against=against)
