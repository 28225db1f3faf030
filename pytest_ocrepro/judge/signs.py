"""What single readings show: a lock in the way, a retry, a reader of standard input."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ocrepro.judge.threads import wait_of
from pytest_ocrepro.readings import (
    MILESTONES,
    FdKind,
    FileLock,
    LockDirectory,
    LogTail,
    ProcessReading,
    Snapshot,
    ThreadReading,
)

WRITER_BYTES = frozenset({"WRITE", "RESERVED", "PENDING", "EXCLUSIVE", "RECOVER", "CKPT"})
GIVES_UP_AFTER_S = 300.0  # `timeoutMs:300000`, read from the builds 1.14.48 and 1.18.34
F_SETLKW, F_OFD_SETLKW = 0x7, 0x26  # <asm-generic/fcntl.h>; the two that wait
FOR_EVER_MS = 0xFFFFFFFF  # -1 as the kernel prints an int
# Which argument is the timeout in milliseconds (poll(2), epoll_wait(2)); other waits keep theirs behind a pointer
TIMEOUT_ARGUMENT = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
TIMER_SLACK_S = 1.0  # a timeout this long ago has run out, and its wait was begun anew
SLEEPS = frozenset({"clock_nanosleep", "nanosleep"})  # between two tries of SQLite's busy handler
READS = frozenset({"read", "readv", "pread64"})
LOOPS = frozenset({"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"})


def lock_facts(
    tail: LogTail | None, lock: LockDirectory, quiet_s: float, others: list[str], tried: str = ""
) -> list[str]:
    """Why it is thought to wait for this lock directory. ``tried``: what a trace of it showed."""
    last = tail.lines[-1].text[:160] if tail and tail.lines else "nothing"
    facts = [f"its log ends at {tail.milestone!r}: {last}"] if tail else []
    facts.insert(0 if tried else len(facts), tried or "a waiter leaves no kernel trace but a repeated mkdir")
    if others:
        facts.append(f"it may wait for {', '.join(others)} as well")
    if is_younger(lock, quiet_s):
        facts.append(f"taken {lock.age_s:.1f} s ago, behind its last step: the lock changed hands while it waited")
    return [*facts, f"gives up by itself {GIVES_UP_AFTER_S:g} s after it began to wait"]


def name_of(lock: LockDirectory) -> str:
    """Its key, or its file name where the key is not known."""
    return lock.key or lock.path.rsplit("/", 1)[-1]


def told_at(tail: LogTail | None, lock: LockDirectory) -> int:
    """The place of the last line that speaks of the lock's directory: what it read last it waits for first."""
    folder = _folder(lock)
    lines = tail.lines if tail else ()
    return max((at for at, line in enumerate(lines) if folder and _speaks_of(line.text, folder)), default=-1)


def _folder(lock: LockDirectory) -> str:
    return (lock.key or "").partition(":")[2]


def is_its_own(lock: LockDirectory, pid: int) -> bool:
    """It has it; that of a dead one may have its recycled pid."""
    return lock.holder_pid == pid and lock.holder_alive is not False


def may_want(lock: LockDirectory, pid: int, tail: LogTail) -> bool:
    """Not its own, and for a directory that its log speaks of, if known."""
    if is_its_own(lock, pid):
        return False
    return not _folder(lock) or not tail.lines or told_at(tail, lock) >= 0


def _speaks_of(text: str, folder: str) -> bool:
    return f"{folder}/" in text or f"{folder} " in f"{text} "


def is_younger(lock: LockDirectory, quiet_s: float) -> bool:
    """Taken behind the last step of the waiter."""
    return lock.age_s is not None and lock.age_s < quiet_s


def _main_thread(process: ProcessReading) -> ThreadReading | None:
    return next((thread for thread in process.threads if thread.tid == process.id.pid), None)


def retries_of(process: ProcessReading) -> str:
    """Why we think that its main thread is in SQLite's busy handler; empty when it is not."""
    main = _main_thread(process)
    return f"its main thread sleeps in {main.syscall} between tries" if main and main.syscall in SLEEPS else ""


def timeout_of(process: ProcessReading) -> float | None:
    """After how many seconds the wait of its main thread ends by itself; None: never, or it cannot be seen."""
    main = _main_thread(process)
    place = TIMEOUT_ARGUMENT.get(main.syscall or "") if main else None
    if main is None or place is None or len(main.arguments) <= place:
        return None
    milliseconds = int(main.arguments[place], 16) & FOR_EVER_MS
    return None if milliseconds == FOR_EVER_MS else milliseconds / 1000


def kernel_lock_waits(process: ProcessReading) -> Iterator[tuple[FileLock, str]]:
    """Files that a thread sleeps for in fcntl(2) or flock(2), by its system call, and that fact in words.

    For what /proc/locks does not tell: it has no pid for a lock of an open file description. Which bytes are wanted
    lies behind a pointer, so the lock stands for the whole file.
    """
    targets = {fd.fd: fd.target for fd in process.fds}
    for thread in process.threads:
        kind = _awaited_kind(thread)
        path = targets.get(int(thread.arguments[0], 16)) if kind else None
        if kind and path is not None:
            lock = FileLock(
                path=path, kind=kind, access="WRITE", start=0, end=None, name="", pid=process.id.pid, waiting=True
            )
            yield lock, f"thread {thread.name} sleeps in {thread.syscall}({', '.join(thread.arguments[:2])})"


def _awaited_kind(thread: ThreadReading) -> str:
    if thread.state != "S" or len(thread.arguments) < 2:  # noqa: PLR2004  descriptor and command
        return ""
    if thread.syscall == "flock":
        return "FLOCK"
    command = int(thread.arguments[1], 16) if thread.syscall == "fcntl" else 0
    return {F_SETLKW: "POSIX", F_OFD_SETLKW: "OFDLCK"}.get(command, "")


def event_loop_of(snapshot: Snapshot, process: ProcessReading) -> str:
    """That its event loop does not run, in words: connections wait to be accepted while its main thread is elsewhere.

    Empty where the loop sleeps in its own call, and where that cannot be told.
    """
    waiting = [
        one for one in snapshot.sockets if one.pid == process.id.pid and one.state == "LISTEN" and one.rx_queue_bytes
    ]
    main = _main_thread(process)
    if not waiting or main is None or main.syscall is None or main.syscall in LOOPS:
        return ""
    where = "runs on" if main.syscall == "running" or main.state == "R" else f"is in {main.syscall}"
    count = sum(one.rx_queue_bytes or 0 for one in waiting)
    return f"its event loop accepts nobody: {count} connection(s) wait at {waiting[0].local}, its main thread {where}"


def outside_of_its_loop(process: ProcessReading) -> str:
    """The system call that its main thread sleeps in, where that is none that an event loop sleeps in; else empty."""
    main = _main_thread(process)
    if main is None or main.syscall in (None, "none", "running") or main.syscall in LOOPS:
        return ""
    return main.syscall or ""


def awaits(process: ProcessReading, child: ProcessReading) -> str:
    """Why a process can do nothing until its child ends, in words; empty where it may, or where that is not seen.

    It has one thread, which sleeps in wait4(2) or waitid(2): these have no timeout. With more threads one of them
    may have a timer for the child.
    """
    main = _main_thread(process)
    if main is None or len(process.threads) != 1 or main.state != "S" or main.syscall not in ("wait4", "waitid"):
        return ""
    wait = wait_of(main, process.fds)
    if not wait.for_ever or wait.pid not in (None, child.id.pid):
        return ""
    return f"its only thread {wait.words}"


def reads_stdin(process: ProcessReading) -> str:
    """Who reads fd 0, in words; empty when nobody does."""
    for thread in process.threads:
        if thread.syscall in READS and thread.arguments[:1] == ("0x0",):
            return f"thread {thread.name} sleeps in {thread.syscall}(0)"
    for fd in process.fds:
        if fd.kind is FdKind.EVENTPOLL and "0" in fd.detail.removeprefix("watches fds ").split():
            return f"epoll fd {fd.fd} watches fd 0"
    return ""


def keeps_writers_out(lock: FileLock, pid: int) -> bool:
    """A lock of another process on one of the bytes that SQLite's writers need."""
    names = set(lock.name.replace("+", " ").split())
    return lock.pid != pid and not lock.waiting and lock.access == "WRITE" and bool(names & WRITER_BYTES)


def conflicts(lock: FileLock, wanted: FileLock) -> bool:
    """Whether a held lock stands in the way of a wanted one (fcntl(2), flock(2))."""
    return (
        not lock.waiting
        and lock.path == wanted.path
        and (lock.kind == "FLOCK") == (wanted.kind == "FLOCK")
        and lock.pid != wanted.pid
        and "WRITE" in (lock.access, wanted.access)
        and (lock.end is None or lock.end >= wanted.start)
        and (wanted.end is None or wanted.end >= lock.start)
    )


def rank_of(milestone: str) -> int:
    """The place of a milestone in their order; -1 for none."""
    return MILESTONES.index(milestone) if milestone in MILESTONES else -1
