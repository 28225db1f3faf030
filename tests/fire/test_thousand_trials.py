"""A thousand trials with a stand-in in one session of two workers: nothing grows, nothing is left, what it costs us.

By hand: ``pytest tests/fire/test_thousand_trials.py -m fire -s`` (some 2 minutes on two quiet cores); the environment
variable OCREPRO_FIRE_TRIALS sets another number, of at least 300: what a process loads once takes some 100 trials.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.stage.orders import MARKER

TRIALS = int(os.environ.get("OCREPRO_FIRE_TRIALS", "1000"))
LONGEST_S = 3600.0
OWN_CPU_S = 0.030
GROWN_BYTES = 16_000  # a trial: pytest -n2 alone keeps reports of 6 KB of each empty test, we its result of 6 KB
READER = Reader()

METER = '''
"""What pytest's own process is made of, after each trial. CPU is its own, that of what it has reaped, and, of a
worker, that of all that lives below it: supervisor, guard, deputy; not what these have reaped, the subjects."""
import json, os, threading, time
import pytest
PLACE = os.environ["METER"]
WHO = os.environ.get("PYTEST_XDIST_WORKER", "controller")

def below(pid):
    """Seconds on a CPU (schedstat(5)) of each descendant that lives."""
    tasks = [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")]
    children = [child for task in tasks for child in open(f"{task}/children").read().split()]
    spent = {child: sum(int(open(f"/proc/{child}/task/{tid}/schedstat").read().split()[0]) / 1e9
                        for tid in os.listdir(f"/proc/{child}/task")) for child in children}
    return spent | {pid: spent for child in children for pid, spent in below(child).items()}

def meter():
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.islink(link)]
    sockets = sum(name.startswith("socket:") for name in names)
    line = {"pid": os.getpid(), "resident": resident, "fds": len(names), "sockets": sockets,
            "threads": threading.active_count(),
            "cpu": time.process_time() + sum(os.times()[2:4]),
            "below": below(os.getpid()) if WHO != "controller" else {}}
    with open(f"{PLACE}/{WHO}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")

def pytest_runtest_logfinish():
    meter()
'''
SCENARIO = """
def test_it(ocrepro):
    ocrepro.expect(ocrepro.run("hi")).to_finish()
"""


def slope(values: list[float]) -> float:
    """Growth a step, of the later half: what a process loads once is behind it by then."""
    later = values[len(values) // 2 :]
    return statistics.linear_regression(range(len(later)), later).slope


class Meter:
    """What one process was made of, after each trial."""

    def __init__(self, path: Path) -> None:
        self.who = path.stem
        self.lines: list[dict[str, Any]] = list(map(json.loads, path.read_text().splitlines()))
        first, last = self.lines[0], self.lines[-1]
        self.pid = int(first["pid"])
        self.below_s = sum(spent - first["below"].get(pid, 0) for pid, spent in last["below"].items()) / self._steps
        self.cpu_s = (last["cpu"] - first["cpu"]) / self._steps + self.below_s

    @property
    def _steps(self) -> int:
        return len(self.lines) - 1

    def slope(self, what: str) -> float:
        return slope([float(one[what]) for one in self.lines])

    def __str__(self) -> str:
        first, last = self.lines[0], self.lines[-1]
        counted = ", ".join(f"{name} {first[name]} -> {last[name]}" for name in ("fds", "sockets", "threads"))
        return (
            f"{self.who}: {len(self.lines)} trials, resident {first['resident'] / 1e6:.1f} -> "
            f"{last['resident'] / 1e6:.1f} MB ({self.slope('resident'):.0f} bytes a trial at last), {counted}, "
            f"own CPU {self.cpu_s * 1e3:.1f} ms a trial, {self.below_s * 1e3:.1f} of them in what lives below it"
        )


def test_the_slope_is_found() -> None:
    assert slope([50.0] * 100) == 0
    assert slope([100.0 * one for one in range(100)]) == pytest.approx(100)
    assert slope([*map(float, range(0, 5000, 100)), *[5000.0] * 50]) == pytest.approx(0)


@pytest.mark.fire
def test_a_thousand_trials_in_one_session(tmp_path: Path) -> None:
    for name in ("tmp", "meter", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "meter.py").write_text(METER)
    binary = tmp_path / "opencode"
    binary.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 9.9.9 && exit\necho done\n')
    binary.chmod(0o755)
    (tmp_path / "test_it.py").write_text(SCENARIO)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = [
        "-n2",
        f"--ocrepro-trials={TRIALS}",
        f"--ocrepro-binary={binary}",
        "--ocrepro-expect=any",
    ]
    places = [f"--ocrepro-reports={tmp_path / 'reports'}", f"--rootdir={tmp_path}", f"-c{tmp_path / 'pytest.ini'}"]
    argv = [sys.executable, "-m", "pytest", "--ocrepro", "-q", "-pmeter", "-pno:cacheprovider", *options, *places]
    own = {
        "PYTHONPATH": str(tmp_path),
        "METER": str(tmp_path / "meter"),
        "TMPDIR": str(tmp_path / "tmp"),
        "OCREPRO_CACHE_DIR": str(tmp_path / "cache"),
    }
    with subprocess.Popen(
        [*argv, str(tmp_path / "test_it.py")],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, said
    results = RunDir.read(tmp_path / "reports").results()
    assert len(results) == TRIALS
    assert {one.leaked for one in results} == {()}
    told = [Meter(path) for path in sorted((tmp_path / "meter").iterdir())]
    assert len(told) == 3, "a controller and two workers"
    assert [READER.marked(MARKER, f"{one.pid}-*") for one in told] == [[], [], []], "somebody is left"
    left = [one.name for one in (tmp_path / "tmp").iterdir() if not one.name.startswith("pytest-of-")]
    assert left == [], "temporary files are left"
    assert list((tmp_path / "cache/supervisors").iterdir()) == []

    print(*map(str, told), sep="\n")
    for one in told:
        grown = max(one.slope("fds"), one.slope("sockets"), one.slope("threads"))
        assert grown * len(one.lines) < 1, f"descriptors or threads are left: {one}"
    (controller,) = (one for one in told if one.who == "controller")
    assert all(one.slope("resident") < GROWN_BYTES for one in told)
    workers = [one for one in told if one is not controller]
    assert all(one.below_s > 0 for one in workers), "a supervisor that costs nothing was not looked at"
    assert all(one.cpu_s + controller.cpu_s <= OWN_CPU_S for one in workers)
