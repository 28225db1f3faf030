from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import LackingError, NotReachedError, StageError, UsageError
from pytest_ocrepro.events import (
    FaultHealed,
    FaultInjected,
    MilestoneReached,
    ProcessFound,
    ProviderRequest,
    RegistryRequest,
    Trouble,
)
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.faults import LOCK_MODES, AtLockDirectory, AtMilestone, AtRequest, DatabaseLock, SignalAt
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import NoInput, OpenPipe, Process, Stdin, until
from pytest_ocrepro.stage.supervisor import Supervisor

READER = Reader()
WAIT_S = 20.0
SLEEP = "import signal; print('up', flush=True); signal.pause()"
Start = Callable[..., Process]
Lock = Callable[..., DatabaseLock]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    one = Supervisor()
    yield one
    one.close()


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def start(supervisor: Supervisor, history: History, tmp_path: Path) -> Iterator[Start]:
    mark = f"{supervisor.mark}.{os.urandom(3).hex()}"

    def begin(role: str, argv: list[str], stdin: Stdin) -> Process:
        output = tmp_path / f"output-{os.urandom(3).hex()}"  # the harness gives each process a role of its own
        output.mkdir()
        process = Process(role, argv, supervisor=supervisor, history=history, output=output, stdin=stdin)
        process.start({MARKER: mark, "PATH": "/usr/bin:/bin"}, str(tmp_path))
        return process

    yield begin
    assert supervisor.sweep(mark, grace_s=0.1).leaked == []


@pytest.fixture
def sleeper(start: Start) -> Process:
    process = start("sleeper", [sys.executable, "-I", "-c", SLEEP], NoInput())
    until(lambda: "up" in process.output, timeout_s=WAIT_S, what="the stand-in's word")
    return process


# -- the database lock


@pytest.fixture(params=["wal", "delete"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "a b?#%.db"
    with contextlib.closing(sqlite3.connect(path)) as made:
        assert made.execute(f"PRAGMA journal_mode = {request.param}").fetchone() == (request.param,)
        made.execute("CREATE TABLE note (text)")
        made.commit()
    return path


@pytest.fixture
def lock(start: Start, history: History) -> Lock:
    def make(path: Path, mode: str = "IMMEDIATE") -> DatabaseLock:
        return DatabaseLock(path, mode, spawn=start, history=history)

    return make


def write(path: Path) -> str:
    """What a writer is told, "" when it could write."""
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as writer:
        try:
            writer.execute("INSERT INTO note VALUES ('x')")
            writer.commit()
        except sqlite3.OperationalError as error:
            return str(error)
    return ""


def read(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as reader:
        try:
            reader.execute("SELECT * FROM note").fetchall()
        except sqlite3.OperationalError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("mode", LOCK_MODES)
def test_lock_blocks_a_writer_until_it_is_healed(lock: Lock, history: History, database: Path, mode: str) -> None:
    assert write(database) == "", "the oracle: without the lock it can write"
    fault = lock(database, mode)
    with fault as same:
        assert same is fault
        assert write(database) == "database is locked"
        assert read(database) == ("database is locked" if mode == "EXCLUSIVE" else "")
        assert fault.holder is not None
        assert history.of_type(FaultHealed) == []
    fault.heal()
    assert write(database) == ""
    (injected,) = history.of_type(FaultInjected)
    assert injected.detail == f"pid {fault.holder.pid} holds {mode} on {database}"
    assert (injected.fault, injected.pid, injected.silent_for_good) == ("database-lock", fault.holder.pid, True)
    assert [event.fault for event in history.of_type(FaultHealed)] == ["database-lock"]
    assert fault.holder.exit_code == 0
    assert history.of_type(Trouble) == []
    with contextlib.closing(sqlite3.connect(database)) as left:
        assert left.execute("SELECT name FROM sqlite_master").fetchall() == [("note",)]


def test_lock_can_be_injected_again(lock: Lock, database: Path) -> None:
    fault = lock(database)
    for _ in range(2):
        with fault:
            assert write(database) == "database is locked"
    assert write(database) == ""


def test_missing_database_is_not_made(lock: Lock, history: History, tmp_path: Path) -> None:
    with pytest.raises(NotReachedError) as caught:
        lock(tmp_path / "none.db").inject()
    assert str(caught.value) == f"no database {tmp_path / 'none.db'} to lock; let a run make it first"
    assert not (tmp_path / "none.db").exists()
    assert len(history) == 0


def test_file_that_is_no_database_leaves_nothing_half_done(lock: Lock, history: History, tmp_path: Path) -> None:
    before = READER.fd_links(os.getpid())
    (tmp_path / "x.db").write_text("no database at all, " * 100)
    fault = lock(tmp_path / "x.db")
    with pytest.raises(NotReachedError) as caught:
        fault.inject()
    what = f"the lock holder could not take IMMEDIATE on {tmp_path / 'x.db'}"
    assert str(caught.value) == f"{what}: sqlite3.DatabaseError: file is not a database"
    assert fault.holder is not None
    assert not fault.holder.alive
    fault.heal()
    assert (history.of_type(FaultInjected), history.of_type(FaultHealed)) == ([], [])
    assert READER.fd_links(os.getpid()) == before


def test_holder_that_never_gets_it_is_ended(
    lock: Lock, history: History, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_ocrepro.stage.faults.HOLDER", SLEEP)
    monkeypatch.setattr("pytest_ocrepro.stage.faults.LET_GO_S", 0.1)

    def soon(condition: Callable[[], object], *, timeout_s: float, what: str) -> None:
        assert timeout_s < WAIT_S
        until(condition, timeout_s=0.2, what=what)

    monkeypatch.setattr("pytest_ocrepro.stage.faults.until", soon)
    fault = lock(database)
    with pytest.raises(NotReachedError, match=r"^the database lock did not happen within 0.2 s$"):
        fault.inject()
    assert fault.holder is not None
    assert not fault.holder.alive
    assert history.of_type(FaultInjected) == []


def test_holder_killed_by_somebody_is_our_trouble(lock: Lock, history: History, database: Path) -> None:
    fault = lock(database)
    with fault:
        assert fault.holder is not None
        os.kill(fault.holder.pid, signal.SIGKILL)
        fault.holder.wait_for_end(WAIT_S)
        assert write(database) == ""
    what = f"the lock holder (pid {fault.holder.pid}) ended before it was told to"
    assert [event.what for event in history.of_type(Trouble)] == [f"{what}: the lock was let go too early; run again"]
    assert len(history.of_type(FaultHealed)) == 1


def test_holder_killed_by_the_scenario_is_no_trouble(lock: Lock, history: History, database: Path) -> None:
    fault = lock(database)
    with fault:
        assert fault.holder is not None
        fault.holder.kill()
        assert write(database) == ""
    assert history.of_type(Trouble) == []
    assert len(history.of_type(FaultHealed)) == 1


def test_lock_mode_that_does_not_exist(lock: Lock, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^no lock mode 'SHARED'; use one of IMMEDIATE, EXCLUSIVE$"):
        lock(tmp_path, "SHARED")


# -- triggers


def milestone(process: Process, name: str) -> MilestoneReached:
    return MilestoneReached(at_ns=now_ns(), pid=process.pid, role=process.role, milestone=name, source="log")


def request(number: int, *, title: bool = False) -> ProviderRequest:
    return ProviderRequest(at_ns=now_ns(), request=number, pid=1, path="/", model="m1", tools=1, title=title)


def test_at_milestone(history: History, sleeper: Process) -> None:
    trigger = AtMilestone(history, sleeper, "plugins-loading")
    history.append(milestone(sleeper, "started"))
    other = MilestoneReached(at_ns=1, pid=sleeper.pid + 1, role="x", milestone="plugins-loading", source="log")
    history.append(other)
    with pytest.raises(NotReachedError, match=r"^sleeper reaches plugins-loading: not within 0.1 s$"):
        trigger.wait(0.1)
    waiting = threading.Thread(target=trigger.wait, args=(WAIT_S,))
    waiting.start()
    history.append(milestone(sleeper, "plugins-loading"))
    waiting.join(WAIT_S)
    assert not waiting.is_alive()


def test_at_request_does_not_count_titles(history: History) -> None:
    trigger = AtRequest(history, 2)
    history.append(request(1, title=True))
    history.append(request(2))
    with pytest.raises(NotReachedError, match=r"^request 2 to the model: not within 0 s$"):
        trigger.wait(0)
    history.append(request(3))
    trigger.wait(0)


@pytest.mark.parametrize("text", ['{{"token":"t","pid":{0},"x":1}}', '{{"x": 1, "pid": {0}}}'])
def test_at_lock_directory(sleeper: Process, tmp_path: Path, text: str) -> None:
    trigger = AtLockDirectory(tmp_path / "state", sleeper, History())
    taken = tmp_path / "state/locks/a.lock"
    taken.mkdir(parents=True)
    meta = taken / "meta.json"
    for not_it in ("", "{", "[1]", json.dumps({"pid": sleeper.pid + 1}), json.dumps({"pid": f"{sleeper.pid}"})):
        meta.write_text(not_it)
        with pytest.raises(NotReachedError, match=r"^sleeper takes a lock directory did not happen within 0 s$"):
            trigger.wait(0)
    meta.write_text(text.format(sleeper.pid))
    trigger.wait(0)
    sleeper.kill()
    trigger.wait(0)  # what it took is still there


def test_at_lock_directory_of_a_process_that_ends_without(sleeper: Process, tmp_path: Path) -> None:
    sleeper.kill()
    with pytest.raises(NotReachedError, match=r"^sleeper takes a lock directory: it ended with -9 before$"):
        AtLockDirectory(tmp_path, sleeper, History()).wait(WAIT_S)


def test_at_lock_directory_of_a_build_that_installs_without(
    sleeper: Process, tmp_path: Path, history: History
) -> None:
    """What a child asks the registry for is no lock; what the process asks for itself may come before one."""
    trigger = AtLockDirectory(tmp_path, sleeper, history)
    for parent, pid in ((sleeper.pid, 11), (sleeper.pid + 1, 12)):
        history.append(
            ProcessFound(at_ns=1, id=ProcessId(pid=pid, start_ticks=1, boot_id="b"), role="child", argv=("install",),
                         parent_pid=parent, is_subject=True)
        )  # fmt: skip
    for asker in (None, sleeper.pid, 12):
        history.append(RegistryRequest(at_ns=2, pid=asker, path="/plugin", reply="stalled"))
    with pytest.raises(NotReachedError, match="did not happen within 0 s"):
        trigger.wait(0)
    history.append(RegistryRequest(at_ns=3, pid=11, path="/plugin", reply="stalled"))
    with pytest.raises(
        LackingError, match=r"^this build takes no install lock: sleeper installs in a child process$"
    ):
        trigger.wait(0)
    (tmp_path / "locks/a.lock").mkdir(parents=True)
    (tmp_path / "locks/a.lock/meta.json").write_text(json.dumps({"pid": sleeper.pid}))
    trigger.wait(0)


# -- a signal at a trigger


class ByHand:
    """A trigger that a test pulls."""

    def __init__(self) -> None:
        self.pulled = threading.Event()

    def describe(self) -> str:
        return "the hand moves"

    def wait(self, timeout_s: float) -> None:
        if not self.pulled.wait(timeout_s):
            raise NotReachedError(f"{self.describe()}: not within {timeout_s:g} s")


def at(
    process: Process, number: signal.Signals, trigger: ByHand, history: History, timeout_s: float = WAIT_S
) -> SignalAt:
    return SignalAt(process, number, trigger, history=history, timeout_s=timeout_s)


def faults(history: History) -> list[str]:
    return [f"{event.fault} {event.detail}" for event in history.of_type(FaultInjected)]


def test_suspend_at_a_trigger_and_resume(history: History, sleeper: Process) -> None:
    hand = ByHand()
    with at(sleeper, signal.SIGSTOP, hand, history) as fault:
        assert READER.state(sleeper.pid) == "S"
        hand.pulled.set()
        fault.wait()
        until(lambda: READER.state(sleeper.pid) == "T", timeout_s=WAIT_S, what="T")
        assert faults(history) == ["SIGSTOP to sleeper when the hand moves"]
        assert history.of_type(FaultInjected)[0].pid == sleeper.pid
    until(lambda: READER.state(sleeper.pid) == "S", timeout_s=WAIT_S, what="S")
    fault.heal()
    assert [event.fault for event in history.of_type(FaultHealed)] == ["SIGSTOP to sleeper"]


def test_kill_at_a_trigger(history: History, sleeper: Process) -> None:
    hand = ByHand()
    with at(sleeper, signal.SIGKILL, hand, history) as fault:
        assert sleeper.alive
        hand.pulled.set()
        fault.wait()
        assert sleeper.exit_code == -signal.SIGKILL
    assert not sleeper.ended_by_itself
    assert faults(history) == ["SIGKILL to sleeper when the hand moves"]
    assert history.of_type(FaultHealed) == []


def test_trigger_that_never_comes(history: History, sleeper: Process) -> None:
    with (
        at(sleeper, signal.SIGSTOP, ByHand(), history, 0.1) as fault,
        pytest.raises(NotReachedError, match=r"^the hand moves: not within 0.1 s$"),
    ):
        fault.wait()
    assert READER.state(sleeper.pid) == "S"
    assert len(history) == 0


def test_trigger_that_comes_after_healing_does_nothing(history: History, sleeper: Process) -> None:
    hand = ByHand()
    with at(sleeper, signal.SIGSTOP, hand, history) as fault:
        pass
    hand.pulled.set()
    with pytest.raises(NotReachedError, match=r"^SIGSTOP to sleeper was not sent: the hand moves was not seen$"):
        fault.wait()
    assert READER.state(sleeper.pid) == "S"
    assert len(history) == 0


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_trigger_that_comes_after_the_process_has_ended(
    history: History, sleeper: Process, number: signal.Signals
) -> None:
    os.kill(sleeper.pid, signal.SIGSEGV)
    sleeper.wait_for_end(WAIT_S)
    hand = ByHand()
    hand.pulled.set()
    with (
        at(sleeper, number, hand, history) as fault,
        pytest.raises(NotReachedError, match=rf"^{number.name} to sleeper: it had ended when the hand moves$"),
    ):
        fault.wait()
    assert (faults(history), history.of_type(FaultHealed), sleeper.ended_by_itself) == ([], [], True)


def test_supervisor_that_is_gone_is_told_by_wait(history: History, tmp_path: Path) -> None:
    own = Supervisor()
    argv = [sys.executable, "-I", "-c", SLEEP]
    process = Process("lost", argv, supervisor=own, history=history, output=tmp_path, stdin=NoInput())
    process.start({MARKER: own.mark}, str(tmp_path))
    hand = ByHand()
    fault = at(process, signal.SIGKILL, hand, history)
    fault.inject()
    own.close()
    hand.pulled.set()
    with pytest.raises(StageError, match="is closed: the session is over"):
        fault.wait()
    assert faults(history) == []


def test_open_pipe_is_what_the_holder_gets(lock: Lock, database: Path) -> None:
    with lock(database) as fault:
        assert isinstance(fault._stdin, OpenPipe)
        assert fault.holder is not None
        assert fault.holder.alive
