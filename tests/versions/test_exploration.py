"""Exploring schedules: what is kept, how it is made small, what counts; and once with pytest and a stand-in."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_ocrepro.catalogue import find_scenario, scenario_code
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.schedule import Kind, Schedule, World, extremes, parse
from pytest_ocrepro.versions.expedition import as_markdown
from pytest_ocrepro.versions.exploration import Explored, Failure, Search, Told, Wanted

WORLD = World(starts=2, places={1: ("config-loading", "lock-directory"), 2: ("config-loading",)}, longest_s=4.0)
HANG = Failure(sign="oc-1 blocked|config-loading", words="second answers: blocked")


def told(*failures: Failure) -> Told:
    return Told(failures=failures, world=WORLD, page="page")


def explored(attempt: Callable[[Schedule, int], Told], **more: object) -> tuple[Explored, list[str]]:
    lines: list[str] = []
    wanted = Wanted(scenario="s", budget_s=None, **{"most_trials": 300, "most_found": 1, **more})  # type: ignore[arg-type]
    return Search(wanted, attempt, lines.append).run(), lines


def hangs_when_held(schedule: Schedule, _: int) -> Told:
    """As the shared install: the second waits for the first, which has the lock and never goes on."""
    held = any(one.kind is Kind.SUSPEND and one.at == "lock-directory" and one.seconds is None for one in schedule)
    return told(HANG) if held else told()


def test_finds_what_needs_one_move_and_makes_it_that_small() -> None:
    result, lines = explored(hangs_when_held)
    (one,) = result.found
    assert one.schedule == parse(["suspend 1 at lock-directory for good"])
    assert (one.failure, one.whole, result.ended) == (HANG, True, "1 failures found")
    assert len(one.first) > len(one.schedule)
    assert any("making it smaller" in line for line in lines)


def test_chance_alone_finds_it_too_and_is_not_told_where() -> None:
    tried: list[Schedule] = []

    def attempt(schedule: Schedule, seed: int) -> Told:
        tried.append(schedule)
        return hangs_when_held(schedule, seed)

    (one,) = explored(attempt, by_chance=True)[0].found
    assert one.schedule == parse(["suspend 1 at lock-directory for good"])
    guesses = [schedule for schedule in extremes(WORLD) if schedule in tried]
    tried.clear()
    explored(attempt)
    assert len([schedule for schedule in extremes(WORLD) if schedule in tried]) > len(guesses)


def races(schedule: Schedule, seed: int) -> Told:
    """A coin flip when the starts overlap by less than 0.1 s."""
    close = any(one.kind is Kind.OVERLAP and (one.seconds or 0) < 0.1 for one in schedule)
    return told(HANG) if close and seed % 2 else told()


def test_a_failure_that_shows_in_half_of_the_trials_is_made_small_too() -> None:
    (one,) = explored(races)[0].found
    assert one.schedule == parse(["start 2 0 s after start 1"])


def test_what_is_there_without_a_move_is_told_and_not_found() -> None:
    result, _ = explored(lambda *_: told(HANG), most_trials=20)
    assert (result.found, result.by_itself) == ((), (HANG,))
    assert result.ended == "20 trials are made (--max-trials)"
    assert "fails already: oc-1 blocked|config-loading" in as_markdown(result)


def test_nothing_found_names_nothing() -> None:
    result, _ = explored(lambda *_: told(), most_trials=30)
    assert (result.found, result.trials, result.by_itself) == ((), 30, ())
    assert "No schedule that was tried brought a failure" in as_markdown(result)


def test_two_failures_are_two() -> None:
    other = Failure(sign="oc-2 silent", words="first answers: silent")

    def both(schedule: Schedule, seed: int) -> Told:
        killed = any(one.kind is Kind.KILL and one.start == 1 for one in schedule)
        return told(*hangs_when_held(schedule, seed).failures, *([other] if killed else []))

    result, _ = explored(both, most_found=2, most_trials=600)
    small = {one.failure.sign: one.schedule for one in result.found}
    assert small[HANG.sign] == parse(["suspend 1 at lock-directory for good"])
    assert [move.kind for move in small[other.sign]] == [Kind.KILL]


def test_the_same_seed_makes_the_same_choices() -> None:
    def tried(seed: int) -> list[Schedule]:
        made: list[Schedule] = []

        def attempt(schedule: Schedule, number: int) -> Told:
            made.append(schedule)
            return hangs_when_held(schedule, number)

        explored(attempt, seed=seed)
        return made

    assert tried(3) == tried(3)
    assert tried(3) != tried(4)


def test_the_budget_ends_it_and_says_what_was_left() -> None:
    now = [0.0]

    def slow(schedule: Schedule, seed: int) -> Told:
        now[0] += 10.0
        return hangs_when_held(schedule, seed)

    wanted = Wanted(scenario="s", budget_s=40.0)
    result = Search(wanted, slow, lambda _: None, clock=lambda: now[0]).run()
    assert (result.trials, result.ended) == (4, "the time is up (--time-budget, 40 s)")


def test_trials_that_tell_nothing_are_counted_apart() -> None:
    def broken(schedule: Schedule, seed: int) -> Told:
        return Told(trouble="the trial left no evidence") if schedule else hangs_when_held(schedule, seed)

    result, _ = explored(broken, most_trials=12)
    assert (result.inconclusive, result.found) == (10, ())
    assert "10 counted neither way" in as_markdown(result)


def test_a_scenario_that_starts_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="starts no program"):
        explored(lambda *_: Told())


# --- its code


def test_the_scenario_alone_with_its_schedule(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        '"""Doc."""\nimport pytest\nRUNS = 2\n\n'
        '@pytest.mark.ocrepro(issue="a/b#1", control=True, known={"1": "1/1"})\n'
        '@pytest.mark.parametrize("n", [1])\ndef test_one(ocrepro, n):\n    """Old."""\n    ocrepro.run("hi")\n\n'
        "def test_other(ocrepro):\n    pass\n\ndef used():\n    return 1\n"
    )
    text = scenario_code(find_scenario(f"{file}::test_one"), ["kill 1 at start"], 'it "hangs" """here""" \\ so')
    tree = ast.parse(text)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert names == ["used", "test_one"]
    assert "@pytest.mark.ocrepro(issue='a/b#1', schedule=('kill 1 at start',))" in text
    assert "parametrize" in text
    assert "RUNS = 2" in text
    assert "control" not in text
    assert "Old." not in text
    file.write_text("def test_two(ocrepro): pass\n")
    with pytest.raises(UsageError, match="has no scenario test_one any more"):
        scenario_code(find_scenario(f"{file}::test_two").__class__(file=file, test="test_one"), [], "")
