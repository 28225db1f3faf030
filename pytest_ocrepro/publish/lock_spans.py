"""Who held or waited for which lock from when to when, as far as a history tells.

Changes of a lock directory's holder are told as they happen. Locks on files are seen in full snapshots alone: a span
then reaches from the first look of several in a row that saw it to the last, and what was between is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.events import Event, LockDirectoryChanged, SnapshotTaken
from pytest_ocrepro.readings import FileLock, LockChange, LockDirectory, Snapshot

_GONE = frozenset({LockChange.RELEASED, LockChange.REMOVED})


class LockSpan(msgspec.Struct, frozen=True, kw_only=True):
    """``key`` is the lock's node in a wait-for graph. ``pid`` None: a holder that nobody could tell.

    ``dead``: the holder had ended and the lock stayed. ``looks``: how often it was seen; 0: told by its changes.
    ``as_seen``: it began before ``start_ns``, when it was seen; how long before is not known.
    """

    key: str
    lock: str
    path: str
    pid: int | None
    start_ns: int
    end_ns: int
    waiting: bool = False
    dead: bool = False
    looks: int = 0
    as_seen: bool = False
    because: str = ""


def lock_spans(events: Sequence[Event], end_ns: int) -> tuple[LockSpan, ...]:
    """All spans by their start; one that is still held at ``end_ns`` ends there."""
    changes = [event for event in events if isinstance(event, LockDirectoryChanged)]
    snapshots = [event.snapshot for event in events if isinstance(event, SnapshotTaken) and event.snapshot.full]
    told = {change.path for change in changes}
    spans = [*_told(changes, end_ns), *_seen_directories(snapshots, told), *_seen_files(snapshots)]
    return tuple(sorted(spans, key=lambda span: (span.start_ns, span.end_ns, span.key, span.pid or 0)))


def _told(changes: Sequence[LockDirectoryChanged], end_ns: int) -> Iterator[LockSpan]:
    held: dict[str, LockSpan] = {}
    for change in changes:
        before = held.pop(change.path, None)
        if before is not None and before.pid is None and change.how is LockChange.NAMED:
            held[change.path] = msgspec.structs.replace(before, pid=change.holder_pid)
            continue
        if before is not None:
            yield msgspec.structs.replace(before, end_ns=max(before.start_ns, change.taken_ns))
        if change.how not in _GONE and (change.how is not LockChange.BROKEN_AS_STALE or change.holder_pid):
            held[change.path] = _span_of(change, end_ns)
    yield from held.values()


def _span_of(change: LockDirectoryChanged, end_ns: int) -> LockSpan:
    dead = change.how is LockChange.LEFT_BEHIND
    return LockSpan(
        key=f"lock:{change.path}",
        lock=change.key or change.path.rpartition("/")[2],
        path=change.path,
        pid=change.previous_pid if dead and change.holder_pid is None else change.holder_pid,
        start_ns=change.taken_ns,
        end_ns=end_ns,
        dead=dead,
        as_seen=change.since_s is None and not dead,
        because=f"{change.how}: {change.because}",
    )


def _seen_directories(snapshots: Sequence[Snapshot], told: set[str]) -> Iterator[LockSpan]:
    def seen(snapshot: Snapshot) -> Iterator[LockSpan]:
        for lock in snapshot.lock_directories:
            if lock.path not in told:
                yield _of_directory(snapshot, lock)

    yield from _in_a_row([list(seen(snapshot)) for snapshot in snapshots])


def _of_directory(snapshot: Snapshot, lock: LockDirectory) -> LockSpan:
    return LockSpan(
        key=f"lock:{lock.path}",
        lock=lock.key or lock.path.rpartition("/")[2],
        path=lock.path,
        pid=lock.holder_pid,
        start_ns=snapshot.started_ns - round((lock.age_s or 0) * 1e9),
        end_ns=snapshot.ended_ns,
        dead=lock.holder_alive is False,
        looks=1,
        because="meta.json names it; its age is that of the directory",
    )


def _seen_files(snapshots: Sequence[Snapshot]) -> Iterator[LockSpan]:
    yield from _in_a_row([[_of_file(snapshot, lock) for lock in snapshot.locks] for snapshot in snapshots])


def _of_file(snapshot: Snapshot, lock: FileLock) -> LockSpan:
    named = f"{lock.name} byte of {lock.path}" if lock.name else f"{lock.kind} lock on {lock.path}"
    return LockSpan(
        key=f"byte:{lock.path}:{lock.name}" if lock.name else f"file:{lock.path}",
        lock=named,
        path=lock.path,
        pid=lock.pid,
        start_ns=snapshot.started_ns,
        end_ns=snapshot.ended_ns,
        waiting=lock.waiting,
        looks=1,
        because=f"{lock.kind} {lock.access} from {lock.source}",
    )


def _in_a_row(looks: Sequence[Sequence[LockSpan]]) -> Iterator[LockSpan]:
    """The same lock of the same process in looks that follow each other is one span."""
    going: dict[tuple[str, int | None, bool, str], LockSpan] = {}
    for look in looks:
        now = {(span.key, span.pid, span.waiting, span.because): span for span in look}
        yield from (span for key, span in going.items() if key not in now)
        going = {key: _longer(going.get(key), span) for key, span in now.items()}
    yield from going.values()


def _longer(before: LockSpan | None, span: LockSpan) -> LockSpan:
    if before is None:
        return span
    start_ns = min(before.start_ns, span.start_ns)
    return msgspec.structs.replace(span, start_ns=start_ns, looks=before.looks + 1)
