from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.intake import DEPTH, clearest_at, entries_of, read_contents, runs_at, trial_name
from pytest_ocrepro.publish.run_folders import SAFE_NAME
from tests.data.publish import sample_run


def test_runs_are_found_in_folders_as_artifact_stores_make_them(tmp_path: Path) -> None:
    places = ["a/reports", "b/deep/er/reports", "c"]
    made = [RunDir.create(tmp_path / place, run_id=f"r{number}").path for number, place in enumerate(places)]
    assert set(runs_at(tmp_path)) == set(made)
    assert runs_at(made[0]) == (made[0],)
    assert runs_at(tmp_path / "a/reports/latest") == (made[0],)


def test_links_are_not_followed_and_the_depth_has_an_end(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "elsewhere", run_id="r").path
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(run)
    (folder / "round").symlink_to(folder)
    with pytest.raises(UsageError, match="there is no run in"):
        runs_at(folder)
    deep = folder.joinpath(*map(str, range(DEPTH)))
    RunDir.create(deep, run_id="too-deep")
    with pytest.raises(UsageError):
        runs_at(folder)
    assert len(runs_at(folder / "0")) == 1


def test_a_run_inside_a_run_is_none_of_its_own(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, run_id="r").path
    RunDir.create(run, run_id="inner")
    assert runs_at(tmp_path) == (run,)


def test_a_trial_has_the_same_name_wherever_its_run_lies_and_another_in_another_run() -> None:
    assert trial_name("r1", "test_a-t1") == trial_name("r1", "test_a-t1")
    assert trial_name("r1", "test_a-t1") != trial_name("r2", "test_a-t1")
    for bundle in ("x", "x" * 150, f"{'x' * 129}-."):
        assert SAFE_NAME.fullmatch(trial_name("r" * 300, bundle))


def test_counting_does_not_need_the_evidence(tmp_path: Path) -> None:
    run = sample_run.make_run(tmp_path, trials=1)
    whole, cheap = read_contents(run.path), read_contents(run.path, evidence=False)
    assert entries_of(whole) == entries_of(cheap)
    assert len(entries_of(cheap)) == 16
    for path in run.bundles():
        (path / "history.jsonl").write_text("rubbish\n")
    assert entries_of(read_contents(run.path, evidence=False)) == entries_of(cheap)
    assert read_contents(run.path).left_out


def test_the_clearest_is_the_hang_with_a_chain(tmp_path: Path) -> None:
    run = sample_run.make_run(tmp_path, trials=1)
    assert clearest_at(run.path).name.startswith("test_overlap-test_later_run_while_another")
    bundle = run.bundles()[0]
    assert clearest_at(bundle) == bundle
