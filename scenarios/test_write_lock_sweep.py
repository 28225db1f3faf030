"""A write lock that another process holds for so long, and then lets go (anomalyco/opencode#47566)."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from pytest_ocrepro import NotReachedError, Trial, bash, for_ever, held, text, together, tool

ISSUES = (
    "anomalyco/opencode#47566",
    "anomalyco/opencode#21215",
    "anomalyco/opencode#38849",
    "anomalyco/opencode#48416",
)
TURN = ("anomalyco/opencode#47567", "anomalyco/opencode#29107", "anomalyco/opencode#19521")
WITHIN_S, BEYOND_S = (1.0, 4.0), 14.0
BUSY_S, A_MOMENT_S = 5.0, 0.2  # every build sets that busy_timeout
IN_A_TURN_S = 8.0
STAMPED = {"time_created", "time_updated"}
PATIENCE_S = 60.0  # the lock and the start together take long on a busy machine
TODO = tool("todowrite", todos=[{"content": "one", "status": "pending", "priority": "high", "id": "1"}])
POINTS = {
    "at the words": (text("done"),),
    "behind a tool": (bash("true"), text("done")),
    "at two lists of things to do": (together(TODO, TODO), text("done")),
}


class Held:
    """Somebody else's transaction, and from when to when it was there: seconds since 1970, as opencode's stamps."""

    def __init__(self, ocrepro: Trial) -> None:
        self._ocrepro = ocrepro
        self._lock = ocrepro.hold_database("IMMEDIATE")
        self._since_s = self._until_s = 0.0

    def __enter__(self) -> Self:
        """Nobody else can write from here on."""
        self._lock.inject()
        self._since_s = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        """Anybody can."""
        self._until_s = time.time()
        self._lock.heal()

    def must_have_been_met(self, least_s: float) -> None:
        """A row that was made while nobody could write, and that is stored, has waited for the lock.

        ``least_s``: the time that was left of the lock by then.
        """
        made = [at for at in stamps(self._ocrepro.sandbox.database) if self._since_s < at < self._until_s]
        left_s = max((self._until_s - at for at in made), default=0.0)
        self._ocrepro.claim(
            f"the run met the lock, with {least_s:g} s of it to come",
            held=True if left_s >= least_s else None,
            because=f"its first row was made {left_s:.1f} s before the end of the lock"
            if made
            else "no row was made then",
        )


def stamps(database: Path) -> list[float]:
    """When each row of the database was made or changed: seconds since 1970."""
    found: list[float] = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = {name for _, name, *_ in connection.execute(f"PRAGMA table_info('{table}')")}
            for column in STAMPED & columns:
                rows = connection.execute(f"SELECT {column} FROM '{table}'")  # noqa: S608  both from the schema
                found += [at / 1000 for (at,) in rows if isinstance(at, int)]
    return found


def warm_up(ocrepro: Trial) -> None:
    """Make the database, so that no migration is in the way."""
    ocrepro.provider.script(for_ever(text("done")))
    if code := ocrepro.run("hi", role="warm-up").wait_for_end(PATIENCE_S):
        raise NotReachedError(f"the run that makes the database ended with {code}")


def hold_over_a_start(ocrepro: Trial, seconds: float, *, least_s: float) -> None:
    """A warm database, a run, and somebody else's transaction from before its start until then."""
    warm_up(ocrepro)
    with Held(ocrepro) as lock:
        run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
        run.wait(seconds)
    if ocrepro.expect(run).to_complete():
        lock.must_have_been_met(least_s)


def hold_in_a_turn(ocrepro: Trial, point: str, seconds: float, *, least_s: float) -> None:
    """Somebody else's transaction from the moment before the model answers, for so long."""
    barrier = ocrepro.provider.barrier()
    first, *rest = POINTS[point]
    ocrepro.provider.script(held(barrier, first), *rest)
    run = ocrepro.run("hi", deadline_s=PATIENCE_S, fail_fast_s=PATIENCE_S)
    barrier.wait_for_arrival(timeout_s=PATIENCE_S)
    with Held(ocrepro) as lock:
        barrier.open()
        run.wait(seconds)
    if ocrepro.expect(run).to_complete():
        lock.must_have_been_met(least_s)


@pytest.mark.ocrepro(
    issue=ISSUES,
    profile="ci",
    timing=True,
    title="write lock held for 14 s over a start",
    known={"1.14.48": "1/1", "1.15.4": "1/1", "1.18.34": "3/3"},
)
def test_lock_held_beyond_the_busy_timeout(ocrepro: Trial) -> None:
    """A run that starts under a writer of 14 s should live through it.

    Threads argue whether busy_timeout is 0 or 5000. Refuted by a run that completes, and that has stored a row which
    it made when more than 5 s of the lock were to come. What we found: 5000 is honoured: in a turn
    writers of 1 and of 4 s are waited for, those of 8 s and, in a start, of 14 s are not, and nothing tries again. In
    the start 1.18.34 says "Failed query" with the statement, 1.14.48 "database is locked"; both exit 1.
    """
    hold_over_a_start(ocrepro, BEYOND_S, least_s=BUSY_S)


@pytest.mark.ocrepro(
    issue=TURN,
    covers="anomalyco/opencode#40029",
    profile="ci",
    soak=("at two lists of things to do",),
    timing=True,
    title="write lock held for 8 s in a turn",
    known={"1.14.48": "2/2", "1.15.4": "2/2", "1.18.34": "7/7"},
)
@pytest.mark.parametrize("point", POINTS)
def test_lock_held_in_a_turn(ocrepro: Trial, point: str) -> None:
    """A turn that meets a writer of 8 s should live through it.

    Refuted by a turn that is answered, and that has stored a row which it made when more than 5 s of the lock were to
    come. What we found: at all three points 1.18.34 exits 1 with "Failed to execute
    statement" and no word about a lock. 1.14.48 says "database is locked" behind a tool, and then exits 0. At the
    words builds up to 1.15.13 live through it, and from 1.17.0 on none does.
    """
    hold_in_a_turn(ocrepro, point, IN_A_TURN_S, least_s=BUSY_S)


@pytest.mark.ocrepro(issue=ISSUES, profile="ci", soak=("1.0",), timing=True, control=True)
@pytest.mark.parametrize("seconds", WITHIN_S)
def test_lock_held_within_the_busy_timeout(ocrepro: Trial, seconds: float) -> None:
    """Control: a writer that ends within the timeout, and that the run has met, is waited for.

    In a turn, at a barrier: a start of 1.18.34 says nothing of itself while it waits for its first write.
    """
    hold_in_a_turn(ocrepro, "at two lists of things to do", seconds, least_s=A_MOMENT_S)


@pytest.mark.ocrepro(issue=TURN, profile="ci", timing=True, control=True)
@pytest.mark.parametrize("point", ["behind a tool"])
def test_lock_held_for_a_moment_in_a_turn(ocrepro: Trial, point: str) -> None:
    """Control: the same in a turn, for a second."""
    hold_in_a_turn(ocrepro, point, 1.0, least_s=A_MOMENT_S)
