"""The lines of all logs of a trial on the trial's own clock.

A line says when it was written by the subject's wall clock, in UTC (both dialects; observe's logs says how that was
measured). The trial's first event has both clocks, so its own clock is known too. The older dialect writes whole
seconds and the milliseconds since its line before; lines of one second are set one after the other by those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from pytest_ocrepro.events import TrialStarted
from pytest_ocrepro.readings import LogLine, Snapshot

_SECOND_NS = 1_000_000_000
_MODERN = re.compile(r"\Atimestamp=(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z ", re.ASCII)
_LEGACY = re.compile(r"\A[A-Z]{4,5} +(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \+(?P<since>\d{1,9})ms ", re.ASCII)


class TimedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a log. ``at_ns`` is on the trial's clock, right to within ``exact_to_s``."""

    pid: int | None
    path: str
    at_ns: int
    exact_to_s: float
    line: LogLine


def timed_lines(
    snapshots: Iterable[Snapshot], started: TrialStarted, *, continued: bool = False
) -> Iterator[TimedLine]:
    """Every line that a snapshot's tails show and that says its time, each once; those of one log in its order.

    ``continued``: one that says none is of the line before it, as the rest of a message is.
    """
    clocks: dict[tuple[str, int | None], _Clock] = {}
    latest: dict[tuple[str, int | None], tuple[int, float]] = {}
    for snapshot in snapshots:
        for tail in snapshot.logs:
            log = tail.path, tail.pid
            clock = clocks.setdefault(log, _Clock(started))
            for line in clock.fresh(tail.lines):
                at_ns, exact_to_s = clock.read(line.text)
                if at_ns is not None:
                    latest[log] = at_ns, exact_to_s
                elif not continued or log not in latest:
                    continue
                at_ns, exact_to_s = latest[log]
                yield TimedLine(pid=tail.pid, path=tail.path, at_ns=at_ns, exact_to_s=exact_to_s, line=line)


class _Clock:
    """Reads one log from its first line to its last."""

    def __init__(self, started: TrialStarted) -> None:
        wall_ns = _since_1970_ns(started.wall)
        self._zero_ns = None if wall_ns is None else started.at_ns - wall_ns
        self._seen: tuple[LogLine, ...] = ()
        self._last_ns = 0

    def fresh(self, lines: tuple[LogLine, ...]) -> tuple[LogLine, ...]:
        """What has come since the tail before: that tail's end is where this one begins to be new."""
        known = min(len(self._seen), len(lines))
        overlap = next((n for n in range(known, 0, -1) if self._seen[-n:] == lines[:n]), 0)
        self._seen = lines
        return lines[overlap:]

    def read(self, text: str) -> tuple[int | None, float]:
        """When this line was written on the trial's clock, and how exactly that is known."""
        found = _MODERN.match(text) or _LEGACY.match(text)
        wall_ns = _since_1970_ns(f"{found['at']}+00:00") if found else None
        if found is None or wall_ns is None or self._zero_ns is None:
            return None, 0.0
        second_ns = self._zero_ns + wall_ns
        if found.re is _MODERN:
            return second_ns, 0.001
        after_ns = self._last_ns + int(found["since"]) * 1_000_000
        self._last_ns = min(max(second_ns, after_ns), second_ns + _SECOND_NS - 1)
        return self._last_ns, 1.0


def _since_1970_ns(wall: str) -> int | None:
    """None: it is no instant. What the subject writes may say anything."""
    try:
        since = datetime.fromisoformat(wall) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
    return round(since.total_seconds() * 1000) * 1_000_000
