from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.history import History
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import (
    RunDir,
    RunInfo,
    Subject,
    TrialBundle,
    TrialInfo,
    TrialResult,
)
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.run_folders import MAX_SLUG, slug
from tests.data.publish import sample_run

ROOT = Path(__file__).parents[2]
INFO = TrialInfo(scenario="scenarios/test_a.py::test_b", title="b", version="1.15.4", issue=("a/b#1",))


def note(text: str, at: int = 1) -> bytes:
    return msgspec.json.encode(h.Note(at_ns=at, text=text)) + b"\n"


def result(trial: int, run_id: str = "r") -> TrialResult:
    info, _, judgement = sample_run.alone("1.15.4", trial)
    assert judgement is not None
    return sample_run.result_of(run_id, info, judgement, f"trials/t{trial}")


def stored(tmp_path: Path) -> Path:
    return sample_run.store(RunDir.create(tmp_path), sample_run.overlap("1.15.4", 1))


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_has_a_sortable_id_and_latest_follows_it(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "reports")
    second = RunDir.create(tmp_path / "reports")
    assert first.path.name != second.path.name
    assert first.path.parent == tmp_path / "reports"
    assert first.path.name > "20261121T000000Z"
    for path in (tmp_path / "reports" / "latest", tmp_path / "reports", second.path):
        assert RunDir.read(path).info == second.info
    assert RunDir.read(first.path).info.run_id == first.path.name


def test_latest_is_a_text_file_where_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    RunDir.create(tmp_path)
    run = RunDir.create(tmp_path)
    assert (tmp_path / "latest").read_text().strip() == run.path.name
    assert RunDir.read(tmp_path / "latest").path == run.path
    assert RunDir.read(tmp_path).path == run.path


def test_a_reports_directory_without_latest_gives_its_newest_run(tmp_path: Path) -> None:
    for run_id in ("20261121T003012Z-7f3c", "20261122T003012Z-0001"):
        RunDir.create(tmp_path, run_id=run_id)
    (tmp_path / "latest").unlink()
    assert RunDir.read(tmp_path).info.run_id == "20261122T003012Z-0001"


@pytest.mark.parametrize("target", ["../elsewhere", "/etc", ".."])
def test_latest_leads_nowhere_but_beside_it(tmp_path: Path, target: str) -> None:
    RunDir.create(tmp_path / "elsewhere")
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "latest").symlink_to(target)
    with pytest.raises(UsageError, match="does not name a run beside it"):
        RunDir.read(reports / "latest")


def test_no_run_is_a_usage_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no run in .*run\.json") as caught:
        RunDir.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unwritable_place_is_a_usage_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written .* name another one") as caught:
        RunDir.create(tmp_path / "file" / "reports")
    assert "\n" not in str(caught.value)


def test_a_full_disk_at_the_start_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        RunDir.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run_id", ["../x", "a/b", ".hidden", "a b", "x" * 200])
def test_a_run_id_is_a_plain_name(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="cannot be a run id"):
        RunDir.create(tmp_path, run_id=run_id)
    assert list(tmp_path.iterdir()) == []


def test_a_run_id_is_taken_once(tmp_path: Path) -> None:
    RunDir.create(tmp_path, run_id="mine")
    with pytest.raises(UsageError, match="there is a run mine"):
        RunDir.create(tmp_path, run_id="mine")


def test_the_frame_of_a_run_comes_back(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.write_info(sample_run.run_info(run.path.name))
    assert RunDir.read(run.path).info == sample_run.run_info(run.path.name)


def test_a_newer_schema_is_refused_with_advice(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.write_info(RunInfo(schema=99, run_id=run.path.name))
    with pytest.raises(BundleError, match=r"run\.json was written by a newer pytest-ocrepro; update"):
        RunDir.read(run.path)


def test_where_a_build_is_from_is_told_in_one_line() -> None:
    own = Subject(version="1.2.0", sha256="ab", source="binary")
    assert own.provenance == "binary"
    fetched = msgspec.structs.replace(own, source="cache", package="opencode-linux-x64", integrity="sha512-Zm9v")
    assert fetched.provenance == "cache · opencode-linux-x64 of npm, checked as announced and as packed: sha512-Zm9v"


# --- results ----------------------------------------------------------------------------------------------------


def test_results_come_back_in_order_with_the_fields_that_were_promised(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    for trial in (1, 2, 3):
        run.append_result(result(trial))
    assert run.results() == tuple(result(trial) for trial in (1, 2, 3))
    line = msgspec.json.decode((run.path / "results.jsonl").read_bytes().splitlines()[0])
    assert " ".join(line) == (
        "schema run_id scenario title issue version binary_sha256 trial seed result reason verdict grade "
        "seconds_to_verdict chain processes findings leaked signature bundle expected known passages offset "
        "control skipped"
    )
    assert list(line["processes"][0]) == ["role", "pid", "argv", "exit", "verdict", "milestone", "seconds"]


def test_several_processes_append_without_mixing_lines(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import msgspec
        from pytest_ocrepro.publish.bundle import RunDir, TrialResult
        run, line = RunDir.read(Path(sys.argv[1])), msgspec.json.decode(sys.argv[2], type=TrialResult)
        for trial in range(200):
            run.append_result(msgspec.structs.replace(line, trial=int(sys.argv[3]) + trial))
        """
    )
    line = msgspec.json.encode(result(1)).decode()
    argv = [sys.executable, "-c", program, str(run.path), line]
    workers = [subprocess.Popen([*argv, str(number * 1000)], cwd=ROOT) for number in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    found = sorted(one.trial for one in run.results())
    assert found == sorted(worker * 1000 + trial for worker in range(3) for trial in range(200))


def test_half_a_last_line_is_left_out_and_mended_by_the_next_writer(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.append_result(result(1))
    with (run.path / "results.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"run')
    assert [one.trial for one in run.results()] == [1]
    run.append_result(result(2))
    assert [one.trial for one in run.results()] == [1, 2]


def test_a_corrupt_line_of_results_is_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.append_result(result(1))
    with (run.path / "results.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"run\n')
    run.append_result(result(2))
    with pytest.raises(BundleError, match=r"results\.jsonl line 2 is corrupt"):
        run.results()


@pytest.mark.parametrize(
    "bundle", ["trials/..", "trials/../../x", "/etc", "trials/", "other/t1", "trials/nope", "trials/link"]
)
def test_a_bundle_path_in_a_result_is_not_trusted(tmp_path: Path, bundle: str) -> None:
    run = RunDir.create(tmp_path)
    (run.path / "trials").mkdir()
    (run.path / "trials" / "link").symlink_to("/etc")
    with pytest.raises(BundleError, match="not in this run"):
        run.bundle_of(msgspec.structs.replace(result(1), bundle=bundle))


def test_a_bundle_path_in_a_result_leads_to_its_bundle(tmp_path: Path) -> None:
    path = stored(tmp_path)
    run = RunDir.read(tmp_path)
    assert run.bundle_of(run.results()[0]) == path
    assert run.bundles() == (path,)


# --- bundles ----------------------------------------------------------------------------------------------------


def test_a_bundle_comes_back_whole(tmp_path: Path) -> None:
    info, events, judgement = sample_run.overlap("1.15.4", 1)
    trial = TrialBundle.read(stored(tmp_path))
    assert trial.info == info
    assert list(trial.history) == events
    assert trial.judgement == judgement
    assert trial.result is not None
    assert trial.result.chain == judgement.chain if judgement else False
    assert (trial.torn, trial.problems) == (False, ())


def test_the_history_of_a_live_trial_goes_through_the_sink(tmp_path: Path) -> None:
    with RunDir.create(tmp_path).open_trial("t", INFO) as bundle:
        history = History(sink=bundle.sink)
        kept = history.append(h.Note(at_ns=1, text="hello"))
        assert list(TrialBundle.read(bundle.path).history) == [kept]
    assert bundle.relative == "trials/t"


def test_a_history_that_is_written_anew_replaces_the_old_one_and_goes_on(tmp_path: Path) -> None:
    with RunDir.create(tmp_path).open_trial("t", INFO) as bundle:
        bundle.sink(note("a secret"))
        bundle.sink(note("b"))
        bundle.rewrite([note("a *"), note("b")])
        bundle.sink(note("c"))
        stored = TrialBundle.read(bundle.path).history.of_type(h.Note)
        assert [event.text for event in stored] == ["a *", "b", "c"]
    assert not list(bundle.path.glob("*.new"))


def test_a_history_that_cannot_be_written_anew_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a secret: better nothing than that."""

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunDir.create(tmp_path).open_trial("t", INFO) as bundle:
        bundle.sink(note("a secret"))
        monkeypatch.setattr(storage, "write_all", full)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(BundleError, match="No space left"):
            bundle.rewrite([note("a *")])
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert (bundle.path / "history.jsonl").read_bytes() == b""
        bundle.sink(note("later"))
        assert (bundle.path / "history.jsonl").read_bytes() == b""
        assert not list(bundle.path.glob("*.new"))


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    names = [run.open_trial("t", INFO).path.name for _ in range(3)]
    assert names == ["t", "t-2", "t-3"]


def test_slugs_are_safe_short_and_distinct() -> None:
    assert slug("scenarios/test_a.py::test_b[x/..\\y]", "1.15.4", 3) == "test_a-test_b-x-..-y-1.15.4-t3"
    long = [slug("scenarios/test_a.py::test_" + "b" * 200 + tail, "1.15.4", 1) for tail in "xy"]
    assert len(set(long)) == 2
    assert all(len(one) <= MAX_SLUG for one in long)
    assert slug("s/test_a.py::test_b[1.15.4]", "1.15.4", 3) == "test_a-test_b-1.15.4-t3"
    assert slug("../../..", "..", 1) == "t1"
    assert slug("", "", 1) == "t1"


def test_a_slug_cannot_leave_the_run(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    bundle = run.open_trial("../../out/..", INFO)
    assert bundle.path.parent == run.path / "trials"
    assert bundle.path.name == "out"


def test_all_that_a_run_stores_passes_its_gate(tmp_path: Path) -> None:
    secret = "c4nary-in-every-field"
    gate = Redactor({"S": secret}, {str(tmp_path): "$HERE"}, names={})
    run = RunDir.create(tmp_path, gate=gate)
    info, _, judgement = sample_run.overlap("1.15.4", 1)
    assert judgement is not None
    run.write_info(RunInfo(run_id=run.path.name, pytest_command=("pytest", f"--token={secret}", str(tmp_path))))
    with run.open_trial(
        f"t-{secret}", msgspec.structs.replace(info, docstring=secret, replay=f"X={secret}")
    ) as bundle:
        history = History(gate=gate, sink=bundle.sink)
        history.append(h.Note(at_ns=1, text=f"{secret} in {tmp_path}/x"))
        judgement = msgspec.structs.replace(judgement, reason=f"because {secret}")
        line = sample_run.result_of(run.info.run_id, info, judgement, bundle.relative)
        bundle.finish(judgement, line, masked=gate.receipt())
        run.append_result(line)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        "run.json",
        "results.jsonl",
        "trial.json",
        "history.jsonl",
        "judgement.json",
    }
    for path in files:
        assert secret not in str(path)
        assert secret.encode() not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    assert TrialBundle.read(bundle.path).judgement is not None


def test_a_torn_last_line_is_ordinary(tmp_path: Path) -> None:
    path = stored(tmp_path)
    whole = (path / "history.jsonl").read_bytes()
    (path / "history.jsonl").write_bytes(whole[:-20])
    trial = TrialBundle.read(path)
    lines = whole.count(b"\n")
    assert trial.torn
    assert len(trial.history) == lines - 1
    assert trial.problems == (f"line {lines} of history.jsonl was cut off while it was written",)


def test_a_trial_without_its_last_phase_is_torn(tmp_path: Path) -> None:
    info, events, _ = sample_run.overlap("1.15.4", 1)
    trial = TrialBundle.read(sample_run.store(RunDir.create(tmp_path), (info, events, None)))
    assert trial.torn
    assert (trial.judgement, trial.result) == (None, None)
    assert trial.problems == ("pytest ended before this trial was judged",)
    assert list(trial.history) == events


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "history.jsonl",
            b'{"event":"note","at_ns":1,"text":"a"}\n{"event":"no\n',
            r"history\.jsonl line 2 is corrupt",
        ),
        ("history.jsonl", b'{"event":"nonsense","at_ns":1}\n', r"history\.jsonl line 1 is corrupt: .*nonsense"),
        ("history.jsonl", b'{"event":"note","at_ns":1,"text":"\xff"}\n', r"history\.jsonl line 1 is corrupt"),
        ("history.jsonl", b"[" * 100_000 + b"\n", r"history\.jsonl line 1 is corrupt"),
        ("trial.json", b"", r"trial\.json is corrupt"),
        ("trial.json", b"[]", r"trial\.json is corrupt: Expected `object`"),
        ("judgement.json", b'{"result":"maybe"}', r"judgement\.json is corrupt"),
        ("result.json", b"\x00\x00", r"result\.json is corrupt"),
        ("receipt.json", b"7", r"receipt\.json is corrupt"),
    ],
)
def test_corruption_is_named_with_file_and_line(tmp_path: Path, file: str, content: bytes, says: str) -> None:
    path = stored(tmp_path)
    (path / file).write_bytes(content)
    with pytest.raises(BundleError, match=says) as caught:
        TrialBundle.read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_a_missing_first_phase_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path)
    (path / "trial.json").unlink()
    with pytest.raises(BundleError, match=r"trial\.json is missing"):
        TrialBundle.read(path)


def test_links_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    path = stored(tmp_path)
    for make, says in (
        (lambda file: file.symlink_to("/etc/hostname"), "cannot be read"),
        (os.mkfifo, "is not a file"),
        (lambda file: file.mkdir(), "is not a file"),
    ):
        file = path / "judgement.json"
        file.unlink(missing_ok=True)
        make(file)
        with pytest.raises(BundleError, match=says):
            TrialBundle.read(path)


def test_sizes_are_limited_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path)
    monkeypatch.setattr(storage, "MAX_LINE_BYTES", 2_000)
    with pytest.raises(BundleError, match=r"longer than 2000 bytes|more than 2000"):
        TrialBundle.read(path)
    monkeypatch.undo()
    monkeypatch.setattr(storage, "MAX_FILE_BYTES", 2_000)
    with pytest.raises(BundleError, match=r"history\.jsonl has \d+ bytes, more than 2000"):
        TrialBundle.read(path)


def test_sizes_are_limited_when_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path)
    monkeypatch.setattr(storage, "MAX_LINE_BYTES", 100)
    bundle = run.open_trial("t", INFO)
    bundle.sink(note("short"))
    with pytest.raises(BundleError, match="an event of 137 bytes"):
        bundle.sink(note("x" * 100))
    monkeypatch.undo()
    assert len(TrialBundle.read(bundle.path).history) == 1


def test_a_disk_that_fills_up_is_told_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A real failing write, half of which gets through: the file size limit of a process of its own."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from pytest_ocrepro.errors import BundleError
        from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        bundle = RunDir.create(Path(sys.argv[1])).open_trial("t", TrialInfo(scenario="s", title="t"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        told = []
        for number in range(40):
            try:
                bundle.sink(b'{"event":"note","at_ns":1,"text":"%s"}\\n' % (b"x" * 100))
            except BundleError as error:
                told.append(str(error))
        print(told)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.count("evidence cannot be stored in") == 1
    assert "File too large; make room" in done.stdout
    trial = TrialBundle.read(RunDir.read(tmp_path).path / "trials" / "t")
    assert len(trial.history) == 7
    assert trial.problems == ("pytest ended before this trial was judged",)


def test_a_writer_killed_without_warning_leaves_all_that_it_was_told(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from pytest_ocrepro.events import Note
        from pytest_ocrepro.history import History
        from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
        bundle = RunDir.create(Path(sys.argv[1])).open_trial("t", TrialInfo(scenario="s", title="t"))
        history = History(sink=bundle.sink)
        for number in range(100):
            history.append(Note(at_ns=number, text="x"))
        print("ready", flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    trial = TrialBundle.read(RunDir.read(tmp_path).path / "trials" / "t")
    assert len(trial.history) == 100
    assert trial.torn


def test_closing_twice_and_writing_after_it_do_nothing(tmp_path: Path) -> None:
    bundle = RunDir.create(tmp_path).open_trial("t", INFO)
    bundle.sink(note("a"))
    bundle.close()
    bundle.close()
    bundle.sink(note("b"))
    assert len(TrialBundle.read(bundle.path).history) == 1
