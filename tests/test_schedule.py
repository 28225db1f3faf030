"""Schedules: their words, those by chance, and what is simpler than one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.schedule import PLACES, Kind, Move, World, drawn, extremes, parse, smaller, tidy

WORDS = (
    "start 2 0.05 s after start 1",
    "start 2 0 s after start 1",
    "suspend 1 at lock-directory for good",
    "suspend 2 at start for 0.5 s",
    "starve 1 from config-loading by 0.05 s",
    "kill 1 at plugins-loading",
    "registry never answers",
    "registry answers 2 s late",
)


def dice_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  chance, no secret


WORLD = World(
    starts=3, places={1: ("config-loading", "lock-directory"), 2: ("config-loading",), 3: ()}, longest_s=4.0
)


@pytest.mark.parametrize("words", WORDS)
def test_a_move_reads_as_it_is_written(words: str) -> None:
    (move,) = parse([words])
    assert str(move) == words


@pytest.mark.parametrize(
    "words",
    [
        "start 3 0.05 s after start 1",
        "suspend 1 at nowhere for good",
        "suspend 1 at start",
        "kill one at start",
        "registry answers",
        "kill 1 at start; kill 2 at start",
        "x" * 200,
    ],
)
def test_what_is_no_move_is_refused_with_the_ways_to_write_one(words: str) -> None:
    with pytest.raises(UsageError, match=r"is no move of a schedule; write 'start 2"):
        parse([words])


def test_no_words_are_no_moves() -> None:
    assert parse(["", " "]) == ()


@given(st.integers(0, 2**32))
def test_a_drawn_schedule_can_be_written_and_read(seed: int) -> None:
    schedule = drawn(WORLD, dice_of(seed))
    assert parse(map(str, schedule)) == schedule
    assert all(move.kind is Kind.REGISTRY or 1 <= move.start <= WORLD.starts for move in schedule)
    assert all(move.at in ("", *PLACES) for move in schedule)


def test_extremes_are_few_and_all_for_good() -> None:
    ends = list(extremes(WORLD))
    assert len(ends) == len(set(ends)) == 2 + 2 * (3 + 2 + 1)
    assert tuple(map(str, ends[0])) == ("start 2 0 s after start 1", "start 3 0 s after start 2")
    assert all(not move.seconds for schedule in ends for move in schedule)
    assert "suspend 1 at lock-directory for good" in {str(move) for schedule in ends for move in schedule}


def test_the_same_seed_draws_the_same_and_all_kinds_come() -> None:
    some = [drawn(WORLD, dice_of(seed)) for seed in range(200)]
    assert some == [drawn(WORLD, dice_of(seed)) for seed in range(200)]
    assert {move.kind for schedule in some for move in schedule} == set(Kind)
    assert any(move.takes_out for schedule in some for move in schedule)
    assert () in some


def test_pauses_are_as_often_short_as_long() -> None:
    dice = dice_of(5)
    pauses = [move.seconds for _ in range(2000) for move in drawn(WORLD, dice) if move.kind is Kind.OVERLAP]
    short = sum(1 for one in pauses if one is not None and one < 0.14)  # the middle of 5 ms and 4 s on a log scale
    assert 0.4 < short / len(pauses) < 0.6


def test_moves_that_contradict_each_other() -> None:
    moves = parse(["suspend 1 at start for good", "suspend 1 at start for 1 s", "kill 1 at start"])
    assert tidy(moves) == parse(["kill 1 at start", "suspend 1 at start for good"])


def test_smaller_is_one_move_less_or_a_plainer_one() -> None:
    schedule = parse(["start 2 0.123 s after start 1", "suspend 1 at start for good"])
    assert [tuple(map(str, one)) for one in smaller(schedule)] == [
        ("suspend 1 at start for good",),
        ("start 2 0.123 s after start 1",),
        ("start 2 0 s after start 1", "suspend 1 at start for good"),
        ("start 2 0.1 s after start 1", "suspend 1 at start for good"),
        ("start 2 0.123 s after start 1", "suspend 1 at start for 2 s"),
    ]
    assert list(smaller(())) == []


@given(st.integers(0, 2**32))
def test_making_smaller_comes_to_an_end(seed: int) -> None:
    schedule = drawn(WORLD, dice_of(seed))
    for _ in range(60):
        simpler = next(smaller(schedule), None)
        if simpler is None:
            break
        schedule = simpler
    assert schedule == ()


def test_only_what_never_goes_on_owes_nothing() -> None:
    assert [move.takes_out for move in parse(WORDS)] == [False, False, True, False, False, True, False, False]
    assert Move(kind=Kind.SUSPEND, start=1, at="start", seconds=None).takes_out
