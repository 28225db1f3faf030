from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.history import History
from pytest_ocrepro.observe import errands
from pytest_ocrepro.observe.database import read_database
from pytest_ocrepro.observe.deputy import Deputy, DeputyError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.sampler import Observed, Sampler
from pytest_ocrepro.publish.bundle import RunDir, TrialInfo
from pytest_ocrepro.readings import Snapshot
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.subject import from_binary
from pytest_ocrepro.stage.supervisor import Supervisor

if TYPE_CHECKING:
    from tests.observe.conftest import Starter

WRITE = [(120, 1)]  # of a -shm


class Nobody:
    """A world without processes, and one database."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def processes(self) -> list[Observed]:
        return []

    def log_dirs(self) -> list[Path]:
        return []

    def state_dirs(self) -> list[Path]:
        return []

    def databases(self) -> list[Path]:
        return [self._database]

    def lock_keys(self) -> list[str]:
        return []

    def marker(self) -> tuple[str, str]:
        return "OCREPRO_TEST", "nobody"

    def adopt(self, *_: object) -> None:
        raise AssertionError

    def harness_pids(self) -> list[int]:
        return [os.getpid()]


def snapshot_of(database: Path, deputy: Deputy | None) -> Snapshot:
    sampler = Sampler(Nobody(database), History(), Reader(), deputy=deputy)
    try:
        return sampler.snapshot()
    finally:
        sampler.stop()


@contextmanager
def writing(database: Path) -> Iterator[sqlite3.Connection]:
    """A transaction of this very process, as a user's test may have one."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t(x)")
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def ours(database: Path) -> set[tuple[str, int]]:
    """The locks that this process has on the database's files, as the kernel lists them."""
    names = {path.stat().st_ino: path.name for path in database.parent.iterdir()}
    lines = (line for line in Reader().locks() if line.pid == os.getpid() and line.inode in names)
    return {(names[line.inode], line.start) for line in lines}


# --- what it is for


def test_a_lock_of_the_test_itself_survives_a_snapshot(tmp_path: Path, deputy: Deputy) -> None:
    database = tmp_path / "opencode.db"
    with writing(database):
        before = ours(database)
        assert ("opencode.db-shm", 120) in before
        snapshot = snapshot_of(database, deputy)
        assert ours(database) == before
    assert ("WRITE", "WRITE", os.getpid()) in {(lock.name, lock.access, lock.pid) for lock in snapshot.locks}
    assert snapshot.missing == ()


def test_asked_in_the_test_itself_its_lock_would_be_lost(tmp_path: Path) -> None:
    """What the deputy is there to avoid; without this the test above shows nothing."""
    database = tmp_path / "opencode.db"
    with writing(database):
        errands.conflicts(f"{database}-shm", WRITE)
        assert ("opencode.db-shm", 120) not in ours(database)


def test_a_lock_of_the_test_itself_survives_a_copy(tmp_path: Path, deputy: Deputy) -> None:
    database = tmp_path / "opencode.db"
    with writing(database):
        before = ours(database)
        assert read_database(database, tmp_path / "scratch", copy=deputy.copy).readable
        assert ours(database) == before
        read_database(database, tmp_path / "scratch")
        assert ours(database) != before, "copied here, the locks are lost"


def test_a_trial_leaves_the_locks_of_its_test_alone(tmp_path: Path, stand_in: Path) -> None:
    session = Session(RunDir.create(tmp_path / "reports"))
    try:
        trial = Trial(session, from_binary(stand_in), TrialInfo(scenario="a::b", title="b", version="9.9.9"), "b")
        trial.sandbox.database.parent.mkdir(parents=True, exist_ok=True)
        with writing(trial.sandbox.database):
            before = ours(trial.sandbox.database)
            snapshot = trial.sampler.snapshot()
            assert trial.database("while it writes").readable
            assert ours(trial.sandbox.database) == before
        trial.finish()
    finally:
        session.close()
    assert "WRITE" in {lock.name for lock in snapshot.locks if lock.pid == os.getpid()}


def test_the_supervisor_starts_it_and_sees_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    supervisor = Supervisor()
    found = []
    try:
        deputy = Deputy(supervisor.start_helper)
        deputy.begin()
        assert deputy.head(tmp_path / "file", 9) == b"text"
        found = Reader().marked("OCREPRO_MARK", supervisor.mark)
        assert len(found) == 1
    finally:
        supervisor.close()
    assert not [one for one in found if Reader().alive(one)]
    with pytest.raises(DeputyError, match=r"cannot be started: the supervisor .* is closed"):
        deputy.head(tmp_path / "file", 9)


# --- its answers


def test_what_it_answers(tmp_path: Path, deputy: Deputy) -> None:
    path = tmp_path / "file \N{SNOWMAN} with\nstrange name"
    path.write_bytes(bytes(range(256)))
    assert deputy.conflicts(path, [(5, 10)]) == []
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
        assert deputy.conflicts(path, [(0, 6), (5, 1), (200, 1)]) == [("WRITE", 5, 14, os.getpid())]
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_SH)
        assert deputy.conflicts(path, [(0, 6)]) == [("READ", 0, None, os.getpid())]
    assert deputy.head(path, 4) == bytes(range(4))
    assert deputy.head(path, 1000) == bytes(range(256))
    deputy.copy(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == bytes(range(256))


def test_what_cannot_be_opened_is_told_as_it_is(tmp_path: Path, deputy: Deputy) -> None:
    absent = tmp_path / "absent"
    for asking in (
        lambda: deputy.conflicts(absent, WRITE),
        lambda: deputy.head(absent, 1),
        lambda: deputy.copy(absent, tmp_path / "copy"),
    ):
        with pytest.raises(FileNotFoundError):
            asking()
    with pytest.raises(IsADirectoryError):
        deputy.head(tmp_path, 1)


def test_whoever_ends_before_the_answer_hears_no_complaint() -> None:
    reader, output = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    asking = b'[1, "head", ["/dev/null", 1]]\n'
    argv = [sys.executable, "-I", "-S", errands.__file__]
    try:
        ended = subprocess.run(argv, input=asking, stdout=output, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(output)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_pipe_in_the_place_of_a_file_keeps_nobody(tmp_path: Path, deputy: Deputy) -> None:
    os.mkfifo(tmp_path / "opencode.db")
    assert deputy.conflicts(tmp_path / "opencode.db", WRITE) == []
    assert deputy.head(tmp_path / "opencode.db", 1) == b""


def test_many_ask_at_once_and_each_gets_his_own_answer(tmp_path: Path, deputy: Deputy) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        path = tmp_path / str(number)
        path.write_bytes(path.name.encode())
        wrong.extend(path.name for _ in range(20) if deputy.head(path, 99) != path.name.encode())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- when it does not answer


def test_a_deputy_that_ended_is_replaced(tmp_path: Path, deputy: Deputy, starter: Starter) -> None:
    (tmp_path / "file").write_bytes(b"text")
    for _ in range(2):
        assert deputy.head(tmp_path / "file", 9) == b"text"
        starter.last.kill()
        starter.last.wait()
    before_ns = deputy.cpu_ns
    assert deputy.head(tmp_path / "file", 9) == b"text"
    assert len(starter.started) == 3
    assert deputy.cpu_ns > before_ns > 0, "what those before it have used is not forgotten"


def test_a_deputy_that_hangs_is_unknown_until_it_answers_again(tmp_path: Path, starter: Starter) -> None:
    database = tmp_path / "opencode.db"
    (tmp_path / "file").write_bytes(b"text")
    with closing(Deputy(starter, answer_s=20.0)) as deputy, writing(database):
        deputy.begin()
        assert deputy.head(tmp_path / "file", 9) == b"text"
        deputy._answer_s = 0.05
        starter.last.send_signal(signal.SIGSTOP)
        until(lambda: Reader().state(starter.last.pid) == "T")
        with pytest.raises(DeputyError, match="has not answered 'head' in time"):
            deputy.head(tmp_path / "file", 9)
        deputy._answer_s = 20.0
        snapshot = snapshot_of(database, deputy)
        with pytest.raises(OSError, match="has not answered an earlier question"):
            deputy.copy(tmp_path / "file", tmp_path / "copy")
        starter.last.send_signal(signal.SIGCONT)
        until(lambda: known(lambda: deputy.conflicts(database, WRITE)))
        assert deputy.conflicts(Path(f"{database}-shm"), WRITE) == [("WRITE", 120, 120, os.getpid())]
    assert snapshot.locks == ()
    assert snapshot.missing == (
        f"{database}: F_GETLK: the deputy has not answered an earlier question; a file system may hang",
    )
    assert len(starter.started) == 1


def test_a_deputy_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise StageError("no more processes")

    database = tmp_path / "opencode.db"
    before = Reader().fd_links(os.getpid())
    deputy = Deputy(refuse)
    snapshot = snapshot_of(database, deputy)
    assert snapshot.missing == (f"{database}: F_GETLK: the deputy cannot be started: no more processes",)
    assert Reader().fd_links(os.getpid()) == before
    assert snapshot_of(database, None).missing == (f"{database}: F_GETLK: nobody to ask",)


def test_a_deputy_that_dies_at_once_is_started_twice_and_no_more(tmp_path: Path, starter: Starter) -> None:
    def short_lived(_: list[str], stdin: int, stdout: int) -> None:
        starter(["true"], stdin, stdout)

    with closing(Deputy(short_lived)) as deputy, pytest.raises(DeputyError, match="has ended twice"):
        deputy.head(tmp_path, 1)
    assert len(starter.started) == 2


def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("the condition did not come true in time")


def known(question: Callable[[], object]) -> bool:
    try:
        question()
    except DeputyError:
        return False
    return True


MAY_MOUNT = os.geteuid() == 0 and Path("/dev/fuse").exists()  # a file system that hangs can be made by root alone


@contextmanager
def stalled_file_system(at: Path) -> Iterator[Path]:
    """A FUSE mount whose server never reads a request: whoever opens a file in it sleeps until it is torn down."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"stalled", os.fsencode(at), b"fuse", 0, options.encode()) != 0:
        os.close(server)
        pytest.fail(f"cannot mount a file system that hangs: {os.strerror(ctypes.get_errno())}")
    try:
        yield at
    finally:
        os.close(server)  # the kernel refuses everybody who waits
        libc.umount2(os.fsencode(at), 2)  # MNT_DETACH


if MAY_MOUNT:

    def test_a_file_system_that_hangs_hangs_the_deputy_and_not_us(tmp_path: Path, starter: Starter) -> None:
        (tmp_path / "mount").mkdir()
        (tmp_path / "file").write_bytes(b"text")
        with closing(Deputy(starter, answer_s=20.0)) as deputy:
            assert deputy.head(tmp_path / "file", 9) == b"text"
            deputy._answer_s = 0.05
            with stalled_file_system(tmp_path / "mount") as mount:
                snapshot = snapshot_of(mount / "opencode.db", deputy)
                until(lambda: Reader().state(starter.last.pid) in ("D", "S"))
                assert known(lambda: deputy.head(tmp_path / "file", 9)) is False, "it sleeps in the file system"
            deputy._answer_s = 20.0
            until(lambda: known(lambda: deputy.head(tmp_path / "file", 9)))
            assert deputy.head(tmp_path / "file", 9) == b"text"
        assert snapshot.locks == ()
        told = "F_GETLK: the deputy has not answered 'conflicts' in time; a file system may hang"
        assert snapshot.missing == (f"{mount / 'opencode.db'}: {told}",)
        assert len(starter.started) == 1


@pytest.mark.parametrize(("kind", "access"), [(fcntl.F_RDLCK, "READ"), (fcntl.F_WRLCK, "WRITE")])
def test_a_lock_is_asked_for_in_the_layout_of_macos_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, access: str
) -> None:
    """Its struct flock begins with the place (sys/fcntl.h there); nobody here can answer in it but a stand-in."""
    asked: list[tuple[int, ...]] = []

    def answer(_: int, command: int, question: bytes) -> bytes:
        assert command == fcntl.F_GETLK
        asked.append(struct.unpack("=qqihh", question))
        start, length = asked[-1][:2]
        return struct.pack("=qqihh", start, length, 4711, fcntl.F_UNLCK if start == 7 else kind, 0)

    path = tmp_path / "a.db"
    path.touch()
    with monkeypatch.context() as system:
        system.setattr(sys, "platform", "darwin")
        spec = importlib.util.spec_from_file_location("errands_of_macos", errands.__file__)
        assert spec is not None
        assert spec.loader is not None
        there = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(there)
    monkeypatch.setattr(there.fcntl, "fcntl", answer)
    assert there.conflicts(str(path), [(120, 1), (7, 1), (0, 0)]) == [
        (access, 120, 120, 4711),
        (access, 0, None, 4711),
    ]
    assert asked == [(start, length, 0, fcntl.F_WRLCK, os.SEEK_SET) for start, length in ((120, 1), (7, 1), (0, 0))]
