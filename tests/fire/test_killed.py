"""Pytest, or a worker of pytest-xdist, is ended at random moments: nothing outlives it, nothing is lost.

A few kills in the default run; the others by hand: ``pytest tests/fire/test_killed.py -m fire -s`` (some 40 minutes;
``-k "kills_of_stand_ins and pytest and 0"`` is one block of ten, ``-k catalogue`` those on the real build).
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.subject import PINNED, resolve

ROOT = Path(__file__).parents[2]
READER = Reader()
LONGEST_S = 120.0
PROMISED_S = 2.0
BLOCK = 10
MOST_TRIES = 10

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
# the same family beside a real opencode
BESIDE = """
def test_family(ocrepro):
    family = ocrepro.spawn({program!r}, role="family")
    ocrepro.wait_until(lambda: "all are there" in family.output, what="a family", timeout_s=100)
    ocrepro.run("hi").wait(60)
"""


@dataclass
class Field:
    """Where it takes place: a project, and nothing of the user's."""

    root: Path
    binary: Path | None = None  # None: the stand-in
    scenarios: tuple[str, ...] = ()  # besides that of the stand-in's family
    trials: int = 3
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

    def begin(self, *more: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
        """``terminal``: a descriptor of the terminal that it is the foreground job of."""
        binary = self.binary or self.root / "opencode"
        options = [f"--ocrepro-binary={binary}", f"--ocrepro-trials={self.trials}", "--ocrepro-expect=any"]
        places = [f"--rootdir={self.root}", f"-c{self.root / 'pytest.ini'}", f"--ocrepro-reports={self.root}/reports"]
        what = [str(self.root / "test_family.py"), *self.scenarios]
        argv = [sys.executable, "-m", "pytest", "--ocrepro", "-pno:cacheprovider", *options, *more, *places, *what]
        own = {"OCREPRO_CACHE_DIR": str(self.root / "cache"), "TMPDIR": str(self.root / "tmp")}
        stdio: int = subprocess.DEVNULL if terminal is None else terminal
        return subprocess.Popen(
            argv,
            cwd=self.root,
            env={**os.environ, **own},
            stdin=stdio,
            stdout=stdio,
            stderr=stdio,
            start_new_session=terminal is not None,
            preexec_fn=None if terminal is None else take_terminal,  # noqa: PLW1509  before we have threads
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

    def check_pages(self) -> None:
        """Whoever is ended in order has written the page of what was run, himself."""
        for path in sorted((self.root / "reports").glob("*-*")):
            assert not RunDir.read(path).results() or (path / "report.html").exists(), f"{path.name} has no page"

    def ended_well(self) -> bool:
        """The newest run has all of its trials: the signal came behind its end."""
        return len(RunDir.read(self.root / "reports").results()) >= self.trials

    def check_the_next_run(self) -> None:
        with self.begin() as process:
            assert process.wait(LONGEST_S) == 0
        assert self.survivors(process.pid) == []
        last = RunDir.read(self.root / "reports")
        results = last.results()
        assert len(results) >= self.trials
        assert [one.leaked for one in results] == [()] * len(results)
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


def take_terminal() -> None:
    """Between fork and exec: standard input becomes the controlling terminal of the new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def until_it_hits(once: Callable[[float], bool], longest_s: float) -> None:
    """Try again, and sooner, where the run was over before its random moment had come: nobody was ended then."""
    for _ in range(MOST_TRIES):
        begun = time.monotonic()
        if once(longest_s):
            return
        longest_s = min(longest_s, time.monotonic() - begun)
    pytest.fail(f"{MOST_TRIES} runs were over before they were to be ended")


def kill_pytest(place: Field, seed: int, longest_s: float, number: int = signal.SIGKILL) -> None:
    chance = random.Random(seed)  # noqa: S311

    def once(longest_s: float) -> bool:
        with place.begin() as process:
            pause(chance, process, longest_s)
            hit = process.poll() is None
            process.send_signal(number)
            assert process.wait(LONGEST_S) != 0 or place.ended_well()
        if hit:
            place.until_nobody_is_left(process.pid)
        return hit

    until_it_hits(once, longest_s)


def close_the_terminal(place: Field, seed: int, longest_s: float) -> None:
    """As a window is closed, or a connection breaks: SIGHUP to the foreground job, and no terminal any more."""
    chance = random.Random(seed)  # noqa: S311

    def once(longest_s: float) -> bool:
        ours, theirs = pty.openpty()
        try:
            with place.begin(terminal=theirs) as process:
                os.close(theirs)
                read_for(ours, chance.uniform(0, longest_s))
                hit = process.poll() is None
                os.close(ours)
                ours = -1
                process.wait(LONGEST_S)
        finally:
            if ours >= 0:
                os.close(ours)
        if hit:
            place.until_nobody_is_left(process.pid)
        return hit

    until_it_hits(once, longest_s)


def read_for(terminal: int, seconds: float) -> None:
    """Be a terminal that shows what it is told, so that nobody waits for us; until then, or the end of its job."""
    waiting = select.poll()
    waiting.register(terminal, select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if waiting.poll(left * 1000):
            try:
                os.read(terminal, 65536)
            except OSError:  # EIO: nobody has it open any more
                return


def kill_a_worker(place: Field, seed: int, longest_s: float, *, to_the_end: bool = True) -> None:
    """``to_the_end``: the rest of the run goes on without the worker; else it is ended in order, by SIGTERM."""
    chance = random.Random(seed)  # noqa: S311

    def once(longest_s: float) -> bool:
        with place.begin("-n2") as process:
            until(
                lambda: bool(READER.children_of(process.pid)) or process.poll() is not None,
                timeout_s=60,
                what="workers",
            )
            pause(chance, process, longest_s)
            workers = [one for one in map(READER.identify, READER.children_of(process.pid)) if one is not None]
            hit = process.poll() is None and bool(workers)
            if hit:
                victim = chance.choice(workers)
                os.kill(victim.pid, signal.SIGKILL)  # a child of our child, whose parent has not reaped it yet
                place.until_nobody_is_left(victim.pid, worker=True)
            if not to_the_end:
                process.terminate()
            process.wait(LONGEST_S)
        assert place.survivors(process.pid) == []
        return hit

    until_it_hits(once, longest_s)
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
def test_a_hundred_kills_of_stand_ins(place: Field, victim: str, block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        if victim == "pytest":
            kill_pytest(place, 1000 + seed, 10.0)
        else:
            kill_a_worker(place, 2000 + seed, 8.0)
    place.check_evidence()
    place.check_the_next_run()
    assert max(place.seconds) <= PROMISED_S


@pytest.mark.fire
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "terminal closed"])
def test_twelve_ends_by_another_signal(place: Field, how: str) -> None:
    for seed in range(12):
        if how == "terminal closed":
            close_the_terminal(place, 3000 + seed, 14.0)
        else:
            kill_pytest(place, 4000 + seed, 14.0, signal.Signals[how])
    if how in ("SIGINT", "SIGTERM"):
        place.check_pages()
    place.check_evidence()
    place.check_the_next_run()
    assert max(place.seconds) <= PROMISED_S


CATALOGUE = ("overlapping_runs", "crash_in_bash_tool", "cold_start_stampede", "question_lockout")


@pytest.mark.fire
@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("victim", ["pytest", "worker"])
def test_a_hundred_kills_of_the_catalogue(place: Field, victim: str, block: int) -> None:
    """On the real build; in the same run a setsid daemon and children that trap SIGTERM, so that none is missed.

    Behind the kill of a worker its run goes on: one of a block to its end, which takes a minute or two.
    """
    place.binary, place.trials = Path(resolve(None, [PINNED])[0].path), 1
    (place.root / "test_family.py").write_text(
        BESIDE.format(program=[sys.executable, str(place.root / "program.py")])
    )
    file = CATALOGUE[block % len(CATALOGUE)]
    place.scenarios = (str(ROOT / f"scenarios/test_{file}.py"),)
    for seed in range(block * BLOCK // 2, (block + 1) * BLOCK // 2):
        if victim == "pytest":
            kill_pytest(place, 5000 + seed, 15.0)
        else:
            kill_a_worker(place, 6000 + seed, 15.0, to_the_end=seed % (BLOCK // 2) == 0)
    place.check_evidence()
    place.check_the_next_run()
    assert max(place.seconds) <= PROMISED_S
