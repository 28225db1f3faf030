"""The one reader that opens files of proc(5); proctext says what they mean.

Text is decoded with replacement characters, so that every record can be stored as JSON.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import time
from typing import TYPE_CHECKING, Final

from msgspec import structs

from pytest_ocrepro.observe.proctext import (
    FdInfo,
    fd_kind,
    parse_environ,
    parse_fdinfo,
    parse_io,
    parse_locks,
    parse_numbers,
    parse_schedstat,
    parse_stat,
    parse_status_switches,
    parse_syscall,
    syscall_names,
)
from pytest_ocrepro.readings import FdReading, ProcessId, ProcessReading, ThreadReading

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from pytest_ocrepro.observe.proctext import LockLine, Stat

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SETTLED_S: Final = 1.0  # a process this old has left the fork-then-exec window, its environment is its own
_TASK_PASSES: Final = 5
_MOST_THREADS: Final = 512  # of one process: a look must stay short, and each thread costs 0.1 ms
_MOST_FDS: Final = 2048
_PART_BYTES: Final = 65_536
_DEAD: Final = frozenset("ZXx")


_Exec = tuple[int, int, int, str]  # a process between two execs: pid, start, where its environment lies, name


class Reader:
    """The only place that opens files of proc(5). ``root`` may be a made-up tree, of another ``machine``.

    A process, thread or descriptor that is gone is ``None`` or left out. Where permission or the kernel lacks
    something, methods that take ``missing`` append one line to it a process and file.
    """

    def __init__(self, root: str = "/proc", *, machine: str | None = None) -> None:
        self._root = root
        self._calls = syscall_names(machine or platform.machine())
        self._boot_id: str | None = None
        self._values: dict[str, dict[_Exec, str | None]] = {}
        self._settled: dict[tuple[str, str], set[int]] = {}

    def boot_id(self) -> str:
        """The kernel's random id of this boot, "" where it is not told."""
        if self._boot_id is None:
            self._boot_id = (self._text("sys/kernel/random/boot_id") or "").strip()
        return self._boot_id

    def pids(self) -> list[int]:
        """All processes that can be seen."""
        return sorted(int(name) for name in self._entries("") if name.isdecimal())

    def stat(self, pid: int) -> Stat | None:
        """The parsed ``stat``; readable by anybody for any process."""
        text = self._text(f"{pid}/stat")
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
        if sys.platform != "linux" or self._root != "/proc" or self.stat(pid) is not None:
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
        data = self._bytes(f"{pid}/environ")
        return None if data is None else parse_environ(data)

    def argv(self, pid: int) -> tuple[str, ...] | None:
        """The command line, () for kernel threads and zombies."""
        data = self._bytes(f"{pid}/cmdline")
        if data is None:
            return None
        return tuple(word.decode(errors="replace") for word in data.removesuffix(b"\0").split(b"\0") if data)

    def exe(self, pid: int) -> str | None:
        """The path of the executable; None: unreadable or gone."""
        return self._link(f"{pid}/exe")

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
            return structs.replace(reading, threads=(self._main_thread(stat),))
        return self._in_full(reading, missing)

    def written_bytes(self, pid: int) -> int | None:
        """All that it has written so far, through any call and into anything."""
        return parse_io(self._text(f"{pid}/io") or "")[1]

    def net(self, pid: int | str = "self") -> str:
        """Rows of net/tcp and net/tcp6 of the network namespace that the process is in."""
        return (self._text(f"{pid}/net/tcp") or "") + (self._text(f"{pid}/net/tcp6") or "")

    def net_unix(self, pid: int | str = "self") -> str:
        """Rows of net/unix of the network namespace that the process is in."""
        return self._text(f"{pid}/net/unix") or ""

    def net_namespace(self, pid: int | str) -> str | None:
        """The namespace's name, equal for processes that share it; None: unreadable."""
        return self.namespace(pid, "net")

    def namespace(self, pid: int | str, kind: str) -> str | None:
        """The same for ``mnt``, ``pid``, ``user`` and so on (namespaces(7)); ``self`` for our own."""
        return self._link(f"{pid}/ns/{kind}")

    def cwd(self, pid: int) -> str | None:
        """Where the process works; None: unreadable or gone."""
        return self._link(f"{pid}/cwd")

    def root_of(self, pid: int) -> str | None:
        """What the process calls ``/``; None: unreadable or gone."""
        return self._link(f"{pid}/root")

    def inner_pids(self, pid: int) -> tuple[int, ...]:
        """Its pids from our PID namespace inwards (NSpid of proc_pid_status(5)); () where that is not told."""
        return parse_numbers(self._text(f"{pid}/status") or "", "NSpid:")

    def user(self, pid: int) -> int | None:
        """The real user id."""
        numbers = parse_numbers(self._text(f"{pid}/status") or "", "Uid:")
        return numbers[0] if numbers else None

    def hidepid(self) -> str:
        """How this mount hides the processes of others: "1", "2", "invisible" and so on (proc(5)); "" for not."""
        mounts = (line.split() for line in (self._text("self/mounts") or "").splitlines())
        options = [words[3] for words in mounts if len(words) > 3 and words[2] == "proc" and words[1] == self._root]  # noqa: PLR2004
        found = re.search(r"(?:^|,)hidepid=(\w+)", options[-1] if options else "")
        return found[1] if found and found[1] not in ("0", "off") else ""

    def own_group(self) -> str | None:
        """The directory of our own control group of version 2 (cgroups(7)); None: not mounted."""
        lines = (self._text("self/cgroup") or "").splitlines()
        mounts = map(str.split, (self._text("self/mounts") or "").splitlines())
        mount = next((words[1] for words in mounts if len(words) > 3 and words[2] == "cgroup2"), None)  # noqa: PLR2004
        own = next((line[3:] for line in lines if line.startswith("0::")), None)
        return None if own is None or mount is None else os.path.join(mount, own.lstrip("/"))  # noqa: PTH118

    def ptrace_scope(self) -> int | None:
        """Yama's switch (ptrace(2)); None: no Yama."""
        text = (self._text("sys/kernel/yama/ptrace_scope") or "").strip()
        return int(text) if text.isdecimal() else None

    def locks(self, missing: list[str] | None = None) -> tuple[LockLine, ...]:
        """All held and awaited file locks that this PID namespace shows."""
        return parse_locks(self._text("locks", missing) or "")

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, target) of every open file, in order; of the first ones of a process with very many."""
        return self._targets(pid, self._fds(pid, missing)[:_MOST_FDS], missing)

    def _fds(self, pid: int, missing: list[str] | None) -> list[int]:
        return sorted(int(name) for name in self._entries(f"{pid}/fd", missing) if name.isdecimal())

    def _targets(self, pid: int, numbers: Iterable[int], missing: list[str] | None) -> list[tuple[int, str]]:
        links = ((fd, self._link(f"{pid}/fd/{fd}", missing)) for fd in numbers)
        return [(fd, target) for fd, target in links if target is not None]

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """The parsed fdinfo; None: closed since, or unreadable."""
        text = self._text(f"{pid}/fdinfo/{fd}", missing)
        return None if text is None else parse_fdinfo(text)

    def is_open_at(self, pid: int, fd: int, path: str) -> bool:
        """Whether ``path`` is the file that the descriptor has open: not in a container, nor once it was renamed."""
        try:
            return os.path.samestat(os.stat(f"{self._root}/{pid}/fd/{fd}"), os.stat(path))  # noqa: PTH116 as above
        except OSError:
            return False

    def owner_of_socket(self, inode: int, pids: Iterable[int] | None = None) -> int | None:
        """The first process that has the socket open; ``pids`` narrows the search to these."""
        wanted = f"socket:[{inode}]"
        for pid in self.pids() if pids is None else pids:
            if any(self._link(f"{pid}/fd/{name}") == wanted for name in self._entries(f"{pid}/fd")):
                return pid
        return None

    def owners_of_sockets(self, inodes: Container[int]) -> dict[int, int]:
        """Socket -> the first process that has it open; those that nobody visible has are left out."""
        found: dict[int, int] = {}
        for pid in self.pids():
            for name in self._entries(f"{pid}/fd"):
                target = self._link(f"{pid}/fd/{name}") or ""
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
        data = self._bytes(f"{pid}/environ") or b""
        if os.fsencode(name) not in data:  # to parse everybody's took half of the CPU of a short trial
            return None
        return parse_environ(data).get(name)

    def _main_thread(self, stat: Stat) -> ThreadReading:
        voluntary, involuntary = parse_status_switches(self._text(f"{stat.pid}/status") or "")
        return ThreadReading(
            tid=stat.pid,
            name=stat.name,
            state=stat.state,
            voluntary_switches=voluntary,
            involuntary_switches=involuntary,
        )

    def _in_full(self, reading: ProcessReading, missing: list[str]) -> ProcessReading:
        pid = reading.id.pid
        threads = self._threads(pid, missing)  # first: reading cmdline may block on a stuck process's memory lock
        numbers = self._fds(pid, missing)
        if len(numbers) > _MOST_FDS:
            missing.append(f"pid {pid}: {len(numbers) - _MOST_FDS} of {len(numbers)} descriptors were not read")
        links = self._targets(pid, numbers[:_MOST_FDS], missing)
        fds = tuple(self._fd(pid, fd, target, missing) for fd, target in links)
        read_bytes, written_bytes = parse_io(self._text(f"{pid}/io", missing) or "")
        return structs.replace(
            reading,
            threads=threads,
            fds=fds,
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            argv=self.argv(pid) or (),
        )

    def _threads(self, pid: int, missing: list[str]) -> tuple[ThreadReading, ...]:
        seen: dict[int, ThreadReading | None] = {}
        for _ in range(_TASK_PASSES):
            tids = {int(name) for name in self._entries(f"{pid}/task") if name.isdecimal()}
            if tids <= seen.keys() or len(seen) >= _MOST_THREADS:
                break
            new = sorted(tids - seen.keys(), key=lambda tid: (tid != pid, tid))  # the main thread is never cut
            wanted = new[: _MOST_THREADS - len(seen)]
            seen.update((tid, self._thread(pid, tid, missing)) for tid in wanted)
            if len(tids) > _MOST_THREADS:
                missing.append(f"pid {pid}: {len(tids) - _MOST_THREADS} of {len(tids)} threads were not read")
        return tuple(thread for _, thread in sorted(seen.items()) if thread is not None)

    def _thread(self, pid: int, tid: int, missing: list[str]) -> ThreadReading | None:
        task = f"{pid}/task/{tid}"
        text = self._text(f"{task}/stat")
        stat = None if text is None else parse_stat(text)
        if stat is None:
            return None
        syscall, arguments = parse_syscall(self._text(f"{task}/syscall", missing) or "", self._calls)
        voluntary, involuntary = parse_status_switches(self._text(f"{task}/status", missing) or "")
        cpu_ns, runqueue_wait_ns = parse_schedstat(self._text(f"{task}/schedstat", missing) or "")
        return ThreadReading(
            tid=tid,
            name=stat.name,
            state=stat.state,
            wchan=self._wchan(task, stat.state, missing),
            syscall=syscall,
            arguments=arguments,
            voluntary_switches=voluntary,
            involuntary_switches=involuntary,
            cpu_ns=cpu_ns,
            runqueue_wait_ns=runqueue_wait_ns,
        )

    def _wchan(self, task: str, state: str, missing: list[str]) -> str | None:
        text = self._text(f"{task}/wchan", missing)
        if text in ("0", "") and state in "SD":
            _note(
                missing,
                f"{task}/wchan",
                "0 for a sleeping thread (no permission, or not told by this kernel)",
            )
        return text if text not in ("0", "") else None

    def _fd(self, pid: int, fd: int, target: str, missing: list[str]) -> FdReading:
        info = self.fd_info(pid, fd, missing) or FdInfo()
        in_name = re.search(r":\[(\d{1,20})\]$", target)
        return FdReading(
            fd=fd,
            kind=fd_kind(target, info.flags),
            target=target,
            inode=int(in_name[1]) if in_name else info.inode if target.startswith("/") else None,
            position_bytes=info.position_bytes,
            writable=None if info.flags is None else bool(info.flags & os.O_ACCMODE),
            detail=info.detail,
        )

    def _bytes(self, path: str, missing: list[str] | None = None) -> bytes | None:
        try:
            return _content(f"{self._root}/{path}")
        except OSError as error:
            self._explain(path, error, missing)
            return None

    def _text(self, path: str, missing: list[str] | None = None) -> str | None:
        data = self._bytes(path, missing)
        return None if data is None else data.decode(errors="replace")

    def _entries(self, path: str, missing: list[str] | None = None) -> list[str]:
        try:
            return os.listdir(f"{self._root}/{path}")  # noqa: PTH208 names only, asked ten times a second
        except OSError as error:
            self._explain(path, error, missing)
            return []

    def _link(self, path: str, missing: list[str] | None = None) -> str | None:
        try:
            link = os.readlink(f"{self._root}/{path}")  # noqa: PTH115 half the time of a Path
        except OSError as error:
            self._explain(path, error, missing)
            return None
        return os.fsencode(link).decode(errors="replace")

    def _explain(self, path: str, error: OSError, missing: list[str] | None) -> None:
        if missing is None or error.errno == errno.ESRCH:
            return
        if error.errno == errno.ENOENT:
            beside = os.path.dirname(f"{self._root}/{path}")  # noqa: PTH120 text only
            if not os.access(f"{beside}/stat", os.F_OK):
                return  # the process, thread or descriptor is gone
        _note(missing, path, error.strerror or "unreadable")


def _exec_of(stat: Stat) -> _Exec:
    return stat.pid, stat.start_ticks, stat.environment_at, stat.name


def _matches(own: str | None, wanted: str) -> bool:
    if own is None:
        return False
    return own.startswith(wanted[:-1]) if wanted.endswith("*") else own == wanted


def _content(path: str) -> bytes:
    """A small file of the kernel's, whole; ``open`` asks for its size and kind first, and takes a quarter longer."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(handle, _PART_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def _note(missing: list[str], path: str, why: str) -> None:
    """One line a process and file, however many threads and descriptors it has."""
    words = [word for word in path.split("/")[1:] if not word.isdecimal() and word != "task"]
    owner = path.split("/", maxsplit=1)[0]
    line = f"pid {owner}: {'/'.join(words)}: {why}" if words else f"{path}: {why}"
    if line not in missing:
        missing.append(line)
