"""A trial as it is drawn: lanes, marks and spans, from its history and its judgement."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from pytest_ocrepro.events import (
    Event,
    FaultHealed,
    FaultInjected,
    LightSample,
    MilestoneReached,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    SignalSent,
    SnapshotTaken,
    TrialStarted,
)
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.publish.lock_spans import LockSpan, lock_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_ocrepro.history import History
    from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement

MAX_LANES = 16
# The judge's own words for a silence, which stand in the sentence beside the picture: both have one number.
_SILENCE = re.compile(r"(no (?:progress|step) for (\d+\.\d) s)\b")


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a process, or a server of ours. Seconds since the trial's start."""

    label: str
    pid: int | None
    start_s: float
    end_s: float
    ending: str  # "exit 1", "SIGKILL by us", "alive"
    subject: bool = True


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at one moment. ``lane`` None: to the whole trial."""

    lane: int | None
    at_s: float
    kind: str  # milestone, request, signal, snapshot, sample
    label: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lasted. ``lane`` None: a fault, which is behind all lanes. ``quiet``: its label is not drawn."""

    lane: int | None
    start_s: float
    end_s: float
    kind: str  # fault, waits (without progress), holds, queues (for a lock), left (a lock, by one that has ended)
    label: str
    quiet: bool = False


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as it is drawn, and as its table twin lists it. ``more``: lanes that were left out."""

    lanes: tuple[Lane, ...]
    marks: tuple[Mark, ...]
    spans: tuple[Span, ...]
    end_s: float
    more: int = 0


def timeline(history: History, judgement: Judgement | None) -> Timeline:
    """What the swimlane of this history shows."""
    return _Tracer(list(history), judgement).trace()


class _Tracer:
    """Collects lanes first, then what happened in them."""

    def __init__(self, events: Sequence[Event], judgement: Judgement | None) -> None:
        self._events = events
        self._judgement = judgement
        self._origin_ns = next((e.at_ns for e in events if isinstance(e, TrialStarted)), _first_ns(events))
        self._end_s = max((self._s(event.at_ns) for event in events), default=0.0)
        self._lanes: list[Lane] = []
        self._lane_of: dict[int, int] = {}

    def trace(self) -> Timeline:
        more = self._processes()
        marks = [*self._marks(), *self._servers()]
        spans = (*self._faults(), *self._holds(), *self._waits())
        return Timeline(lanes=tuple(self._lanes), marks=tuple(marks), spans=spans, end_s=self._end_s, more=more)

    def _s(self, at_ns: int) -> float:
        return max(0.0, (at_ns - self._origin_ns) / 1e9)

    def _processes(self) -> int:
        born = {e.id.pid: e for e in reversed(self._events) if isinstance(e, (ProcessStarted, ProcessFound))}
        exits = {e.pid: e for e in self._events if isinstance(e, ProcessExited)}
        ordered = sorted(born.values(), key=lambda e: (isinstance(e, ProcessFound), e.at_ns))
        for event in ordered[:MAX_LANES]:
            pid = event.id.pid
            self._lane_of[pid] = len(self._lanes)
            gone = exits.get(pid)
            self._lanes.append(
                Lane(
                    label=event.role,
                    pid=pid,
                    start_s=self._s(event.at_ns),
                    end_s=self._s(gone.at_ns) if gone else self._end_s,
                    ending=_ending(gone),
                    subject=event.is_subject,
                )
            )
        return max(0, len(ordered) - MAX_LANES)

    def _marks(self) -> Iterable[Mark]:
        for event in self._events:
            at_s = self._s(event.at_ns)
            match event:
                case MilestoneReached(pid=pid, milestone=milestone) if pid in self._lane_of:
                    yield Mark(lane=self._lane_of[pid], at_s=at_s, kind="milestone", label=milestone)
                case SignalSent(pid=pid, signal=signal, why=why) if pid in self._lane_of:
                    yield Mark(
                        lane=self._lane_of[pid], at_s=at_s, kind="signal", label=f"{signal}: {why}" if why else signal
                    )
                case SnapshotTaken(snapshot=snapshot):
                    yield Mark(lane=None, at_s=at_s, kind="snapshot", label=f"snapshot {snapshot.number}")
                case LightSample():
                    yield Mark(lane=None, at_s=at_s, kind="sample", label="sample")
                case _:
                    pass

    def _servers(self) -> Iterable[Mark]:
        for label, kinds in (
            ("provider", (ProviderRequest, ProviderReply)),
            ("registry", (RegistryRequest,)),
            ("off loopback", (OffLoopback,)),
        ):
            events = [event for event in self._events if isinstance(event, kinds)]
            if not events:
                continue
            number = len(self._lanes)
            asked = sum(not isinstance(event, ProviderReply) for event in events)
            self._lanes.append(
                Lane(
                    label=label,
                    pid=None,
                    start_s=0.0,
                    end_s=self._end_s,
                    ending=f"{asked} request{'s' * (asked != 1)}",
                    subject=False,
                )
            )
            for event in events:
                kind = "reply" if isinstance(event, ProviderReply) else "request"
                yield Mark(lane=number, at_s=self._s(event.at_ns), kind=kind, label=_asked(event))

    def _faults(self) -> Iterable[Span]:
        for number, event in enumerate(self._events):
            if isinstance(event, FaultInjected):
                healed = (
                    e.at_ns for e in self._events[number:] if isinstance(e, FaultHealed) and e.fault == event.fault
                )
                end = next(healed, None)
                yield Span(
                    lane=None,
                    start_s=self._s(event.at_ns),
                    end_s=self._end_s if end is None else self._s(end),
                    kind="fault",
                    label=f"{event.fault}: {event.detail}" if event.detail else event.fault,
                )

    def _holds(self) -> Iterable[Span]:
        """Locks that say something: opencode's own directories, and files that are locked to write or waited for."""
        end_ns = self._events[-1].at_ns if self._events else 0
        spans = [span for span in lock_spans(self._events, end_ns) if self._tells(span)]
        of_pid = Counter(span.pid for span in spans)
        chain = [f" {link.partition(' [')[0]} " for link in (self._judgement.chain if self._judgement else ())]
        # the first one's label speaks for all: they lie on one line
        for span in sorted(spans, key=lambda one: not any(f" {one.lock} " in link for link in chain)):
            number = self._lane_of[span.pid or 0]
            more, of_pid[span.pid] = of_pid[span.pid] - 1, 0
            kind = "queues" if span.waiting else "left" if span.dead else "holds"
            verb = {"queues": "waits for", "left": "left behind:", "holds": "holds"}[kind]
            others = f" and {more} more" if more > 0 else ""
            yield Span(
                lane=number,
                start_s=max(self._s(span.start_ns), self._lanes[number].start_s),
                end_s=self._s(span.end_ns),
                kind=kind,
                label=f"{verb} {span.lock}{others}{', as seen' if span.as_seen else ''}",
                quiet=more < 0,
            )

    def _tells(self, span: LockSpan) -> bool:
        telling = span.key.startswith("lock:") or span.waiting or " WRITE " in span.because
        return span.pid in self._lane_of and telling

    def _waits(self) -> Iterable[Span]:
        for process in self._judgement.processes if self._judgement else ():
            number = self._lane_of.get(process.pid)
            if number is None or not (process.verdict.hung or process.verdict is Verdict.WAITING_FOR_INPUT):
                continue
            lane = self._lanes[number]
            end_s = min(lane.start_s + process.seconds, lane.end_s)
            start_s, words = self._silence(process, lane, end_s)
            label = f"{words}: {process.verdict}"
            yield Span(lane=number, start_s=start_s, end_s=end_s, kind="waits", label=label)

    def _silence(self, process: ProcessJudgement, lane: Lane, end_s: float) -> tuple[float, str]:
        """Where it began and what it is called; by the steps in the history where the judge named no number."""
        told = next(filter(None, map(_SILENCE.match, process.because)), None)
        if told:
            return max(lane.start_s, end_s - float(told[2])), told[1]
        start_s = max((s for s in self._progress(process.pid) if s < end_s), default=lane.start_s)
        return start_s, f"no progress for {end_s - start_s:.1f} s"

    def _progress(self, pid: int) -> Iterable[float]:
        kinds = (ProgressSeen, MilestoneReached, ProviderRequest, RegistryRequest)
        return (self._s(e.at_ns) for e in self._events if isinstance(e, kinds) and e.pid == pid)


def _first_ns(events: Sequence[Event]) -> int:
    return min((event.at_ns for event in events), default=0)


def _ending(gone: ProcessExited | None) -> str:
    if gone is None:
        return "alive"
    how = f"signal {-gone.code}" if gone.code < 0 else f"exit {gone.code}"
    return f"{how}, by us" if gone.ours else how


def _asked(event: Event) -> str:
    match event:
        case ProviderRequest():
            return f"pid {event.pid} asks for {event.model}{' (title)' if event.title else ''}"
        case ProviderReply():
            return f"request {event.request}: {event.what}"
        case RegistryRequest():
            return f"pid {event.pid} asks for {event.path}: {event.reply}"
        case OffLoopback():
            return f"pid {event.pid} refused: {event.destination}"
        case _:
            return ""
