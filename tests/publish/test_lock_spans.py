from __future__ import annotations

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.publish.lock_spans import LockSpan, lock_spans

S = 1_000_000_000
PATH = "locks/1.lock"


def change(at: float, how: r.LockChange, pid: int | None = None, before: int | None = None) -> h.LockDirectoryChanged:
    return h.LockDirectoryChanged(
        at_ns=int(at * S), path=PATH, key="npm-install:x", how=how, because="", holder_pid=pid, previous_pid=before
    )


def dated(at: float, how: r.LockChange, since_s: float, pid: int) -> h.LockDirectoryChanged:
    return msgspec.structs.replace(change(at, how, pid), since_s=since_s)


def look(at: float, *locks: r.FileLock, directories: tuple[r.LockDirectory, ...] = (), full: bool = True) -> h.Event:
    return h.SnapshotTaken(
        at_ns=int(at * S),
        snapshot=r.Snapshot(
            number=1,
            started_ns=int(at * S),
            ended_ns=int(at * S) + 10,
            boottime_ns=0,
            full=full,
            locks=locks,
            lock_directories=directories,
        ),
    )


def byte(pid: int | None, name: str = "WRITE", *, waiting: bool = False, access: str = "WRITE") -> r.FileLock:
    return r.FileLock(path="db", kind="POSIX", access=access, start=0, end=0, name=name, pid=pid, waiting=waiting)


def spans(*events: h.Event) -> list[LockSpan]:
    return list(lock_spans(events, 100 * S))


def times(found: list[LockSpan]) -> list[tuple[int | None, float, float]]:
    return [(span.pid, span.start_ns / S, round(span.end_ns / S, 6)) for span in found]


def test_a_directory_is_held_from_one_change_to_the_next() -> None:
    found = spans(
        change(1, r.LockChange.TAKEN, 5),
        change(3, r.LockChange.RELEASED),
        change(4, r.LockChange.TAKEN, 6),
        change(7, r.LockChange.TAKEN_FROM_LIVE_HOLDER, 5, 6),
    )
    assert times(found) == [(5, 1, 3), (6, 4, 7), (5, 7, 100)]
    assert {span.key for span in found} == {f"lock:{PATH}"}
    assert not any(span.dead for span in found)


def test_a_span_begins_when_the_lock_was_taken_not_when_that_was_seen() -> None:
    found = spans(dated(2, r.LockChange.TAKEN, 0.5, 5), dated(9, r.LockChange.TAKEN_FROM_LIVE_HOLDER, 1, 6))
    assert times(found) == [(5, 1.5, 8), (6, 8, 100)]
    assert [span.as_seen for span in found] == [False, False]
    assert [span.as_seen for span in spans(change(1, r.LockChange.TAKEN, 5))] == [True]


def test_a_name_that_comes_later_is_the_name_from_the_start() -> None:
    found = spans(change(1, r.LockChange.TAKEN), change(2, r.LockChange.NAMED, 5), change(3, r.LockChange.RELEASED))
    assert times(found) == [(5, 1, 3)]


def test_what_a_dead_holder_left_is_still_in_the_way() -> None:
    taken, left = change(1, r.LockChange.TAKEN, 5), change(2, r.LockChange.LEFT_BEHIND, None, 5)
    found = spans(taken, left, change(9, r.LockChange.BROKEN_AS_STALE, None, 5))
    assert times(found) == [(5, 1, 2), (5, 2, 9)]
    assert [span.dead for span in found] == [False, True]
    assert times(spans(taken, left, change(9, r.LockChange.BROKEN_AS_STALE, 6, 5)))[-1] == (6, 9, 100)


def test_bytes_reach_from_the_first_look_in_a_row_to_the_last() -> None:
    found = spans(look(1, byte(5)), look(2, byte(5)), look(3), look(4, byte(5)))
    assert times(found) == [(5, 1, 2), (5, 4, 4)]
    assert [span.looks for span in found] == [2, 1]
    assert found[0].key == "byte:db:WRITE"


def test_a_cheap_look_sees_no_locks_and_ends_none() -> None:
    assert times(spans(look(1, byte(5)), look(2, full=False), look(3, byte(5)))) == [(5, 1, 3)]


def test_holders_waiters_and_ways_of_holding_are_told_apart() -> None:
    shared = byte(5, "SHARED", access="READ")
    found = spans(look(1, byte(5), byte(6, waiting=True), shared, byte(None, name="")))
    assert {(span.key, span.pid, span.waiting) for span in found} == {
        ("byte:db:WRITE", 5, False),
        ("byte:db:WRITE", 6, True),
        ("byte:db:SHARED", 5, False),
        ("file:db", None, False),
    }


@pytest.mark.parametrize("told", [False, True])
def test_directories_that_only_looks_have_seen_count_from_their_age(told: bool) -> None:  # noqa: FBT001
    lock = r.LockDirectory(path=PATH, key=None, holder_pid=5, holder_alive=True, age_s=1.5)
    changes = [change(1, r.LockChange.TAKEN, 5)] if told else []
    found = spans(*changes, look(2, directories=(lock,)), look(4, directories=(lock,)))
    assert times(found) == ([(5, 1, 100)] if told else [(5, 0.5, 4)])
