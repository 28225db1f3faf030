"""Hand-built histories for the judge's tests: small words for events and readings. Instants are seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History

NS = 1_000_000_000
REGISTRY = "127.0.0.1:4873"
PROVIDER = "127.0.0.1:8080"
LEGACY = "INFO  2026-11-20T23:21:56 +0ms service=config path=$SANDBOX/project/.opencode/opencode.json loading"
MODERN = "timestamp=2026-11-20T23:21:56Z level=INFO run=58cf0712 message=loading path=$SANDBOX/project/.opencode/x"
DATABASE = "$SANDBOX/data/opencode/opencode.db"
LOCKED = "npm-install:$SANDBOX/project/.opencode"


def ns(seconds: float) -> int:
    return round(seconds * NS)


def ident(pid: int, start: int = 1) -> r.ProcessId:
    return r.ProcessId(pid=pid, start_ticks=pid * 10 + start)


def started(pid: int, role: str, at: float = 0.0, *, start: int = 1, **more: Any) -> h.ProcessStarted:
    values: dict[str, Any] = {
        "argv": ("opencode", "run", "hi"),
        "obligation": "answer",
        "fail_fast_s": 20.0,
        "deadline_s": 45.0,
        "stdin": "/dev/null",
    }
    return h.ProcessStarted(at_ns=ns(at), id=ident(pid, start), role=role, **{**values, **more})


def found(pid: int, parent: int, at: float, role: str = "", **more: Any) -> h.ProcessFound:
    values: dict[str, Any] = {"argv": ("sh", "-c", "sleep 8"), "is_subject": False}
    return h.ProcessFound(
        at_ns=ns(at), id=ident(pid), role=role or f"sh-{pid}", parent_pid=parent, **{**values, **more}
    )


def milestone(pid: int, role: str, name: str, at: float, line: str = MODERN) -> h.MilestoneReached:
    return h.MilestoneReached(at_ns=ns(at), pid=pid, role=role, milestone=name, source="log", line=line)


def progress(pid: int, role: str, at: float, what: str = "log +100 bytes") -> h.ProgressSeen:
    return h.ProgressSeen(at_ns=ns(at), pid=pid, role=role, what=what)


def exited(pid: int, role: str, at: float, code: int, output: str = "", *, ours: bool = False) -> h.ProcessExited:
    return h.ProcessExited(at_ns=ns(at), pid=pid, role=role, code=code, ours=ours, output=output)


def signal(pid: int, role: str, at: float, name: str, why: str = "scenario") -> h.SignalSent:
    return h.SignalSent(at_ns=ns(at), pid=pid, role=role, signal=name, why=why)


def fault(name: str, at: float = 0.0, *, for_good: bool = True, **more: Any) -> h.FaultInjected:
    return h.FaultInjected(at_ns=ns(at), fault=name, detail=f"{name} is silent", silent_for_good=for_good, **more)


def claim(role: str, at: float, *, held: bool | None = False, finding: str = "") -> h.Expectation:
    return h.Expectation(at_ns=ns(at), claim=f"{role} finishes", held=held, because="so", role=role, finding=finding)


def asked(pid: int | None, at: float, number: int = 1, *, title: bool = False) -> h.ProviderRequest:
    return h.ProviderRequest(
        at_ns=ns(at),
        request=number,
        pid=pid,
        path="/v1/chat/completions",
        model="m1",
        tools=0 if title else 9,
        title=title,
    )


def replied(pid: int | None, at: float, what: str, number: int = 1, turn: str = "text") -> h.ProviderReply:
    return h.ProviderReply(at_ns=ns(at), request=number, pid=pid, what=what, turn=turn)


def fetched(pid: int | None, at: float, reply: str = "stalled") -> h.RegistryRequest:
    return h.RegistryRequest(at_ns=ns(at), pid=pid, path="/@opencode-ai%2fplugin", reply=reply)


def thread(tid: int, **more: Any) -> r.ThreadReading:
    values: dict[str, Any] = {
        "name": "opencode",
        "state": "S",
        "wchan": "do_epoll_wait",
        "syscall": "epoll_pwait2",
        "voluntary_switches": 100,
        "involuntary_switches": 0,
        "runqueue_wait_ns": 0,
    }
    return r.ThreadReading(tid=tid, **{**values, **more})


def process(pid: int, role: str, *, start: int = 1, **more: Any) -> r.ProcessReading:
    values: dict[str, Any] = {
        "name": "opencode",
        "parent_pid": 1,
        "session_pid": 1,
        "state": "S",
        "argv": ("opencode", "run", "hi"),
        "cpu_ns": NS,
        "threads": (thread(pid),),
    }
    return r.ProcessReading(id=ident(pid, start), role=role, **{**values, **more})


def tail(pid: int | None, name: str, text: str = MODERN, size: int = 1000) -> r.LogTail:
    line = r.LogLine(text=text, milestone=name)
    return r.LogTail(path="opencode.log", pid=pid, size_bytes=size, lines=(line,), milestone=name)


def lock_directory(pid: int | None, *, alive: bool | None = True, age: float = 20.0, **more: Any) -> r.LockDirectory:
    values: dict[str, Any] = {
        "path": "$SANDBOX/state/opencode/locks/5688.lock",
        "key": LOCKED,
        "token": "t1",
        "age_s": age,
        "heartbeat_age_s": age,
    }
    return r.LockDirectory(holder_pid=pid, holder_alive=alive, **{**values, **more})


def file_lock(pid: int | None, path: str = "/tmp/a", *, waiting: bool = False, **more: Any) -> r.FileLock:
    values: dict[str, Any] = {"kind": "FLOCK", "access": "WRITE", "start": 0, "end": None, "name": ""}
    return r.FileLock(path=path, pid=pid, waiting=waiting, **{**values, **more})


def write_byte(pid: int | None) -> r.FileLock:
    return file_lock(pid, f"{DATABASE}-shm", kind="POSIX", start=120, end=120, name="WRITE")


def open_database(fd: int = 14) -> r.FdReading:
    return r.FdReading(fd=fd, kind=r.FdKind.DATABASE, target=DATABASE)


def connection(pid: int, address: str = REGISTRY) -> r.SocketReading:
    return r.SocketReading(
        pid=pid,
        fd=20,
        inode=pid,
        local=f"127.0.0.1:{pid}",
        remote=address,
        state="ESTABLISHED",
        rx_queue_bytes=0,
        tx_queue_bytes=0,
    )


def look(
    at: float, *processes: r.ProcessReading, took: float = 0.01, slept: float = 0.0, **more: Any
) -> h.SnapshotTaken:
    snapshot = r.Snapshot(
        number=round(at * 10),
        started_ns=ns(at),
        ended_ns=ns(at + took),
        boottime_ns=ns(at + slept) + 1000,
        full=True,
        processes=processes,
        **more,
    )
    return h.SnapshotTaken(at_ns=ns(at), snapshot=snapshot)


def twice(first: float, *processes: r.ProcessReading, apart: float = 0.6, **more: Any) -> tuple[h.SnapshotTaken, ...]:
    """The same sight at two instants."""
    return look(first, *processes, **more), look(first + apart, *processes, **more)


def samples(pids: Iterable[int], begin: float, end: float, *, share: float = 0.01) -> tuple[h.LightSample, ...]:
    """Four light samples a second, each process using ``share`` of a core."""
    count = int((end - begin) * 4) + 1
    return tuple(
        h.LightSample(
            at_ns=ns(begin + n / 4),
            rows=tuple((pid, NS + ns(share * n / 4), 100 + n, 0, 0, "S") for pid in pids),
            cost_ns=1000,
        )
        for n in range(count)
    )


def of(*parts: h.Event | Iterable[h.Event]) -> History:
    """A history of events and groups of events, in the order of their instants."""
    events: list[h.Event] = []
    for part in parts:
        events += [part] if isinstance(part, h.Event) else list(part)
    return History.of(sorted(events, key=lambda event: event.at_ns))


def overlap(
    *,
    for_good: bool = True,
    until: float = 6.0,
    blind: bool = False,
    more: Iterable[h.Event] = (),
    sight: dict[str, Any] | None = None,
) -> History:
    """The reported overlap: 20 waits for the lock directory of 10, and 10 for the registry. ``blind``: unseen."""
    seen: dict[str, Any] = {
        "lock_directories": (lock_directory(10),),
        "sockets": (connection(10),),
        "logs": (tail(10, "config-loading"), tail(20, "config-loading")),
    }
    return of(
        fault("registry", address=REGISTRY, for_good=for_good),
        started(10, "first", 0.0),
        started(20, "second", 0.5),
        milestone(10, "first", "config-loading", 1.0),
        fetched(10, 1.2),
        milestone(20, "second", "config-loading", 2.0),
        samples((10, 20), 0.0, until),
        () if blind else twice(until - 1.0, process(10, "first"), process(20, "second"), **{**seen, **(sight or {})}),
        more,
    )
