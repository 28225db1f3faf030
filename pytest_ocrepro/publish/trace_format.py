"""The Trace Event Format of Chrome, which Perfetto opens: tracks, slices, instants, counters, arrows.

Times go in as nanoseconds of the trial's clock and come out as whole microseconds since its start: a viewer that
reads fractions could round two slices that touch into each other. Slices of one track must lie within or beside each
other, so whoever may overlap asks for :meth:`TraceFile.lane`. Numbers of processes and threads
of ours lie above all that Linux gives (4,194,304: proc_sys_kernel(5), pid_max).
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_ocrepro.publish.text import clip, visible

BEYOND_ALL_PIDS = 4_194_305
MOST_CHARACTERS = 2_000  # of one text in a slice's details

Details = Mapping[str, object]


class Track(msgspec.Struct, frozen=True):
    """Where slices and instants go: a thread, or what is drawn like one."""

    pid: int
    tid: int


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lasted, as drawn, in microseconds; arrows begin and end in these."""

    track: Track
    start_us: int
    end_us: int


class TraceFile:
    """Collects what is to be shown, and encodes it. Instants before ``origin_ns`` are drawn at it."""

    def __init__(self, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        self._head: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._next = BEYOND_ALL_PIDS
        self._flows = 0
        self._pids: set[int] = set()
        self._tids: set[int] = set()
        self._lanes: dict[tuple[int, str], list[tuple[Track, int]]] = {}

    def process(self, name: str, *, pid: int | None = None) -> int:
        """A group of tracks, shown in the order of creation; its number is ``pid`` unless that is taken."""
        pid = self._number(pid, self._pids)
        self._name("process_name", pid, 0, name=visible(name))
        self._name("process_sort_index", pid, 0, sort_index=len(self._pids))
        return pid

    def track(self, pid: int, name: str, *, tid: int | None = None) -> Track:
        """A track of a group, shown in the order of creation; its number is ``tid`` unless that is taken."""
        tid = self._number(tid, self._tids)
        self._name("thread_name", pid, tid, name=visible(name))
        self._name("thread_sort_index", pid, tid, sort_index=len(self._tids))
        return Track(pid, tid)

    def lane(self, pid: int, name: str, start_ns: int, end_ns: int) -> Track:
        """The first track of this name on which nothing is drawn at that time."""
        lanes = self._lanes.setdefault((pid, name), [])
        for number, (track, busy_until) in enumerate(lanes):
            if busy_until <= start_ns:
                lanes[number] = (track, end_ns)
                return track
        track = self.track(pid, name if not lanes else f"{name} ({len(lanes) + 1})")
        lanes.append((track, end_ns))
        return track

    def slice(self, track: Track, start_ns: int, end_ns: int, name: str, details: Details | None = None) -> Slice:
        """Something that lasted. One that ends before it begins is drawn with no length."""
        start_us = self._us(start_ns)
        end_us = max(start_us, self._us(end_ns))
        self._add(track, start_us, ph="X", name=visible(name), dur=end_us - start_us, args=_shown(details))
        return Slice(track=track, start_us=start_us, end_us=end_us)

    def instant(self, track: Track, at_ns: int, name: str, details: Details | None = None) -> None:
        """Something that happened at one moment."""
        self._add(track, self._us(at_ns), ph="i", s="t", name=visible(name), args=_shown(details))

    def counter(self, pid: int, at_ns: int, name: str, value: float) -> None:
        """A number that changes."""
        self._add(Track(pid, 0), self._us(at_ns), ph="C", name=name, args={"value": value})

    def arrow(self, source: Slice, target: Slice, name: str) -> bool:
        """From one slice to another, at the first moment that lies in both; False where there is none."""
        at_us = max(source.start_us, target.start_us)
        if at_us >= min(source.end_us, target.end_us):
            return False
        self._flows += 1
        about: dict[str, Any] = {"id": self._flows, "cat": "waits", "name": visible(name)}
        self._add(source.track, at_us, ph="s", **about)
        self._add(target.track, at_us, ph="f", bp="e", **about)
        return True

    def encode(self, about: Details) -> bytes:
        """The whole file, compressed; the same events make the same bytes. ``about`` is shown as its metadata."""
        # of what begins at one time the longest encloses the others; arrows come after the slices that they bind to
        self._events.sort(key=lambda event: (event["ts"], "sf".find(event["ph"]), -event.get("dur", 0)))
        whole = {
            "traceEvents": [*self._head, *self._events],
            "displayTimeUnit": "ms",
            "otherData": _shown(about),
        }
        return gzip.compress(msgspec.json.encode(whole), mtime=0)

    def _number(self, wanted: int | None, taken: set[int]) -> int:
        if wanted is None or wanted in taken:
            wanted, self._next = self._next, self._next + 1
        taken.add(wanted)
        return wanted

    def _name(self, what: str, pid: int, tid: int, **args: object) -> None:
        self._head.append({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args})

    def _add(self, track: Track, at_us: int, **event: Any) -> None:
        self._events.append({"pid": track.pid, "tid": track.tid, "ts": at_us, **event})

    def _us(self, at_ns: int) -> int:
        return max(0, at_ns - self._origin_ns) // 1000


def _shown(details: Details | None) -> dict[str, object]:
    """Details as JSON has them; what is not known is left out."""
    return {name: _value(value) for name, value in (details or {}).items() if value not in (None, "", (), [])}


def _value(value: object) -> object:
    if isinstance(value, str):
        return clip(visible(value), MOST_CHARACTERS)
    if isinstance(value, (list, tuple)):
        return [_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
