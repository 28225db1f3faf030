from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro.cli import main
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish import merge as room
from pytest_ocrepro.publish.bundle import Fact, RunDir, RunInfo, TrialBundle
from pytest_ocrepro.publish.cases import cases, choose, keep_proof, proof_of
from pytest_ocrepro.publish.github import summary
from pytest_ocrepro.publish.handout import entries_in
from pytest_ocrepro.publish.intake import Contents, read_contents, trial_name
from pytest_ocrepro.publish.merge import Merged, merge, store, union
from pytest_ocrepro.publish.page import render
from pytest_ocrepro.publish.records import Origin, Proof
from pytest_ocrepro.publish.repro import Script
from tests.data.publish import sample_run

SCENARIOS = (sample_run.overlap, sample_run.alone, sample_run.question)
RUN_IDS = ("20261121T003012Z-00000001", "20261121T003012Z-00000002", "20261122T003012Z-00000003")
BUNDLES = ("test_overlap-test_later_run_while_another_installs_its_plugin-1.15.4-t1",)


def make_run(folder: Path, run_id: str, trials: range = range(1, 2), *, version: str = "1.15.4") -> RunDir:
    run = RunDir.create(folder, run_id=run_id)
    frame = sample_run.run_info(run_id)
    run.write_info(msgspec.structs.replace(frame, started=f"2026-11-2{run_id[-1]}T00:30:12+00:00"))
    for trial in trials:
        for case in SCENARIOS:
            sample_run.store(run, case(version, trial))
    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ask(*arguments: object) -> tuple[int, str, list[str]]:
    result = CliRunner().invoke(main, ["merge", *map(str, arguments)], prog_name="ocrepro")
    return result.exit_code, result.stdout, result.stderr.splitlines()


# --- what comes out ---------------------------------------------------------------------------------------------


def test_two_shards_become_one_run_with_all_trials_and_a_page(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / "shards", run_id) for run_id in RUN_IDS[:2])
    merged = merge([one.path, two.path], tmp_path / "out")
    assert (merged.runs, merged.trials, merged.warnings) == (2, 6, ())
    run = RunDir.read(tmp_path / "out")
    assert len(run.bundles()) == len(run.results()) == 6
    assert [result.run_id for result in run.results()].count(RUN_IDS[0]) == 3
    for result in run.results():
        bundle = TrialBundle.read(run.bundle_of(result))
        assert (bundle.result, bundle.torn) == (result, False)
    assert merged.page == run.path / "report.html"
    assert merged.page.read_text() == render(run)


def test_where_each_trial_is_from_is_visible_in_the_records(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / "shards", run_id) for run_id in RUN_IDS[:2])
    other = msgspec.structs.replace(
        two.info, plugin_version="0.2.0", machine=(Fact(name="system", value="Linux 5.4.0 aarch64"),)
    )
    two.write_info(other)
    merge([tmp_path / "shards"], tmp_path / "out")
    run = RunDir.read(tmp_path / "out")
    assert {part.run_id: part for part in run.info.parts} == {RUN_IDS[0]: one.info, RUN_IDS[1]: other}
    assert run.info.plugin_version == "0.1.0, 0.2.0"
    assert Fact(name="system", value="Linux 5.4.0 aarch64 / Linux 6.8.0 x86_64") in run.info.machine
    origins = {bundle.origin for bundle in map(TrialBundle.read, run.bundles())}
    assert {(o.run_id, o.started, o.plugin_version, o.system) for o in origins if o} == {
        (RUN_IDS[0], "2026-11-21T00:30:12+00:00", "0.1.0", "Linux 6.8.0 x86_64"),
        (RUN_IDS[1], "2026-11-22T00:30:12+00:00", "0.2.0", "Linux 5.4.0 aarch64"),
    }


def test_evidence_is_taken_over_byte_by_byte(tmp_path: Path) -> None:
    one = make_run(tmp_path / "shards", RUN_IDS[0])
    merge([one.path], tmp_path / "out")
    for path in one.bundles():
        taken = tmp_path / "out" / "trials" / trial_name(RUN_IDS[0], path.name)
        for name in ("trial.json", "history.jsonl", "judgement.json", "receipt.json"):
            assert (taken / name).read_bytes() == (path / name).read_bytes()


def test_the_command_makes_a_page_alone_and_nothing_beside_it(tmp_path: Path) -> None:
    make_run(tmp_path / "shards" / "linux" / "reports", RUN_IDS[0])
    make_run(tmp_path / "shards" / "old-linux" / "reports", RUN_IDS[1])
    out = tmp_path / "pages"
    out.mkdir()
    code, stdout, stderr = ask(tmp_path / "shards", "-o", out / "report.html")
    assert (code, stderr) == (0, [])
    assert stdout == f"2 runs, 6 trials: {(out / 'report.html').as_uri()}\n"
    assert [path.name for path in out.iterdir()] == ["report.html"]
    assert "3 scenarios" not in (out / "report.html").read_text()
    assert sample_run.overlap("1.15.4", 1)[0].title in (out / "report.html").read_text()


def test_inputs_are_not_changed_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    make_run(tmp_path / "in", RUN_IDS[0])
    before = files_of(tmp_path)
    merge([tmp_path / "in"], tmp_path / "in" / "out")
    after = files_of(tmp_path)
    assert {name: content for name, content in after.items() if not name.startswith("in/out/")} == before
    again = merge([tmp_path / "in"], tmp_path / "out")
    assert (again.runs, again.trials, again.warnings) == (1, 3, ())


@pytest.mark.parametrize(
    ("inputs", "out", "words"),
    [
        (["in"], "in/run", "is there already"),
        (["in"], "in/run/out", "lies in the run"),
        (["in"], "in/run/page.html", "lies in the run"),
        (["in"], "full", "is there already"),
        (["in"], "file", "is there already"),
        (["in"], "link", "is there already"),
        (["in"], "nowhere/page.html", "in a directory that exists"),
        (["nothing"], "out", "there is no run in"),
        (["empty"], "out", "there is no run in"),
        (["in/run"], "in/run", "there is no run to merge but"),
        (["torn"], "out", "nothing of these runs can be read (torn: torn/run.json is corrupt"),
        (["torn"], "out.html", "nothing of these runs can be read"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    tmp_path: Path, inputs: list[str], out: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "in", "run")
    (tmp_path / "in" / "second").mkdir()
    shutil.copytree(tmp_path / "in" / "run", tmp_path / "in" / "second" / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"schema"')
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = ask(*inputs, "-o", out)
    assert (code, stdout, len(stderr)) == (2, "", 1)
    assert words in stderr[0]
    assert files_of(tmp_path) == before


# --- a union ----------------------------------------------------------------------------------------------------

_numbers = count()
WORDS = st.sampled_from(["whole", "torn", "longer", "other", "line only", "no result", "corrupt history", "renamed"])
INPUTS = st.lists(
    st.tuples(
        st.sampled_from(RUN_IDS), st.lists(st.tuples(st.integers(1, 2), WORDS), max_size=3, unique_by=lambda t: t[0])
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workshop")


def build(folder: Path, run_id: str, trials: list[tuple[int, str]]) -> Path:
    """A run whose copies of its trials are in these states."""
    run = make_run(folder, run_id, range(0))
    for number, state in trials:
        info, events, judgement = sample_run.overlap("1.15.4", number)
        if state == "longer":
            events = [*events, h.Note(at_ns=sample_run.ns(12), text="one more")]
        if state == "other":
            events = [h.Note(at_ns=sample_run.ns(0), text="another story"), *events[1:]]
        path = sample_run.store(run, (info, events, None if state == "torn" else judgement))
        if state in ("line only", "no result"):
            (path / "result.json").unlink()
        if state == "line only":
            shutil.rmtree(path)
        if state == "corrupt history":
            (path / "history.jsonl").write_bytes(b"rubbish\n" + (path / "history.jsonl").read_bytes())
        if state == "torn":
            with (path / "history.jsonl").open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - 7)
    if any(state == "renamed" for _, state in trials):
        (run.path / "run.json").unlink()
        return run.path.rename(folder / "artifact")
    return run.path


def fold(folder: Path, runs: list[Path]) -> Path:
    """Merge one after the other, each time with all that came before."""
    so_far = runs[0]
    for run in runs[1:]:
        out = folder / f"step-{next(_numbers)}"
        store(union(read_contents(so_far), read_contents(run)), out)
        so_far = out
    return so_far


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=INPUTS, data=st.data())
def test_a_merge_is_associative_commutative_and_idempotent(
    workshop: Path, inputs: list[tuple[str, list[tuple[int, str]]]], data: st.DataObject
) -> None:
    folder = workshop / f"case-{next(_numbers)}"
    runs = [build(folder / str(number), run_id, trials) for number, (run_id, trials) in enumerate(inputs)]
    at_once = folder / "at-once"
    store(union(*map(read_contents, runs)), at_once)
    expected = files_of(at_once)

    shuffled = data.draw(st.permutations(runs))
    in_turn = fold(folder, [*shuffled, shuffled[0]])  # the first once more: it adds nothing
    assert files_of(in_turn) == expected

    cut = data.draw(st.integers(1, len(shuffled)))
    halves = [fold(folder, part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert files_of(fold(folder, [halves[-1], halves[0]])) == expected

    store(read_contents(at_once), folder / "again")
    assert files_of(folder / "again") == expected
    assert expected["run.json"]
    shutil.rmtree(folder)


def test_the_property_finds_a_union_that_depends_on_the_order(tmp_path: Path) -> None:
    """What the property compares does change where the last copy simply wins."""
    runs = [build(tmp_path / state, RUN_IDS[0], [(1, state)]) for state in ("longer", "whole")]
    contents = [read_contents(run) for run in runs]
    for number, (first, second) in enumerate((contents, contents[::-1])):
        careless = msgspec.structs.replace(first, copies={**first.copies, **second.copies})
        store(careless, tmp_path / str(number))
    assert files_of(tmp_path / "0") != files_of(tmp_path / "1")


# --- conflicts --------------------------------------------------------------------------------------------------


def test_of_two_copies_the_more_complete_one_is_kept_and_the_other_is_told(tmp_path: Path) -> None:
    torn, whole = (build(tmp_path / state, RUN_IDS[0], [(1, state)]) for state in ("torn", "whole"))
    merged = merge([whole, torn], tmp_path / "out")
    name = trial_name(RUN_IDS[0], BUNDLES[0])
    assert merged.warnings == (f"2 copies of {name} differ; the most complete one is kept",)
    (bundle,) = map(TrialBundle.read, RunDir.read(tmp_path / "out").bundles())
    assert not bundle.torn
    assert isinstance(bundle.origin, Origin)
    assert len(bundle.origin.copies) == 2
    assert merged.trials == 1


@pytest.mark.parametrize("state", ["whole", "torn"])
def test_a_history_that_was_cut_off_is_told_and_kept_as_far_as_it_goes(tmp_path: Path, state: str) -> None:
    run = build(tmp_path / "in", RUN_IDS[0], [(1, state)])
    history = run / "trials" / BUNDLES[0] / "history.jsonl"
    whole = history.read_bytes()
    if state == "whole":
        history.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 5])
    lines = history.read_bytes().count(b"\n")
    name = trial_name(RUN_IDS[0], BUNDLES[0])
    warning = f"the history of {name} was cut off in line {lines + 1}; what stands before it is kept"
    out = tmp_path / "out"
    assert merge([run], out).warnings == merge([out], tmp_path / "again").warnings == (warning,)
    assert len(TrialBundle.read(out / "trials" / name).history) == lines
    assert f"ocrepro: {warning}" in ask(run, "-o", tmp_path / "page.html")[2]


def test_a_shard_that_was_cut_short_is_an_alarm_on_the_merged_page(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / "shards", run_id) for run_id in RUN_IDS[:2])
    for run, planned in ((one, 3), (two, 7)):
        run.write_info(msgspec.structs.replace(run.info, planned=planned))
    (next(path for path in one.bundles()) / "result.json").unlink()  # nobody lived to judge it
    (one.path / "results.jsonl").unlink()
    merge([tmp_path / "shards"], tmp_path / "out")
    merged = RunDir.read(tmp_path / "out")
    page, told = render(merged), summary(merged.info, entries_in(merged)).replace("\\", "")
    for text in (page, told):
        assert f"of 7 trials planned in run {RUN_IDS[1]} 4 not here; 1 trial ended before the verdict." in text
    assert f'<th scope="row" class="mono">{RUN_IDS[1]}</th>' in page


def test_what_was_left_out_of_a_merge_is_told_on_its_page(tmp_path: Path) -> None:
    run = build(tmp_path / "in", RUN_IDS[0], [(1, "whole"), (2, "whole")])
    (min((run / "trials").iterdir()) / "trial.json").unlink()
    merge([run], tmp_path / "out")
    page = render(RunDir.read(tmp_path / "out"))
    assert "1 stored file could not be read" in page
    assert "has no trial.json, and says nothing without it" in page


def test_a_run_that_was_copied_in_the_middle_of_its_frame_is_the_same_run(tmp_path: Path) -> None:
    early, late = (build(tmp_path / part, RUN_IDS[0], [(1, "whole")]) for part in ("early", "late"))
    whole = RunDir.read(late).info
    RunDir.read(early).write_info(RunInfo(run_id=RUN_IDS[0], started=whole.started))
    merged = merge([early, late], tmp_path / "out")
    assert (merged.runs, merged.trials, merged.warnings) == (1, 1, ())
    assert RunDir.read(tmp_path / "out").info.parts == (whole,)


def test_a_run_directory_that_was_renamed_and_lost_its_frame_is_the_same_run(tmp_path: Path) -> None:
    one = build(tmp_path / "one", RUN_IDS[0], [(1, "whole")])
    two = shutil.copytree(one, tmp_path / "artifact-7")
    (two / "run.json").unlink()
    assert merge([one, two], tmp_path / "out").trials == 1


def test_a_trial_whose_bundle_is_not_there_counts_by_its_line(tmp_path: Path) -> None:
    run = build(tmp_path / "one", RUN_IDS[0], [(1, "line only"), (2, "whole")])
    merged = merge([run], tmp_path / "out")
    assert (merged.trials, merged.warnings) == (2, ())
    out = RunDir.read(tmp_path / "out")
    assert [result.trial for result in out.results()] == [1, 2] or [result.trial for result in out.results()] == [
        2,
        1,
    ]
    assert len(out.bundles()) == 1


# --- damage and ill will ----------------------------------------------------------------------------------------


def hostile(folder: Path) -> Iterator[tuple[str, Path]]:
    """One run for each kind of damage, with the words that must be said of it."""
    for number, (words, state) in enumerate(DAMAGE.items()):
        run = build(folder / str(number), RUN_IDS[0], [(1, "whole"), (2, "whole")])
        state(run, min((run / "trials").iterdir()))
        yield words, run


def _link(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def _line(**changes: object) -> bytes:
    info, _, judgement = sample_run.overlap("1.15.4", 9)
    assert judgement is not None
    result = sample_run.result_of(RUN_IDS[0], info, judgement, "trials/x")
    return msgspec.json.encode({**msgspec.to_builtins(result), **changes}) + b"\n"


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(600 * 1024 * 1024)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "results.jsonl line 3 names a bundle that is not in its run: 'trials/../../../etc'": lambda run, _: _append(
        run / "results.jsonl", _line(bundle="trials/../../../etc")
    ),
    "results.jsonl line 3 names a bundle that is not in its run: '/etc/passwd'": lambda run, _: _append(
        run / "results.jsonl", _line(bundle="/etc/passwd")
    ),
    "results.jsonl line 3 was written by a newer pytest-ocrepro": lambda run, _: _append(
        run / "results.jsonl", _line(schema=99)
    ),
    "results.jsonl line 3 is corrupt": lambda run, _: _append(run / "results.jsonl", b"\xff\xfe\n"),
    "results.jsonl line 3 was cut off": lambda run, _: _append(run / "results.jsonl", b'{"schema":1,"run'),
    "results.jsonl 40 more lines like these": lambda run, _: _append(run / "results.jsonl", b"[]\n" * 50),
    "results.jsonl cannot be read": lambda run, _: _link(run / "results.jsonl", Path("/etc/passwd")),
    "trials is a link": lambda run, _: _link(run / "trials", Path("/etc")),
    "is no directory with a plain name": lambda _, one: _link(one, Path("/etc")),
    "history.jsonl cannot be read": lambda _, one: _link(one / "history.jsonl", Path("/etc/passwd")),
    "history.jsonl is not a file": lambda _, one: _pipe(one / "history.jsonl"),
    "history.jsonl has 629145600 bytes": lambda _, one: _sparse(one / "history.jsonl"),
    "history.jsonl line 1 is corrupt": lambda _, one: (one / "history.jsonl").write_bytes(b"{}\n{}\n"),
    "history.jsonl line 2 is corrupt": lambda _, one: (one / "history.jsonl").write_bytes(
        b'{"event":"note","at_ns":1,"text":""}\n{"event":"of-tomorrow","at_ns":2}\n{}\n'
    ),
    "trial.json was written by a newer": lambda _, one: (one / "trial.json").write_bytes(
        b'{"schema":99,"scenario":"a","title":"b"}'
    ),
    "has no trial.json, and says nothing without it": lambda _, one: (one / "trial.json").unlink(),
    "result.json is corrupt": lambda _, one: (one / "result.json").write_bytes(b'{"schema":1}'),
    "judgement.json is corrupt": lambda _, one: (one / "judgement.json").write_bytes(b"[" * 100_000),
    "run.json is corrupt": lambda run, _: (run / "run.json").write_bytes(b"null"),
    "run.json was written by a newer": lambda run, _: (run / "run.json").write_bytes(b'{"schema":99,"run_id":"x"}'),
    "payload.sh is no file of a bundle": lambda _, one: (one / "payload.sh").write_text("rm -rf /"),
}


@pytest.mark.parametrize("words", list(DAMAGE))
def test_damage_is_left_out_part_by_part_with_one_line_each(tmp_path: Path, words: str) -> None:
    run = build(tmp_path / "in", RUN_IDS[0], [(1, "whole"), (2, "whole")])
    DAMAGE[words](run, min((run / "trials").iterdir()))
    sound = build(tmp_path / "sound", RUN_IDS[1], [(1, "whole")])
    merged = merge([run, sound], tmp_path / "out")
    assert len([line for line in merged.warnings if words in line]) == 1, merged.warnings
    assert all(line.startswith("left out: ") and "\n" not in line for line in merged.warnings)
    out = RunDir.read(tmp_path / "out")
    assert any(words in line for line in out.info.left_out), "a reader of the page must be able to see it"
    assert f"trials/{trial_name(RUN_IDS[1], BUNDLES[0])}" in {result.bundle for result in out.results()}
    assert_closed(tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(again(tmp_path, tmp_path / "out"))


def again(folder: Path, run: Path) -> Path:
    merge([run], folder / "again")
    return folder / "again"


def assert_closed(out: Path) -> None:
    """Only plain files of a bundle, in plain directories, and all of it readable."""
    allowed = {"trial.json", "history.jsonl", "origin.json", "receipt.json", "result.json", "judgement.json"}
    for path in out.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or (path.is_file() and path.stat().st_size < 1_000_000)
    assert {path.name for path in out.glob("trials/*/*")} <= allowed
    for bundle in RunDir.read(out).bundles():
        TrialBundle.read(bundle)
    RunDir.read(out).results()


def test_all_kinds_of_damage_at_once(tmp_path: Path) -> None:
    runs = dict(hostile(tmp_path / "in"))
    merged = merge(list(runs.values()), tmp_path / "out")
    for words in runs:
        assert any(words in line for line in merged.warnings)
    assert merged.trials == 2, "all are copies of the same run"
    assert_closed(tmp_path / "out")


def test_what_vanishes_between_reading_and_copying_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(tmp_path / "in", RUN_IDS[0], [(1, "whole"), (2, "whole")])
    first = min((run / "trials").iterdir())

    def read_then_remove(path: Path) -> Contents:
        contents = read_contents(path)
        (first / "history.jsonl").unlink()
        return contents

    monkeypatch.setattr(room, "read_contents", read_then_remove)
    merged: Merged = merge([run], tmp_path / "out")
    assert [line for line in merged.warnings if "has vanished since it was read" in line]
    assert len(RunDir.read(tmp_path / "out").results()) == 2


def test_names_and_places_of_this_machine_do_not_get_into_the_list_of_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/annabel")
    run = build(tmp_path / "in", RUN_IDS[0], [(1, "whole")])
    odd = run.rename(tmp_path / "sk-abcdefghijklmnopqrstuvwxyz")
    (odd / "trials" / "api_key=hunter2hunter2").mkdir()
    (odd / "run.json").write_bytes(b"[]")
    merge([odd], tmp_path / "out")
    told = (tmp_path / "out" / "run.json").read_text()
    assert json.loads(told)["left_out"]
    assert "hunter2" not in told
    assert "sk-abc" not in told


def test_a_merged_run_of_an_older_reader_still_reads(tmp_path: Path) -> None:
    """run.json and bundles without the new fields are ordinary."""
    old = {"schema": 1, "run_id": "r", "started": "2026-11-21T00:30:12+00:00"}
    assert msgspec.json.decode(msgspec.json.encode(old), type=RunInfo).parts == ()


def test_no_run_in_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a directory that holds a"):
        merge([tmp_path], tmp_path / "out")


def proved(run: RunDir, k: int) -> Proof:
    case = choose(cases(entries_in(run)), None)
    return keep_proof(run, case, Script(text="one"), [1] * k, [1.0] * k)


def test_what_the_scripts_did_is_taken_over_and_the_longer_proof_is_kept(tmp_path: Path) -> None:
    one, two = (sample_run.make_run(tmp_path / name, trials=1) for name in "ab")
    proved(one, 2)
    longer = proved(two, 5)
    (two.path / "issues/rubbish.json").write_text("{")
    merged = merge([one.path, two.path], tmp_path / "merged")
    again = merge([tmp_path / "merged", one.path], tmp_path / "again")
    for page in (merged.page, again.page):
        run = RunDir.read(page.parent)
        assert proof_of(run, choose(cases(entries_in(run)), None), Script(text="one")) == longer
    assert [line for line in merged.warnings if "rubbish.json" in line]
