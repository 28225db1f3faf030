"""A stored trial as a trace for Perfetto: who ran, slept, held, asked and waited, on one clock.

Made of the stored records alone, which passed the gate.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TypeVar

from pytest_ocrepro.events import (
    DatabaseRead,
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    HttpCall,
    LightSample,
    LockDirectoryChanged,
    MilestoneReached,
    Note,
    OffLoopback,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    ScenarioSkipped,
    SnapshotTaken,
    StepWaited,
    Swept,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.judge.judgement import Edge
from pytest_ocrepro.publish.elsewhere import replayed
from pytest_ocrepro.publish.lock_spans import LockSpan, lock_spans
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.trace_format import Slice, TraceFile
from pytest_ocrepro.publish.trace_processes import Processes, ProcessTracks
from pytest_ocrepro.readings import Snapshot

_E = TypeVar("_E", bound=Event)
_ENDS = frozenset({"finished", "error", "client-left", "unexpected"})  # replies after which nothing more comes
_STEPS = (ProgressSeen, MilestoneReached, ProviderRequest, RegistryRequest)
_SHOWN = 120


def encode(trial: StoredTrial) -> bytes:
    """The trace as ``trace.json.gz`` holds it."""
    return _Tracer(trial).encode()


class _Tracer:
    """Draws one trial; each method one group of tracks."""

    def __init__(self, trial: StoredTrial) -> None:
        self._trial = trial
        self._events = list(trial.history)
        self._snapshots = [event.snapshot for event in self._all(SnapshotTaken)]
        instants = [event.at_ns for event in self._events]
        instants += [snapshot.ended_ns for snapshot in self._snapshots]
        started = next(iter(self._all(TrialStarted)), None)
        self._end_ns = max(instants, default=0)
        self._file = TraceFile(started.at_ns if started else min(instants, default=0))
        self._holders: dict[str, list[Slice]] = defaultdict(list)  # by node of the wait-for graph

    def encode(self) -> bytes:
        self._scenario()
        self._faults()
        self._processes = Processes(self._file, self._events, self._trial.judgement, self._end_ns)
        for pid, lives in self._processes.lives.items():
            self._holders[f"pid:{pid}"] += lives
        self._locks()
        self._provider()
        self._registry()
        self._calls()
        self._wait_for()
        self._observation()
        info, judgement = self._trial.info, self._trial.judgement
        about = {"scenario": info.scenario, "opencode": info.version, "trial": info.trial, "started": info.started}
        about |= {"replay": replayed(info.replay), "problems": self._trial.problems}
        if judgement is not None:
            about |= {"result": judgement.result, "reason": judgement.reason, "signature": judgement.signature}
        return self._file.encode(about)

    def _all(self, kind: type[_E]) -> list[_E]:
        return [event for event in self._events if isinstance(event, kind)]

    # -- what the scenario did

    def _scenario(self) -> None:
        track = self._file.track(self._file.process("scenario"), "steps")
        for event in self._events:
            told = _told(event)
            if told is not None:
                self._file.instant(track, event.at_ns, *told)

    def _faults(self) -> None:
        faults, healed = self._all(FaultInjected), self._all(FaultHealed)
        group = self._file.process("faults") if faults else 0
        for fault in faults:
            ends = (event.at_ns for event in healed if event.fault == fault.fault and event.at_ns >= fault.at_ns)
            end_ns = min(ends, default=self._end_ns)
            track = self._file.lane(group, fault.fault, fault.at_ns, end_ns)
            details = {"address": fault.address, "by pid": fault.pid, "for good": fault.silent_for_good}
            drawn = self._file.slice(track, fault.at_ns, end_ns, f"{fault.fault}: {fault.detail}", details)
            self._holders[f"fault:{fault.fault}"].append(drawn)

    # -- who holds what

    def _locks(self) -> None:
        spans = lock_spans(self._events, self._end_ns)
        group = self._file.process("locks") if spans else 0
        waits: list[tuple[str, Slice]] = []
        for span in spans:
            track = self._file.lane(group, f"{span.lock}{': waiting' * span.waiting}", span.start_ns, span.end_ns)
            details = {"path": span.path, "how we know": span.because, "looks that saw it": span.looks or None}
            drawn = self._file.slice(track, span.start_ns, span.end_ns, self._holding(span), details)
            if span.waiting:
                waits.append((span.key, drawn))
            else:
                self._holders[span.key].append(drawn)
        for key, wait in waits:
            for holder in self._holders[key]:
                self._file.arrow(holder, wait, "holds it up")

    def _holding(self, span: LockSpan) -> str:
        verb = "waits" if span.waiting else "had ended, and left it" if span.dead else "holds"
        return f"{self._processes.name(span.pid, span.start_ns)} {verb}"

    # -- who asks whom

    def _provider(self) -> None:
        requests = self._all(ProviderRequest)
        group = self._file.process("provider") if requests else 0
        replies: dict[int, list[ProviderReply]] = defaultdict(list)
        for reply in self._all(ProviderReply):
            replies[reply.request].append(reply)
        for request in requests:
            told = replies[request.request]
            last = next((reply for reply in told if reply.what in _ENDS), None)
            end_ns = last.at_ns if last else self._end_ns
            track = self._file.lane(group, "requests", request.at_ns, end_ns)
            who = self._processes.name(request.pid, request.at_ns)
            details = {
                "path": request.path,
                "tools": request.tools,
                "turn": told[0].turn if told else None,
                "ended": last.what if last else "never",
                "prompt": request.last_text,
            }
            name = f"{who} asks {request.model}{' (title)' * request.title}"
            drawn = self._file.slice(track, request.at_ns, end_ns, name, details)
            self._holders[f"provider:{request.request}"].append(drawn)
            for reply in told:
                self._file.instant(track, reply.at_ns, reply.what, {"detail": reply.detail})

    def _registry(self) -> None:
        requests, refused = self._all(RegistryRequest), self._all(OffLoopback)
        group = self._file.process("registry, and the way out") if requests or refused else 0
        for request in requests:
            asker = self._processes.at(request.pid, request.at_ns)
            end_ns = request.at_ns
            if request.reply == "stalled":  # for as long as somebody is there to wait
                end_ns = max(end_ns, asker.end_ns if asker else self._end_ns)
            track = self._file.lane(group, "requests", request.at_ns, end_ns)
            who = self._processes.name(request.pid, request.at_ns)
            name = f"{who} asks for {request.path}: {request.reply}"
            drawn = self._file.slice(track, request.at_ns, end_ns, name, {"reply": request.reply})
            self._holders["registry"].append(drawn)
        for one in refused:
            track = self._file.lane(group, "refused", one.at_ns, one.at_ns)
            name = f"{self._processes.name(one.pid, one.at_ns)} was refused {one.destination}"
            self._file.instant(track, one.at_ns, name)

    def _calls(self) -> None:
        calls = [(call.at_ns - round(call.seconds * 1e9), call) for call in self._all(HttpCall)]
        group = self._file.process("calls of the scenario") if calls else 0
        for start_ns, call in sorted(calls, key=lambda pair: pair[0]):
            track = self._file.lane(group, f"to {call.role}", start_ns, call.at_ns)
            details = {"purpose": call.purpose, "status": call.status, "error": call.error, "body": call.body}
            name = f"{call.method} {call.path}: {call.status or call.error or 'no answer'}"
            self._file.slice(track, start_ns, call.at_ns, name, details)

    # -- who waits for whom

    def _wait_for(self) -> None:
        """A slice for every wait of a process in the judgement's graph, with an arrow from what holds it up."""
        graph = self._trial.judgement.graph if self._trial.judgement else None
        full = [snapshot for snapshot in self._snapshots if snapshot.full]
        if graph is None or not full:
            return
        labels = {node.key: node.label for node in graph.nodes}
        for edge in graph.edges:
            found = self._waiter(edge, full)
            if found is None:
                continue
            process, start_ns, end_ns = found
            track = self._file.lane(process.group, "waits", start_ns, end_ns)
            details = {"grade": edge.grade, "evidence": edge.evidence, "ends by itself in s": edge.ends_in_s}
            name = f"{edge.verb} {labels.get(edge.holder, edge.holder)}"
            drawn = self._file.slice(track, start_ns, end_ns, name, details)
            latest = sorted(self._holders.get(edge.holder, ()), key=lambda holder: -holder.start_us)
            next((True for holder in latest if self._file.arrow(holder, drawn, edge.verb)), None)

    def _waiter(self, edge: Edge, full: list[Snapshot]) -> tuple[ProcessTracks, int, int] | None:
        """The process that waits, since its last visible step, until it was last looked at."""
        kind, _, number = edge.waiter.partition(":")
        if kind != "pid" or not number.isdecimal():
            return None
        pid = int(number)
        looks = [snapshot for snapshot in full if any(one.id.pid == pid for one in snapshot.processes)]
        process = self._processes.at(pid, looks[-1].started_ns) if looks else None
        if process is None:
            return None
        end_ns = min(looks[-1].ended_ns, process.end_ns)
        steps = (e.at_ns for e in self._events if isinstance(e, _STEPS) and e.pid == pid and e.at_ns < end_ns)
        return process, max(steps, default=process.born.at_ns), end_ns

    # -- what we did to see it

    def _observation(self) -> None:
        group = self._file.process("observation")
        looks = self._file.track(group, "looks")
        for snapshot in self._snapshots:
            name = f"{'full ' * snapshot.full}snapshot {snapshot.number}"
            self._file.slice(looks, snapshot.started_ns, snapshot.ended_ns, name, {"missing": snapshot.missing})
        samples = self._file.track(group, "samples")
        for sample in self._all(LightSample):
            self._file.instant(samples, sample.at_ns, "sample", {"cost ms": sample.cost_ns / 1e6})


def _told(event: Event) -> tuple[str, dict[str, object]] | None:
    """What a step of the scenario is called, and its details."""
    match event:
        case Expectation():
            held = {True: "held", False: "broken", None: "could not be told"}[event.held]
            return f"{event.claim}: {held}", {"because": event.because, "finding": event.finding}
        case StepWaited():
            return f"waited for {event.what or event.kind}", {"seconds": event.seconds, "who": event.role}
        case DatabaseRead():
            reading = event.reading
            return f"database read {event.when}", {"error": reading.error, "integrity": reading.integrity}
        case LockDirectoryChanged():
            name = f"{event.key or event.path}: seen {event.how}"
            who = {"holder": event.holder_pid, "before": event.previous_pid}
            return name, {"because": event.because, **who, "seconds before": event.since_s}
        case Note():
            return event.text[:_SHOWN], {"note": event.text}
        case Trouble():
            return f"trouble: {event.what[:_SHOWN]}", {"trouble": event.what}
        case ScenarioSkipped():
            return f"skipped: {event.why[:_SHOWN]}", {"skipped": event.why}
        case Swept():
            return "swept", {"ended": event.ended, "leaked": event.leaked, "survivors": event.survivors}
        case _:
            return None
