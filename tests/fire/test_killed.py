"""Pytest, or a worker of pytest-xdist, is killed at random moments: nothing outlives it, nothing is lost.

A few kills in the default run; a hundred by hand: ``pytest tests/fire -m fire -s`` (some 15 minutes;
``-k "pytest and 0"`` is one block of ten).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.supervisor import MARKER

READER = Reader()
LONGEST_S = 120.0
PROMISED_S = 2.0
BLOCK = 10

# an opencode with a child that ignores SIGTERM, a daemon of another session, and one that has wiped its environment
STAND_IN = """
import os, signal, subprocess, sys
if sys.argv[1:] == ["--version"]:
    print("9.9.9")
    raise SystemExit
here = os.path.abspath(__file__)
def child(ready, **more):
    code = f"import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); {ready}; signal.pause()"
    started = subprocess.Popen([PYTHON, "-I", "-c", code, here], stdout=subprocess.PIPE, **more)
    started.stdout.readline()
child("0")
child("0", start_new_session=True)
child("0", start_new_session=True, env={})
print("all are there", flush=True)
signal.pause()
"""
SCENARIO = """
def test_family(ocrepro):
    opencode = ocrepro.run("hi")
    ocrepro.wait_until(lambda: "all are there" in opencode.output, what="a family", timeout_s=100)
"""


@dataclass
class Field:
    """Where it takes place: a project, and nothing of the user's."""

    root: Path
    seconds: list[float] = field(default_factory=list)  # from the kill until nobody was left
    runs: int = 0
    torn: int = 0

    def __post_init__(self) -> None:
        (self.root / "tmp").mkdir()
        program = self.root / "program.py"
        program.write_text(f"PYTHON = {sys.executable!r}  # its own would be found by argv[0]\n{STAND_IN}")
        (self.root / "opencode").write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
        (self.root / "opencode").chmod(0o755)
        (self.root / "test_family.py").write_text(SCENARIO)
        (self.root / "pytest.ini").write_text("[pytest]\n")

    def begin(self, *more: str) -> subprocess.Popen[bytes]:
        options = [f"--ocrepro-binary={self.root / 'opencode'}", "--ocrepro-trials=3", "--ocrepro-expect=any"]
        places = [f"--rootdir={self.root}", f"-c{self.root / 'pytest.ini'}", str(self.root / "test_family.py")]
        argv = [sys.executable, "-m", "pytest", "--ocrepro", "-pno:cacheprovider", *options, *more, *places]
        own = {"OCREPRO_CACHE_DIR": str(self.root / "cache"), "TMPDIR": str(self.root / "tmp")}
        return subprocess.Popen(
            argv, cwd=self.root, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def survivors(self, pid: int, *, worker: bool = False) -> list[int]:
        """Whoever has the mark of this session, or its supervisor's arguments, or a part of this place in its own.

        The last is not asked for a ``worker``: the others of its run go on.
        """
        mine = {one.pid for one in READER.marked(MARKER, f"{pid}-*")}
        named = (f"{pid}-",) if worker else (str(self.root), f"{pid}-")
        for one in READER.pids():
            argv = READER.argv(one) or ()
            if any(word.startswith(named) for word in argv):
                mine.add(one)
        return sorted(one for one in mine - {os.getpid()} if READER.state(one) not in (None, "Z"))

    def until_nobody_is_left(self, pid: int, *, worker: bool = False) -> None:
        begun = time.monotonic()
        until(lambda: not self.survivors(pid, worker=worker), timeout_s=20, what="the end of all that was started")
        self.seconds.append(time.monotonic() - begun)

    def check_evidence(self) -> None:
        """Every bundle of every run is whole or torn, never damaged; the page can be made of it."""
        for path in sorted((self.root / "reports").glob("*-*")):
            run = RunDir.read(path)
            for bundle in run.bundles():
                if (bundle / "trial.json").exists():  # a kill between mkdir and the first word leaves an empty one
                    self.torn += TrialBundle.read(bundle).torn
                else:
                    assert not list(bundle.glob("[!.]*"))
            run.results()
            assert write_report(run).stat().st_size > 1_000
            self.runs += 1

    def check_the_next_run(self) -> None:
        with self.begin() as process:
            assert process.wait(LONGEST_S) == 0
        assert self.survivors(process.pid) == []
        last = RunDir.read(self.root / "reports")
        assert [one.leaked for one in last.results()] == [(), (), ()]
        assert list((self.root / "cache/supervisors").glob("*")) == []
        assert list((self.root / "tmp").glob("ocrepro-*")) == [], "a sandbox is left"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Field]:
    one = Field(tmp_path)
    yield one
    slow = sum(seconds > PROMISED_S for seconds in one.seconds)
    print(
        f"\n{len(one.seconds)} kills: the longest took {max(one.seconds, default=0):.2f} s until nobody was left, "
        f"{slow} more than {PROMISED_S:g} s; {one.runs} pages made again, {one.torn} trials torn"
    )


def pause(chance: random.Random, process: subprocess.Popen[bytes], longest_s: float) -> None:
    """A random moment of its life."""
    try:
        process.wait(chance.uniform(0, longest_s))
    except subprocess.TimeoutExpired:
        return


def kill_pytest(place: Field, seed: int, longest_s: float) -> None:
    chance = random.Random(seed)  # noqa: S311
    with place.begin() as process:
        pause(chance, process, longest_s)
        process.kill()
    place.until_nobody_is_left(process.pid)


def kill_a_worker(place: Field, seed: int, longest_s: float) -> None:
    chance = random.Random(seed)  # noqa: S311
    with place.begin("-n2") as process:
        until(
            lambda: bool(READER.children_of(process.pid)) or process.poll() is not None, timeout_s=60, what="workers"
        )
        pause(chance, process, longest_s)
        workers = [one for one in map(READER.identify, READER.children_of(process.pid)) if one is not None]
        if process.poll() is None and workers:
            victim = chance.choice(workers)
            os.kill(victim.pid, signal.SIGKILL)  # a child of our child, whose parent has not reaped it yet
            place.until_nobody_is_left(victim.pid, worker=True)
        process.wait(LONGEST_S)
    assert place.survivors(process.pid) == []
    if (place.root / "reports/latest").exists() and RunDir.read(place.root / "reports").results():
        assert (place.root / "reports/latest/report.html").exists(), "a killed worker cost the page"


def test_nothing_is_left_and_nothing_is_lost_after_a_kill(place: Field) -> None:
    kill_pytest(place, 1, 8.0)
    kill_pytest(place, 2, 4.0)
    place.check_evidence()
    place.check_the_next_run()


def test_the_search_for_survivors_finds_one(place: Field) -> None:
    """The oracle of the tests here can fail."""
    argv = [sys.executable, "-I", "-c", "import signal; print(1, flush=True); signal.pause()", str(place.root / "x")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert place.survivors(1) == [process.pid]
        process.kill()


@pytest.mark.fire
@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("victim", ["pytest", "worker"])
def test_a_hundred_kills(place: Field, victim: str, block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        if victim == "pytest":
            kill_pytest(place, 1000 + seed, 10.0)
        else:
            kill_a_worker(place, 2000 + seed, 8.0)
    place.check_evidence()
    place.check_the_next_run()
