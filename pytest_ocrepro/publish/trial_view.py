"""All that one trial's part of the page shows, gathered from its bundle."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import msgspec
from markupsafe import Markup

from pytest_ocrepro.history import (
    DatabaseRead,
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    History,
    HttpCall,
    LockDirectoryChanged,
    Note,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    SignalSent,
    SnapshotTaken,
    Swept,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.judge.threads import groups
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.pictures.swimlane import swimlane
from pytest_ocrepro.publish.pictures.timeline import Timeline, timeline
from pytest_ocrepro.publish.pictures.waitfor import graph
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.readings import FdKind, LogTail, ProcessReading, Snapshot, ThreadReading


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain. ``holder`` empty: a sentence that no edge of the graph could be found for."""

    waiter: str
    verb: str = ""
    holder: str = ""
    grade: str = ""
    evidence: tuple[str, ...] = ()


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of one process that look alike, between the last two full snapshots."""

    count: int
    tids: str
    name: str
    state: str | None
    wchan: str | None
    syscall: str | None
    waits: str
    voluntary: int | None
    involuntary: int | None
    cpu_ms: float | None


class ThreadTable(msgspec.Struct, frozen=True, kw_only=True):
    """The threads of one process; ``apart_s`` seconds lie between the two looks (None: there was one look)."""

    process: ProcessReading
    apart_s: float | None
    rows: tuple[ThreadRow, ...]


class FdGroup(msgspec.Struct, frozen=True, kw_only=True):
    """File descriptors of one kind in one process."""

    role: str
    pid: int
    kind: str
    count: int
    targets: tuple[str, ...]


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the harness did or met, in order."""

    at_s: float
    kind: str
    text: str


class TrialView(msgspec.Struct, frozen=True, kw_only=True):
    """All that one trial's part of the page shows."""

    entry: Entry
    stored: StoredTrial
    started: TrialStarted | None
    timeline: Timeline
    swimlane: Markup
    graph: Markup | None
    steps: tuple[Step, ...]
    processes: tuple[ProcessStarted | ProcessFound, ...]
    exits: tuple[ProcessExited, ...]
    expectations: tuple[Expectation, ...]
    calls: tuple[HttpCall, ...]
    databases: tuple[DatabaseRead, ...]
    threads: tuple[ThreadTable, ...]
    fds: tuple[FdGroup, ...]
    last: Snapshot | None
    snapshots: int
    logs: tuple[LogTail, ...]
    remarks: tuple[Remark, ...]
    missing: tuple[tuple[str, int], ...]


def trial_view(entry: Entry, stored: StoredTrial, *, uid: str) -> TrialView:
    """Gather it; ``uid`` keeps the marks of this trial's pictures apart from all others' on the page."""
    history, judgement = stored.history, stored.judgement
    full = [event.snapshot for event in history.of_type(SnapshotTaken) if event.snapshot.full]
    line = timeline(history, judgement)
    wait_for = judgement.graph if judgement and judgement.graph.edges else None
    missing = Counter(reason for snapshot in full for reason in snapshot.missing)
    return TrialView(
        entry=entry,
        stored=stored,
        started=next(iter(history.of_type(TrialStarted)), None),
        timeline=line,
        swimlane=Markup(swimlane(line, uid=uid)),  # noqa: S704 - pictures escape what they draw
        graph=Markup(graph(wait_for, uid=uid)) if wait_for else None,  # noqa: S704
        steps=tuple(_steps(judgement)) if judgement else (),
        processes=tuple(e for e in history if isinstance(e, (ProcessStarted, ProcessFound))),
        exits=tuple(history.of_type(ProcessExited)),
        expectations=tuple(history.of_type(Expectation)),
        calls=tuple(history.of_type(HttpCall)),
        databases=tuple(history.of_type(DatabaseRead)),
        threads=tuple(_threads(full)),
        fds=tuple(_fds(full[-1])) if full else (),
        last=full[-1] if full else None,
        snapshots=len(full),
        logs=tuple({tail.path: tail for snapshot in full for tail in snapshot.logs}.values()),
        remarks=tuple(_remarks(history)),
        missing=tuple(sorted(missing.items())),
    )


def _steps(judgement: Judgement) -> Iterator[Step]:
    labels = {node.key: node.label for node in judgement.graph.nodes}
    spoken = {
        f"{labels.get(edge.waiter, edge.waiter)} {edge.verb} {labels.get(edge.holder, edge.holder)}": edge
        for edge in judgement.graph.edges
    }
    for sentence in judgement.chain:
        found = max((head for head in spoken if sentence.startswith(head)), key=len, default=None)
        if found is None:
            yield Step(waiter=sentence)
            continue
        edge = spoken[found]
        yield Step(
            waiter=labels.get(edge.waiter, edge.waiter),
            verb=edge.verb,
            holder=labels.get(edge.holder, edge.holder),
            grade=edge.grade,
            evidence=edge.evidence,
        )


def _threads(snapshots: Sequence[Snapshot]) -> Iterator[ThreadTable]:
    looks: dict[tuple[int, int], list[tuple[int, ProcessReading]]] = defaultdict(list)
    for snapshot in snapshots:
        for process in snapshot.processes:
            looks[process.id.pid, process.id.start_ticks].append((snapshot.started_ns, process))
    for seen in looks.values():
        (before_ns, before), (after_ns, after) = seen[-2:] if len(seen) > 1 else (seen[0], seen[0])
        apart_s = (after_ns - before_ns) / 1e9 if len(seen) > 1 else None
        yield ThreadTable(process=after, apart_s=apart_s, rows=tuple(_thread_rows(before, after, apart_s)))


def _thread_rows(before: ProcessReading, after: ProcessReading, apart_s: float | None) -> Iterator[ThreadRow]:
    earlier = {thread.tid: thread for thread in before.threads} if apart_s is not None else {}
    alike: dict[ThreadRow, list[int]] = defaultdict(list)
    for group in groups(after):
        shared = f"; all at futex {group.wait.futex}" if group.wait.futex and len(group.threads) > 1 else ""
        for thread in group.threads:
            row = _thread_row(earlier.get(thread.tid), thread, f"{group.wait.words}{shared}")
            alike[row].append(thread.tid)
    for row, tids in alike.items():
        some = ", ".join(map(str, tids[:4])) + (" …" if len(tids) > 4 else "")  # noqa: PLR2004 - a hint, not a list
        yield msgspec.structs.replace(row, count=len(tids), tids=some)


def _thread_row(before: ThreadReading | None, after: ThreadReading, waits: str) -> ThreadRow:
    before = before or _NEVER_SEEN
    cpu_ns = _delta(before.cpu_ns, after.cpu_ns)
    return ThreadRow(
        count=1,
        tids="",
        name=after.name.rstrip("0123456789").rstrip() or after.name,  # the numbers of a pool tell nothing
        state=after.state,
        wchan=after.wchan,
        syscall=after.syscall,
        waits=waits,
        voluntary=_delta(before.voluntary_switches, after.voluntary_switches),
        involuntary=_delta(before.involuntary_switches, after.involuntary_switches),
        cpu_ms=None if cpu_ns is None else round(cpu_ns / 1e6, 1),
    )


_NEVER_SEEN = ThreadReading(tid=0, name="")


def _delta(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _fds(snapshot: Snapshot) -> Iterator[FdGroup]:
    telling = (FdKind.DATABASE, FdKind.WAL, FdKind.SHM, FdKind.LOG, FdKind.SOCKET, FdKind.PIPE, FdKind.FILE)
    for process in snapshot.processes:
        groups: dict[FdKind, list[str]] = defaultdict(list)
        for fd in process.fds:
            detail = f" ({fd.detail})" if fd.detail else ""
            groups[fd.kind].append(f"{fd.fd} → {fd.target}{detail}")
        for kind in sorted(groups, key=lambda kind: telling.index(kind) if kind in telling else len(telling)):
            yield FdGroup(
                role=process.role, pid=process.id.pid, kind=kind, count=len(groups[kind]), targets=tuple(groups[kind])
            )


def _remarks(history: History) -> Iterator[Remark]:
    events = list(history)
    origin_ns = events[0].at_ns if events else 0
    for event in events:
        told = _told(event)
        if told:
            yield Remark(at_s=(event.at_ns - origin_ns) / 1e9, kind=told[0], text=told[1])


def _told(event: Event) -> tuple[str, str] | None:
    match event:
        case FaultInjected():
            return "fault injected", ", ".join(filter(None, (event.fault, event.detail, event.address)))
        case FaultHealed():
            return "fault healed", event.fault
        case SignalSent():
            return (
                "signal",
                f"{event.signal} to {event.role} (pid {event.pid}){f': {event.why}' if event.why else ''}",
            )
        case LockDirectoryChanged():
            who = "" if event.holder_pid is None else f" by pid {event.holder_pid}"
            return "lock directory", f"{event.key or event.path}: {event.how}{who}; {event.because}"
        case OffLoopback():
            return "off loopback", f"pid {event.pid} was refused {event.destination}"
        case Note():
            return "note", event.text
        case Trouble():
            return "trouble", event.what
        case Swept():
            left = f"leaked: {', '.join(event.leaked)}" if event.leaked else "nothing leaked"
            tools = f"; outlived their opencode: {', '.join(event.survivors)}" if event.survivors else ""
            return "swept", f"{left}; ended by the sweep: {', '.join(event.ended) or 'nothing'}{tools}"
        case _:
            return None
