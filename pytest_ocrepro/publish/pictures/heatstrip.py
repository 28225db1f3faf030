"""The threads of all processes at each full look: a row a thread, and one for those that were always alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.threads import wait_of
from pytest_ocrepro.publish.pictures.svg import box, label, svg
from pytest_ocrepro.publish.text import cut
from pytest_ocrepro.readings import FdKind, FdReading, ProcessReading, Snapshot, ThreadReading

MOST_LOOKS = 40
MOST_ROWS = 80
# state -> the letter in its cell, for those who see no colours
LETTERS = {
    "running": "R",
    "event loop": "e",
    "futex": "f",
    "file lock": "L",
    "pipe": "p",
    "disk": "D",
    "other": "o",
    "unknown": "?",
    "not there": "",
}
_LOOPS = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"}
_DISK = {"fsync", "fdatasync", "sync", "sync_file_range", "syncfs"}
_READS = {"read", "readv", "write", "writev"}
_WIDTH, _GUTTER, _ROW = 1120, 300, 19


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` threads of one process that were in the same states at every look."""

    role: str
    pid: int
    name: str
    count: int
    states: tuple[str, ...]


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """``looks``: seconds on the trial's clock. ``earlier``: looks before them; ``more``: rows that are left out."""

    looks: tuple[float, ...]
    rows: tuple[Row, ...]
    earlier: int = 0
    more: int = 0


def strip(full: Sequence[Snapshot], origin_ns: int) -> Strip:
    """What the last looks saw; threads with the same name (but for a number) and states are one row."""
    looks = full[-MOST_LOOKS:]
    rows = [row for process in _processes(looks) for row in _rows(process, looks)]
    return Strip(
        looks=tuple((look.started_ns - origin_ns) / 1e9 for look in looks),
        rows=tuple(rows[:MOST_ROWS]),
        earlier=len(full) - len(looks),
        more=max(0, len(rows) - MOST_ROWS),
    )


def heatstrip(one: Strip, title: str) -> str:
    """The picture; time runs from left to right, a column a look, not to scale."""
    wide = min(64.0, (_WIDTH - _GUTTER) / max(1, len(one.looks)))
    parts = list(_heads(one.looks, wide))
    y = 26.0
    before: tuple[str, int] | None = None
    for row in one.rows:
        if (row.role, row.pid) != before:
            parts.append(label(0, y + 17, cut(f"{row.role} (pid {row.pid})", 44), "strong"))
            before, y = (row.role, row.pid), y + 24
        parts += _cells(row, wide, y)
        y += _ROW
    return svg("heatstrip", _GUTTER + wide * len(one.looks) + 4, y + 6, title, parts)


def state_of(thread: ThreadReading, fds: Sequence[FdReading]) -> str:
    """One of ``LETTERS``, from the state, the call and the wait channel of a thread."""
    call, channel = thread.syscall or "", thread.wchan or ""
    if thread.state == "R" or call == "running":
        return "running"
    if thread.state == "D" or call in _DISK:
        return "disk"
    if call.startswith("futex") or (call == "restart_syscall" and channel.startswith("futex")):
        return "futex"
    if call in _LOOPS:
        return "event loop"
    if call in ("flock", "fcntl"):
        return "file lock" if wait_of(thread, fds).for_ever else "other"
    if channel.startswith("pipe_") or (call in _READS and _on_a_pipe(thread, fds)):
        return "pipe"
    return "other" if call else "unknown"


def _on_a_pipe(thread: ThreadReading, fds: Sequence[FdReading]) -> bool:
    fd = wait_of(thread, fds).fd
    return any(one.fd == fd and one.kind is FdKind.PIPE for one in fds)


def _processes(looks: Sequence[Snapshot]) -> Iterator[list[ProcessReading | None]]:
    """Each process at each look."""
    seen: dict[tuple[int, int], list[ProcessReading | None]] = {}
    for number, look in enumerate(looks):
        for process in look.processes:
            key = process.id.pid, process.id.start_ticks
            seen.setdefault(key, [None] * len(looks))[number] = process
    yield from seen.values()


def _rows(process: list[ProcessReading | None], looks: Sequence[Snapshot]) -> Iterator[Row]:
    states: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    for number, reading in enumerate(process):
        for thread in reading.threads if reading else ():
            row = states.setdefault(thread.tid, ["not there"] * len(looks))
            row[number] = state_of(thread, reading.fds if reading else ())
            names[thread.tid] = thread.name.rstrip("0123456789").rstrip() or thread.name or "(unnamed)"
    alike: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for tid, seen in states.items():
        alike[names[tid], tuple(seen)] += 1
    last = next(reading for reading in reversed(process) if reading)
    for (name, always), count in alike.items():
        yield Row(role=last.role, pid=last.id.pid, name=name, count=count, states=always)


def _heads(looks: Sequence[float], wide: float) -> Iterator[str]:
    every = max(1, round(44 / wide))
    for number, at_s in enumerate(looks):
        if number % every == 0:
            yield label(_GUTTER + wide * (number + 0.5), 14, f"{at_s:.1f} s", "small", anchor="middle")


def _cells(row: Row, wide: float, y: float) -> Iterator[str]:
    many = f"{row.count} × " if row.count > 1 else ""  # noqa: RUF001 - a sign
    yield label(_GUTTER - 10, y + 14, cut(f"{many}{row.name}", 42), "thread", anchor="end")
    for number, state in enumerate(row.states):
        x = _GUTTER + wide * number
        if state == "not there":
            continue
        yield box(x + 0.5, y + 1, wide - 1, _ROW - 2, f"cell {state.replace(' ', '-')}", state)
        if wide >= 9:  # noqa: PLR2004 - pixels in which a letter can be read
            yield label(x + wide / 2, y + 14, LETTERS[state], f"letter on-{state.replace(' ', '-')}", anchor="middle")
