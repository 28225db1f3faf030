from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.passage import Observed, Passage, passages, share_reached
from pytest_ocrepro.readings import ProcessId

S = 10**9


def started(at: float, pid: int = 1, role: str = "first", *, subject: bool = True) -> h.Event:
    return h.ProcessStarted(
        at_ns=int(at * S),
        id=ProcessId(pid=pid, start_ticks=pid),
        role=role,
        argv=("opencode",),
        obligation="answer",
        fail_fast_s=20,
        deadline_s=45,
        stdin="/dev/null",
        is_subject=subject,
    )


def milestone(at: float, name: str, pid: int = 1) -> h.Event:
    return h.MilestoneReached(
        at_ns=int(at * S), pid=pid, role="first", milestone=name, source="log", line="timestamp=x"
    )


def exited(at: float, *, ours: bool, pid: int = 1) -> h.Event:
    return h.ProcessExited(at_ns=int(at * S), pid=pid, role="first", code=-15 if ours else 1, ours=ours)


def one(*events: h.Event) -> Passage:
    (found,) = passages(History.of(events))
    return found


def way(found: Passage) -> list[tuple[str, float]]:
    return [(step.milestone, step.seconds) for step in found.reached]


def test_times_count_from_the_start_of_the_process() -> None:
    found = one(
        started(10),
        milestone(10.5, "instance-created"),
        milestone(11, "config-loading"),
        milestone(12, "config-loading"),
        h.ProviderRequest(at_ns=13 * S, request=1, pid=1, path="/", model="m", tools=1, title=False),
        h.ProviderReply(at_ns=14 * S, request=1, pid=1, what="finished", turn="text"),
        exited(15, ours=False),
    )
    assert way(found) == [
        ("instance-created", 0.5),
        ("config-loading", 1.0),
        ("model-asked", 3.0),
        ("model-answered", 4.0),
    ]
    assert (found.watched_s, found.by_itself, found.awaited) == (5.0, True, "ended")


def test_one_that_we_ended_has_an_open_end() -> None:
    found = one(started(10), milestone(11, "config-loading"), exited(18, ours=True))
    assert (found.watched_s, found.by_itself, found.awaited) == (8.0, False, "services-started")


def test_what_lived_was_watched_until_the_sweep() -> None:
    found = one(
        started(10),
        h.Swept(at_ns=16 * S, ended=(), leaked=()),
        milestone(17, "config-loading"),
        exited(17, ours=True),
    )
    assert (found.watched_s, found.by_itself) == (6.0, False)
    assert found.reached == ()


def test_a_line_that_was_read_after_the_end_was_written_before_it() -> None:
    found = one(started(10), exited(12, ours=False), milestone(12.3, "session-created"))
    assert way(found) == [("session-created", 2.0)]


def test_a_tool_is_no_subject() -> None:
    assert passages(History.of([started(1, subject=False), h.Note(at_ns=2, text="")])) == ()


def test_the_steps_of_kaplan_and_meier() -> None:
    """Remission times of 21 patients on 6-mercaptopurine (Freireich et al. 1963), a table in every textbook."""
    reached = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    curve = share_reached([*(Observed(t, True) for t in reached), *(Observed(t, False) for t in censored)])
    assert [at for at, _ in curve.steps] == [6, 7, 10, 13, 16, 22, 23]
    assert [1 - share for _, share in curve.steps] == pytest.approx(
        [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4
    )
    assert curve.open_ends == tuple(sorted(censored))


def test_what_never_comes_keeps_the_share_down() -> None:
    curve = share_reached([Observed(2, True), Observed(1, False, True), Observed(3, True), Observed(1, False, True)])
    assert list(curve.steps) == [(2, 0.25), (3, 0.5)]
    assert list(curve.open_ends) == []


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30))
def test_a_curve_never_falls_and_stays_a_share(times: list[tuple[float, bool]]) -> None:
    shares = [share for _, share in share_reached([Observed(at, reached) for at, reached in times]).steps]
    assert shares == sorted(shares)
    assert all(0 < share <= 1 + 1e-12 for share in shares)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_without_open_ends_it_is_the_plain_share(times: list[float]) -> None:
    for at, share in share_reached([Observed(time, True) for time in times]).steps:
        assert share == pytest.approx(sum(time <= at for time in times) / len(times))
