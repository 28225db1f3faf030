from __future__ import annotations

from pytest_ocrepro import events as h
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.moments import moments
from pytest_ocrepro.readings import LockChange, ProcessId

S = 1_000_000_000


def started(at_s: float, role: str, pid: int) -> h.Event:
    return h.ProcessFound(
        at_ns=int(at_s * S), id=ProcessId(pid=pid, start_ticks=1), role=role, argv=(), parent_pid=1, is_subject=True
    )


def taken(at_s: float, since_s: float | None) -> h.Event:
    return h.LockDirectoryChanged(
        at_ns=int(at_s * S), path="/l", key="k", how=LockChange.TAKEN, because="b", holder_pid=5, since_s=since_s
    )


def told(*events: h.Event) -> list[tuple[float, str]]:
    return [(round(one.at_s, 3), one.text) for one in moments(History.of([h.Note(at_ns=0, text="begin"), *events]))]


def test_a_lock_that_was_taken_before_the_second_start_stands_before_it() -> None:
    """The start waited for the lock; our look saw it later."""
    lines = told(started(0.1, "first", 5), started(1.25, "second", 6), taken(1.5, 0.5))
    assert lines == [
        (0.0, "begin"),
        (0.1, "first (pid 5): "),
        (1.0, "k: taken by pid 5 (seen 0.50 s later); b"),
        (1.25, "second (pid 6): "),
    ]


def test_what_has_no_date_of_its_own_is_told_as_seen() -> None:
    assert told(started(1.25, "second", 6), taken(1.5, None))[-1] == (1.5, "k: seen taken by pid 5; b")
