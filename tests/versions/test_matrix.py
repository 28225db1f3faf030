from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import BuildError, UnfitBuildError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.batches import MOST_TROUBLE, Here
from pytest_ocrepro.versions.journal import Chosen, Fetched, Journal, Plan, Skipped, Tried, read_journal, trials_of
from pytest_ocrepro.versions.matrix import Filling, Grid, both_directions, fold_grid, next_cells
from pytest_ocrepro.versions.posterior import Counts

VERSIONS = tuple(f"1.{minor}.0" for minor in range(12))
COMES, GOES, NEVER, CONTROL = (f"s.py::test_{name}" for name in ("comes", "goes", "never", "control"))
SCENARIOS = (COMES, GOES, NEVER, CONTROL)
SHOWS: dict[str, Callable[[int], bool]] = {
    COMES: lambda v: v >= 7,
    GOES: lambda v: v < 3,
    NEVER: lambda _: False,
    CONTROL: lambda _: False,
}
PLAN = Plan(kind="matrix", scenarios=SCENARIOS, versions=VERSIONS, cached=("1.0.0", "1.11.0"))


def trial(scenario: str, version: str, seed: int) -> Tried:
    shows = SHOWS[scenario](VERSIONS.index(version))
    return Tried(batch=0, phase="", scenario=scenario, version=version, seed=seed, seconds=5.0,
                 result="reproduced" if shows else "not-seen", signs=("oc-1 crashed",) if shows else ())  # fmt: skip


def run(chosen: Chosen) -> Iterator[Tried]:
    return (trial(*one) for one in chosen.trials)


def fetch(version: str) -> Here:
    return Here(version=version, sha256=version)


def filled(path: Path, plan: Plan = PLAN, per_cell: int = 1, **more: object) -> tuple[Grid, str]:
    with Journal(path) as journal:
        if journal.plan is None:
            journal.append(plan)
        usual: dict[str, object] = {"run": run, "fetch": fetch, "tell": lambda _: None, "controls": {CONTROL}}
        made = Filling(journal, per_cell=per_cell, **(usual | more))  # type: ignore[arg-type]
        return made.to_the_end()


def test_in_the_end_every_cell_has_its_trials(tmp_path: Path) -> None:
    grid, why = filled(tmp_path / "j", per_cell=2)
    assert (why, grid.trials) == ("", 2 * len(VERSIONS) * len(SCENARIOS))
    for row in grid.rows:
        for v, cell in enumerate(row.cells):
            assert cell.rate == Rate(k=2 * SHOWS[row.scenario](v), n=2)
    changes = {row.scenario: [(one.before, one.after, one.appears) for one in row.changes] for row in grid.rows}
    assert changes == {
        COMES: [("1.6.0", "1.7.0", True)], GOES: [("1.2.0", "1.3.0", False)], NEVER: [], CONTROL: [],
    }  # fmt: skip


def test_what_tells_most_comes_first(tmp_path: Path) -> None:
    """Where each row changes is known after a third of the trials; a control waits."""
    filled(tmp_path / "j", per_cell=3)
    records = read_journal(tmp_path / "j").records
    tried = list(trials_of(records))
    third = len(tried) // 3
    early = fold_grid(records[: records.index(tried[third])])
    assert [(one.before, one.after) for one in early.rows[0].changes] == [("1.6.0", "1.7.0")]
    assert [(one.before, one.after) for one in early.rows[1].changes] == [("1.2.0", "1.3.0")]
    controls = [number for number, one in enumerate(tried) if one.scenario == CONTROL]
    assert sum(controls) / len(controls) > len(tried) / 2


def test_a_version_is_written_down_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    asked: list[str] = []

    def asking(version: str) -> Here:
        asked.append(version)
        return fetch(version)

    filled(tmp_path / "j", fetch=asking)
    records = read_journal(tmp_path / "j").records
    assert sorted(one.version for one in records if isinstance(one, Fetched)) == sorted(VERSIONS)
    assert set(asked) == set(VERSIONS)


def test_from_every_line_on_the_same_cells_are_filled(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    whole = [one for one in read_journal(tmp_path / "whole").records if isinstance(one, (Chosen, Tried))]
    for number in range(1, len(lines), 7):
        path = tmp_path / f"cut-{number}"
        path.write_bytes(b"".join(lines[:number]))
        filled(path)
        assert [one for one in read_journal(path).records if isinstance(one, (Chosen, Tried))] == whole


def test_workers_get_different_cells(tmp_path: Path) -> None:
    grid, _ = filled(tmp_path / "j", msgspec.structs.replace(PLAN, workers=3))
    chosen = [one for one in read_journal(tmp_path / "j").records if isinstance(one, Chosen)]
    assert all(len({trial[:2] for trial in one.trials}) == len(one.trials) for one in chosen)
    assert max(len(one.trials) for one in chosen) == 3
    assert grid.trials == len(VERSIONS) * len(SCENARIOS)


def test_what_cannot_be_had_is_told_and_left_out(tmp_path: Path) -> None:
    def without(version: str) -> Here:
        if version == "1.5.0":
            raise UnfitBuildError(f"opencode {version} is not published")
        return fetch(version)

    grid, why = filled(tmp_path / "j", fetch=without)
    assert (why, grid.closed) == ("", {"1.5.0": "opencode 1.5.0 is not published"})
    assert grid.cell(COMES, "1.5.0").rate.n == 0
    assert grid.trials == (len(VERSIONS) - 1) * len(SCENARIOS)


def test_a_passing_trouble_ends_it_and_skips_nothing(tmp_path: Path) -> None:
    def gone(version: str) -> Here:
        raise BuildError(f"no space left for {version}")

    with pytest.raises(BuildError, match="go on with --resume"):
        filled(tmp_path / "j", fetch=gone)
    assert not [one for one in read_journal(tmp_path / "j").records if isinstance(one, Skipped)]
    assert filled(tmp_path / "j")[1] == ""


def test_versions_with_the_same_bytes_share_their_cells(tmp_path: Path) -> None:
    def same(version: str) -> Here:
        return Here(version=version, sha256="7" if version in ("1.7.0", "1.8.0") else version)

    grid, _ = filled(tmp_path / "j", fetch=same)
    assert grid.same == {"1.8.0": "1.7.0"}
    assert grid.cell(COMES, "1.8.0") == grid.cell(COMES, "1.7.0")
    assert "1.8.0" not in grid.versions


def test_inconclusive_cells_are_given_up_and_a_broken_machine_ends_it(tmp_path: Path) -> None:
    def one_broken(chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, seed in chosen.trials:
            told = trial(scenario, version, seed)
            broken = (scenario, version) == (COMES, "1.4.0")
            yield msgspec.structs.replace(told, result="inconclusive", signs=()) if broken else told

    grid, why = filled(tmp_path / "j", run=one_broken)
    assert why == ""
    assert (grid.cell(COMES, "1.4.0").rate.n, grid.cell(COMES, "1.4.0").inconclusive) == (0, 3)

    def all_broken(chosen: Chosen) -> Iterator[Tried]:
        return (msgspec.structs.replace(trial(*one), result="inconclusive", signs=()) for one in chosen.trials)

    grid, why = filled(tmp_path / "k", run=all_broken)
    assert why == "the last 10 trials were inconclusive"
    assert grid.trials == MOST_TROUBLE


def test_one_trial_tells_that_a_version_lacks_something(tmp_path: Path) -> None:
    def some_lack(chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, seed in chosen.trials:
            lacks = (scenario, version) == (COMES, "1.4.0")
            more = {"result": "skipped", "reason": "no lock"} if lacks else {}
            yield msgspec.structs.replace(trial(scenario, version, seed), **more)

    grid, why = filled(tmp_path / "j", run=some_lack, per_cell=2)
    lacking = grid.cell(COMES, "1.4.0")
    assert (why, lacking.rate.n, lacking.inconclusive, lacking.skipped) == ("", 0, 0, "no lock")
    assert grid.trials == 2 * len(VERSIONS) * len(SCENARIOS) - 1
    assert grid.cell(GOES, "1.4.0").skipped == ""


def test_a_budget_that_is_spent_starts_nothing(tmp_path: Path) -> None:
    grid, why = filled(tmp_path / "j", budget_s=0.0)
    assert (why, grid.trials) == ("the time is up", 0)


def test_no_direction_is_preferred() -> None:
    is_open = (True,) * 9
    seen = Counts(hits=(0, 0, 0, 0, 3, 3, 3, 3, 3), trials=(3,) * 9)
    turned = Counts(hits=seen.hits[::-1], trials=seen.trials)
    present, gain = both_directions(is_open, seen)
    turned_present, turned_gain = both_directions(is_open, turned)
    assert turned_present[::-1] == pytest.approx(present)
    assert turned_gain[::-1] == pytest.approx(gain)
    assert present[3] < 0.1
    assert present[4] > 0.9


def test_what_came_and_went_again_is_seen_as_that() -> None:
    middle = Counts(hits=(0, 0, 0, 4, 4, 4, 0, 0, 0), trials=(4,) * 9)
    present, _ = both_directions((True,) * 9, middle)
    assert all(share > 0.9 for share in present[3:6])
    assert all(share < 0.1 for share in present[:3] + present[6:])


def test_when_all_have_their_share_nothing_is_next(tmp_path: Path) -> None:
    grid, _ = filled(tmp_path / "j")
    assert next_cells(grid, per_cell=1) == ()
    assert len(next_cells(grid, per_cell=2, how_many=5)) == 5
