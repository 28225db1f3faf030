"""Edges to locks and from them to their holders: file locks, SQLite's bytes, opencode's lock directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_ocrepro.judge.draft import STOPPED, Draft
from pytest_ocrepro.judge.life import tail_of
from pytest_ocrepro.judge.outsiders import ServerWait
from pytest_ocrepro.judge.signs import (
    GIVES_UP_AFTER_S,
    conflicts,
    is_its_own,
    is_younger,
    keeps_writers_out,
    kernel_lock_waits,
    lock_facts,
    may_want,
    name_of,
    retries_of,
    told_at,
)
from pytest_ocrepro.judge.staleness import beats, heart_in_words, stale_in_s
from pytest_ocrepro.judge.traced import tries_of
from pytest_ocrepro.readings import (
    FdKind,
    FileLock,
    LockDirectory,
    LogTail,
    ProcessReading,
)

# opencode waits for its own lock directories between reading its configuration and starting its services
STARTING = frozenset({"bootstrapping", "config-loading", "plugins-loading"})
BUSY_TIMEOUT_S = 5.0  # set by every build measured (1.14.48 to 1.18.34)


def file_locks(draft: Draft, process: ProcessReading) -> None:
    """F_SETLKW and flock(2) waiters appear in /proc/locks; SQLite never waits that way."""
    for wanted in draft.snapshot.locks:
        if not wanted.waiting or wanted.pid != process.id.pid:
            continue
        key = draft.node(f"file:{wanted.path}", "file-lock", f"{wanted.kind} lock on {wanted.path}")
        draft.edge(
            draft.process(process.id.pid),
            key,
            "proved",
            "waits for",
            f"{wanted.source} lists pid {process.id.pid} as waiting",
        )
        _holders_of(draft, key, (lock for lock in draft.snapshot.locks if conflicts(lock, wanted)))
    _untold_file_locks(draft, process)


def _untold_file_locks(draft: Draft, process: ProcessReading) -> None:
    """The same for locks that /proc/locks names no waiter of."""
    told = {lock.path for lock in draft.snapshot.locks if lock.waiting and lock.pid == process.id.pid}
    for wanted, how in kernel_lock_waits(process):
        if wanted.path in told:
            continue
        key = draft.node(f"file:{wanted.path}", "file-lock", f"{wanted.kind} lock on {wanted.path}")
        draft.edge(draft.process(process.id.pid), key, "proved", "waits for", how)
        _holders_of(draft, key, (lock for lock in draft.snapshot.locks if conflicts(lock, wanted)))


def _holders_of(draft: Draft, key: str, locks: Iterable[FileLock]) -> None:
    for lock in locks:
        name = f"{lock.name} byte" if lock.name else f"bytes {lock.start}-{lock.end or 'end'}"
        if lock.pid is None:
            outside = draft.node(f"unseen:{lock.path}", "outsider", "a holder outside of our view")
            draft.edge(key, outside, "proved", "is held by", f"{lock.source}: {lock.access} on the {name}, no pid")
        else:
            fact = f"{lock.source}: pid {lock.pid} has {lock.access} on the {name}"
            draft.edge(key, draft.process(lock.pid), "proved", "is held by", fact)


def sqlite_bytes(draft: Draft, process: ProcessReading) -> None:
    """SQLite tries a non-blocking F_SETLK and sleeps in between: the waiter is inferred, the holder proved."""
    databases = {fd.target for fd in process.fds if fd.kind is FdKind.DATABASE}
    how, life = retries_of(process), draft.lives.get(process.id.pid)
    tried_s = draft.quiet_s(life) % BUSY_TIMEOUT_S if life else 0.0  # one that goes on has begun another try
    for lock in draft.snapshot.locks:
        base = lock.path.removesuffix("-shm")
        if not how or base not in databases or not keeps_writers_out(lock, process.id.pid):
            continue
        key = draft.node(f"byte:{lock.path}:{lock.name}", "sqlite-byte", f"{lock.name} byte of {lock.path}")
        seen = draft.has_edges(key)
        draft.edge(
            draft.process(process.id.pid),
            key,
            "inferred",
            "waits for",
            f"it has {base} open",
            how,
            f"gives up by itself: busy_timeout is about {BUSY_TIMEOUT_S:g} s",
            ends_in_s=BUSY_TIMEOUT_S - tried_s,
        )
        if not seen:
            _holders_of(draft, key, (lock,))
            _lock_fault(draft, lock.pid)


def _lock_fault(draft: Draft, pid: int | None) -> None:
    fault = draft.outsiders.fault("database-lock")
    if fault is None or fault.pid is None or fault.pid != pid or draft.has_edges(f"pid:{pid}"):
        return
    label = "the scenario's lock holder, which does not let go"
    key = draft.node("fault:database-lock", "fault", label, for_good=fault.silent_for_good)
    draft.edge(draft.process(fault.pid), key, "declared", "is", fault.detail)


def lock_directories(draft: Draft, process: ProcessReading) -> None:
    """Those that it tries, or may want at its place in the start; the likeliest first."""
    tail = tail_of(draft.snapshot, process.id.pid)
    life = draft.lives.get(process.id.pid)
    if life is None:
        return
    quiet_s = draft.quiet_s(life)
    tried = tries_of(draft.history, life, draft.snapshot)
    wanted = sorted(
        (lock for lock in draft.snapshot.lock_directories if _is_wanted(lock, process.id.pid, tail, tried)),
        key=lambda lock: (
            lock.path not in tried,
            not lock.holder_alive,
            is_younger(lock, quiet_s),
            -told_at(tail, lock),
            lock.path,
        ),
    )
    for lock in wanted:
        others = [name_of(other) for other in wanted if other.path != lock.path]
        key = draft.node(f"lock:{lock.path}", "lock-directory", f"lock directory {name_of(lock)}")
        draft.edge(
            draft.process(process.id.pid),
            key,
            "proved" if lock.path in tried else "inferred",
            "waits for",
            *lock_facts(tail, lock, quiet_s, others, tried.get(lock.path, "")),
            binding=not is_younger(lock, quiet_s),
            ends_in_s=GIVES_UP_AFTER_S - quiet_s,
        )
        if not draft.has_edges(key):
            _lock_holder(draft, key, lock)


def _lock_holder(draft: Draft, key: str, lock: LockDirectory) -> None:
    heart, left_s, pid = heart_in_words(lock), stale_in_s(lock), lock.holder_pid
    if pid is not None and lock.holder_alive:
        fact = f"meta.json names pid {pid}, which lives{_if_no_opencode(draft, pid)}, {heart}"
        ends_in_s, end = _end_of_hold(draft, lock, pid)
        draft.edge(key, draft.process(pid), "proved", "is held by", fact, *end, ends_in_s=ends_in_s)
    elif pid is not None and lock.holder_alive is False:
        lent = " and has lent its pid to another process" if lock.pid_reused else ""
        label = f"pid {pid}, which is dead{lent}; the lock breaks itself in about {left_s:.0f} s"
        dead = draft.node(f"dead:{pid}", "dead-holder", label, for_good=True)
        now = "is another, younger process now" if lock.pid_reused else "is gone or has another process now"
        fact = f"meta.json names pid {pid}, which {now}, {heart}"
        draft.edge(key, dead, "proved", "is held by", fact, ends_in_s=left_s)
    else:
        who = "nobody by name" if pid is None else f"pid {pid} of another machine or of an unreadable process"
        unknown = draft.node(f"unknown:{lock.path}", "outsider", "a holder that cannot be told")
        draft.edge(key, unknown, "inferred", "is held by", f"meta.json names {who}, {heart}", binding=False)


def _if_no_opencode(draft: Draft, pid: int) -> str:
    reading = draft.processes.get(pid)
    return " and is no opencode" if reading is not None and not reading.is_subject else ""


def _end_of_hold(draft: Draft, lock: LockDirectory, pid: int) -> tuple[float | None, tuple[str, ...]]:
    """When a living holder loses the lock, and that in words.

    It is no way out where the holder waits for a registry that is silent for good: who takes the lock from it
    installs the same, from the same registry (measured, see staleness).
    """
    if beats(lock):
        return None, ()
    left_s, holder = stale_in_s(lock), draft.processes.get(pid)
    asks = install_of(draft, holder) if holder is not None and holder.state not in STOPPED else None
    if asks is not None and asks[0].fault is not None and asks[0].fault.silent_for_good:
        return None, (f"lock turns stale in about {left_s:.0f} s; who takes it then waits for the same registry",)
    return left_s, (f"ends by itself in about {left_s:.0f} s: lock turns stale",)


def install_of(draft: Draft, process: ProcessReading) -> tuple[ServerWait, tuple[str, ...]] | None:
    """The request to our registry that its start waits for, and the facts; None: it waits for no such thing."""
    life = draft.lives.get(process.id.pid)
    wait = draft.outsiders.registry_wait(life) if life else None
    socket = draft.outsiders.socket_to(process.id.pid, wait.address) if wait else ""
    if wait is None or wait.fault is None or not socket:
        return None
    tail = tail_of(draft.snapshot, process.id.pid)
    holds = [lock for lock in draft.snapshot.lock_directories if lock.holder_pid == process.id.pid]
    if tail is None or tail.milestone not in STARTING or not holds:
        return None
    return wait, (socket, wait.fact, f"it holds {name_of(holds[0])} for the install")


def _is_wanted(lock: LockDirectory, pid: int, tail: LogTail | None, tried: Mapping[str, str]) -> bool:
    """Seen to be tried, or else of a process that is at the place in its start where it may be."""
    if lock.path in tried:
        return not is_its_own(lock, pid)
    return tail is not None and tail.milestone in STARTING and may_want(lock, pid, tail)
