from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.observe.holders import Happened, changes
from pytest_ocrepro.readings import LockChange, LockDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_ocrepro.events import LockDirectoryChanged

FOLDER = "/s/opencode/locks"
PATH = f"{FOLDER}/0a.lock"
OLD, NEW = 71, 72


def lock(
    pid: int | None,
    *,
    alive: bool | None = True,
    stale_in_s: float = 50.0,
    token: str | None = None,
    reused: bool = False,
    age_s: float | None = None,
) -> LockDirectory:
    return LockDirectory(
        path=PATH,
        key="npm-install:/p",
        holder_pid=pid,
        holder_alive=alive,
        token=token if token is not None else f"t{pid}" if pid else "",
        stale_in_s=stale_in_s,
        pid_reused=reused,
        age_s=age_s,
    )


def seen(*words: str) -> dict[str, Sequence[Happened]]:
    """``+name`` was made, ``-name`` was removed; ``lock`` and ``breaker`` stand for the names."""
    names = {"lock": "0a.lock", "breaker": "0a.lock.breaker"}
    return {FOLDER: [Happened(made=word[0] == "+", name=names[word[1:]]) for word in words]}


RELEASE = seen("-lock")
RELEASE_AND_TAKE = seen("-lock", "+lock")
BREAK = seen("+breaker", "-lock", "+lock", "-breaker")
NOTHING = seen()
UNWATCHED: dict[str, Sequence[Happened]] = {}


def diff(
    before: LockDirectory | None,
    after: LockDirectory | None,
    happened: Mapping[str, Sequence[Happened]],
    *,
    alive: bool | None = True,
) -> tuple[LockDirectoryChanged, ...]:
    listings = [[one] if one else [] for one in (before, after)]
    return changes(*listings, happened=happened, alive={PATH: alive}, elapsed_s=0.25, at_ns=7)


@pytest.mark.parametrize(
    ("before", "after", "happened", "alive", "told"),
    [
        (None, lock(NEW), seen("+lock"), None, [("taken", NEW, None)]),
        (None, lock(None, alive=None), seen("+lock"), None, [("taken", None, None)]),
        (lock(None, alive=None), lock(NEW), NOTHING, None, [("named", NEW, None)]),
        (None, lock(NEW, alive=False), UNWATCHED, None, [("taken", NEW, None), ("left-behind", None, NEW)]),
        (lock(OLD), lock(OLD), NOTHING, True, []),
        (lock(OLD), lock(OLD, alive=False), NOTHING, False, [("left-behind", None, OLD)]),
        (lock(OLD, alive=False), lock(OLD, alive=False), NOTHING, False, []),
        (lock(OLD), None, RELEASE, True, [("released", None, OLD)]),
        (lock(OLD), None, RELEASE, False, [("released", None, OLD)]),
        (lock(OLD), None, UNWATCHED, True, [("released", None, OLD)]),
        (lock(OLD, alive=False), None, RELEASE, False, [("removed", None, OLD)]),
        (lock(OLD), lock(NEW), RELEASE_AND_TAKE, True, [("released", None, OLD), ("taken", NEW, None)]),
        (lock(OLD, alive=False), lock(NEW), RELEASE_AND_TAKE, False, [("removed", None, OLD), ("taken", NEW, None)]),
        (lock(OLD, alive=False), lock(NEW), BREAK, False, [("broken-as-stale", NEW, OLD)]),
        (lock(OLD, stale_in_s=-1), lock(NEW), BREAK, True, [("broken-as-stale", NEW, OLD)]),
        (lock(OLD, stale_in_s=-1), lock(NEW), BREAK, None, [("broken-as-stale", NEW, OLD)]),
        (lock(OLD, stale_in_s=0.2), lock(NEW), BREAK, True, [("broken-as-stale", NEW, OLD)]),
        (lock(OLD, stale_in_s=-1), lock(NEW), UNWATCHED, True, [("broken-as-stale", NEW, OLD)]),
        (lock(OLD), lock(NEW), BREAK, True, [("taken-from-live-holder", NEW, OLD)]),
        (lock(OLD), None, seen("+breaker", "-lock"), True, [("taken-from-live-holder", None, OLD)]),
        (lock(OLD), lock(NEW), seen("-lock", "+lock", "-breaker"), True, [("taken-from-live-holder", NEW, OLD)]),
        (lock(OLD), lock(NEW), NOTHING, True, [("taken-from-live-holder", NEW, OLD)]),
        (lock(OLD), lock(NEW), BREAK, None, [("changed-hands", NEW, OLD)]),
        (lock(OLD), lock(NEW), UNWATCHED, True, [("changed-hands", NEW, OLD)]),
        (lock(OLD), lock(NEW), UNWATCHED, False, [("changed-hands", NEW, OLD)]),
        (lock(OLD), lock(None), NOTHING, True, []),
        (lock(OLD), lock(None), RELEASE_AND_TAKE, True, [("released", None, OLD), ("taken", None, None)]),
        (lock(None, alive=None), lock(None, alive=None), RELEASE_AND_TAKE, None,
         [("released", None, None), ("taken", None, None)]),
    ],
)  # fmt: skip
def test_how_a_holder_changed(
    before: LockDirectory | None,
    after: LockDirectory | None,
    happened: Mapping[str, Sequence[Happened]],
    *,
    alive: bool | None,
    told: list[tuple[str, int | None, int | None]],
) -> None:
    found = diff(before, after, happened, alive=alive)
    assert [(event.how.value, event.holder_pid, event.previous_pid) for event in found] == told
    assert all((event.path, event.key, event.at_ns) == (PATH, "npm-install:/p", 7) for event in found)


def test_a_released_lock_that_is_taken_at_once_is_not_taken_from_its_holder() -> None:
    """The same two listings; only what happened in between tells the one from the other."""
    fair = {event.how for event in diff(lock(OLD), lock(NEW), RELEASE_AND_TAKE)}
    foul = {event.how for event in diff(lock(OLD), lock(NEW), BREAK)}
    assert LockChange.TAKEN_FROM_LIVE_HOLDER not in fair
    assert foul == {LockChange.TAKEN_FROM_LIVE_HOLDER}


def test_the_reason_names_life_age_limit_and_way() -> None:
    (event,) = diff(lock(OLD, stale_in_s=-1.0), lock(NEW), BREAK)
    assert event.because == (
        "pid 71 lives; its last sign of life was 61.2 s old (stale after 60 s); a breaker was made first"
    )
    assert (event.previous_alive, event.sign_age_s) == (True, 61.2)
    (event,) = diff(lock(OLD), lock(OLD, alive=False, reused=True, stale_in_s=20.0), NOTHING)
    assert event.because == ("pid 71 is another process now; its last sign of life was 40.0 s old (stale after 60 s)")
    (event,) = diff(lock(OLD), lock(NEW), UNWATCHED, alive=None)
    assert event.because.startswith("pid 71 may live; ")
    assert event.because.endswith("; the folder was not watched")
    (event,) = diff(lock(OLD), lock(NEW), NOTHING)
    assert event.because.endswith("; the directory was not removed but written over in place")


def test_holders_between_two_looks_are_counted() -> None:
    happened = seen("-lock", "+lock", "-lock", "+lock", "-lock", "+lock")
    released, taken = diff(lock(OLD), lock(NEW), happened)
    assert released.because.endswith("no breaker was made; 2 more had it in between")
    assert taken.holder_pid == NEW


def test_another_locks_breaker_says_nothing_of_this_one() -> None:
    happened = {FOLDER: [Happened(made=True, name="0b.lock.breaker"), *RELEASE_AND_TAKE[FOLDER]]}
    assert [event.how for event in diff(lock(OLD), lock(NEW), happened)] == [LockChange.RELEASED, LockChange.TAKEN]


LOCKS = st.none() | st.builds(
    lock,
    st.sampled_from([None, OLD, NEW]),
    alive=st.sampled_from([True, False, None]),
    stale_in_s=st.sampled_from([-5.0, 0.1, 50.0]),
)
WORDS = st.lists(st.sampled_from(["+lock", "-lock", "+breaker", "-breaker"]), max_size=6)


@given(LOCKS, LOCKS, st.none() | WORDS, st.sampled_from([True, False, None]))
def test_whatever_is_seen_the_last_event_names_who_has_it(
    before: LockDirectory | None,
    after: LockDirectory | None,
    words: list[str] | None,
    alive: bool | None,  # noqa: FBT001  hypothesis fills it by its place
) -> None:
    found = diff(before, after, UNWATCHED if words is None else seen(*words), alive=alive)
    for event in found:
        assert event.because
        assert event.holder_pid in (None, after.holder_pid if after else None)
        if event.how is LockChange.TAKEN_FROM_LIVE_HOLDER:
            assert (event.previous_alive, event.previous_pid) == (True, before.holder_pid if before else -1)
    if not found:
        assert (before is None) == (after is None)
    if after is None and before is not None:
        assert len(found) == 1


@pytest.mark.parametrize(
    ("age_s", "dated"), [(0.1, 0.1), (0.0, 0.0), (None, None), (0.3, None), (-1.0, None), (600.0, None)]
)
def test_who_takes_a_lock_dates_it_unless_an_earlier_look_objects(age_s: float | None, dated: float | None) -> None:
    (taken,) = diff(None, lock(NEW, age_s=age_s), seen("+lock"))
    assert taken.since_s == dated
    assert taken.taken_ns == 7 - round((dated or 0) * 1e9)
    released, again = diff(lock(OLD, age_s=5), lock(NEW, age_s=age_s), RELEASE_AND_TAKE)
    assert (released.since_s, again.since_s) == (dated, dated)
    (broken,) = diff(lock(OLD, stale_in_s=-1), lock(NEW, age_s=age_s), BREAK)
    assert broken.since_s == dated


def test_what_is_only_seen_has_no_date() -> None:
    changed = [
        diff(lock(OLD, age_s=0.1), None, RELEASE),
        diff(lock(None, alive=None), lock(NEW, age_s=0.1), NOTHING),
        diff(lock(OLD, age_s=0.1), lock(OLD, alive=False, age_s=0.1), NOTHING, alive=False),
    ]
    assert [[one.since_s for one in told] for told in changed] == [[None]] * 3
