from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from pytest_ocrepro import cli
from pytest_ocrepro.errors import BundleError, OcreproError, StageError
from pytest_ocrepro.progress import progress_on
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.stage import subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.data.publish import reproducing
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_reproducing", Path(__file__).parent / "data/publish/reproducing.py"
    )
    reproducing = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(reproducing)

STAND_IN = Path(__file__).parent / "data/subject/stand_in_npm.py"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in npm first on PATH; returns the directory that it serves."""
    folder = tmp_path / "registry"
    folder.mkdir()
    shim = tmp_path / "bin/npm"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_NPM", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    for version in ("1.2.0", "1.10.0", subject.PINNED):
        publish(folder, version)
    (folder / "plan.json").write_text(json.dumps({"latest": "1.10.0"}))
    return folder


def publish(registry: Path, version: str) -> None:
    data = f"#!/bin/sh\n# opencode\necho {version}\n".encode() + b"#" * 2_000_000
    info = tarfile.TarInfo("package/bin/opencode")
    info.size = len(data)
    with tarfile.open(registry / f"{version}.tgz", "w:gz") as archive:
        archive.addfile(info, io.BytesIO(data))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="ocrepro")


def test_fetch_prints_version_and_path(registry: Path) -> None:
    result = run("fetch", "1.2.0", "latest")
    assert result.exit_code == 0, result.output
    printed = [line.split() for line in result.stdout.splitlines()]
    assert [version for version, _ in printed] == ["1.2.0", "1.10.0"]
    assert all(os.access(path, os.X_OK) for _, path in printed)
    assert result.stderr.splitlines() == [
        "downloading opencode 1.2.0", "unpacking", "downloading opencode 1.10.0", "unpacking",
    ]  # fmt: skip
    again = run("fetch", "1.2.0", "--offline")
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout == result.stdout.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "1.3.0"), "ocrepro: opencode 1.3.0 is not published as"),
        (("fetch", "1.2.0", "--offline"), "ocrepro: no list of published versions is cached yet"),
        (("versions", "--offline"), "ocrepro: no list of published versions is cached yet"),
    ],
)
def test_our_errors_are_one_line_and_exit_code_2(registry: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [StageError("two\nlines"), BundleError("two\n  lines"), OcreproError("two lines")])
def test_every_error_of_ours_is_put_on_one_line(error: OcreproError, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(version: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(subject, "fetch", broken)
    result = run("fetch", "1.2.0")
    assert (result.exit_code, result.stderr) == (2, "ocrepro: two lines\n")


def test_a_defect_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "fetch", lambda version, **_: os.environ["A DEFECT"])
    result = run("fetch", "1.2.0")
    assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize("arguments", [("fetch",), ("nonsense",), ("versions", "--nonsense"), ("versions", "1.2.0")])
def test_usage_errors_exit_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: ocrepro" in result.stderr


def test_versions_is_a_table(registry: Path) -> None:
    run("fetch", "1.2.0")
    result = run("versions")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["1.2.0", "cached", "2", "MB"], ["1.10.0", "latest"], [subject.PINNED, "pinned"],
    ]  # fmt: skip
    assert result.stderr == ""


def test_versions_without_a_registry_says_so(registry: Path) -> None:
    fresh = run("versions").stdout
    (registry / "plan.json").write_text(json.dumps({"view": "ECONNREFUSED"}))
    stale = run("versions")
    assert (stale.exit_code, stale.stdout) == (0, fresh)
    assert stale.stderr.startswith("ocrepro: list of ")
    assert "the npm registry does not answer (ECONNREFUSED)" in stale.stderr


def test_a_cached_version_that_is_no_longer_published_is_listed(registry: Path) -> None:
    run("fetch", "1.2.0")
    (registry / "1.2.0.tgz").unlink()
    assert "1.2.0    cached" in run("versions").stdout


def test_doctor_prints_text_or_records(registry: Path) -> None:
    text = run("doctor", "--offline")
    records = run("doctor", "--offline", "--json")
    assert (text.exit_code, records.exit_code) == (0, 0)
    checks = json.loads(records.stdout)
    assert all(check["name"] in text.stdout for check in checks)
    assert {check["level"] for check in checks} <= {"ok", "limited", "missing"}


class Terminal(io.StringIO):
    """What a terminal would be sent."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_number_then_a_bar() -> None:
    stream = Terminal()
    with progress_on(stream) as progress:
        progress(3_000_000, 0, "downloading opencode 1.2.0")
        progress(9_000_000, 0, "downloading opencode 1.2.0")
        for done in range(0, 101, 10):
            progress(done, 100, "unpacking")
    shown = click.unstyle(stream.getvalue())
    assert "\rdownloading opencode 1.2.0: 3 MB\rdownloading opencode 1.2.0: 9 MB\n" in shown
    assert "unpacking" in shown
    assert "100%" in shown
    assert shown.rindex("downloading") < shown.index("unpacking")
    assert shown.endswith("\n")


def test_the_terminal_is_left_clean_when_it_fails() -> None:
    stream = Terminal()

    def interrupted() -> None:
        with progress_on(stream) as progress:
            progress(10, 100, "unpacking")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert hidden < shown


@pytest.fixture
def reproduced(tmp_path: Path) -> Path:
    """A reports directory whose newest run has two scenarios that reproduced."""
    reports = tmp_path / "reports"
    found = RunDir.create(reports)
    reproducing.store(found, reproducing.overlap(), "test_overlap")
    reproducing.store(found, reproducing.trial([], title="nothing to tell"), "test_other")
    return reports


def test_repro_prints_a_script_and_says_why_there_is_none(reproduced: Path) -> None:
    printed = run("repro", str(reproduced), "--scenario", "overlap")
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert printed.stdout.startswith("#!/usr/bin/env bash\n")
    none = run("repro", str(reproduced), "--scenario", "other")
    assert (none.exit_code, none.stdout) == (2, "")
    assert none.stderr == (
        "ocrepro: test_x-test_other-9.9.9 has no repro script: "
        "what the scenario demands cannot be checked by a short script\n"
    )
    unknown = run("repro", str(reproduced), "--scenario", "x")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (2, 1)
    assert "give one of test_other, test_overlap" in unknown.stderr


def test_repro_verifies_on_the_build_that_is_given(reproduced: Path, stand_in: Path, tmp_path: Path) -> None:
    environment = {"OCREPRO_CACHE_DIR": str(tmp_path / "cache")}
    words = ["repro", str(reproduced), "--scenario", "overlap", "--verify", "1", "--binary", str(stand_in)]
    done = CliRunner().invoke(cli.main, words, prog_name="ocrepro", env=environment)
    assert done.exit_code == 1, "the stand-in fails fast, and takes no lock: the script does not get there"
    assert done.stderr.endswith("reproduced 0 of 0 by this script; 1 more could not tell\n")
    assert done.stdout.startswith("#!/usr/bin/env bash\n")


def test_report_names_what_it_leaves_out_and_what_was_cut_off(reproduced: Path, tmp_path: Path) -> None:
    linked, cut = RunDir.read(reproduced).bundles()
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    with (cut / "history.jsonl").open("ab") as file:
        file.write(b'{"event":"note","at')
    done = run("report", str(reproduced))
    assert done.exit_code == 0
    assert f"left out: trials/{linked.name} is a link; it was not read\n" in done.stderr
    assert f"incomplete: {cut.name}: line " in done.stderr
    assert done.stderr.count("\n") == 2


def test_issue_refuses_a_trial_that_was_never_judged(tmp_path: Path) -> None:
    found = RunDir.create(tmp_path / "reports")
    with found.open_trial("cut", TrialInfo(scenario="test_x.py::test_cut", title="it is cut", version="9.9.9")):
        pass
    done = run("issue", str(tmp_path / "reports"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "ocrepro: cut ended before it was judged: there is nothing to report; run it again\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["report", "show", "ctrf", "github", "issue", "repro"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_results_that_are_no_file_are_an_error(
    reproduced: Path, command: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reproduced)
    path = RunDir.read(reproduced).path
    (path / "results.jsonl").unlink(missing_ok=True)
    make(path / "results.jsonl")
    done = run(command, str(reproduced))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ocrepro: {path.name}/results.jsonl ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "show", "ctrf", "github"])
def test_who_leaves_something_out_says_so(reproduced: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reproduced)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    found = RunDir.read(reproduced)
    (found.path / "report.html").unlink(missing_ok=True)
    assert run(command, str(reproduced)).stderr == ""
    (found.path / "report.html").unlink(missing_ok=True)
    (found.bundles()[0] / "trial.json").write_bytes(b"{")
    with (found.path / "results.jsonl").open("ab") as file:
        file.write(b"{]\n")
    done = run(command, str(reproduced))
    assert done.exit_code == 0
    told = done.stderr.splitlines()
    assert len(told) == 2
    assert all(line.startswith("ocrepro: left out: ") for line in told)
    assert any(f"{found.bundles()[0].name}/trial.json is corrupt" in line for line in told)
    assert any("results.jsonl line " in line for line in told)
