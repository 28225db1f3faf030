"""The one reader of proc(5): procfiles opens its files, process_in_full reads all of one, proctext the words."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from typing import TYPE_CHECKING, Final

from msgspec import structs

from pytest_ocrepro.observe.process_in_full import InFull
from pytest_ocrepro.observe.procfiles import ProcFiles
from pytest_ocrepro.observe.proctext import (
    parse_argv,
    parse_environ,
    parse_io,
    parse_locks,
    parse_numbers,
    parse_stat,
    syscall_names,
)
from pytest_ocrepro.readings import ProcessId, ProcessReading

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from pytest_ocrepro.observe.proctext import FdInfo, LockLine, Stat

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SETTLED_S: Final = 1.0  # a process this old has left the fork-then-exec window, its environment is its own
_DEAD: Final = frozenset("ZXx")


_Exec = tuple[int, int, int, str]  # a process between two execs: pid, start, where its environment lies, name


class Reader:
    """``root`` may be a made-up tree, of another ``machine``. What is gone or missing: as :class:`ProcFiles` says."""

    def __init__(self, root: str = "/proc", *, machine: str | None = None) -> None:
        self._files = ProcFiles(root)
        self._processes = InFull(self._files, syscall_names(machine or platform.machine()))
        self._boot_id: str | None = None
        self._values: dict[str, dict[_Exec, str | None]] = {}
        self._settled: dict[tuple[str, str], set[int]] = {}

    def boot_id(self) -> str:
        """The kernel's random id of this boot, "" where it is not told."""
        if self._boot_id is None:
            self._boot_id = (self._files.text("sys/kernel/random/boot_id") or "").strip()
        return self._boot_id

    def pids(self) -> list[int]:
        """All processes that can be seen."""
        return sorted(int(name) for name in self._files.entries("") if name.isdecimal())

    def stat(self, pid: int) -> Stat | None:
        """The parsed ``stat``; readable by anybody for any process."""
        text = self._files.text(f"{pid}/stat")
        return None if text is None else parse_stat(text)

    def table(self) -> dict[int, Stat]:
        """All processes that can be seen, by pid: one reading of each."""
        return {pid: stat for pid in self.pids() if (stat := self.stat(pid)) is not None}

    def identify(self, pid: int) -> ProcessId | None:
        """The name for this process and no later one of its pid; zombies have one too."""
        stat = self.stat(pid)
        return None if stat is None else self._id(stat)

    def alive(self, process: ProcessId) -> bool:
        """Whether this very process is there, and not a zombie."""
        stat = self.stat(process.pid)
        return stat is not None and stat.start_ticks == process.start_ticks and stat.state not in _DEAD

    def hidden(self, pid: int) -> bool:
        """A process has this pid although proc(5) does not show it to us (hidepid); asked with pidfd_open(2)."""
        if sys.platform != "linux" or self._files.root != "/proc" or self.stat(pid) is not None:
            return False
        try:
            os.close(os.pidfd_open(pid))
        except (OSError, OverflowError, ValueError):
            return False
        return True

    def age_s(self, process: ProcessId) -> float:
        """Seconds since the process was started, suspended machine included."""
        return self.boottime_ns() / 1e9 - process.start_ticks / _TICKS_PER_S

    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME, which counts a suspended machine (clock_gettime(2))."""
        if sys.platform != "linux":
            return time.monotonic_ns()
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def state(self, pid: int) -> str | None:
        """R, S, D, T, t, Z or X of the main thread."""
        stat = self.stat(pid)
        return None if stat is None else stat.state

    def parent(self, pid: int) -> int | None:
        """The parent's pid."""
        stat = self.stat(pid)
        return None if stat is None else stat.parent_pid

    def session(self, pid: int) -> int | None:
        """The session leader's pid."""
        stat = self.stat(pid)
        return None if stat is None else stat.session_pid

    def children_of(self, pid: int) -> list[int]:
        """Direct children, zombies included."""
        return [other for other in self.pids() if self.parent(other) == pid]

    def environ(self, pid: int) -> dict[str, str] | None:
        """The environment that the process was started with; None: unreadable or gone."""
        data = self._files.content(f"{pid}/environ")
        return None if data is None else parse_environ(data)

    def argv(self, pid: int) -> tuple[str, ...] | None:
        """The command line, () for kernel threads and zombies."""
        data = self._files.content(f"{pid}/cmdline")
        return None if data is None else parse_argv(data)

    def exe(self, pid: int) -> str | None:
        """The path of the executable; None: unreadable or gone."""
        return self._files.link(f"{pid}/exe")

    def marked(
        self,
        name: str,
        value: str,
        *,
        known: Container[ProcessId] = (),
        among: Mapping[int, Stat] | None = None,
    ) -> list[ProcessId]:
        """Living processes, but for ours, whose environment has ``name=value`` (``value*``: begins with it).

        Those in ``known`` are taken as marked without another look. An environment is read once an exec (told
        by its address), for all values of a name; that it lacks the name is kept only of a process older than 1 s,
        which is past fork-then-exec. ``among``: a :meth:`table` just read; without it everybody is read anew.
        """
        before = self._values.get(name, {})
        after: dict[_Exec, str | None] = {}
        found = []
        for stat in self._living() if among is None else self._living_of(among):
            process, key = self._id(stat), _exec_of(stat)
            if process in known:
                found.append(process)
                continue
            own = before[key] if key in before else self._value(stat.pid, name)
            if own is not None or self.age_s(process) > _SETTLED_S:
                after[key] = own
            if _matches(own, value):
                found.append(process)
        self._values[name] = after
        return found

    def forget(self, name: str, value: str) -> None:
        """Drop what was learnt of who carries a mark that nobody will be asked for again."""
        self._settled.pop((name, value), None)

    def newly_marked(self, name: str, value: str) -> list[ProcessId]:
        """The same among processes that were younger than 1 s when this was asked last, or came since.

        Its cost does not grow with the machine's processes. It misses one that takes the mark later in its life, or
        that has the pid of one that was looked at: ``marked`` finds these.
        """
        pids, settled = self.pids(), self._settled.get((name, value), set())
        learnt = self._values.get(name, {})
        found = []
        for stat in self._living([pid for pid in pids if pid not in settled]):
            process = self._id(stat)
            if self.age_s(process) > _SETTLED_S:
                settled.add(stat.pid)
            key = _exec_of(stat)
            if _matches(learnt[key] if key in learnt else self._value(stat.pid, name), value):
                found.append(process)
        self._settled[name, value] = settled & set(pids)
        return found

    def read_process(
        self, pid: int, *, role: str, is_subject: bool, full: bool, missing: list[str]
    ) -> ProcessReading | None:
        """One process at one instant; ``full=False`` reads ``stat`` and the main thread's switches only.

        ``read_bytes`` and ``written_bytes`` count all bytes through read and write calls, pipes too.
        """
        stat = self.stat(pid)
        if stat is None:
            return None
        reading = ProcessReading(
            id=self._id(stat),
            role=role,
            name=stat.name,
            parent_pid=stat.parent_pid,
            session_pid=stat.session_pid,
            state=stat.state,
            is_subject=is_subject,
            cpu_ns=stat.cpu_ticks * 1_000_000_000 // _TICKS_PER_S,
            rss_bytes=max(0, stat.rss_pages) * _PAGE_BYTES,
        )
        if not full or stat.state in _DEAD:
            return structs.replace(reading, threads=(self._processes.main_thread(stat),))
        return self._processes.in_full(reading, missing)

    def written_bytes(self, pid: int) -> int | None:
        """All that it has written so far, through any call and into anything."""
        return parse_io(self._files.text(f"{pid}/io") or "")[1]

    def net(self, pid: int | str = "self") -> str:
        """Rows of net/tcp and net/tcp6 of the network namespace that the process is in."""
        return (self._files.text(f"{pid}/net/tcp") or "") + (self._files.text(f"{pid}/net/tcp6") or "")

    def net_unix(self, pid: int | str = "self") -> str:
        """Rows of net/unix of the network namespace that the process is in."""
        return self._files.text(f"{pid}/net/unix") or ""

    def net_namespace(self, pid: int | str) -> str | None:
        """The namespace's name, equal for processes that share it; None: unreadable."""
        return self.namespace(pid, "net")

    def namespace(self, pid: int | str, kind: str) -> str | None:
        """The same for ``mnt``, ``pid``, ``user`` and so on (namespaces(7)); ``self`` for our own."""
        return self._files.link(f"{pid}/ns/{kind}")

    def cwd(self, pid: int) -> str | None:
        """Where the process works; None: unreadable or gone."""
        return self._files.link(f"{pid}/cwd")

    def root_of(self, pid: int) -> str | None:
        """What the process calls ``/``; None: unreadable or gone."""
        return self._files.link(f"{pid}/root")

    def inner_pids(self, pid: int) -> tuple[int, ...]:
        """Its pids from our PID namespace inwards (NSpid of proc_pid_status(5)); () where that is not told."""
        return parse_numbers(self._files.text(f"{pid}/status") or "", "NSpid:")

    def user(self, pid: int) -> int | None:
        """The real user id."""
        numbers = parse_numbers(self._files.text(f"{pid}/status") or "", "Uid:")
        return numbers[0] if numbers else None

    def hidepid(self) -> str:
        """How this mount hides the processes of others: "1", "2", "invisible" and so on (proc(5)); "" for not."""
        mounts = map(str.split, (self._files.text("self/mounts") or "").splitlines())
        here = (words for words in mounts if words[1:3] == [self._files.root, "proc"] and words[3:])
        options = [words[3] for words in here]
        found = re.search(r"(?:^|,)hidepid=(\w+)", options[-1] if options else "")
        return found[1] if found and found[1] not in ("0", "off") else ""

    def own_group(self) -> str | None:
        """The directory of our own control group of version 2 (cgroups(7)); None: not mounted."""
        lines = (self._files.text("self/cgroup") or "").splitlines()
        mounts = map(str.split, (self._files.text("self/mounts") or "").splitlines())
        mount = next((words[1] for words in mounts if len(words) > 3 and words[2] == "cgroup2"), None)  # noqa: PLR2004
        own = next((line[3:] for line in lines if line.startswith("0::")), None)
        return None if own is None or mount is None else os.path.join(mount, own.lstrip("/"))  # noqa: PTH118

    def ptrace_scope(self) -> int | None:
        """Yama's switch (ptrace(2)); None: no Yama."""
        text = (self._files.text("sys/kernel/yama/ptrace_scope") or "").strip()
        return int(text) if text.isdecimal() else None

    def locks(self, missing: list[str] | None = None) -> tuple[LockLine, ...]:
        """All held and awaited file locks that this PID namespace shows."""
        return parse_locks(self._files.text("locks", missing) or "")

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, target) of every open file, in order; of the first ones of a process with very many."""
        return self._processes.fd_links(pid, missing)

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """The parsed fdinfo; None: closed since, or unreadable."""
        return self._processes.fd_info(pid, fd, missing)

    def open_file(self, pid: int, fd: int) -> os.stat_result | None:
        """The status of what a descriptor has open, also of a file that was deleted; None: closed, or unreadable."""
        try:
            return os.stat(f"{self._files.root}/{pid}/fd/{fd}")  # noqa: PTH116  half the time of a Path
        except OSError:
            return None

    def is_open_at(self, pid: int, fd: int, path: str) -> bool:
        """Whether ``path`` is the file that the descriptor has open: not in a container, nor once it was renamed."""
        try:
            return os.path.samestat(os.stat(f"{self._files.root}/{pid}/fd/{fd}"), os.stat(path))  # noqa: PTH116 as above
        except OSError:
            return False

    def owner_of_socket(self, inode: int, pids: Iterable[int] | None = None) -> int | None:
        """The first process that has the socket open; ``pids`` narrows the search to these."""
        wanted = f"socket:[{inode}]"
        for pid in self.pids() if pids is None else pids:
            if any(self._files.link(f"{pid}/fd/{name}") == wanted for name in self._files.entries(f"{pid}/fd")):
                return pid
        return None

    def owners_of_sockets(self, inodes: Container[int]) -> dict[int, int]:
        """Socket -> the first process that has it open; those that nobody visible has are left out."""
        found: dict[int, int] = {}
        for pid in self.pids():
            for name in self._files.entries(f"{pid}/fd"):
                target = self._files.link(f"{pid}/fd/{name}") or ""
                inode = int(target[8:-1]) if target.startswith("socket:[") and target[8:-1].isdecimal() else 0
                if inode in inodes:
                    found.setdefault(inode, pid)
        return found

    # --- below: how

    def _id(self, stat: Stat) -> ProcessId:
        return ProcessId(pid=stat.pid, start_ticks=stat.start_ticks, boot_id=self.boot_id())

    def _living(self, pids: Iterable[int] | None = None) -> Iterator[Stat]:
        ourselves = os.getpid()
        for pid in self.pids() if pids is None else pids:
            stat = self.stat(pid) if pid != ourselves else None
            if stat is not None and stat.state not in _DEAD:
                yield stat

    def _living_of(self, table: Mapping[int, Stat]) -> Iterator[Stat]:
        ourselves = os.getpid()
        return (stat for stat in table.values() if stat.pid != ourselves and stat.state not in _DEAD)

    def _value(self, pid: int, name: str) -> str | None:
        data = self._files.content(f"{pid}/environ") or b""
        if os.fsencode(name) not in data:  # to parse everybody's took half of the CPU of a short trial
            return None
        return parse_environ(data).get(name)


def _exec_of(stat: Stat) -> _Exec:
    return stat.pid, stat.start_ticks, stat.environment_at, stat.name


def _matches(own: str | None, wanted: str) -> bool:
    if own is None:
        return False
    return own.startswith(wanted[:-1]) if wanted.endswith("*") else own == wanted
