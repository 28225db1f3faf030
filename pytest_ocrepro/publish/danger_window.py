"""Failure rate against offset, of each scenario that sweeps one: from trials to rows, and the rows for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.offsets import Tried, WindowRow, in_danger, window_rows
from pytest_ocrepro.judge.rates import percent
from pytest_ocrepro.publish.counting import scenario_of, version_key
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.text import flat

BAR = 20


class DangerWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario on one version. ``after``: what the offset is counted from; ``rows`` by offset.

    ``lag_ms``: how much later than asked the next process started, at most; None where it was never seen.
    """

    scenario: str
    title: str
    version: str
    after: str
    low_ms: float
    high_ms: float
    lag_ms: float | None
    rows: tuple[WindowRow, ...]

    @property
    def failed(self) -> int:
        """Trials that failed, over all offsets."""
        return sum(row.failed for row in self.rows)

    @property
    def n(self) -> int:
        """Conclusive trials, over all offsets."""
        return sum(row.n for row in self.rows)

    @property
    def headline(self) -> str:
        """Where it was seen to fail, in words."""
        seen = in_danger(self.rows)
        ends = f"{self.low_ms:g} to {self.high_ms:g} ms after {self.after}"
        if not seen:
            return f"not seen in {self.n} trials, {ends}"
        where = f"{seen[0].offset_ms:g}" + (f" to {seen[-1].offset_ms:g}" if len(seen) > 1 else "")
        return f"seen at {where} ms; {self.failed} of {self.n} trials, {ends}"


def danger_windows(results: Iterable[TrialResult]) -> tuple[DangerWindow, ...]:
    """Of all trials that had an offset; an inconclusive one counts for nothing. By scenario, then version."""
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for one in results:
        if one.offset is not None and one.result in (Result.REPRODUCED, Result.NOT_SEEN):
            groups.setdefault((scenario_of(one), one.version), []).append(one)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], version_key(item[0][1])))
    return tuple(_window(scenario, version, trials) for (scenario, version), trials in ordered)


def tried_of(result: TrialResult) -> Tried | None:
    """A trial as the sweep counts it; None where it has no offset or told nothing."""
    if result.offset is None or result.result not in (Result.REPRODUCED, Result.NOT_SEEN):
        return None
    return Tried(offset_ms=result.offset.asked_ms, failed=result.result == Result.REPRODUCED)


def in_lines(window: DangerWindow) -> Iterator[str]:
    """A table for a terminal: offset, k/n, the interval, and the rate as a bar."""
    yield f"danger window of {flat(window.title)} on {flat(window.version)}: {flat(window.headline)}"
    for row in window.rows:
        ends = f"{percent(row.low).removesuffix(' %')}-{percent(row.high)}"
        bar = "#" * round(BAR * row.failed / row.n)
        yield f"  {row.offset_ms:8g} ms  {f'{row.failed}/{row.n}':>7}  {ends:>12}  {bar}".rstrip()


def _window(scenario: str, version: str, trials: list[TrialResult]) -> DangerWindow:
    offsets = [one.offset for one in trials if one.offset is not None]
    lags = [one.took_ms - one.asked_ms for one in offsets if one.took_ms is not None]
    return DangerWindow(
        scenario=scenario,
        title=trials[0].title or scenario.rpartition("::")[2],
        version=version,
        after=offsets[0].after,
        low_ms=min(one.low_ms for one in offsets),
        high_ms=max(one.high_ms for one in offsets),
        lag_ms=max(lags, default=None),
        rows=window_rows(filter(None, map(tried_of, trials))),
    )
