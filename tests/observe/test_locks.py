from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.observe.errands import conflicts
from pytest_ocrepro.observe.locks import file_locks, lock_directories, name_bytes, probe
from pytest_ocrepro.observe.procfs import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_ocrepro.readings import FileLock, LockDirectory, ProcessReading

DB = "/s/opencode.db"
PENDING, RESERVED, SHARED, LAST = 1073741824, 1073741825, 1073741826, 1073742335


@pytest.mark.parametrize(
    ("path", "start", "end", "access", "name"),
    [
        (DB, PENDING, PENDING, "READ", "PENDING"),
        (DB, RESERVED, RESERVED, "WRITE", "RESERVED"),
        (DB, PENDING, RESERVED, "WRITE", "PENDING+RESERVED"),
        (DB, SHARED, LAST, "READ", "SHARED"),
        (DB, SHARED, LAST, "WRITE", "EXCLUSIVE"),
        (DB, PENDING, LAST, "WRITE", "EXCLUSIVE"),
        (DB, RESERVED, LAST, "READ", "RESERVED+SHARED"),
        (DB, 0, None, "WRITE", "EXCLUSIVE"),
        (DB, 0, 10, "WRITE", ""),
        (DB, LAST + 1, None, "WRITE", ""),
        ("/s/other", 0, None, "WRITE", ""),
        ("/s/database-by-another-name", SHARED, LAST, "READ", "SHARED"),
        (f"{DB}-shm", 120, 120, "WRITE", "WRITE"),
        (f"{DB}-shm", 121, 122, "WRITE", "CKPT+RECOVER"),
        (f"{DB}-shm", 123, 127, "WRITE", "READ0+READ1+READ2+READ3+READ4"),
        (f"{DB}-shm", 128, 128, "READ", "DMS"),
        (f"{DB}-shm", 129, None, "READ", ""),
        (f"{DB}-shm", 0, 119, "READ", ""),
    ],
)
def test_names_of_bytes(path: str, start: int, end: int | None, access: str, name: str) -> None:
    assert name_bytes(path, start, end, access=access) == name


@given(st.text(max_size=20), st.integers(0, 2**63), st.none() | st.integers(0, 2**63))
def test_any_range_has_a_name_or_none(path: str, start: int, end: int | None) -> None:
    assert isinstance(name_bytes(path, start, end), str)


# --- stand-ins


@contextmanager
def stand_in(code: str, *arguments: str | Path, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A Python child that answers each line on stdin with one on stdout; killed and reaped at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert not ready or child.stdout.readline().strip() == "ready"
        yield child
    finally:
        child.kill()
        child.communicate()


def ask(child: subprocess.Popen[str], line: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def until(condition: Callable[[], object], *, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


LOCKER = """
import fcntl, sys
file = open(sys.argv[2], 'r+')
if sys.argv[1] == 'flock': fcntl.flock(file, fcntl.LOCK_EX)
if sys.argv[1] == 'fcntl': fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
if sys.argv[1] == 'ofd':
    import struct
    fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 120, 1, 0))  # F_OFD_SETLK
print('ready', flush=True)
sys.stdin.read()
"""
SQLITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
for statement in sys.argv[2:]: connection.execute(statement).fetchall()
print('ready', flush=True)
for line in sys.stdin:
    try: print(connection.execute(line).fetchall(), flush=True)
    except sqlite3.Error as error: print(error, flush=True)
"""
WAL = ("PRAGMA journal_mode=WAL", "CREATE TABLE IF NOT EXISTS t(x)", "SELECT * FROM t")


def observed(*pids: int) -> list[ProcessReading]:
    reader = Reader()
    found = [reader.read_process(pid, role=str(pid), is_subject=False, full=True, missing=[]) for pid in pids]
    return [reading for reading in found if reading is not None]


def asked(database: Path) -> tuple[FileLock, ...]:
    """Asked from here: this process has no SQLite connection of its own."""
    return probe(database, lambda path, ranges: conflicts(str(path), ranges))


def named(locks: tuple[FileLock, ...]) -> set[tuple[str, str, int | None]]:
    return {(lock.name, lock.access, lock.pid) for lock in locks}


@pytest.mark.parametrize(("how", "kind", "bounds"), [("flock", "FLOCK", (0, None)), ("fcntl", "POSIX", (5, 14))])
def test_a_holder_and_a_waiter(tmp_path: Path, how: str, kind: str, bounds: tuple[int, int | None]) -> None:
    path = tmp_path / "locked"
    path.touch()
    reader = Reader()
    with stand_in(LOCKER, how, path) as holder, stand_in(LOCKER, how, path, ready=False) as waiter:
        until(lambda: any(line.waiting and line.pid == waiter.pid for line in reader.locks()))
        both = file_locks(reader, observed(holder.pid, waiter.pid))
        only_waiter = file_locks(reader, observed(waiter.pid))
    assert [(lock.pid, lock.waiting, lock.source) for lock in both] == [
        (holder.pid, False, "fdinfo"),
        (waiter.pid, True, "/proc/locks"),
    ]
    assert {(lock.path, lock.kind, lock.name, lock.start, lock.end) for lock in both} == {
        (str(path), kind, "", *bounds)
    }
    assert {(lock.pid, lock.waiting, lock.source) for lock in only_waiter} == {
        (waiter.pid, True, "/proc/locks"),
        (holder.pid, False, "/proc/locks"),
    }, "the holder outside of the observed processes must be named"


def test_an_idle_connection_in_wal_mode_has_the_files_open_and_no_more(tmp_path: Path) -> None:
    database = tmp_path / "opencode.db"
    with stand_in(SQLITE, database, *WAL) as idle:
        expected = {("SHARED", "READ", idle.pid), ("DMS", "READ", idle.pid)}
        assert named(file_locks(Reader(), observed(idle.pid))) == expected
        assert named(asked(database)) == expected


def test_a_writer_in_wal_mode_is_named_from_inside_and_outside(tmp_path: Path) -> None:
    database = tmp_path / "opencode.db"
    with stand_in(SQLITE, database, *WAL, "BEGIN IMMEDIATE") as writer:
        inside, outside = named(file_locks(Reader(), observed(writer.pid))), named(asked(database))
    assert ("WRITE", "WRITE", writer.pid) in inside
    assert ("WRITE", "WRITE", writer.pid) in outside
    assert [lock for lock in asked(database) if lock.pid == writer.pid] == [], "a dead process holds nothing"


def test_an_exclusive_lock_in_rollback_mode(tmp_path: Path) -> None:
    database = tmp_path / "opencode.db"
    with stand_in(SQLITE, database, "CREATE TABLE t(x)", "BEGIN EXCLUSIVE") as writer:
        assert named(file_locks(Reader(), observed(writer.pid))) == {("EXCLUSIVE", "WRITE", writer.pid)}
        assert named(asked(database)) == {("EXCLUSIVE", "WRITE", writer.pid)}


def held_on(folder: Path, reader: Reader) -> set[tuple[int | None, str, int, int, int | None]]:
    inodes = {path.stat().st_ino for path in folder.iterdir()}
    lines = (line for line in reader.locks() if line.inode in inodes)
    return {(line.pid, line.access, line.inode, line.start, line.end) for line in lines}


def test_probing_takes_nothing_and_disturbs_nobody(tmp_path: Path) -> None:
    database = tmp_path / "opencode.db"
    reader = Reader()
    with stand_in(SQLITE, database, *WAL, "BEGIN IMMEDIATE") as writer, stand_in(SQLITE, database) as other:
        before = held_on(tmp_path, reader)
        assert {pid for pid, *_ in before} == {writer.pid}
        content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for _ in range(50):
            asked(database)
        assert held_on(tmp_path, reader) == before, "nobody else's, ours included"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content
        assert ask(other, "BEGIN IMMEDIATE") == "database is locked"
        assert ask(writer, "INSERT INTO t VALUES (1)") == "[]"
        assert ask(writer, "COMMIT") == "[]"
        assert ask(other, "SELECT * FROM t") == "[(1,)]"


def test_an_open_file_description_has_no_pid(tmp_path: Path) -> None:
    shm = tmp_path / "opencode.db-shm"
    shm.touch()
    with stand_in(LOCKER, "ofd", shm) as holder:
        assert [(lock.kind, lock.name, lock.pid) for lock in asked(tmp_path / "opencode.db")] == [
            ("OFDLCK", "WRITE", None)
        ]
        attributed = file_locks(Reader(), observed(holder.pid))
        assert [(lock.kind, lock.name, lock.pid) for lock in attributed] == [("OFDLCK", "WRITE", holder.pid)]


def test_probing_what_is_not_there(tmp_path: Path) -> None:
    assert asked(tmp_path / "opencode.db") == ()
    assert not list(tmp_path.iterdir()), "a probe must not create files"


def test_a_holder_that_vanishes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.touch()
    with stand_in(LOCKER, "flock", path) as holder:
        readings = observed(holder.pid)
    assert file_locks(Reader(), readings) == ()


# --- opencode's own lock directories


def take(state: Path, key: str, meta: object | None, *, heartbeat_age_s: float | None = 1.0) -> Path:
    path = state / "opencode" / "locks" / f"{hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()}.lock"
    path.mkdir(parents=True)
    if isinstance(meta, bytes):
        (path / "meta.json").write_bytes(meta)
    elif meta is not None:
        (path / "meta.json").write_bytes(msgspec.json.encode(meta))
    if heartbeat_age_s is not None:
        (path / "heartbeat").touch()
        at = time.time() - heartbeat_age_s
        os.utime(path / "heartbeat", (at, at))
    return path


def meta_of(pid: int, *, age_s: float = 0.0, hostname: str | None = None) -> dict[str, object]:
    created = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat(timespec="milliseconds")
    created = created.replace("+00:00", "Z")
    return {"token": "t", "pid": pid, "hostname": hostname or socket.gethostname(), "createdAt": created}


def only(state: Path, *, keys: tuple[str, ...] = ("npm-install:/p",)) -> LockDirectory:
    (found,) = lock_directories([state], key_candidates=keys, reader=Reader(), now_wall=time.time())
    return found


def test_a_live_holder_with_its_key(tmp_path: Path) -> None:
    path = take(tmp_path, "npm-install:/p", meta_of(os.getpid()), heartbeat_age_s=30.0)
    found = only(tmp_path)
    assert (found.path, found.key, found.holder_pid, found.holder_alive) == (
        str(path),
        "npm-install:/p",
        os.getpid(),
        True,
    )
    assert found.heartbeat_age_s == pytest.approx(30.0, abs=5.0)
    assert found.age_s == pytest.approx(0.0, abs=5.0)
    assert found.token == "t"


def test_a_dead_holder(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    take(tmp_path, "npm-install:/p", meta_of(child.pid))
    assert only(tmp_path).holder_alive is False


def test_a_recycled_pid_is_a_dead_holder(tmp_path: Path) -> None:
    take(tmp_path, "npm-install:/p", meta_of(os.getpid(), age_s=10 * 365 * 86400.0))
    assert only(tmp_path).holder_alive is False


def test_a_holder_on_another_host_is_unknown(tmp_path: Path) -> None:
    take(tmp_path, "npm-install:/p", meta_of(os.getpid(), hostname="elsewhere.invalid"))
    assert only(tmp_path).holder_alive is None


@pytest.mark.parametrize("meta", [None, b"", b'{"token":"t","pid":', b"[]", b'{"pid":"x"}', b"\xff\xff", {}])
def test_a_torn_or_missing_meta(tmp_path: Path, meta: object) -> None:
    take(tmp_path, "npm-install:/p", meta, heartbeat_age_s=None)
    found = only(tmp_path, keys=())
    assert (found.key, found.holder_pid, found.holder_alive, found.heartbeat_age_s) == (None, None, None, None)
    assert found.age_s == pytest.approx(0.0, abs=5.0), "the directory's own time is left"


def test_other_entries_and_absent_folders_are_no_locks(tmp_path: Path) -> None:
    folder = tmp_path / "opencode" / "locks"
    folder.mkdir(parents=True)
    (folder / "x.lock.breaker").mkdir()
    state_dirs = [tmp_path, tmp_path / "absent"]
    assert lock_directories(state_dirs, key_candidates=(), reader=Reader(), now_wall=0.0) == ()


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["pid", "createdAt", "token"]), st.integers() | st.text())
)
def test_no_meta_makes_it_raise(meta: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        take(Path(folder), "k", meta, heartbeat_age_s=None)
        assert only(Path(folder), keys=("k",)).key == "k"
