from __future__ import annotations

import errno
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil
import pytest
from click.testing import CliRunner, Result

from pytest_ocrepro import cli
from pytest_ocrepro.cli.search import seconds as parse
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions import campaign, releases
from pytest_ocrepro.versions.campaign import Outcome, Wanted
from pytest_ocrepro.versions.journal import Chosen, Skipped, Tried, read_journal, trials_of
from pytest_ocrepro.versions.releases import Releases
from pytest_ocrepro.versions.search import Why

Serve = Callable[..., Path]
VERSIONS = ("0.9.0", "1.0.0", "1.0.1", "1.0.2", "1.1.0-rc.1", "1.1.0", "1.1.1")
LINE = ("1.0.0", "1.0.1", "1.0.2", "1.1.0", "1.1.1")
SCENARIO = "test_stand_in.py::test_answers"
RELEASED = Releases(package="p", versions=VERSIONS, tags=(("latest", "1.1.1"),))


def coin_run(first_bad: str) -> Callable[[Chosen], Iterator[Tried]]:
    """Trials without a subject: sure to fail from ``first_bad`` on."""

    def run(chosen: Chosen) -> Iterator[Tried]:
        for scenario, version, seed in chosen.trials:
            clean = Tried(
                batch=0, phase="", scenario=scenario, version=version, seed=seed, seconds=1.0, result="not-seen"
            )
            bad = VERSIONS.index(version) >= VERSIONS.index(first_bad)
            yield msgspec.structs.replace(clean, result="reproduced", signs=("oc-1 crashed",)) if bad else clean

    return run


def asked(**fields: object) -> Wanted:
    return msgspec.structs.replace(Wanted(scenario=SCENARIO), **fields)


def bisected(first_bad: str = "1.0.2", told: list[str] | None = None, **fields: Any) -> Outcome:
    said = told if told is not None else []
    return campaign.bisect(asked(**fields), tell=said.append, run=coin_run(first_bad))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="ocrepro")


# --- the range


@pytest.mark.parametrize(
    ("oldest", "newest", "versions"),
    [
        (None, None, LINE),
        ("1.0.1", "v1.1.0", ("1.0.1", "1.0.2", "1.1.0")),
        ("1.0.2", "latest", ("1.0.2", "1.1.0", "1.1.1")),
        ("1.1.0-rc.1", None, ("1.1.0-rc.1", "1.1.0", "1.1.1")),
        (None, "0.9.0", ("0.9.0",)),
    ],
)
def test_a_range_is_of_one_line_without_pre_releases(
    oldest: str | None, newest: str | None, versions: tuple[str, ...]
) -> None:
    assert campaign.in_range(RELEASED, oldest, newest, across_lines=False) == versions


def test_ends_of_different_lines_must_be_insisted_on() -> None:
    with pytest.raises(UsageError, match=r"0\.9\.0 and 1\.0\.1 are of different major versions"):
        campaign.in_range(RELEASED, "0.9.0", "1.0.1", across_lines=False)
    assert campaign.in_range(RELEASED, "0.9.0", "1.0.1", across_lines=True) == ("0.9.0", "1.0.0", "1.0.1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"good": "1.1.1", "bad": "1.0.0"},
            r"the range is reversed: 1\.1\.1 is newer than 1\.0\.0; --good is the older",
        ),
        ({"good": "1.0.0", "bad": "1.1.1", "find_fix": True}, "the range is reversed"),
        ({"good": "1.0.1", "bad": "1.0.1"}, r"the range holds 1 build, 1\.0\.1: a bisection needs two"),
        ({"good": "1.0.7"}, "opencode 1.0.7 is not published as"),
        ({"skip": ("1.0.7",)}, r"--skip 1\.0\.7 is not in the range 1\.0\.0 to 1\.1\.1"),
        ({"scenario": "no_such"}, "there is no scenario no_such"),
        ({"resume": True}, "there is no journal ocrepro-bisect-answers.jsonl to go on with"),
    ],
)
def test_what_cannot_be_meant_is_told_and_leaves_no_journal(serve: Serve, fields: dict[str, Any], words: str) -> None:
    serve(VERSIONS, "9.9.9")
    with pytest.raises(UsageError if "1.0.7 is not" not in words or "skip" in words else Exception, match=words):
        bisected(**fields)
    left = Path("ocrepro-bisect-answers.jsonl")
    assert not left.exists() or not left.read_bytes()


# --- the course, with trials that are sure


def test_it_writes_a_certificate_and_a_picture(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    done = bisected()
    assert done.certificate.named
    assert done.certificate.answers[0].suspects == ("1.0.2",)
    assert done.markdown.read_text().startswith("### Introduced in 1.0.2: the first failing build among those served")
    assert "<svg" in done.page.read_text()
    assert str(Path.cwd()) not in done.markdown.read_text() + done.page.read_text()


def test_a_journal_is_never_gone_on_with_by_accident(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    bisected(most_trials=3)
    with pytest.raises(UsageError, match="exists: go on with --resume, look at it with --replay, or name another"):
        bisected()
    told: list[str] = []
    assert bisected(told=told, resume=True).certificate.named
    for fields, words in (
        ({"confidence": 0.99}, "is the journal of another question (confidence 0.95, now 0.99)"),
        ({"good": "1.0.1"}, "is the journal of 5 builds, 1.0.0 to 1.1.1, now 4 builds, 1.0.1 to 1.1.1"),
        (
            {"find_fix": True, "journal": Path("ocrepro-bisect-answers.jsonl")},
            "another question (find_fix False, now True)",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            bisected(resume=True, **fields)
        assert words in str(caught.value)


def test_a_torn_an_edited_and_a_foreign_journal_are_each_told_in_one_line(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    journal = Path("ocrepro-bisect-answers.jsonl")
    bisected(most_trials=4)
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"tried"' in line)
    lines[at] = lines[at].replace(b'"seconds":1.0', b'"seconds":2.0')
    journal.write_bytes(b"".join(lines) + lines[-1][:20])
    told: list[str] = []
    done = bisected(told=told, resume=True)
    assert done.certificate.named
    assert [line for line in told if line.startswith(str(journal)) and "builds" not in line] == [
        f"{journal}: half a last line was left out; that trial is done again",
        f"{journal}: edited by hand (lines {at + 1}); what they say counts",
    ]
    assert f"the journal was edited by hand (lines {at + 1})" in done.markdown.read_text()
    Path("foreign").write_text("hello\n")
    result = run("bisect", SCENARIO, "--journal", "foreign", "--resume")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "foreign is not a journal" in result.stderr


def test_a_journal_keeps_its_number_of_workers(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    bisected(most_trials=4, workers=2)
    told: list[str] = []
    assert bisected(told=told, resume=True).certificate.named
    assert "2 trials at the same time, as the journal began; rates of 1 may differ" in told
    batches = [one for one in read_journal(Path("ocrepro-bisect-answers.jsonl")).records if isinstance(one, Chosen)]
    assert {len(one.trials) for one in batches} == {2}


def test_skip_is_kept_in_the_journal(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    done = bisected(skip=("1.0.2",))
    assert done.certificate.answers[0].suspects == ("1.0.2", "1.1.0")
    assert not done.certificate.named
    read = read_journal(Path("ocrepro-bisect-answers.jsonl")).records
    assert [one for one in read if isinstance(one, Skipped)] == [
        Skipped(version="1.0.2", reason="skipped by hand", by_hand=True)
    ]


def test_offline_is_no_reason_to_skip_for_ever(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    for version in ("1.0.0", "1.0.1", "1.1.0", "1.1.1"):
        subject.fetch(version)
    releases.obtain(releases.platform_package(releases.this_machine()))
    assert bisected(offline=True).certificate.answers[0].suspects == ("1.0.2", "1.1.0")
    read = read_journal(Path("ocrepro-bisect-answers.jsonl")).records
    assert not [one for one in read if isinstance(one, Skipped)]
    assert bisected(resume=True).certificate.answers[0].suspects == ("1.0.2",)


def test_a_build_that_does_not_start_is_skipped_and_stays_suspect(serve: Serve) -> None:
    registry = serve(VERSIONS, "9.9.9")
    (registry / "1.0.2.tgz").write_bytes((registry / "1.0.1.tgz").read_bytes())
    _break(registry, "1.0.2")
    told = bisected().certificate
    assert told.answers[0].suspects == ("1.0.2", "1.1.0")
    assert "is not an opencode that runs here" in next(row.closed for row in told.tallies if row.version == "1.0.2")


def _break(registry: Path, version: str) -> None:
    script = b"#!/bin/sh\n# opencode\nexit 1\n"
    info = tarfile.TarInfo("package/bin/opencode")
    info.size = len(script)
    with tarfile.open(registry / f"{version}.tgz", "w:gz") as archive:
        archive.addfile(info, io.BytesIO(script))


def test_npm_gone_halfway_is_one_line_and_nothing_is_lost(serve: Serve) -> None:
    registry = serve(VERSIONS, "9.9.9")
    plan = (registry / "plan.json").read_text()

    def run_then_cut(chosen: Chosen) -> Iterator[Tried]:
        (registry / "plan.json").write_text(
            json.dumps({"latest": "1.1.1", "view": "ECONNREFUSED", "pack": "ECONNREFUSED"})
        )
        return coin_run("1.0.2")(chosen)

    with pytest.raises(
        Exception, match=r"the npm registry does not answer \(ECONNREFUSED\).*go on with --resume"
    ) as caught:
        campaign.bisect(asked(), tell=lambda _: None, run=run_then_cut)
    assert "\n" not in str(caught.value)
    read = read_journal(Path("ocrepro-bisect-answers.jsonl")).records
    before = len(list(trials_of(read)))
    assert before > 0
    assert not [one for one in read if isinstance(one, Skipped)]
    (registry / "plan.json").write_text(plan)
    assert bisected(resume=True).certificate.named


def test_a_full_disk_is_one_line_and_no_skip(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(VERSIONS, "9.9.9")
    with monkeypatch.context() as patched:
        patched.setattr(subject, "_download", _no_space)
        with pytest.raises(Exception, match=r"no space left in the cache .*; the journal .* go on with --resume"):
            bisected()
    assert not [one for one in read_journal(Path("ocrepro-bisect-answers.jsonl")).records if isinstance(one, Skipped)]
    assert bisected(resume=True).certificate.named


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_replay_shows_what_a_journal_says(serve: Serve) -> None:
    serve(VERSIONS, "9.9.9")
    done = bisected()
    told, line = campaign.replay_journal(Path("ocrepro-bisect-answers.jsonl"))
    assert told == done.certificate
    batches = len(
        [1 for one in read_journal(Path("ocrepro-bisect-answers.jsonl")).records if isinstance(one, Chosen)]
    )
    assert line == f"{batches} of {batches} choices follow from the trials before them"
    result = run("bisect", "--replay", "ocrepro-bisect-answers.jsonl")
    assert (result.exit_code, result.stdout.rstrip()) == (0, done.markdown.read_text().rstrip())


def test_replay_of_what_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, words in (("empty", "is empty: nothing to replay"), ("none", "cannot be read")):
        result = run("bisect", "--replay", str(tmp_path / name))
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bisect",), "Missing argument 'SCENARIO'"),
        (("bisect", "x", "--time-budget", "soon"), "'soon' is no duration: write 90s, 30m or 1h30m"),
        (("bisect", "x", "--confidence", "2"), "2.0 is not in the range"),
        (("bisect", "x", "--max-trials", "0"), "0 is not in the range"),
    ],
)
def test_usage_errors_of_the_command(words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    context = click.Context(cli.main)
    assert parse(context, click.Option(["--x"]), text) == seconds


# --- whole: the command, real pytest processes, killed in the middle


def test_the_command_is_killed_and_goes_on_and_leaves_nothing_running(serve: Serve) -> None:
    serve(("1.0.0", "1.0.1", "1.0.2", "1.0.3"), "1.0.2")
    command = [sys.executable, "-m", "pytest_ocrepro.cli", "bisect", SCENARIO, "-n", "2", "--reports", "kept"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        while " search " not in (line := child.stderr.readline()):
            assert line, "it ended before it was killed"
        below = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    journal = Path("ocrepro-bisect-answers.jsonl")
    before = len(list(trials_of(read_journal(journal).records)))
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "### Introduced in 1.0.2: the first failing build among those served here" in done.stdout
    tried = list(trials_of(read_journal(journal).records))
    assert len(tried) > before
    assert len({one.seed for one in tried}) == len(tried)
    assert all(Path(one.bundle).is_dir() for one in tried)
    assert campaign.replay_journal(journal)[0].why is Why.FOUND
