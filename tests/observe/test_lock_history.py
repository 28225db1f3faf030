from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.events import LockDirectoryChanged
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.verdict import judge
from pytest_ocrepro.observe import lock_history
from pytest_ocrepro.observe.lock_history import LockHistory
from pytest_ocrepro.observe.locks import lock_directories
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.readings import LockChange, LockDirectory
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.subject import PINNED, fetch

KEY = "npm-install:/p"
PATIENCE_S = 120.0  # a start takes 1 to 5 s alone, and ten times that beside much else
NAME = hashlib.sha1(KEY.encode(), usedforsecurity=False).hexdigest() + ".lock"


@contextmanager
def process() -> Iterator[int]:
    """A stand-in for a holder; dead when the block ends."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield child.pid
    finally:
        child.kill()
        child.communicate()


class Locks:
    """Takes and breaks locks as opencode does."""

    def __init__(self, state: Path) -> None:
        self.path = state / "opencode" / "locks" / NAME
        self.path.parent.mkdir(parents=True)
        self._state = state
        self._count = 0

    def take(self, pid: int) -> None:
        self._count += 1
        self.path.mkdir()
        (self.path / "heartbeat").touch()
        created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        meta = {"token": f"t{self._count}", "pid": pid, "hostname": socket.gethostname(), "createdAt": created}
        (self.path / "meta.json").write_bytes(msgspec.json.encode(meta))

    def release(self) -> None:
        shutil.rmtree(self.path)

    def break_it(self, pid: int) -> None:
        breaker = self.path.with_name(f"{NAME}.breaker")
        breaker.mkdir()
        self.release()
        self.take(pid)
        breaker.rmdir()

    def age(self, seconds: float) -> None:
        at = time.time() - seconds
        os.utime(self.path / "heartbeat", (at, at))


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path)


@pytest.fixture
def look(tmp_path: Path, locks: Locks) -> Iterator[Callable[[], list[tuple[str, int | None, int | None]]]]:
    with closing(LockHistory(Reader())) as history:

        def told() -> list[tuple[str, int | None, int | None]]:
            found = history.look([tmp_path, tmp_path / "absent"], [KEY])
            assert all((event.path, event.key) == (str(locks.path), KEY) for event in found)
            return [(event.how.value, event.holder_pid, event.previous_pid) for event in found]

        assert told() == []
        yield told


Look = Callable[[], list[tuple[str, int | None, int | None]]]


def test_taken_released_and_taken_again_between_two_looks(locks: Locks, look: Look) -> None:
    ours = os.getpid()
    with process() as other:
        locks.take(ours)
        assert look() == [("taken", ours, None)]
        assert look() == []
        locks.release()
        locks.take(other)
        assert look() == [("released", None, ours), ("taken", other, None)]
        locks.release()
        assert look() == [("released", None, other)]


def test_left_behind_by_the_dead_and_broken_by_the_next(locks: Locks, look: Look) -> None:
    with process() as holder:
        locks.take(holder)
        assert look() == [("taken", holder, None)]
    assert look() == [("left-behind", None, holder)]
    assert look() == []
    locks.age(61.0)
    locks.break_it(os.getpid())
    assert look() == [("broken-as-stale", os.getpid(), holder)]


def test_left_behind_and_removed_by_hand(locks: Locks, look: Look) -> None:
    with process() as holder:
        locks.take(holder)
    assert look() == [("taken", holder, None), ("left-behind", None, holder)]
    locks.release()
    assert look() == [("removed", None, holder)]


def test_broken_while_its_holder_lives(locks: Locks, look: Look) -> None:
    with process() as one, process() as two, process() as three:
        locks.take(one)
        look()
        locks.break_it(two)
        assert look() == [("taken-from-live-holder", two, one)]
        locks.age(61.0)
        look()
        locks.break_it(three)
        assert look() == [("broken-as-stale", three, two)]


def test_written_over_in_place(locks: Locks, look: Look) -> None:
    with process() as one, process() as two:
        locks.take(one)
        look()
        meta = msgspec.json.decode((locks.path / "meta.json").read_bytes())
        (locks.path / "meta.json").write_bytes(msgspec.json.encode({**meta, "token": "other", "pid": two}))
        assert look() == [("taken-from-live-holder", two, one)]


def test_a_meta_that_cannot_be_read_for_once_is_no_change(locks: Locks, look: Look) -> None:
    locks.take(os.getpid())
    look()
    meta = (locks.path / "meta.json").read_bytes()
    (locks.path / "meta.json").write_bytes(meta[:10])
    assert look() == []
    (locks.path / "meta.json").write_bytes(meta)
    assert look() == [("named", os.getpid(), None)]


def test_a_change_in_the_middle_of_a_look_is_put_where_it_belongs(
    locks: Locks, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is released and taken behind the listing: the listing is made again, and nothing is told twice."""
    listed = lock_directories
    ours = os.getpid()
    with process() as other:

        def disturbed(*arguments: object, **more: object) -> tuple[LockDirectory, ...]:
            found = listed(*arguments, **more)  # type: ignore[arg-type]
            if found and found[0].holder_pid == ours:
                locks.release()
                locks.take(other)
            return found

        locks.take(ours)
        assert look() == [("taken", ours, None)]
        monkeypatch.setattr(lock_history, "lock_directories", disturbed)
        assert look() == [("released", None, ours), ("taken", other, None)]
        monkeypatch.setattr(lock_history, "lock_directories", listed)
        assert look() == []


def test_a_folder_that_is_never_still_counts_as_not_watched(
    locks: Locks, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = lock_directories

    def restless(*arguments: object, **more: object) -> tuple[LockDirectory, ...]:
        (locks.path.parent / "noise").touch()
        (locks.path.parent / "noise").unlink()
        return listed(*arguments, **more)  # type: ignore[arg-type]

    with process() as other:
        locks.take(os.getpid())
        look()
        monkeypatch.setattr(lock_history, "lock_directories", restless)
        locks.break_it(other)
        assert look() == [(LockChange.CHANGED_HANDS.value, other, os.getpid())], "it may be told wrong, so it is not"


# --- the real thing


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    session = Session(RunDir.create(tmp_path / "reports"))
    build = fetch(PINNED)
    info = TrialInfo(scenario="lock::history", title="lock history", version=build.version)
    trial = Trial(session, build, info, "lock-history")
    try:
        yield trial
    finally:
        trial.finish()
        session.close()


def told_of(trial: Trial, pid: int) -> list[str]:
    """What has become of the locks of this holder so far, in order, each kind once."""
    events = trial.history.of_type(LockDirectoryChanged)
    words = [event.how.value for event in events if pid in (event.holder_pid, event.previous_pid)]
    words = [word for word in words if word != LockChange.NAMED]  # a look that came between mkdir and meta.json
    return list(dict.fromkeys(words))


def names(trial: Trial, pid: int) -> bool:
    """Whether this process was seen to hold a lock; meta.json, which says so, comes a moment after the directory."""
    return any(event.holder_pid == pid for event in trial.history.of_type(LockDirectoryChanged))


def overlap(trial: Trial) -> tuple[Process, Process]:
    """A holder that waits for its silent registry, and a waiter."""
    trial.registry.stall()
    trial.project.add_plugin()
    first = trial.run("hi", model="bogus/nope-1")
    trial.wait_for(trial.at_lock_directory(first), timeout_s=PATIENCE_S)
    trial.wait_until(lambda: told_of(trial, first.pid), what="the lock of the first is seen", timeout_s=PATIENCE_S)
    second = trial.run("hi", model="bogus/nope-2")
    trial.wait_for(trial.at_milestone(second, "bootstrapping"), timeout_s=PATIENCE_S)
    return first, second


@pytest.mark.real
def test_opencode_lets_go_and_the_waiter_takes_over(trial: Trial) -> None:
    first, second = overlap(trial)
    trial.registry.heal()
    trial.wait_until(lambda: not first.alive and not second.alive, what="both answer", timeout_s=PATIENCE_S)
    trial.sampler.light()
    assert told_of(trial, first.pid) == ["taken", "released"]
    assert set(told_of(trial, second.pid)) <= {"taken", "released"}, "it may be too quick to be seen"


@pytest.mark.real
def test_opencode_breaks_the_lock_of_a_dead_holder_when_it_is_stale(trial: Trial) -> None:
    first, second = overlap(trial)
    first.kill()
    trial.wait_until(
        lambda: "left-behind" in told_of(trial, first.pid), what="the lock is left behind", timeout_s=PATIENCE_S
    )
    for heartbeat in trial.sandbox.root.glob("state/opencode/locks/*.lock/heartbeat"):
        os.utime(heartbeat, (time.time() - 61.0,) * 2)  # instead of a minute's wait
    trial.wait_until(
        lambda: "broken-as-stale" in told_of(trial, first.pid), what="the waiter breaks it", timeout_s=PATIENCE_S
    )
    assert told_of(trial, first.pid) == ["taken", "left-behind", "broken-as-stale"]
    trial.wait_until(lambda: names(trial, second.pid), what="it is the new holder", timeout_s=PATIENCE_S)
    broken = [one for one in trial.history.of_type(LockDirectoryChanged) if one.how is LockChange.BROKEN_AS_STALE]
    assert all("a breaker was made first" in one.because for one in broken)
    assert not judge(trial.history).findings, "nobody lost what he had"


@pytest.mark.real
def test_opencode_breaks_the_lock_of_a_holder_that_lives_and_does_not_beat(trial: Trial) -> None:
    first, _ = overlap(trial)
    first.suspend()
    for heartbeat in trial.sandbox.root.glob("state/opencode/locks/*.lock/heartbeat"):
        os.utime(heartbeat, (time.time() - 61.0,) * 2)
    trial.wait_until(lambda: len(told_of(trial, first.pid)) > 1, what="the waiter breaks it", timeout_s=PATIENCE_S)
    assert set(told_of(trial, first.pid)) <= {"taken", "broken-as-stale", "taken-from-live-holder"}
    assert {finding.kind for finding in judge(trial.history).findings} == {"lock-taken-from-live-holder"}
