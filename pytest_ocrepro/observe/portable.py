"""The reader of processes where there is no proc(5): psutil asks the system, and what that does not tell is unknown.

It answers what ``procfs.Reader`` answers, in the same records. Facts about macOS, which we have not run on: a process
that is not stopped is always said to be "running" (psutil issue 2675), so its state is unknown; of Apple's own
programs the environment comes empty (psutil issue 2084), so the parent's mark is taken for theirs.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Final

import psutil
from msgspec import structs

from pytest_ocrepro.observe.connections import asked, process_of, tcp_of
from pytest_ocrepro.observe.proctext import FdInfo, Stat, fd_kind
from pytest_ocrepro.platforms import UNKNOWN_ON_MACOS, has_proc
from pytest_ocrepro.readings import FdKind, FdReading, ProcessId, ProcessReading, ThreadReading

UNKNOWN_STATE: Final = "?"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SETTLED_S: Final = 1.0  # a process this old has left the fork-then-exec window, its environment is its own
_DEAD: Final = frozenset("ZX")
_LETTERS: Final = {
    psutil.STATUS_RUNNING: "R",
    psutil.STATUS_SLEEPING: "S",
    psutil.STATUS_IDLE: "S",
    psutil.STATUS_DISK_SLEEP: "D",
    psutil.STATUS_STOPPED: "T",
    psutil.STATUS_TRACING_STOP: "t",
    psutil.STATUS_ZOMBIE: "Z",
    psutil.STATUS_DEAD: "X",
}
_Key = tuple[int, int, str]


class PortableReader:
    """Reads through psutil. A process that is gone, and what may not be read, is None or left out.

    ``start_ticks`` are microseconds here. ``tells_running``: whether "running" means what it says.
    """

    def __init__(self, *, tells_running: bool | None = None) -> None:
        self._tells_running = has_proc() if tells_running is None else tells_running
        self._marks: dict[tuple[str, str], dict[_Key, bool]] = {}
        self._settled: dict[tuple[str, str], set[int]] = {}

    def boot_id(self) -> str:
        """None is needed: a start time is one of the calendar, and not of a boot."""
        return ""

    def boottime_ns(self) -> int:
        """CLOCK_MONOTONIC, which counts a suspended machine on macOS (clock_gettime(3) there)."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) if sys.platform == "darwin" else time.monotonic_ns()

    def pids(self) -> list[int]:
        """All processes that can be seen."""
        return sorted(psutil.pids())

    def stat(self, pid: int) -> Stat | None:
        """The short record; CPU time and size are 0 where they may not be read."""
        process = process_of(pid)
        return None if process is None else self._stat(process)

    def table(self) -> dict[int, Stat]:
        """All processes that can be seen, by pid."""
        return {pid: stat for pid in self.pids() if (stat := self.stat(pid)) is not None}

    def identify(self, pid: int) -> ProcessId | None:
        """The name for this process and no later one of its pid; zombies have one too."""
        process = process_of(pid)
        return None if process is None else _id(process)

    def alive(self, process: ProcessId) -> bool:
        """Whether this very process is there, and not a zombie."""
        found = process_of(process.pid)
        return found is not None and _id(found) == process and self._letter(found) not in _DEAD

    def hidden(self, pid: int) -> bool:
        """No: psutil shows the processes of all users."""
        del pid
        return False

    def age_s(self, process: ProcessId) -> float:
        """Seconds since the process was started; infinite for one that is gone."""
        found = process_of(process.pid)
        if found is None or _id(found) != process:
            return math.inf
        return max(0.0, time.time() - (asked(found.create_time) or 0.0))

    def state(self, pid: int) -> str | None:
        """R, S, D, T, t, Z, or "?" for one of which it is not told whether it runs or sleeps."""
        process = process_of(pid)
        return None if process is None else self._letter(process)

    def parent(self, pid: int) -> int | None:
        """The parent's pid."""
        process = process_of(pid)
        return None if process is None else asked(process.ppid)

    def environ(self, pid: int) -> dict[str, str] | None:
        """The environment that the process was started with; None: unreadable, or gone, or empty."""
        process = process_of(pid)
        return None if process is None else asked(process.environ) or None

    def argv(self, pid: int) -> tuple[str, ...] | None:
        """The command line, () for zombies."""
        process = process_of(pid)
        if process is None:
            return None
        words = asked(process.cmdline)
        return None if words is None else tuple(words)

    def exe(self, pid: int) -> str | None:
        """The path of the executable; None: unreadable or gone."""
        process = process_of(pid)
        return None if process is None else asked(process.exe) or None

    def marked(
        self,
        name: str,
        value: str,
        *,
        known: Container[ProcessId] = (),
        among: Mapping[int, Stat] | None = None,
    ) -> list[ProcessId]:
        """Living processes, but for ours, whose environment has ``name=value`` (``value*``: begins with it).

        One whose environment cannot be read has its parent's answer, and keeps it when the parent ends.
        """
        before = self._marks.get((name, value), {})
        after: dict[_Key, bool] = {}
        answers: dict[int, bool | None] = {}
        found: dict[int, psutil.Process] = {
            process.pid: process for process in self._living(self.pids() if among is None else among)
        }
        for pid, process in found.items():
            answers[pid] = before.get(_key(process)) or (True if _id(process) in known else None)
            if answers[pid] is None and before.get(_key(process)) is not False:
                answers[pid] = _carries(process, name, value)
        for pid, process in found.items():
            answer = bool(_answer_of(pid, answers, found))
            if answer or self._age_of(process) > _SETTLED_S:
                after[_key(process)] = answer
            answers[pid] = answer
        self._marks[name, value] = after
        return [_id(process) for pid, process in found.items() if answers[pid]]

    def newly_marked(self, name: str, value: str) -> list[ProcessId]:
        """The same among processes that were younger than 1 s when this was asked last, or came since."""
        pids, settled = self.pids(), self._settled.get((name, value), set())
        found = []
        for process in self._living(pid for pid in pids if pid not in settled):
            if self._age_of(process) > _SETTLED_S:
                settled.add(process.pid)
            if _carries(process, name, value):
                found.append(_id(process))
        self._settled[name, value] = settled & set(pids)
        return found

    def forget(self, name: str, value: str) -> None:
        """Drop what was learnt of who carries a mark that nobody will be asked for again."""
        self._marks.pop((name, value), None)
        self._settled.pop((name, value), None)

    def read_process(
        self, pid: int, *, role: str, is_subject: bool, full: bool, missing: list[str]
    ) -> ProcessReading | None:
        """One process at one instant; ``full=False`` leaves out its descriptors and all threads but the main one."""
        process = process_of(pid)
        stat = None if process is None else self._stat(process)
        if process is None or stat is None:
            return None
        reading = ProcessReading(
            id=_id(process),
            role=role,
            name=stat.name,
            parent_pid=stat.parent_pid,
            session_pid=stat.session_pid,
            state=stat.state,
            is_subject=is_subject,
            cpu_ns=stat.cpu_ticks * 1_000_000_000 // _TICKS_PER_S,
            rss_bytes=stat.rss_pages * _PAGE_BYTES,
            threads=(_main_thread(process, stat),),
        )
        if not full or stat.state in _DEAD:
            return reading
        return structs.replace(reading, fds=_fds(process, missing), argv=self.argv(pid) or ())

    def written_bytes(self, pid: int) -> None:
        """Not told."""
        del pid

    def open_file(self, pid: int, fd: int) -> os.stat_result | None:  # noqa: ARG002  no such way there
        """None: nobody tells it."""
        return None

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, path) of its regular files."""
        process = process_of(pid)
        files = None if process is None else asked(process.open_files)
        if files is None and missing is not None:
            missing.append(f"pid {pid}: open files: not told")
        return sorted((file.fd, file.path) for file in files or ())

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """Nothing is told but that it is open."""
        return FdInfo() if any(number == fd for number, _ in self.fd_links(pid, missing)) else None

    def is_open_at(self, pid: int, fd: int, path: str) -> bool:
        """Whether ``path`` is the file that the descriptor has open, by name."""
        return (fd, path) in self.fd_links(pid)

    def namespace(self, pid: int | str, kind: str) -> str | None:  # noqa: ARG002  there are none
        """Nothing."""
        return None

    def inner_pids(self, pid: int) -> tuple[int, ...]:  # noqa: ARG002  there are none
        """Nothing."""
        return ()

    def own_group(self) -> None:
        """There are no control groups."""

    # --- below: how

    def _living(self, pids: Iterable[int]) -> Iterator[psutil.Process]:
        ourselves = os.getpid()
        for pid in pids:
            process = process_of(pid) if pid != ourselves else None
            if process is not None and self._letter(process) not in _DEAD:
                yield process

    def _age_of(self, process: psutil.Process) -> float:
        return time.time() - (asked(process.create_time) or 0.0)

    def _letter(self, process: psutil.Process) -> str:
        letter = _LETTERS.get(asked(process.status) or "", UNKNOWN_STATE)
        return letter if self._tells_running or letter not in "RSD" else UNKNOWN_STATE

    def _stat(self, process: psutil.Process) -> Stat | None:
        parent = asked(process.ppid)
        if parent is None:
            return None
        cpu, memory = asked(process.cpu_times), asked(process.memory_info)
        return Stat(
            pid=process.pid,
            name=asked(process.name) or "",
            state=self._letter(process),
            parent_pid=parent,
            session_pid=_session(process.pid),
            cpu_ticks=round((cpu.user + cpu.system) * _TICKS_PER_S) if cpu else 0,
            start_ticks=_id(process).start_ticks,
            rss_pages=memory.rss // _PAGE_BYTES if memory else 0,
            environment_at=0,
        )


def missing_here() -> str:
    """The one line that a snapshot through psutil has about what it cannot hold."""
    return f"read through psutil; unknown on this system: {UNKNOWN_ON_MACOS}"


def _id(process: psutil.Process) -> ProcessId:
    # the instant by which psutil itself tells processes apart: it stays when the clock is set, create_time() does not
    instant = process._ident[1]  # noqa: SLF001
    return ProcessId(pid=process.pid, start_ticks=round((instant or 0.0) * 1_000_000))


def _key(process: psutil.Process) -> _Key:
    return process.pid, _id(process).start_ticks, asked(process.name) or ""


def _carries(process: psutil.Process, name: str, value: str) -> bool | None:
    """None: its environment is not told."""
    variables = asked(process.environ)
    if not variables:
        return None
    found = variables.get(name)
    if found is None:
        return False
    return bool(found.startswith(value[:-1]) if value.endswith("*") else found == value)


def _answer_of(pid: int, answers: dict[int, bool | None], found: dict[int, psutil.Process]) -> bool | None:
    """Its own answer, or that of the nearest one above it that has any."""
    seen: set[int] = set()
    while pid in answers and answers[pid] is None and pid not in seen:
        seen.add(pid)
        pid = asked(found[pid].ppid) or 0
    return answers.get(pid)


def _session(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return 0


def _main_thread(process: psutil.Process, stat: Stat) -> ThreadReading:
    """Of the other threads nothing is told that could be compared; the switches are those of all."""
    switches = asked(process.num_ctx_switches)
    return ThreadReading(
        tid=process.pid,
        name=stat.name,
        state=None if stat.state == UNKNOWN_STATE else stat.state,
        voluntary_switches=switches.voluntary if switches else None,
    )


def _fds(process: psutil.Process, missing: list[str]) -> tuple[FdReading, ...]:
    """Regular files and TCP sockets."""
    files, rows = asked(process.open_files), tcp_of(process.pid)
    if files is None:
        missing.append(f"pid {process.pid}: open files: not told")
    found = {file.fd: FdReading(fd=file.fd, kind=fd_kind(file.path), target=file.path) for file in files or ()}
    for row in rows:
        if row.fd is not None and row.fd >= 0:
            target = f"{row.local} to {row.remote}"
            found[row.fd] = FdReading(fd=row.fd, kind=FdKind.SOCKET, target=target)
    return tuple(found[fd] for fd in sorted(found))
