"""Text of proc(5) files to values and frozen records.

Nothing here does I/O; text that is not understood gives ``None``, or is left out.
"""

from __future__ import annotations

import os
import re
import struct
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from pytest_ocrepro.readings import FdKind, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_STAT_FIELDS: Final = 22  # up to rss, behind the name; env_start is the 48th behind it (proc_pid_stat(5))
_TCP_FIELDS: Final = 10  # up to the inode
_HEX_DIGITS: Final = frozenset((8, 32))  # of an IPv4 and of an IPv6 address

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


class UnixRow(Reading, frozen=True):
    """One UNIX socket, from net/unix (no queues, no peer) or from sock_diag(7)."""

    inode: int
    state: str
    name: str = ""
    rx_queue_bytes: int | None = None
    tx_queue_bytes: int | None = None
    peer_inode: int | None = None
    unaccepted: tuple[int, ...] = ()  # of a listener: inodes of the clients that wait


def _numbered(table: str) -> Iterator[tuple[int, str]]:
    words = iter(table.split())
    return ((int(number), next(words)) for number in words)


def syscall_names(machine: str) -> dict[int, str]:
    """Names of the system calls that matter, for ``platform.machine()``'s word; others stay numbers."""
    own = {"x86_64": _X86_64, "aarch64": _ARM64, "arm64": _ARM64}.get(machine, "")
    return dict(_numbered(f"{own} {_SINCE_5_1}" if own else ""))


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


def parse_numbers(text: str, label: str) -> tuple[int, ...]:
    """The decimal numbers behind a label of ``status``, such as "NSpid:"; () without such a line."""
    line = next((line for line in text.splitlines() if line.startswith(label)), "")
    return tuple(int(word) for word in line[len(label) :].split() if word.isdecimal())


def parse_syscall(text: str, names: Mapping[int, str]) -> tuple[str | None, tuple[str, ...]]:
    """(name, six hexadecimal arguments) of ``syscall``; "running", "none" outside of a call. See syscall_names."""
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


def parse_argv(data: bytes) -> tuple[str, ...]:
    """``cmdline``: NUL-terminated words; () for kernel threads and zombies."""
    return tuple(word.decode(errors="replace") for word in data.removesuffix(b"\0").split(b"\0") if data)


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
    """The file ``locks`` (proc_locks(5)), or what follows ``lock:`` in an fdinfo; rubbish is left out."""
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


_UNIX_FIELDS: Final = 7  # up to the inode
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON of include/linux/net.h
_CONNECTED: Final = 3  # SS_CONNECTED


def parse_net_unix(text: str) -> tuple[UnixRow, ...]:
    """Rows of net/unix; the head and rubbish are left out."""
    rows = (_unix_row(line.split(maxsplit=_UNIX_FIELDS)) for line in text.splitlines())
    return tuple(row for row in rows if row is not None)


def _unix_row(words: list[str]) -> UnixRow | None:
    if len(words) < _UNIX_FIELDS or not words[0].endswith(":"):
        return None
    flags, state, inode = _integer(words[3], 16), _integer(words[5], 16), _integer(words[6])
    if flags is None or state is None or inode is None:
        return None
    told = "LISTEN" if flags & _ACCEPTS else "ESTABLISHED" if state == _CONNECTED else "UNCONNECTED"
    return UnixRow(inode=inode, state=told, name=words[7] if len(words) > _UNIX_FIELDS else "")


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
