"""What each thread sleeps in, in words: the arguments of its system call, decoded.

The numbers are those of Linux on 64 bit (the manual page of each call, section 2). What lies behind a pointer is in
the memory of the process, which is not read: such a timeout is unknown.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.readings import FdReading, ProcessReading, ThreadReading


class Wait(Record, frozen=True, kw_only=True):
    """What one thread waits for. ``words`` complete the sentence "the thread ...".

    ``for_ever``: the call has no timeout; None where that cannot be told. ``seconds``: its timeout, where it is told.
    """

    words: str
    for_ever: bool | None = None
    seconds: float | None = None
    fd: int | None = None
    pid: int | None = None
    futex: str = ""


class Group(Record, frozen=True, kw_only=True):
    """Threads of one process that wait for the same thing; those that share a futex address are one group."""

    threads: tuple[ThreadReading, ...]
    wait: Wait

    @property
    def words(self) -> str:
        """``3 threads (Bun Pool 0, Bun Pool 1, Bun Pool 2) wait for one futex (0x7f12), for ever``."""
        names = [thread.name or str(thread.tid) for thread in self.threads]
        if len(names) == 1:
            return f"{names[0]} {self.wait.words}"
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")  # noqa: PLR2004  a hint, not a list
        shared = self.wait.words.replace("a futex", f"one futex ({self.wait.futex})", 1)
        return f"{len(names)} threads ({some}), each {shared if self.wait.futex else self.wait.words}"


def wait_of(thread: ThreadReading, fds: Iterable[FdReading] = ()) -> Wait:
    """What this thread waits for; ``fds`` are those of its process."""
    if thread.syscall is None:
        return Wait(words="waits for what cannot be read")
    if thread.syscall in _STANDING:
        return Wait(words=_STANDING[thread.syscall], for_ever=False if thread.syscall == "running" else None)
    try:
        call = _Call(thread.syscall, [int(word, 16) for word in thread.arguments], {fd.fd: fd for fd in fds})
        return _DECODERS.get(thread.syscall, _other)(call)
    except (ValueError, IndexError):
        return Wait(words=f"is in {thread.syscall}, with arguments that cannot be read")


def groups(process: ProcessReading) -> tuple[Group, ...]:
    """The threads of a process by what they wait for, in the order of their first thread."""
    found: dict[tuple[str, str], list[ThreadReading]] = {}
    waits = {thread.tid: wait_of(thread, process.fds) for thread in process.threads}
    for thread in process.threads:
        wait = waits[thread.tid]
        found.setdefault((wait.futex, "" if wait.futex else wait.words), []).append(thread)
    return tuple(Group(threads=tuple(threads), wait=waits[threads[0].tid]) for threads in found.values())


# --- below: how

_STANDING: Final = {
    "running": "runs, or is ready to run",
    "none": "sleeps outside of any call: a page fault, or stopped",
}
_FUTEX_WAITS: Final = {
    0: "",
    9: "",
    6: " with priority inheritance",
    13: " with priority inheritance",
    11: " to requeue",
}
_FUTEX_FLAGS: Final = 0x180  # FUTEX_PRIVATE_FLAG, FUTEX_CLOCK_REALTIME
_SETLKW: Final = (fcntl.F_SETLKW, 38)  # 38: F_OFD_SETLKW
_SETLK: Final = (fcntl.F_SETLK, 37)
_P_PID, _P_PGID, _P_PIDFD = 1, 2, 3  # waitid(2)
_ANY: Final = -1


class _Call(Record, frozen=True):
    """One system call. An argument that the kernel takes as an int is the lower half of its register."""

    name: str
    arguments: list[int]
    fds: dict[int, FdReading]

    def integer(self, at: int) -> int:
        low = self.arguments[at] & 0xFFFFFFFF
        return low - (1 << 32) if low >= 1 << 31 else low

    def pointer(self, at: int) -> int:
        return self.arguments[at]

    def target(self, fd: int) -> str:
        found = self.fds.get(fd)
        return f"fd {fd} ({found.target})" if found else f"fd {fd}"


def _milliseconds(left: int) -> tuple[str, bool, float | None]:
    if left < 0:
        return ", for ever", True, None
    return (f", for at most {left / 1000:g} s" if left else ", without waiting"), False, left / 1000


def _behind(pointer: int) -> tuple[str, bool | None]:
    return (", with a timeout that cannot be read", None) if pointer else (", for ever", True)


def _futex(call: _Call) -> Wait:
    operation = call.integer(1) & ~_FUTEX_FLAGS
    address = f"{call.pointer(0):#x}"
    if operation not in _FUTEX_WAITS:
        return Wait(words=f"is in futex operation {operation}", for_ever=False)
    how_long, for_ever = _behind(call.pointer(3))
    return Wait(words=f"waits for a futex{_FUTEX_WAITS[operation]}{how_long}", for_ever=for_ever, futex=address)


def _futex_wait(call: _Call) -> Wait:
    how_long, for_ever = _behind(call.pointer(4))
    return Wait(words=f"waits for a futex{how_long}", for_ever=for_ever, futex=f"{call.pointer(0):#x}")


def _futex_waitv(call: _Call) -> Wait:
    how_long, for_ever = _behind(call.pointer(3))
    return Wait(words=f"waits for one of {call.integer(1)} futexes{how_long}", for_ever=for_ever)


def _epoll(call: _Call) -> Wait:
    how_long, for_ever, seconds = _milliseconds(call.integer(3))
    return _watching(call, how_long, for_ever, seconds)


def _epoll_pwait2(call: _Call) -> Wait:
    how_long, for_ever = _behind(call.pointer(3))
    return _watching(call, how_long, for_ever)


def _watching(call: _Call, how_long: str, for_ever: bool | None, seconds: float | None = None) -> Wait:  # noqa: FBT001
    fd = call.integer(0)
    watched = call.fds[fd].detail.removeprefix("watches fds ").split() if fd in call.fds else []
    several = f" for one of the {len(watched)} fds that epoll fd {fd} watches"
    what = several if len(watched) > 1 else f" for epoll fd {fd}"
    return Wait(words=f"waits{what}{how_long}", for_ever=for_ever, seconds=seconds, fd=fd)


def _poll(call: _Call) -> Wait:
    how_long, for_ever, seconds = _milliseconds(call.integer(2))
    return Wait(words=f"waits for one of {call.integer(1)} fds{how_long}", for_ever=for_ever, seconds=seconds)


def _ppoll(call: _Call) -> Wait:
    how_long, for_ever = _behind(call.pointer(2))
    return Wait(words=f"waits for one of {call.integer(1)} fds{how_long}", for_ever=for_ever)


def _select(call: _Call) -> Wait:
    how_long, for_ever = _behind(call.pointer(4))
    return Wait(words=f"waits for fds below {call.integer(0)}{how_long}", for_ever=for_ever)


def _wait4(call: _Call) -> Wait:
    pid = call.integer(0)
    if pid > 0:
        return Wait(words=f"waits for its child pid {pid} to end, for ever", for_ever=True, pid=pid)
    group = f" of process group {-pid}" if pid < _ANY else " of its process group" if pid == 0 else ""
    return Wait(words=f"waits for any child{group} to end, for ever", for_ever=True)


def _waitid(call: _Call) -> Wait:
    kind, number = call.integer(0), call.integer(1)
    if kind == _P_PID:
        return Wait(words=f"waits for its child pid {number} to end, for ever", for_ever=True, pid=number)
    which = {_P_PGID: f"any child of process group {number}", _P_PIDFD: f"the child of pidfd {number}"}
    return Wait(words=f"waits for {which.get(kind, 'any child')} to end, for ever", for_ever=True)


def _fcntl(call: _Call) -> Wait:
    fd, command = call.integer(0), call.integer(1)
    if command in _SETLKW:
        return Wait(words=f"waits for a lock on {call.target(fd)}, for ever", for_ever=True, fd=fd)
    what = "tries for a lock on" if command in _SETLK else f"is in fcntl command {command} on"
    return Wait(words=f"{what} {call.target(fd)}", for_ever=False, fd=fd)


def _flock(call: _Call) -> Wait:
    fd, operation = call.integer(0), call.integer(1)
    if operation & fcntl.LOCK_NB:
        return Wait(words=f"tries for a flock on {call.target(fd)}", for_ever=False, fd=fd)
    return Wait(words=f"waits for a flock on {call.target(fd)}, for ever", for_ever=True, fd=fd)


def _on_fd(words: str) -> Callable[[_Call], Wait]:
    def decode(call: _Call) -> Wait:
        fd = call.integer(0)
        return Wait(words=f"{words} {call.target(fd)}", fd=fd)

    return decode


def _plain(words: str, *, for_ever: bool | None = None) -> Callable[[_Call], Wait]:
    return lambda _: Wait(words=words, for_ever=for_ever)


def _other(call: _Call) -> Wait:
    return Wait(words=f"is in {call.name}({', '.join(f'{one:#x}' for one in call.arguments[:3])})")


_SLEEPS: Final = _plain("sleeps, for a time that cannot be read", for_ever=False)
_SIGNAL: Final = "waits for a signal"
_DECODERS: Final[Mapping[str, Callable[[_Call], Wait]]] = {
    "futex": _futex,
    "futex_wait": _futex_wait,
    "futex_waitv": _futex_waitv,
    "epoll_wait": _epoll,
    "epoll_pwait": _epoll,
    "epoll_pwait2": _epoll_pwait2,
    "poll": _poll,
    "ppoll": _ppoll,
    "select": _select,
    "pselect6": _select,
    "wait4": _wait4,
    "waitid": _waitid,
    "fcntl": _fcntl,
    "flock": _flock,
    "nanosleep": _SLEEPS,
    "clock_nanosleep": _SLEEPS,
    "restart_syscall": _plain("goes on with a sleep or wait that a signal had interrupted"),
    "pause": _plain(f"{_SIGNAL}, for ever", for_ever=True),
    "rt_sigsuspend": _plain(f"{_SIGNAL}, for ever", for_ever=True),
    "rt_sigtimedwait": _plain(f"{_SIGNAL}, with a timeout that cannot be read"),
    **dict.fromkeys(("read", "readv", "pread64"), _on_fd("reads from")),
    **dict.fromkeys(("recvfrom", "recvmsg"), _on_fd("waits for data on")),
    **dict.fromkeys(("write", "writev", "pwrite64"), _on_fd("writes to")),
    **dict.fromkeys(("sendto", "sendmsg"), _on_fd("sends on")),
    **dict.fromkeys(("accept", "accept4"), _on_fd("waits for a connection on")),
    "connect": _on_fd("waits for an answer to its connect on"),
    **dict.fromkeys(("fsync", "fdatasync"), _on_fd("waits for the disk to have")),
    "ftruncate": _on_fd("cuts"),
    "ioctl": _on_fd("is in ioctl on"),
    "io_uring_enter": _on_fd("waits for io_uring"),
    **dict.fromkeys(("mkdir", "mkdirat"), _plain("makes a directory")),
    **dict.fromkeys(("open", "openat", "openat2"), _plain("opens a file, whose name cannot be read")),
    **dict.fromkeys(("rename", "renameat", "renameat2"), _plain("renames a file")),
}
