"""Ratios measured in one run; printed, never a limit that fails on a slow machine.

Run by hand: ``pytest tests/benchmarks -m benchmark -s``. Each test asserts that what it timed has happened.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.events import SnapshotTaken
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Result, Verdict
from pytest_ocrepro.judge.verdict import judge_process
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.subject import PINNED, Build, fetch

pytestmark = [pytest.mark.benchmark, pytest.mark.real]
REPORTED_TIMEOUT_S = 45.0  # what the script of anomalyco/opencode#29395 gives each run
CATALOGUE_BUDGET_S = 180.0
PAIRS = 5


@pytest.fixture(scope="module")
def build() -> Build:
    return fetch(PINNED)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(RunDir.create(tmp_path / "reports"))
    yield made
    made.close()


def new_trial(session: Session, build: Build, name: str) -> Trial:
    return Trial(session, build, TrialInfo(scenario=f"benchmark::{name}", title=name, version=build.version), name)


def stalled_pair(trial: Trial) -> tuple[Process, Process]:
    trial.registry.stall()
    trial.project.add_plugin()
    first = trial.run("hi", model="bogus/nope-1")
    trial.wait_for(trial.at_lock_directory(first))
    return first, trial.run("hi", model="bogus/nope-2")


def show(line: str, ratio: float, goal: str) -> None:
    print(f"\nbenchmark: {line}: ratio {ratio:.3f} (goal {goal})")


def median_s(action: Callable[[], object], times: int = PAIRS) -> float:
    spent = []
    for _ in range(times):
        begun = time.monotonic()
        action()
        spent.append(time.monotonic() - begun)
    return statistics.median(spent)


def test_time_to_the_verdict_of_a_stalled_overlap(session: Session, build: Build) -> None:
    trial = new_trial(session, build, "verdict")
    _, second = stalled_pair(trial)
    trial.expect(second).to_finish()
    judged, result = trial.finish()
    assert (judged.result, judged.verdict) == (Result.REPRODUCED, Verdict.BLOCKED)
    seconds = result.seconds_to_verdict
    show(f"verdict after {seconds:.1f} s / the reported script's {REPORTED_TIMEOUT_S:g} s",
         seconds / REPORTED_TIMEOUT_S, "at most 0.25")  # fmt: skip


def test_what_a_trial_costs_beside_a_bare_run(session: Session, build: Build, tmp_path: Path) -> None:
    """The same command on a fresh home, in turns; the bare one from a shell with the trial's own environment."""
    bare, whole = [], []
    for turn in range(PAIRS):
        trial = new_trial(session, build, f"bare-{turn}")
        environment = {k: v.replace(str(trial.sandbox.root), str(tmp_path / f"bare-{turn}"))
                       for k, v in trial.sandbox.environment().items() if k != "OCREPRO_MARK"}  # fmt: skip
        shutil.copytree(trial.sandbox.root, tmp_path / f"bare-{turn}", symlinks=True)
        bare.append(median_s(lambda e=environment, t=turn: _bare_run(e, tmp_path / f"bare-{t}"), 1))  # type: ignore[misc]
        trial.finish("the bare half")
        whole.append(median_s(lambda t=turn: _whole_trial(session, build, t), 1))  # type: ignore[misc]
    extra_ms = statistics.median(b - a for a, b in zip(bare, whole, strict=True)) * 1000
    show(f"a trial takes {extra_ms:+.0f} ms more than the bare run ({statistics.median(bare):.2f} s)",
         extra_ms / 150, "at most 1 (150 ms)")  # fmt: skip


def _bare_run(environment: dict[str, str], root: Path) -> None:
    command = ["sh", "-c", "exec opencode run -m bogus/x hi </dev/null >/dev/null 2>&1"]
    done = subprocess.run(command, env=environment, cwd=root / "project", check=False, timeout=60)
    assert done.returncode == 1


def _whole_trial(session: Session, build: Build, turn: int) -> None:
    trial = new_trial(session, build, f"whole-{turn}")
    trial.expect(trial.run("hi", model="bogus/x")).to_finish()
    judged, _ = trial.finish()
    assert judged.result is Result.NOT_SEEN


def test_a_snapshot_beside_other_tools(session: Session, build: Build) -> None:
    """All of them look at the same hung process, in turns; strace is given one second to count in."""
    trial = new_trial(session, build, "snapshot")
    first, second = stalled_pair(trial)
    trial.watch(first)
    snapshot_s = median_s(trial.sampler.snapshot, 20)
    read_s = median_s(lambda: [_read_everything(process.pid) for process in trial.roster.started], 20)
    pid = str(second.pid)
    others = {
        "lsof": median_s(lambda: _quietly("lsof", "-nP", "-p", pid)),
        "ss": median_s(lambda: _quietly("ss", "-a", "-n", "-p", "-e")),
        "gdb -batch": median_s(lambda: _quietly("gdb", "-batch", "-p", pid, "-ex", "thread apply all bt"), 3),
        "strace -c": median_s(lambda: _quietly("timeout", "-s", "INT", "1", "strace", "-f", "-c", "-p", pid), 3),
    }
    taken = trial.history.of_type(SnapshotTaken)[-1].snapshot
    judged = judge_process(trial.history, second.pid)
    trial.finish("a benchmark")
    assert {process.role for process in taken.processes} == {"first", "second"}
    assert not judged.verdict.hung or judged.chain, "a hang without a chain is no diagnosis"
    told = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in others.items())
    show(f"full snapshot of two hung processes {snapshot_s * 1000:.1f} ms / bare read of the same files "
         f"{read_s * 1000:.1f} ms; for one process {told}", snapshot_s / read_s, "at most 4")  # fmt: skip
    print(f"benchmark: what ours says of it: {judged.verdict} ({judged.grade}): {'; '.join(judged.chain)}")


def _read_everything(pid: int) -> int:
    """The same files as a full snapshot reads, with nothing done to them."""
    root = Path(f"/proc/{pid}")
    size = 0
    for task in (root / "task").iterdir():
        for name in ("stat", "status", "wchan", "syscall", "schedstat", "comm"):
            size += len((task / name).read_bytes())
    for name in ("stat", "status", "cmdline", "environ", "io", "net/tcp", "net/tcp6"):
        size += len((root / name).read_bytes())
    for fd in (root / "fd").iterdir():
        size += len(str(fd.readlink())) + len((root / "fdinfo" / fd.name).read_bytes())
    return size + len(Path("/proc/locks").read_bytes())


def _quietly(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed; this benchmark compares with it")
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=60)


def test_the_catalogue_on_the_pinned_build(build: Build, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "--ocrepro", f"--ocrepro-version={build.version}", "-q",
               "--ocrepro-expect=any", f"--ocrepro-reports={tmp_path / 'reports'}"]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, timeout=900)
    seconds = time.monotonic() - begun
    lines = (tmp_path / "reports/latest/results.jsonl").read_text().splitlines()
    assert done.returncode == 0, done.stdout[-2000:]
    show(f"{len(lines)} scenarios in {seconds:.0f} s / {CATALOGUE_BUDGET_S:g} s",
         seconds / CATALOGUE_BUDGET_S, "at most 1")  # fmt: skip
