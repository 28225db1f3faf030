"""The processes of a trial as tracks of a trace: life, milestones, log, waits, and a track a thread.

What lies between two looks is not known: a thread's state is drawn from one look to the next only where both saw the
same, and else for as long as the look took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pytest_ocrepro.events import (
    Event,
    LightSample,
    MilestoneReached,
    ProcessExited,
    ProcessFound,
    ProcessGone,
    ProcessStarted,
    SignalSent,
    SnapshotTaken,
    TrialStarted,
)
from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement
from pytest_ocrepro.judge.threads import wait_of
from pytest_ocrepro.publish.log_clock import timed_lines
from pytest_ocrepro.publish.trace_format import Slice, TraceFile, Track
from pytest_ocrepro.readings import ProcessReading, Snapshot, ThreadReading

_SHOWN = 120  # characters of a name; the details have the rest
_Born = ProcessStarted | ProcessFound
_Look = tuple[Snapshot, ProcessReading, ThreadReading]


class ProcessTracks:
    """One process; ``life`` is its slice from start to end."""

    def __init__(self, file: TraceFile, born: _Born, gone: ProcessExited | ProcessGone | None, end_ns: int) -> None:
        self._file = file
        self.born = born
        self.gone = gone
        self.end_ns = gone.at_ns if gone else end_ns
        self.group = file.process(f"{born.role}: {' '.join(born.argv)[:_SHOWN]}", pid=born.id.pid)
        self._life = file.track(self.group, "life")
        self.milestones = file.track(self.group, "milestones")
        self._threads: dict[int, Track] = {}
        self._log: Track | None = None

    @property
    def name(self) -> str:
        """``second (pid 812)``."""
        return f"{self.born.role} (pid {self.born.id.pid})"

    def lives_at(self, at_ns: int) -> bool:
        """Whether it was there then."""
        return self.born.at_ns <= at_ns <= self.end_ns

    def draw_life(self, judged: ProcessJudgement | None) -> Slice:
        """From start to end, with its verdict at the moment to which the verdict counts."""
        details: dict[str, object] = {"argv": " ".join(self.born.argv), "ended": _ending(self.gone)}
        if judged is not None:
            details |= {"verdict": judged.verdict, "grade": judged.grade}
            details |= {"because": judged.because, "chain": judged.chain, "refuted by": judged.refuted_by}
            at_ns = min(self.born.at_ns + round(judged.seconds * 1e9), self.end_ns)
            name = f"verdict: {judged.verdict} ({judged.grade})"
            self._file.instant(self.milestones, at_ns, name, {"because": judged.because})
        return self._file.slice(self._life, self.born.at_ns, self.end_ns, self.born.role, details)

    def log(self) -> Track:
        """Where its log lines go."""
        self._log = self._log or self._file.track(self.group, "log")
        return self._log

    def thread(self, thread: ThreadReading) -> Track:
        """A track under the thread's own number."""
        if thread.tid not in self._threads:
            self._threads[thread.tid] = self._file.track(self.group, thread.name or "thread", tid=thread.tid)
        return self._threads[thread.tid]


class Processes:
    """All processes of a trial, drawn; pids are given again, so one is asked for with the time."""

    def __init__(self, file: TraceFile, events: Sequence[Event], judgement: Judgement | None, end_ns: int) -> None:
        self._file = file
        self._events = events
        self._by_pid: dict[int, list[ProcessTracks]] = defaultdict(list)
        self.lives: dict[int, list[Slice]] = defaultdict(list)
        judged = {one.pid: one for one in judgement.processes} if judgement else {}
        for born in _births(events):
            process = ProcessTracks(file, born, _gone(events, born), end_ns)
            self._by_pid[born.id.pid].append(process)
            self.lives[born.id.pid].append(process.draw_life(judged.get(born.id.pid)))
        snapshots = [event.snapshot for event in events if isinstance(event, SnapshotTaken)]
        self._steps()
        self._threads(snapshots)
        self._logs(snapshots)

    def at(self, pid: int | None, at_ns: int) -> ProcessTracks | None:
        """The process that had this pid then, else the last one that had it."""
        known = self._by_pid.get(pid, []) if pid is not None else []
        return next((one for one in known if one.lives_at(at_ns)), known[-1] if known else None)

    def name(self, pid: int | None, at_ns: int) -> str:
        """``second (pid 812)``; of a process that nobody saw only what is known."""
        process = self.at(pid, at_ns)
        return process.name if process else f"pid {pid}" if pid is not None else "somebody"

    def _steps(self) -> None:
        for event in self._events:
            match event:
                case MilestoneReached(pid=pid):
                    if process := self.at(pid, event.at_ns):
                        details = {"told by": event.source, "line": event.line}
                        self._file.instant(process.milestones, event.at_ns, event.milestone, details)
                case SignalSent(pid=pid):
                    if process := self.at(pid, event.at_ns):
                        self._file.instant(process.milestones, event.at_ns, event.signal, {"why": event.why})
                case LightSample():
                    self._sample(event)
                case _:
                    pass

    def _sample(self, sample: LightSample) -> None:
        for pid, cpu_ns, _, output_bytes, log_bytes, _ in sample.rows:
            if process := self.at(pid, sample.at_ns):
                self._file.counter(process.group, sample.at_ns, "CPU ms", cpu_ns / 1e6)
                self._file.counter(process.group, sample.at_ns, "output bytes", output_bytes)
                self._file.counter(process.group, sample.at_ns, "log bytes", log_bytes)

    def _threads(self, snapshots: Sequence[Snapshot]) -> None:
        looks: dict[tuple[int, int, int], list[_Look]] = defaultdict(list)
        for snapshot in snapshots:
            for process in snapshot.processes:
                for thread in process.threads:
                    looks[process.id.pid, process.id.start_ticks, thread.tid].append((snapshot, process, thread))
        for (pid, _, _), seen in looks.items():
            owner = self.at(pid, seen[0][0].started_ns)
            if owner is not None:
                self._thread(owner.thread(seen[0][2]), seen)

    def _thread(self, track: Track, seen: Sequence[_Look]) -> None:
        for alike in _alike(seen):
            (first, process, thread), (last, _, after) = alike[0], alike[-1]
            details = {
                "state": thread.state,
                "it": wait_of(thread, process.fds).words,
                "looks that saw it so": len(alike),
                "it ran in between": _ran(thread, after) if len(alike) > 1 else None,
                "CPU ms so far": None if thread.cpu_ns is None else thread.cpu_ns / 1e6,
            }
            self._file.slice(track, first.started_ns, last.ended_ns, _state(thread), details)

    def _logs(self, snapshots: Sequence[Snapshot]) -> None:
        started = next((event for event in self._events if isinstance(event, TrialStarted)), None)
        if started is None:
            return
        for timed in timed_lines(snapshots, started):
            if process := self.at(timed.pid, timed.at_ns):
                at_ns = min(max(timed.at_ns, process.born.at_ns), process.end_ns)
                line = timed.line
                details = {"line": line.text, "level": line.level, "exact to s": timed.exact_to_s}
                self._file.instant(process.log(), at_ns, (line.message or line.text)[:_SHOWN], details)


def _births(events: Sequence[Event]) -> list[_Born]:
    """Each process once, those that we started first."""
    born: dict[tuple[int, int], _Born] = {}
    for kind in (ProcessStarted, ProcessFound):
        for event in events:
            if isinstance(event, kind):
                born.setdefault((event.id.pid, event.id.start_ticks), event)
    return list(born.values())


def _gone(events: Sequence[Event], born: _Born) -> ProcessExited | ProcessGone | None:
    for event in events:
        if isinstance(event, (ProcessExited, ProcessGone)) and event.pid == born.id.pid and event.at_ns >= born.at_ns:
            return event
    return None


def _ending(gone: ProcessExited | ProcessGone | None) -> str:
    if gone is None:
        return "not seen to end"
    if isinstance(gone, ProcessGone):
        return "gone; its exit status is its parent's"
    how = f"signal {-gone.code}" if gone.code < 0 else f"exit {gone.code}"
    return f"{how}, by us" if gone.ours else how


def _alike(seen: Sequence[_Look]) -> Iterator[list[_Look]]:
    """Looks that follow each other and saw the same."""
    going: list[_Look] = []
    for look in seen:
        if going and _sleep(going[-1][2]) != _sleep(look[2]):
            yield going
            going = []
        going.append(look)
    if going:
        yield going


def _sleep(thread: ThreadReading) -> tuple[str | None, str | None, str | None]:
    return thread.state, thread.wchan, thread.syscall


def _state(thread: ThreadReading) -> str:
    if thread.state == "R" or thread.syscall == "running":
        return "running"
    return " ".join(filter(None, (thread.syscall or "sleeps", f"({thread.wchan})" if thread.wchan else "")))


def _ran(one: ThreadReading, other: ThreadReading) -> bool | None:
    """Whether it was on a core between two looks, by its switches."""
    if one.voluntary_switches is None or other.voluntary_switches is None:
        return None
    return one.voluntary_switches != other.voluntary_switches
