from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import BuildError, OcreproError
from pytest_ocrepro.versions.batches import MOST_TROUBLE, Here
from pytest_ocrepro.versions.certificate import certify
from pytest_ocrepro.versions.journal import (
    AnyRecord,
    Chosen,
    Fetched,
    Journal,
    Skipped,
    Tried,
    read_journal,
    trials_of,
)
from pytest_ocrepro.versions.rendering import as_markdown
from pytest_ocrepro.versions.search import BETWEEN_CONTROLS, Search, Why, next_step, replay
from pytest_ocrepro.versions.state import fold
from tests.data.versions import coin_subject as cs

DATA = Path(__file__).parents[1] / "data/versions"


def records(path: Path) -> tuple[AnyRecord, ...]:
    return read_journal(path).records


def course(path: Path) -> list[AnyRecord]:
    """What was chosen and tried, without who did it when."""
    return [one for one in records(path) if isinstance(one, (Chosen, Tried))]


def sides(path: Path) -> tuple[str, str]:
    state = fold(records(path))
    best = state.answers()[0]
    return tuple("none" if build is None else state.order[build] for build in (best.clean, best.failing))  # type: ignore[return-value]


# --- the control


@pytest.mark.parametrize("workers", [1, 3])
def test_one_trial_in_six_is_of_the_control_and_moves_nothing(tmp_path: Path, workers: int) -> None:
    world = cs.World()
    cs.search(tmp_path / "plain", world, world.plan(workers=workers))
    state, why = cs.search(tmp_path / "j", world, world.plan(workers=workers, control=cs.CONTROL))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))
    tried = list(trials_of(records(tmp_path / "j")))
    controls = [one for one in tried if one.phase == "control"]
    assert {one.scenario for one in controls} == {cs.CONTROL}
    assert len(controls) == (len(tried) - len(controls)) // BETWEEN_CONTROLS == state.control_trials
    assert sum(state.counts.trials) == len(tried) - len(controls)
    assert sum(rate.n for rate in state.controls.values()) == len(controls)
    assert all(rate.k == 0 for rate in state.controls.values())


def test_a_control_that_fails_leaves_no_name(tmp_path: Path) -> None:
    world = cs.World(control=0.5)
    _, why = cs.search(tmp_path / "j", world, world.plan(control=cs.CONTROL))
    told = certify(records(tmp_path / "j"), why)
    assert (told.why, told.named, told.exit_code) == (Why.FOUND, False, 1)
    assert told.controls.k > 0
    text = as_markdown(told)
    assert text.startswith(f"### No name: the control failed too, {told.controls.in_words()}; introduced in 1.4.2")
    assert "**it must never fail**: the control `s.py::control` in between" in text


def test_a_search_with_a_control_takes_the_same_course_from_every_line_on(tmp_path: Path) -> None:
    world = cs.World()
    cs.search(tmp_path / "j", world, world.plan(control=cs.CONTROL, workers=2))
    whole = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    for number in range(1, len(whole), 3):
        again = tmp_path / f"again-{number}"
        again.write_bytes(b"".join(whole[:number]))
        cs.search(again, world)
        assert course(again) == course(tmp_path / "j")
    assert replay(records(tmp_path / "j"))[1] == []


# --- the course of a search


@pytest.mark.parametrize("workers", [1, 3])
def test_it_finds_the_first_failing_version_and_confirms_it(tmp_path: Path, workers: int) -> None:
    world = cs.World()
    state, why = cs.search(tmp_path / "j", world, world.plan(workers=workers))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))
    assert state.fresh["1.4.1"].n >= 8
    assert state.fresh["1.4.2"].n >= 8
    assert state.fresh["1.4.1"].k == 0
    assert state.fresh["1.4.2"].k > 0
    assert len({one.seed for one in trials_of(records(tmp_path / "j"))}) == state.trials


def test_the_confirming_trials_are_taken_in_turns(tmp_path: Path) -> None:
    cs.search(tmp_path / "j", cs.World())
    fresh = [one.version for one in trials_of(records(tmp_path / "j")) if one.phase == "confirm"]
    assert fresh == ["1.4.2", "1.4.1"] * (len(fresh) // 2)


def test_a_fix_is_found_in_the_mirrored_list(tmp_path: Path) -> None:
    mirrored = cs.World(versions=cs.VERSIONS[::-1], first="1.3.0")
    plan = msgspec.structs.replace(mirrored.plan(), versions=cs.VERSIONS, find_fix=True)
    _, why = cs.search(tmp_path / "j", mirrored, plan)
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.3.1", "1.3.0"))


def test_versions_that_cannot_be_had_stay_hypotheses(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(unfit=("1.4.1", "1.4.2")))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.0", "1.4.3"))
    assert set(state.closed) >= {"1.4.1", "1.4.2"}
    assert state.found().onset[state.order.index("1.4.2")] == pytest.approx(
        state.found().onset[state.order.index("1.4.3")]
    )


def test_versions_with_the_same_bytes_are_one(tmp_path: Path) -> None:
    told: list[str] = []
    state, why = cs.search(tmp_path / "j", cs.World(twins=(("1.4.2", "1.4.3"), ("1.4.2", "1.4.4"))), tell=told.append)
    assert why is Why.FOUND
    later = {"1.4.3", "1.4.4"} & {one.version for one in records(tmp_path / "j") if isinstance(one, Fetched)}
    assert later
    assert not later & set(state.order)
    assert [line for line in told if "same bytes" in line] == [
        f"{version} has the same bytes as 1.4.2: one build" for version in sorted(later)
    ]


# --- ends that are not as said, and other disappointments


def test_a_failing_end_that_does_not_fail_gets_no_name(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(p=0.0))
    assert (why, state.trials) == (Why.NEVER, 60)


def test_a_clean_end_that_fails_is_told(tmp_path: Path) -> None:
    _, why = cs.search(tmp_path / "j", cs.World(first="1.0.0"))
    assert (why, sides(tmp_path / "j")) == (Why.ALWAYS, ("none", "1.0.0"))


def test_trials_that_tell_nothing_move_nothing(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(broken=cs.VERSIONS))
    assert (why, state.trials, sum(state.counts.trials)) == (Why.TROUBLE, MOST_TROUBLE, 0)
    before = fold(records(tmp_path / "j")[:2]).found()
    assert state.found() == before


def test_after_trouble_one_can_go_on(tmp_path: Path) -> None:
    cs.search(tmp_path / "j", cs.World(broken=cs.VERSIONS))
    _, why = cs.search(tmp_path / "j", cs.World())
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))


def test_a_version_whose_trials_tell_nothing_is_given_up_and_stays_a_hypothesis(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(broken=("1.4.1", "1.4.2")))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.0", "1.4.3"))
    assert state.closed["1.4.2"].startswith("inconclusive: a coin (")


def test_a_version_that_lacks_what_the_scenario_is_about_is_tried_once_and_stays_a_hypothesis(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(lacking=("1.4.1", "1.4.2")))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.0", "1.4.3"))
    assert state.closed == dict.fromkeys(("1.4.1", "1.4.2"), "skipped: no such lock")
    skipped = [one.version for one in trials_of(records(tmp_path / "j")) if one.result == "skipped"]
    assert sorted(skipped) == ["1.4.1", "1.4.2"]
    assert state.inconclusive == 0


def test_a_foreign_failure_moves_nothing(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(p=0.9, other=0.1))
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))
    assert state.wanted == ("oc-111111",)
    assert state.foreign.keys() == {"oc-999999 crashed"}
    assert sum(state.counts.trials) + sum(state.foreign.values()) == state.trials


def test_counted_as_one_the_two_failures_have_no_onset(tmp_path: Path) -> None:
    """What the signatures are kept apart for: any failure together looks as if it had been there always."""
    world = cs.World(p=0.9, other=0.3)
    cs.search(tmp_path / "j", world, world.plan(signature="any"))
    assert sides(tmp_path / "j") == ("none", "1.0.0")


def test_each_sign_has_a_posterior_of_its_own_in_the_same_trials(tmp_path: Path) -> None:
    cs.search(tmp_path / "j", cs.World(signs=(cs.OURS, "database-error: locked")))
    state = fold(records(tmp_path / "j"), signature="database-error: locked")
    best = state.answers()[0]
    assert (state.order[best.clean or 0], state.order[best.failing or 0]) == ("1.4.1", "1.4.2")
    none = fold(records(tmp_path / "j"), signature="database-error: malformed")
    assert sum(none.counts.hits) == 0
    assert sum(none.counts.trials) == sum(state.counts.trials)


def test_a_budget_of_trials_ends_it_with_a_set(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(), most_trials=7)
    assert (why, state.trials) == (Why.BUDGET, 7)
    assert state.answers()[0].probability < 0.9
    _, why = cs.search(tmp_path / "j", cs.World())
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))


def test_a_budget_of_time_that_is_spent_starts_nothing(tmp_path: Path) -> None:
    state, why = cs.search(tmp_path / "j", cs.World(), budget_s=0.0)
    assert (why, state.trials) == (Why.BUDGET, 0)


def test_a_passing_trouble_with_a_build_is_no_skip(tmp_path: Path) -> None:
    world = cs.World()

    class Gone(cs.World, frozen=True, kw_only=True):
        def fetch(self, version: str) -> Here:
            raise BuildError(f"no space left for {version}: free some")

    with pytest.raises(BuildError, match=r"no space left for 1\.7\.4: free some; the journal .* go on with --resume"):
        cs.search(tmp_path / "j", Gone())
    assert not [one for one in records(tmp_path / "j") if isinstance(one, Skipped)]
    assert cs.search(tmp_path / "j", world)[1] is Why.FOUND


def test_a_wrong_answer_of_the_search_is_overturned_by_fresh_trials(tmp_path: Path) -> None:
    """All trials lie until the first confirming one: 1.2.0 looks like the first failing version."""
    cs.search(tmp_path / "lies", cs.World(first="1.2.0"))
    from_then = next(one.seed for one in trials_of(records(tmp_path / "lies")) if one.phase == "confirm")

    class Lying(cs.World, frozen=True, kw_only=True):
        def trial(self, version: str, seed: int) -> Tried:
            world = cs.World(first="1.2.0") if seed < from_then else cs.World()
            return world.trial(version, seed)

    _, why = cs.search(tmp_path / "j", Lying())
    assert (why, sides(tmp_path / "j")) == (Why.FOUND, ("1.4.1", "1.4.2"))
    phases = [one.phase for one in trials_of(records(tmp_path / "j"))]
    assert phases.index("confirm") == from_then
    assert "search" in phases[from_then:]


def test_builds_that_are_likely_next_are_fetched_during_trials(tmp_path: Path) -> None:
    ahead: list[str] = []
    with Journal(tmp_path / "j") as journal:
        journal.append(cs.World().plan())
        made = Search(journal, run=cs.World().run, fetch=cs.World().fetch, tell=lambda _: None, prefetch=ahead.append)
        _, why = made.to_the_end()
    assert why is Why.FOUND
    order = list(dict.fromkeys(one.version for one in trials_of(records(tmp_path / "j"))))
    asked_for = [version for version in order[2:] if version in ahead]
    assert len(asked_for) >= len(order[2:]) / 2
    cs.search(tmp_path / "without", cs.World())
    assert course(tmp_path / "j") == course(tmp_path / "without")


def test_a_prefetch_that_fails_changes_nothing(tmp_path: Path) -> None:
    def gone(version: str) -> None:
        raise BuildError(f"no {version}")

    with Journal(tmp_path / "j") as journal:
        journal.append(cs.World().plan())
        made = Search(journal, run=cs.World().run, fetch=cs.World().fetch, tell=lambda _: None, prefetch=gone)
        assert made.to_the_end()[1] is Why.FOUND


# --- resume and replay


@pytest.mark.parametrize("workers", [1, 2])
def test_from_every_line_on_the_same_course_is_taken(tmp_path: Path, workers: int) -> None:
    world = cs.World()
    cs.search(tmp_path / "whole", world, world.plan(workers=workers))
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines)):
        path = tmp_path / f"cut-{number}"
        path.write_bytes(b"".join(lines[:number]) + lines[number][: number % len(lines[number])])
        cs.search(path, world)
        assert course(path) == course(tmp_path / "whole"), f"after line {number}"


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_every_trial_the_same_course_is_taken(tmp_path: Path, workers: int) -> None:
    """Kill -9 in the middle of each trial in turn; whoever goes on does that trial again, and chooses the same."""
    world = cs.World()
    cs.search(tmp_path / "whole", world, world.plan(workers=workers))
    path, kills = tmp_path / "killed", 0
    while "ended found" not in (last := one_trial_then_kill(path, workers)):
        assert last.startswith("trial ")
        kills += 1
    assert kills == len(list(trials_of(records(tmp_path / "whole"))))
    assert course(path) == course(tmp_path / "whole")
    assert fold(records(path)).found() == fold(records(tmp_path / "whole")).found()


def one_trial_then_kill(path: Path, workers: int) -> str:
    """Let it do the trial that it was killed in before, then kill it in the next one; the last line that it said."""
    was_killed = path.exists()
    command = [sys.executable, str(DATA / "coin_subject.py"), str(path), str(workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        line = child.stdout.readline()
        if was_killed:
            child.stdin.write("go\n")
            child.stdin.flush()
            line = child.stdout.readline()
        child.kill()
    return line


def test_the_replay_of_a_journal_makes_the_same_choices_and_the_same_bits(tmp_path: Path) -> None:
    state, _ = cs.search(tmp_path / "j", cs.World())
    batches, wrong = replay(records(tmp_path / "j"))
    assert batches > 10
    assert wrong == []
    assert fold(records(tmp_path / "j")) == state
    code = (
        "import sys; from pathlib import Path; from pytest_ocrepro.versions.state import fold;"
        "from pytest_ocrepro.versions.journal import read_journal;"
        "print([x.hex() for x in fold(read_journal(Path(sys.argv[1])).records).found().onset])"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "j")], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == str([share.hex() for share in state.found().onset])


def test_a_choice_that_does_not_follow_is_named(tmp_path: Path) -> None:
    cs.search(tmp_path / "j", cs.World())
    read = list(records(tmp_path / "j"))
    at = next(number for number, one in enumerate(read) if isinstance(one, Chosen) and one.phase == "search")
    read[at] = msgspec.structs.replace(read[at], trials=(("s.py::test", "1.0.1", 99),))
    assert replay(read)[1] == [read[at].batch]  # type: ignore[union-attr]


def test_skip_closes_a_version_in_the_middle(tmp_path: Path) -> None:
    cs.search(tmp_path / "j", cs.World(), most_trials=6)
    tried = {one.version for one in trials_of(records(tmp_path / "j"))} - {cs.VERSIONS[-1]}
    with Journal(tmp_path / "j") as journal:
        for version in sorted(tried):
            journal.append(Skipped(version=version, reason="by hand", by_hand=True))
    state, why = cs.search(tmp_path / "j", cs.World())
    assert why is Why.FOUND
    later = [one for one in records(tmp_path / "j") if isinstance(one, Chosen)][6:]
    assert not {version for one in later for _, version, _ in one.trials} & tried
    assert tried <= set(state.closed)


def test_a_batch_that_nobody_finished_is_finished_first(tmp_path: Path) -> None:
    world = cs.World()
    cs.search(tmp_path / "j", world, world.plan(workers=3), most_trials=1)
    whole = records(tmp_path / "j")
    cut = next(number for number, one in enumerate(whole) if isinstance(one, Tried))
    with Journal(tmp_path / "cut") as journal:
        for record in whole[: cut + 1]:
            journal.append(record)
        pending = fold(journal.records).pending
    assert pending is not None
    assert len(pending.trials) == 2
    assert next_step(fold(whole)).ended is None


def test_errors_name_the_journal_and_stay_of_their_kind(tmp_path: Path) -> None:
    class Broken(cs.World, frozen=True, kw_only=True):
        def fetch(self, version: str) -> Here:
            raise OcreproError(f"{version} is gone")

    with pytest.raises(OcreproError, match=r"1\.7\.4 is gone; the journal"):
        cs.search(tmp_path / "j", Broken())
