"""Who keeps SQLite's checkpoint from emptying the WAL: the header of the -shm beside the locks on its bytes.

https://www.sqlite.org/walformat.html, 2.3.5: a reader holds READ<n> and reads up to the frame in that read mark; a
checkpoint may not pass the smallest mark that is held, and a reader on READ0 reads the database file alone, so that
no page of it may be overwritten at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.readings import FileLock, WalIndex

READ0_BYTE = 123  # of the -shm; READ1 to READ4 follow


class Pin(Record, frozen=True, kw_only=True):
    """A reader that a checkpoint cannot pass. ``pid`` None: nobody that we can see. ``frame``: 0 for READ0."""

    slot: int
    pid: int | None
    frame: int


def pins(index: WalIndex, locks: Iterable[FileLock]) -> tuple[Pin, ...]:
    """The readers that stand in the way, the smallest frame first; those that read all of the WAL do not."""
    found = {
        Pin(slot=slot, pid=lock.pid, frame=mark if slot else 0)
        for lock in locks
        if lock.path == f"{index.path}-shm" and lock.access == "READ" and not lock.waiting
        for slot, mark in enumerate(index.read_marks)
        if _covers(lock, READ0_BYTE + slot) and mark is not None and (slot == 0 or mark < index.frames)
    }
    left = [pin for pin in found if index.backfilled < index.frames]
    return tuple(sorted(left, key=lambda pin: (pin.frame, pin.slot, pin.pid or 0)))


def told(index: WalIndex, locks: Iterable[FileLock], name: Callable[[int], str] = lambda pid: f"pid {pid}") -> str:
    """The same in one sentence; ``name`` says who a pid is."""
    state = f"WAL has {index.frames} frames, back-filled {index.backfilled}"
    if index.torn:
        return f"{state} (the header was being written)"
    in_the_way = pins(index, locks)
    if not in_the_way:
        return f"{state}: no reader stands in the way of a checkpoint"
    return f"{'; '.join(_words(pin, name) for pin in in_the_way)}; {state}: a checkpoint cannot pass"


def _words(pin: Pin, name: Callable[[int], str]) -> str:
    who = name(pin.pid) if pin.pid is not None else "somebody out of sight"
    what = f"pins frame {pin.frame}" if pin.slot else "reads the database file alone"
    return f"READ{pin.slot} held by {who} {what}"


def _covers(lock: FileLock, byte: int) -> bool:
    return lock.start <= byte and (lock.end is None or byte <= lock.end)
