from __future__ import annotations

import pytest

from pytest_ocrepro.judge.checkpoint import Pin, pins, told
from pytest_ocrepro.readings import FileLock, WalIndex

DB = "/s/opencode.db"


def index(*, frames: int = 102, backfilled: int = 52, torn: bool = False) -> WalIndex:
    marks = (0, 52, 102, None, None)
    return WalIndex(
        path=DB, frames=frames, pages=9, backfilled=backfilled, backfill_attempted=52, read_marks=marks, torn=torn
    )


def lock(
    start: int, end: int | None, pid: int | None = 812, *, access: str = "READ", path: str = f"{DB}-shm"
) -> FileLock:
    return FileLock(path=path, kind="POSIX", access=access, start=start, end=end, name="", pid=pid)


@pytest.mark.parametrize(
    ("locks", "expected"),
    [
        ([lock(124, 124)], [(1, 812, 52)]),
        ([lock(124, 124), lock(124, 124, 7)], [(1, 7, 52), (1, 812, 52)]),
        ([lock(123, 124)], [(0, 812, 0), (1, 812, 52)]),
        ([lock(120, None)], [(0, 812, 0), (1, 812, 52)]),
        ([lock(124, 124, None)], [(1, None, 52)]),
        ([lock(125, 125)], []),  # it reads all of the WAL
        ([lock(126, 127)], []),  # unused marks
        ([lock(124, 124, access="WRITE")], []),  # the mark itself is being changed
        ([lock(124, 124, path=DB)], []),
        ([lock(128, 128), lock(120, 122)], []),
    ],
)
def test_who_stands_in_the_way(locks: list[FileLock], expected: list[tuple[int, int | None, int]]) -> None:
    assert [(pin.slot, pin.pid, pin.frame) for pin in pins(index(), locks)] == expected


def test_nobody_stands_in_the_way_of_a_checkpoint_that_is_done() -> None:
    assert pins(index(backfilled=102), [lock(124, 124)]) == ()
    assert pins(index(), [lock(124, 124)]) == (Pin(slot=1, pid=812, frame=52),)


def test_in_words() -> None:
    assert told(index(), [lock(124, 124)]) == (
        "READ1 held by pid 812 pins frame 52; WAL has 102 frames, back-filled 52: a checkpoint cannot pass"
    )
    assert told(index(), [lock(123, 124)], lambda pid: f"second (pid {pid})") == (
        "READ0 held by second (pid 812) reads the database file alone; "
        "READ1 held by second (pid 812) pins frame 52; WAL has 102 frames, back-filled 52: a checkpoint cannot pass"
    )
    assert told(index(), [lock(124, 124, None)]).startswith("READ1 held by somebody out of sight pins frame 52; ")
    assert told(index(), []) == ("WAL has 102 frames, back-filled 52: no reader stands in the way of a checkpoint")
    assert told(index(torn=True), [lock(124, 124)]) == (
        "WAL has 102 frames, back-filled 52 (the header was being written)"
    )
