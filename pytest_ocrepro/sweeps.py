"""What the sweeps of one session have shown so far, so that each trial tries the offset that tells most."""

from __future__ import annotations

from collections import defaultdict

from pytest_ocrepro.judge.offsets import Tried, next_offset
from pytest_ocrepro.publish.counting import scenario_of
from pytest_ocrepro.publish.danger_window import tried_of
from pytest_ocrepro.publish.records import TrialInfo, TrialResult


class Sweeps:
    """By scenario and version. A worker of pytest-xdist knows its own trials only."""

    def __init__(self) -> None:
        self._tried: dict[tuple[str, str], list[Tried]] = defaultdict(list)

    def choose(self, info: TrialInfo, low_s: float, high_s: float) -> float:
        """The offset of this trial in seconds."""
        known = self._tried[scenario_of(info), info.version]
        return next_offset(low_s * 1e3, high_s * 1e3, known, seed=info.seed) / 1e3

    def note(self, result: TrialResult) -> None:
        """A trial is over; one without an offset, or inconclusive, tells nothing."""
        tried = tried_of(result)
        if tried is not None:
            self._tried[scenario_of(result), result.version].append(tried)
