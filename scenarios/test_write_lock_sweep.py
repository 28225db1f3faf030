"""A write lock that another process holds for so long, and then lets go (anomalyco/opencode#47566)."""

import pytest

from pytest_ocrepro import Trial, bash, for_ever, held, text, together, tool

ISSUES = (
    "anomalyco/opencode#47566",
    "anomalyco/opencode#21215",
    "anomalyco/opencode#38849",
    "anomalyco/opencode#48416",
)
TURN = ("anomalyco/opencode#47567", "anomalyco/opencode#29107", "anomalyco/opencode#19521")
WITHIN_S, BEYOND_S = (1.0, 4.0), 14.0  # every build sets a busy_timeout of 5 s, and writes first some seconds in
IN_A_TURN_S = 8.0
PATIENCE_S = 60.0  # the lock and the start together take long on a busy machine
TODO = tool("todowrite", todos=[{"content": "one", "status": "pending", "priority": "high", "id": "1"}])
POINTS = {
    "at the words": (text("done"),),
    "behind a tool": (bash("true"), text("done")),
    "at two lists of things to do": (together(TODO, TODO), text("done")),
}


def hold_for(ocrepro: Trial, seconds: float) -> None:
    """A warm database, a run, and somebody else's transaction from before its start until then."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.run("hi", role="warm-up").wait_for_end()
    with ocrepro.hold_database("IMMEDIATE"):
        run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
        run.wait(seconds)
    ocrepro.expect(run).to_complete()


def hold_in_a_turn(ocrepro: Trial, point: str, seconds: float) -> None:
    """Somebody else's transaction from the moment before the model answers, for so long."""
    barrier = ocrepro.provider.barrier()
    first, *rest = POINTS[point]
    ocrepro.provider.script(held(barrier, first), *rest)
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
    barrier.wait_for_arrival(timeout_s=PATIENCE_S)
    with ocrepro.hold_database("IMMEDIATE"):
        barrier.open()
        run.wait(seconds)
    ocrepro.expect(run).to_complete()


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    timing=True,
    title="write lock held for 14 s over a start",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "1/1"},
)
def test_lock_held_beyond_the_busy_timeout(ocrepro: Trial) -> None:
    """A run that starts under a writer of 14 s should live through it.

    Threads argue whether busy_timeout is 0 or 5000. What we found: 5000 is honoured at each point tried of a start
    and of a turn: writers of 1 and of 4 s are waited for, those of 8 and of 14 s are not, and nothing tries again. In
    the start 1.18.34 says "Failed query" with the statement, 1.14.48 "database is locked"; both exit 1.
    """
    hold_for(ocrepro, BEYOND_S)


@pytest.mark.ocrepro(
    issue=TURN,
    covers="anomalyco/opencode#40029",
    profile="ci",
    soak=("at two lists of things to do",),
    timing=True,
    title="write lock held for 8 s in a turn",
    known={"1.14.48": "2/3", "1.15.4": "2/3", "1.18.34": "3/3"},
)
@pytest.mark.parametrize("point", POINTS)
def test_lock_held_in_a_turn(ocrepro: Trial, point: str) -> None:
    """A turn that meets a writer of 8 s should live through it, or end with a word about the database.

    Refuted by a turn that is answered. What we found: at all three points 1.18.34 exits 1 with "Failed to execute
    statement" and no word about a lock. 1.14.48 says "database is locked" behind a tool, and then exits 0. At the
    words builds up to 1.15.13 live through it, and from 1.17.0 on none does.
    """
    hold_in_a_turn(ocrepro, point, IN_A_TURN_S)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", soak=("1.0",), timing=True, control=True)
@pytest.mark.parametrize("seconds", WITHIN_S)
def test_lock_held_within_the_busy_timeout(ocrepro: Trial, seconds: float) -> None:
    """Control: a writer that ends within the timeout is waited for."""
    hold_for(ocrepro, seconds)


@pytest.mark.ocrepro(issue=TURN, profile="ci", timing=True, control=True)
@pytest.mark.parametrize("point", ["behind a tool"])
def test_lock_held_for_a_moment_in_a_turn(ocrepro: Trial, point: str) -> None:
    """Control: the same in a turn, for a second."""
    hold_in_a_turn(ocrepro, point, 1.0)
