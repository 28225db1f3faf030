"""Text of proc(5) files to values and frozen records, and the one reader that opens those files.

The parsers do no I/O and return ``None`` (or leave the entry out) for text that they do not understand.
Text is decoded with replacement characters, so that every record can be stored as JSON.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
import time
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from msgspec import structs

from pytest_ocrepro.readings import (
    FdKind,
    FdReading,
    ProcessId,
    ProcessReading,
    Reading,
    ThreadReading,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SETTLED_S: Final = 1.0  # a process this old has left the fork-then-exec window, its environment is its own
_TASK_PASSES: Final = 5
_STAT_FIELDS: Final = 22  # up to rss, behind the name; env_start is the 48th behind it (proc_pid_stat(5))
_TCP_FIELDS: Final = 10  # up to the inode
_HEX_DIGITS: Final = frozenset((8, 32))  # of an IPv4 and of an IPv6 address
_DEAD: Final = frozenset("ZXx")

# Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
_X86_64: Final = """
0 read 1 write 2 open 3 close 7 poll 9 mmap 16 ioctl 17 pread64 18 pwrite64 19 readv 20 writev 23 select
24 sched_yield 34 pause 35 nanosleep 42 connect 43 accept 44 sendto 45 recvfrom 46 sendmsg 47 recvmsg
56 clone 57 fork 58 vfork 59 execve 61 wait4 72 fcntl 73 flock 74 fsync 75 fdatasync 77 ftruncate 82 rename
83 mkdir 84 rmdir 87 unlink 128 rt_sigtimedwait 130 rt_sigsuspend 202 futex 219 restart_syscall
230 clock_nanosleep 232 epoll_wait 247 waitid 257 openat 258 mkdirat 263 unlinkat 264 renameat 270 pselect6
271 ppoll 281 epoll_pwait 288 accept4 316 renameat2
"""
_ARM64: Final = """
22 epoll_pwait 25 fcntl 29 ioctl 32 flock 34 mkdirat 35 unlinkat 38 renameat 46 ftruncate 56 openat 57 close
63 read 64 write 65 readv 66 writev 67 pread64 68 pwrite64 72 pselect6 73 ppoll 82 fsync 83 fdatasync
95 waitid 98 futex 101 nanosleep 115 clock_nanosleep 124 sched_yield 128 restart_syscall 133 rt_sigsuspend
137 rt_sigtimedwait 202 accept 203 connect 206 sendto 207 recvfrom 211 sendmsg 212 recvmsg 220 clone
221 execve 222 mmap 242 accept4 260 wait4 276 renameat2
"""
_SINCE_5_1: Final = """
424 pidfd_send_signal 425 io_uring_setup 426 io_uring_enter 434 pidfd_open 435 clone3 437 openat2
441 epoll_pwait2 449 futex_waitv 454 futex_wake 455 futex_wait
"""  # the same on every architecture
_TCP_STATES: Final = (  # include/net/tcp_states.h
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip


class Stat(Reading, frozen=True):
    """What ``stat`` says of a process or thread; ticks are 1/sysconf(SC_CLK_TCK) s."""

    pid: int
    name: str
    state: str
    parent_pid: int
    session_pid: int
    cpu_ticks: int
    start_ticks: int
    rss_pages: int
    environment_at: int  # changes with every exec; 0 where we may not know


class LockLine(Reading, frozen=True):
    """One line of /proc/locks or of an fdinfo. ``pid`` None: an open file description, or out of sight."""

    number: int
    waiting: bool
    kind: str
    access: str
    pid: int | None
    device: str
    inode: int
    start: int
    end: int | None


class FdInfo(Reading, frozen=True):
    """One fdinfo file. ``detail`` in words: what an epoll watches, a timer's expiry, an eventfd's count."""

    position_bytes: int | None = None
    flags: int | None = None
    inode: int | None = None
    locks: tuple[LockLine, ...] = ()
    watched: tuple[int, ...] = ()
    detail: str = ""


class TcpRow(Reading, frozen=True):
    """One row of net/tcp or net/tcp6; a v4-mapped address is written as the IPv4 address that it is."""

    local: str
    remote: str
    state: str
    tx_queue_bytes: int
    rx_queue_bytes: int
    inode: int


def _numbered(table: str) -> Iterator[tuple[int, str]]:
    words = iter(table.split())
    return ((int(number), next(words)) for number in words)


def syscall_names(machine: str) -> dict[int, str]:
    """Names of the system calls that matter, for ``platform.machine()``'s word; others stay numbers."""
    own = {"x86_64": _X86_64, "aarch64": _ARM64, "arm64": _ARM64}.get(machine, "")
    return dict(_numbered(f"{own} {_SINCE_5_1}" if own else ""))


_NAMES: Final = syscall_names(platform.machine())


def parse_stat(text: str) -> Stat | None:
    """``stat`` (proc_pid_stat(5)); the name may itself hold spaces and brackets."""
    before, bracket, after = text.rpartition(")")
    pid, opened, name = before.partition(" (")
    fields = after.split()
    if not (bracket and opened) or len(fields) < _STAT_FIELDS:
        return None
    try:
        return Stat(
            pid=int(pid),
            name=name,
            state=fields[0],
            parent_pid=int(fields[1]),
            session_pid=int(fields[3]),
            cpu_ticks=int(fields[11]) + int(fields[12]),
            start_ticks=int(fields[19]),
            rss_pages=int(fields[21]),
            environment_at=int((fields[47:48] or ["0"])[0]),
        )
    except ValueError:
        return None


def parse_status_switches(text: str) -> tuple[int | None, int | None]:
    """(voluntary, involuntary) context switches of ``status``."""
    return _status_number(text, "voluntary_ctxt_switches:"), _status_number(text, "nonvoluntary_ctxt_switches:")


def parse_syscall(text: str, names: dict[int, str] = _NAMES) -> tuple[str | None, tuple[str, ...]]:
    """(name, six hexadecimal arguments) of ``syscall``; "running", "none" outside of a call."""
    words = text.split()
    if words[:1] == ["running"]:
        return "running", ()
    number = _integer(words[0]) if words else None
    if number is None:
        return None, ()
    return ("none", ()) if number < 0 else (names.get(number, f"syscall-{number}"), tuple(words[1:7]))


def parse_schedstat(text: str) -> tuple[int | None, int | None]:
    """(nanoseconds on a CPU, nanoseconds runnable but waiting for one) of ``schedstat``."""
    on_cpu, waiting = [*text.split()[:2], "", ""][:2]
    return _integer(on_cpu), _integer(waiting)


def parse_io(text: str) -> tuple[int | None, int | None]:
    """(bytes read, bytes written) through any read or write call: ``rchar`` and ``wchar`` of ``io``."""
    return _status_number(text, "rchar:"), _status_number(text, "wchar:")


def parse_environ(data: bytes) -> dict[str, str]:
    """``environ``: NUL-separated NAME=value; entries without ``=`` are left out, the first counts."""
    found: dict[str, str] = {}
    for entry in data.split(b"\0"):
        name, equals, value = entry.decode(errors="replace").partition("=")
        if equals and name:
            found.setdefault(name, value)
    return found


_LOCK = re.compile(
    r"(?P<number>\d{1,18}): +(?P<waiting>(?:-> *)?)(?P<kind>[A-Z]+) +(?P<mode>[A-Z-]+) +(?P<access>[A-Z]+) +"
    r"(?P<pid>-?\d{1,18}) +(?P<device>[0-9a-fA-F]+:[0-9a-fA-F]+):(?P<inode>\d{1,20}) +(?P<start>\d{1,20}) +"
    r"(?P<end>\d{1,20}|EOF)\s*",
    re.ASCII,
)


def parse_locks(text: str) -> tuple[LockLine, ...]:
    """/proc/locks (proc_locks(5)), or what follows ``lock:`` in an fdinfo; rubbish is left out."""
    return tuple(_lock_line(match) for line in text.splitlines() if (match := _LOCK.fullmatch(line.strip())))


def _lock_line(match: re.Match[str]) -> LockLine:
    pid = int(match["pid"])
    return LockLine(
        number=int(match["number"]),
        waiting=bool(match["waiting"]),
        kind=match["kind"],
        access=match["access"],
        pid=pid if pid > 0 else None,
        device=match["device"],
        inode=int(match["inode"]),
        start=int(match["start"]),
        end=None if match["end"] == "EOF" else int(match["end"]),
    )


def parse_fdinfo(text: str) -> FdInfo:
    """One fdinfo file of any kind of descriptor (proc_pid_fdinfo(5))."""
    fields: dict[str, str] = {}
    locks: list[LockLine] = []
    watched: list[int] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            continue
        if key == "lock":
            locks.extend(parse_locks(value))
        elif key == "tfd":
            watched.extend(_first_integers(value))
        else:
            fields.setdefault(key.strip(), value.strip())
    return FdInfo(
        position_bytes=_integer(fields.get("pos", "")),
        flags=_integer(fields.get("flags", ""), 8),
        inode=_integer(fields.get("ino", "")),
        locks=tuple(locks),
        watched=tuple(watched),
        detail=_detail(fields, watched),
    )


def _detail(fields: dict[str, str], watched: list[int]) -> str:
    if watched:
        return "watches fds " + " ".join(map(str, watched))
    if "eventfd-count" in fields:
        return f"count {_integer(fields['eventfd-count'], 16) or 0}"
    timer = re.match(r"\((\d{1,18}), (\d{1,18})\)", fields.get("it_value", ""))
    if timer:
        left_s = int(timer[1]) + int(timer[2]) / 1e9
        return f"fires in {left_s:.3f} s" if left_s else "not armed"
    return f"inotify {fields['inotify wd']}" if "inotify wd" in fields else ""


def parse_net_tcp(text: str) -> tuple[TcpRow, ...]:
    """Rows of net/tcp and net/tcp6, also one after the other; heads and rubbish are left out."""
    rows = (_tcp_row(line.split()) for line in text.splitlines())
    return tuple(row for row in rows if row is not None)


def _tcp_row(words: list[str]) -> TcpRow | None:
    if len(words) < _TCP_FIELDS or not words[0].endswith(":"):
        return None
    try:
        tx, _, rx = words[4].partition(":")
        state = int(words[3], 16)
        return TcpRow(
            local=_address(words[1]),
            remote=_address(words[2]),
            state=_TCP_STATES[state] if 0 < state < len(_TCP_STATES) else f"state-{state}",
            tx_queue_bytes=int(tx, 16),
            rx_queue_bytes=int(rx, 16),
            inode=int(words[9]),
        )
    except ValueError:
        return None


def _address(text: str) -> str:
    digits, _, port = text.partition(":")
    if len(digits) not in _HEX_DIGITS:
        raise ValueError(text)
    # each 32-bit word is printed as the machine's own integer although it is in network order
    packed = b"".join(struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8))
    address = ip_address(packed)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return f"[{address}]:{int(port, 16)}"
    return f"{getattr(address, 'ipv4_mapped', address)}:{int(port, 16)}"


def _integer(text: str, base: int = 10) -> int | None:
    try:
        return int(text[:24], base)
    except ValueError:
        return None


def _first_integers(text: str) -> list[int]:
    number = _integer((text.split() or [""])[0])
    return [] if number is None else [number]


def _status_number(text: str, label: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(label):
            return _integer(line[len(label) :].strip())
    return None


def fd_kind(target: str, flags: int | None = None) -> FdKind:
    """What a link of ``fd/`` points at; by name and O_DIRECTORY, so that no file is touched."""
    scheme, colon, _ = target.partition(":[")
    if colon and scheme in ("socket", "pipe"):
        return FdKind(scheme)
    if target.startswith("anon_inode:"):
        word = target.removeprefix("anon_inode:").strip("[]")
        return FdKind(word) if word in ("eventpoll", "eventfd", "timerfd") else FdKind.OTHER
    if not target.startswith("/"):
        return FdKind.OTHER
    if flags is not None and flags & os.O_DIRECTORY:
        return FdKind.DIRECTORY
    return _file_kind(target.removesuffix(" (deleted)"))


def _file_kind(path: str) -> FdKind:
    if path.startswith("/dev/") and not path.startswith("/dev/shm/"):  # noqa: S108 a prefix to tell tmpfs from devices
        return FdKind.DEVICE
    for suffix, kind in ((".db", FdKind.DATABASE), (".sqlite", FdKind.DATABASE), ("-wal", FdKind.WAL),
                         ("-shm", FdKind.SHM), (".log", FdKind.LOG)):  # fmt: skip
        if path.endswith(suffix):
            return kind
    return FdKind.FILE


class Reader:
    """The only place that opens files of proc(5). ``root`` may be a made-up tree.

    A process, thread or descriptor that is gone is ``None`` or left out. Where permission or the kernel lacks
    something, methods that take ``missing`` append one line to it a process and file.
    """

    def __init__(self, root: str = "/proc") -> None:
        self._root = root
        self._boot_id: str | None = None
        self._marks: dict[tuple[str, str], dict[tuple[int, int, int, str], bool]] = {}

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

    def identify(self, pid: int) -> ProcessId | None:
        """The name for this process and no later one of its pid; zombies have one too."""
        stat = self.stat(pid)
        return None if stat is None else self._id(stat)

    def alive(self, process: ProcessId) -> bool:
        """Whether this very process is there, and not a zombie."""
        stat = self.stat(process.pid)
        return stat is not None and stat.start_ticks == process.start_ticks and stat.state not in _DEAD

    def age_s(self, process: ProcessId) -> float:
        """Seconds since the process was started, suspended machine included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_ticks / _TICKS_PER_S

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

    def marked(self, name: str, value: str, *, known: Container[ProcessId] = ()) -> list[ProcessId]:
        """Living processes, but for ours, whose environment has ``name=value`` (``value*``: begins with it).

        Those in ``known`` are taken as marked without another look. An environment is read once an exec (told
        by its address); a "no" is kept only for a process older than 1 s, which is past fork-then-exec.
        """
        before = self._marks.get((name, value), {})
        after: dict[tuple[int, int, int, str], bool] = {}
        found = []
        for stat in self._living():
            key = (stat.pid, stat.start_ticks, stat.environment_at, stat.name)
            process = self._id(stat)
            answer = before.get(key)
            if answer is None:
                answer = process in known or self._carries(stat.pid, name, value)
            if answer or self.age_s(process) > _SETTLED_S:
                after[key] = answer
            if answer:
                found.append(process)
        self._marks[name, value] = after
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

    def net(self, pid: int | str = "self") -> str:
        """Rows of net/tcp and net/tcp6 of the network namespace that the process is in."""
        return (self._text(f"{pid}/net/tcp") or "") + (self._text(f"{pid}/net/tcp6") or "")

    def net_namespace(self, pid: int) -> str | None:
        """The namespace's name, equal for processes that share it; None: unreadable."""
        return self._link(f"{pid}/ns/net")

    def locks(self, missing: list[str] | None = None) -> tuple[LockLine, ...]:
        """All held and awaited file locks that this PID namespace shows."""
        return parse_locks(self._text("locks", missing) or "")

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, target) of every open file, in order."""
        numbers = sorted(int(name) for name in self._entries(f"{pid}/fd", missing) if name.isdecimal())
        links = ((fd, self._link(f"{pid}/fd/{fd}", missing)) for fd in numbers)
        return [(fd, target) for fd, target in links if target is not None]

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """The parsed fdinfo; None: closed since, or unreadable."""
        text = self._text(f"{pid}/fdinfo/{fd}", missing)
        return None if text is None else parse_fdinfo(text)

    def owner_of_socket(self, inode: int, pids: Iterable[int] | None = None) -> int | None:
        """The first process that has the socket open; ``pids`` narrows the search to these."""
        wanted = f"socket:[{inode}]"
        for pid in self.pids() if pids is None else pids:
            if any(self._link(f"{pid}/fd/{name}") == wanted for name in self._entries(f"{pid}/fd")):
                return pid
        return None

    # --- below: how

    def _id(self, stat: Stat) -> ProcessId:
        return ProcessId(pid=stat.pid, start_ticks=stat.start_ticks, boot_id=self.boot_id())

    def _living(self) -> Iterator[Stat]:
        ourselves = os.getpid()
        for pid in self.pids():
            stat = self.stat(pid) if pid != ourselves else None
            if stat is not None and stat.state not in _DEAD:
                yield stat

    def _carries(self, pid: int, name: str, value: str) -> bool:
        found = (self.environ(pid) or {}).get(name)
        if found is None:
            return False
        return found.startswith(value[:-1]) if value.endswith("*") else found == value

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
        fds = tuple(self._fd(pid, fd, target, missing) for fd, target in self.fd_links(pid, missing))
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
            if tids <= seen.keys():
                break
            seen.update((tid, self._thread(pid, tid, missing)) for tid in sorted(tids - seen.keys()))
        return tuple(thread for _, thread in sorted(seen.items()) if thread is not None)

    def _thread(self, pid: int, tid: int, missing: list[str]) -> ThreadReading | None:
        task = f"{pid}/task/{tid}"
        text = self._text(f"{task}/stat")
        stat = None if text is None else parse_stat(text)
        if stat is None:
            return None
        syscall, arguments = parse_syscall(self._text(f"{task}/syscall", missing) or "")
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
            with open(f"{self._root}/{path}", "rb", buffering=0) as file:  # noqa: PTH123 half the time of a Path
                return file.read()
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


def _note(missing: list[str], path: str, why: str) -> None:
    """One line a process and file, however many threads and descriptors it has."""
    words = [word for word in path.split("/")[1:] if not word.isdecimal() and word != "task"]
    owner = path.split("/", maxsplit=1)[0]
    line = f"pid {owner}: {'/'.join(words)}: {why}" if words else f"{path}: {why}"
    if line not in missing:
        missing.append(line)
