"""What the snapshots of a trial show: threads, locks, sockets, descriptors, logs; and the stored database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from pytest_ocrepro.events import DatabaseRead
from pytest_ocrepro.judge import checkpoint
from pytest_ocrepro.judge.threads import groups
from pytest_ocrepro.publish.document import (
    Block,
    Bullets,
    Paragraph,
    Part,
    Picture,
    Sheet,
    Text,
    Words,
    mono,
    said,
    seconds,
    sheet,
    soft,
)
from pytest_ocrepro.publish.pictures.heatstrip import LETTERS, Strip, heatstrip, strip
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.readings import (
    DatabaseReading,
    FdKind,
    FileLock,
    LockDirectory,
    ProcessReading,
    Snapshot,
    ThreadReading,
)

APART_NS = 300_000_000
_NEVER_SEEN = ThreadReading(tid=0, name="")
_TELLING = (FdKind.DATABASE, FdKind.WAL, FdKind.SHM, FdKind.LOG, FdKind.SOCKET, FdKind.PIPE, FdKind.FILE)


# --- threads ----------------------------------------------------------------------------------------------------


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """What threads of one process that look alike have in common, between the two looks behind the verdict."""

    name: str
    state: str | None
    wchan: str | None
    syscall: str | None
    waits: str
    voluntary: int | None
    involuntary: int | None
    cpu_ms: float | None


def threads(full: Sequence[Snapshot], origin_ns: int, anchor: str) -> Iterator[Block]:
    """What every thread slept in at each look, and what it did between the two behind the verdict."""
    looks: dict[tuple[int, int], list[tuple[int, ProcessReading]]] = defaultdict(list)
    for snapshot in full:
        for process in snapshot.processes:
            looks[process.id.pid, process.id.start_ticks].append((snapshot.started_ns, process))
    tables = tuple(_thread_table(seen, origin_ns) for seen in looks.values())
    if tables:
        blocks = (*_strip(strip(full, origin_ns)), *tables)
        yield Part(title="Threads", note=f"{len(full)} full snapshots", id=f"{anchor}-threads", blocks=blocks)


def _strip(one: Strip) -> Iterator[Block]:
    count = sum(row.count for row in one.rows)
    title = f"What {count} threads were in at {len(one.looks)} full looks"
    left_out = f" {one.earlier} earlier looks are not drawn." if one.earlier else ""
    left_out += f" {one.more} more rows are not drawn." if one.more else ""
    signs = ", ".join(f"{letter} {state}" for state, letter in LETTERS.items() if letter)
    caption = f"{signs}. A column a look, not to scale; threads that were alike at every look share a row.{left_out}"
    yield Picture(svg=heatstrip(one, title), title=title, caption=caption)
    heads = ["process", "thread", *(f"{at_s:.1f} s" for at_s in one.looks)]
    rows = [
        (said(f"{row.role} (pid {row.pid})"), said(f"{row.count} × " if row.count > 1 else "", row.name),  # noqa: RUF001
         *(said(state) for state in row.states))
        for row in one.rows
    ]  # fmt: skip
    table = sheet(f"{title}, as a table", heads, rows)
    yield Part(title="The strip as a table", note="the same facts", blocks=(table,))


Look = tuple[int, ProcessReading]


def behind_the_verdict(seen: Sequence[Look]) -> tuple[Look, Look]:
    """The last two looks that lie apart: one that is taken at the very end, at once after another, shows nothing."""
    for before, after in reversed([*pairwise(seen)]):
        if after[0] - before[0] >= APART_NS:
            return before, after
    return seen[max(len(seen) - 2, 0)], seen[-1]


def _thread_table(seen: Sequence[Look], origin_ns: int) -> Sheet:
    (before_ns, before), (after_ns, after) = behind_the_verdict(seen)
    apart_s = (after_ns - before_ns) / 1e9 if len(seen) > 1 else None
    at = f"the looks at {(before_ns - origin_ns) / 1e9:.1f} s and {(after_ns - origin_ns) / 1e9:.1f} s"
    gap = "one look only" if apart_s is None else f"{apart_s:.1f} s between {at}"
    earlier = {thread.tid: thread for thread in before.threads} if apart_s is not None else {}
    heads = ["thread", "#tid", "state", "wchan", "syscall", "#voluntary switches", "#involuntary", "#cpu ms"]
    rows = [_thread_cells(row, tids) for row, tids in _alike(earlier, after).items()]
    return sheet(f"{after.role} (pid {after.id.pid}, state {after.state}): {gap}", heads, rows)


def _alike(earlier: dict[int, ThreadReading], after: ProcessReading) -> dict[ThreadRow, list[int]]:
    alike: dict[ThreadRow, list[int]] = defaultdict(list)
    for group in groups(after):
        shared = f"; all at futex {group.wait.futex}" if group.wait.futex and len(group.threads) > 1 else ""
        for thread in group.threads:
            row = _thread_row(earlier.get(thread.tid), thread, f"{group.wait.words}{shared}")
            alike[row].append(thread.tid)
    return alike


def _thread_row(before: ThreadReading | None, after: ThreadReading, waits: str) -> ThreadRow:
    before = before or _NEVER_SEEN
    cpu_ns = _delta(before.cpu_ns, after.cpu_ns)
    return ThreadRow(
        name=after.name.rstrip("0123456789").rstrip() or after.name,  # the numbers of a pool tell nothing
        state=after.state,
        wchan=after.wchan,
        syscall=after.syscall,
        waits=waits,
        voluntary=_delta(before.voluntary_switches, after.voluntary_switches),
        involuntary=_delta(before.involuntary_switches, after.involuntary_switches),
        cpu_ms=None if cpu_ns is None else round(cpu_ns / 1e6, 1),
    )


def _thread_cells(row: ThreadRow, tids: Sequence[int]) -> tuple[Text, ...]:
    some = ", ".join(map(str, tids[:4])) + (" …" if len(tids) > 4 else "")  # noqa: PLR2004 - a hint, not a list
    return (
        said(f"{len(tids)} × " if len(tids) > 1 else "", row.name or "(unnamed)"),  # noqa: RUF001 - a sign
        said(some),
        said(row.state),
        said(msgspec.structs.replace(mono(row.wchan, 40), css="mono whole")),
        said(mono(row.syscall), soft(f"\n{clip(row.waits, 200)}")),
        said(_signed(row.voluntary)),
        said(_signed(row.involuntary)),
        said(_signed(row.cpu_ms)),
    )


def _delta(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _signed(value: float | None) -> str | None:
    return None if value is None else f"+{value}" if value >= 0 else f"{value}"


# --- locks, sockets, descriptors --------------------------------------------------------------------------------


def kernel(full: Sequence[Snapshot]) -> Iterator[Block]:
    """Locks, sockets and file descriptors at the last full snapshot."""
    if not full:
        return
    last = full[-1]
    note = f"{len(last.lock_directories)} lock directories, {len(last.locks)} file locks, at the last full snapshot"
    yield Part(title="Locks", note=note, blocks=tuple(_locks(last)))
    note = f"{len(last.sockets)} of TCP, {len(last.unix_sockets)} of UNIX, at the last full snapshot"
    yield Part(title="Sockets", note=note, blocks=tuple(_sockets(last)))
    rows = [row for process in last.processes for row in _descriptors(process)]
    if rows:
        table = sheet("Open file descriptors", ["process", "kind", "#count", "which"], rows)
        yield Part(title="File descriptors", note="grouped by kind, at the last full snapshot", blocks=(table,))


def _locks(last: Snapshot) -> Iterator[Block]:
    if last.lock_directories:
        heads = ["key", "directory", "holder", "#heartbeat age s", "#age s"]
        yield sheet("opencode's own lock directories", heads, map(_lock_directory, last.lock_directories))
    if last.locks:
        heads = ["file", "kind", "access", "bytes", "#pid", "", "source"]
        yield sheet("POSIX, OFD and flock locks", heads, map(_file_lock, last.locks))
    for index in last.wal_indexes:
        told = said(mono(index.path), f": {checkpoint.told(index, last.locks)}")
        yield Paragraph(text=told, css="small")


def _lock_directory(lock: LockDirectory) -> tuple[Text, ...]:
    alive = {None: "unknown whether alive", True: "alive", False: "dead"}[lock.holder_alive]
    holder = None if lock.holder_pid is None else f"pid {lock.holder_pid}, {alive}"
    key = clip(lock.key, 200) if lock.key else None
    ages = (said(seconds(lock.heartbeat_age_s, 1)), said(seconds(lock.age_s, 1)))
    return said(key), said(mono(lock.path)), said(holder), *ages


def _file_lock(lock: FileLock) -> tuple[Text, ...]:
    span = f"{lock.start}–{'end' if lock.end is None else lock.end}"  # noqa: RUF001 - a range
    return (
        said(mono(lock.path)),
        said(lock.kind),
        said(lock.access),
        said(f"{lock.name} {span}".strip()),
        said(lock.pid),
        said("waits" if lock.waiting else "held"),
        said(lock.source),
    )


def _sockets(last: Snapshot) -> Iterator[Block]:
    queues = ["state", "#receive queue", "#send queue", "#peer pid"]
    rows = [
        (said(one.pid), said(one.fd), said(mono(one.local)), said(mono(one.remote)), said(one.state),
         said(one.rx_queue_bytes), said(one.tx_queue_bytes), said(one.peer_pid))
        for one in last.sockets
    ]  # fmt: skip
    yield sheet("TCP sockets", ["#pid", "#fd", "local", "remote", *queues], rows)
    rows = [
        (said(one.pid), said(one.fd), said(mono(one.name or "(a pair)")), said(one.peer_inode), said(one.state),
         said(one.rx_queue_bytes), said(one.tx_queue_bytes), said(one.peer_pid))
        for one in last.unix_sockets
    ]  # fmt: skip
    if rows:
        yield sheet("UNIX sockets", ["#pid", "#fd", "name", "#peer inode", *queues], rows)


def _descriptors(process: ProcessReading) -> Iterator[tuple[Text, ...]]:
    kinds: dict[FdKind, list[str]] = defaultdict(list)
    for fd in process.fds:
        detail = f" ({fd.detail})" if fd.detail else ""
        kinds[fd.kind].append(clip(f"{fd.fd} → {fd.target}{detail}", 160))
    for kind in sorted(kinds, key=lambda kind: _TELLING.index(kind) if kind in _TELLING else len(_TELLING)):
        which = kinds[kind]
        more = [f"… {len(which) - 8} more"] if len(which) > 8 else []  # noqa: PLR2004 - what fits beside the others
        told = said(mono("\n".join([*which[:8], *more]), 2000))
        yield said(f"{process.role} (pid {process.id.pid})"), said(kind), said(len(which)), told


# --- logs and the database --------------------------------------------------------------------------------------


def databases(reads: Iterable[DatabaseRead]) -> Iterator[Block]:
    """What a byte copy of the database said, and when."""
    blocks = tuple(block for read in reads for block in _database(read))
    if blocks:
        yield Part(title="Database", note="read from a byte copy; the original is never opened", blocks=blocks)


def _database(read: DatabaseRead) -> Iterator[Block]:
    db = read.reading
    sizes = f" {size(db.size_bytes)}, WAL {size(db.wal_bytes)}"
    if db.readable:
        counts = f"{len(db.sessions)} sessions, {db.messages} messages, {db.parts} parts"
        state = Words(f" · journal mode {db.journal_mode or '–'} · integrity {db.integrity or '–'} · {counts}")  # noqa: RUF001
    else:
        state = Words(f" · unreadable: {clip(db.error, 200)}", "no")
    yield Paragraph(text=said(Words(read.when, "strong"), " · ", mono(db.path), sizes, state), css="small")
    rows = list(_unfinished(db))
    if rows:
        yield sheet("Not finished", ["what", "id", "session", "state"], rows)


def _unfinished(db: DatabaseReading) -> Iterator[tuple[Text, ...]]:
    for message in db.unfinished_messages:
        state = said(clip(message.error, 160) or "no error")
        yield said("message without time.completed"), said(mono(message.message)), said(mono(message.session)), state
    for part in db.unfinished_parts:
        begun = "" if part.started else ", never started"
        state = said(f"{part.status}{begun} {clip(part.detail, 160)}".strip())
        yield said(f"tool part {part.tool}"), said(mono(part.part)), said(mono(part.session)), state


def missing(full: Iterable[Snapshot]) -> Iterator[Block]:
    """What could not be read, with how often."""
    reasons = Counter(reason for snapshot in full for reason in snapshot.missing)
    items = tuple(said(clip(why, 300), soft(f" ({count} times)")) for why, count in sorted(reasons.items()))
    if items:
        title = "What could not be observed here"
        yield Part(title=title, note=f"{len(items)} kinds", blocks=(Bullets(items=items),))


def size(size_bytes: int) -> str:
    """``1,338 B``; from 100 kB on ``0.1 MB``."""
    return f"{size_bytes:,} B" if size_bytes < 100_000 else f"{size_bytes / 1e6:,.1f} MB"  # noqa: PLR2004
