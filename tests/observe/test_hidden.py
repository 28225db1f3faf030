"""What may not be seen is unknown: another user's process, one that /proc hides, one of another PID namespace.

Only root can make these situations, so only root's runs have these tests.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_ocrepro.observe.procfs import Reader

# looks at a process and at the lock directories and the database of a state directory, and prints what it saw
LOOK = """
import ctypes, os, sys, time
sys.path[:] = sys.argv[5:]
import msgspec, pathlib
from pytest_ocrepro.observe.errands import conflicts
from pytest_ocrepro.observe.locks import file_locks, lock_directories, probe
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.unix_sockets import unix_sockets
how, pid, state, database = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
if how == 'hidepid':
    libc.unshare(0x20000)  # CLONE_NEWNS
    libc.mount(b'none', b'/', None, 0x44000, None)  # MS_REC, MS_PRIVATE
    if libc.mount(b'proc', b'/proc', b'proc', 0, b'hidepid=2') != 0:
        sys.exit('cannot mount /proc with hidepid=2: ' + os.strerror(ctypes.get_errno()))
if how != 'root':
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
reader, missing = Reader(), []
reading = reader.read_process(pid, role='x', is_subject=True, full=True, missing=missing)
processes = [reading] if reading else []
told = dict(
    reading=reading, missing=missing, hidden=reader.hidden(pid), listed=pid in reader.pids(),
    directories=lock_directories([state], key_candidates=['k'], reader=reader, now_wall=time.time()),
    asked=probe(database, lambda path, ranges: conflicts(str(path), ranges)),
    file_locks=file_locks(reader, processes, []), unix=unix_sockets(reader, processes, []),
)
sys.stdout.buffer.write(msgspec.json.encode(told))
"""
HOLDER = """
import fcntl, socket, sys
file = open(sys.argv[1], 'r+')
fcntl.lockf(file, fcntl.LOCK_EX, 1, 120)
pair = socket.socketpair()
print('ready', flush=True); sys.stdin.read()
"""
NOT_ROOT = 65534


@contextmanager
def holder(database: Path, *before: str) -> Iterator[int]:
    """A process that has a lock on the -shm; its outer pid."""
    Path(f"{database}-shm").touch()
    database.touch()
    command = [*before, sys.executable, "-c", HOLDER, f"{database}-shm"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield Reader().children_of(child.pid)[0] if before else child.pid
    finally:
        child.communicate()


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder that every user may look into, as a lock directory's and a database's may be."""
    path = Path(f"/tmp/ocrepro-test-{os.getpid()}")
    (path / "opencode/locks").mkdir(parents=True)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", str(path)], check=True)


def look(how: str, pid: int, state: Path, *before: str) -> dict[str, Any]:
    command = [*before, sys.executable, "-c", LOOK, how, str(pid), str(state), str(state / "opencode.db"), *sys.path]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def taken(state: Path, pid: int) -> None:
    lock = state / "opencode/locks" / f"{hashlib.sha1(b'k', usedforsecurity=False).hexdigest()}.lock"
    lock.mkdir()
    meta = {"token": "t", "pid": pid, "hostname": socket.gethostname(), "createdAt": datetime.now(UTC).isoformat()}
    (lock / "meta.json").write_bytes(msgspec.json.encode(meta))


if os.geteuid() == 0:

    def test_another_users_process_has_a_state_and_no_files(state: Path) -> None:
        with holder(state / "opencode.db") as pid:
            taken(state, pid)
            mine, foreign = look("root", pid, state), look("user", pid, state)
        assert mine["missing"] == []
        assert mine["reading"]["threads"][0]["syscall"] == "read"
        assert {one["name"] for one in mine["file_locks"]} == {"WRITE"}
        assert len(mine["unix"]) == 2
        (thread,) = foreign["reading"]["threads"]
        assert (thread["state"], foreign["reading"]["state"]) == ("S", "S")
        assert {"wchan", "syscall", "arguments"}.isdisjoint(thread), "unknown, and no value"
        assert {"fds", "read_bytes", "written_bytes"}.isdisjoint(foreign["reading"])
        assert thread["voluntary_switches"] > 0, "anybody may see these"
        words = " ".join(foreign["missing"])
        for name in ("fd", "io", "syscall"):
            assert f"pid {pid}: {name}: Permission denied" in words
        assert f"pid {pid}: wchan: 0 for a sleeping thread" in words
        assert (foreign["file_locks"], foreign["unix"]) == ([], [])
        assert [one["holder_alive"] for one in foreign["directories"]] == [True], "stat may be read by anybody"
        assert [(one["name"], one["pid"]) for one in foreign["asked"]] == [("WRITE", pid)], "F_GETLK names it still"

    def test_a_process_that_proc_hides_is_unknown_and_not_dead(state: Path) -> None:
        with holder(state / "opencode.db") as pid:
            taken(state, pid)
            seen = look("hidepid", pid, state)
        assert (seen["reading"], seen["listed"], seen["hidden"]) == (None, False, True)
        (directory,) = seen["directories"]
        assert directory["holder_pid"] == pid
        assert directory["holder_alive"] is None, "whether it lives cannot be told; it does"
        assert [(one["name"], one["pid"]) for one in seen["asked"]] == [("WRITE", pid)]
        gone = look("hidepid", pid, state)
        assert (gone["hidden"], gone["directories"][0]["holder_alive"]) == (False, False), "nobody has this pid now"

    def test_nothing_is_hidden_from_root(state: Path) -> None:
        with holder(state / "opencode.db") as pid:
            seen = look("root", pid, state)
        assert (seen["listed"], seen["hidden"]) == (True, False)

    UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

    def test_a_process_of_an_inner_pid_namespace_is_read_from_outside(state: Path) -> None:
        with holder(state / "opencode.db", *UNSHARE) as pid:
            seen = look("root", pid, state)
            inner = Reader().inner_pids(pid)
        assert inner == (pid, 1)
        assert seen["reading"]["threads"][0]["syscall"] == "read"
        assert [(one["name"], one["pid"]) for one in seen["file_locks"]] == [("WRITE", pid)]
        assert [(one["name"], one["pid"]) for one in seen["asked"]] == [("WRITE", pid)], "translated for us"

    def test_a_holder_outside_of_our_pid_namespace_has_no_pid(state: Path) -> None:
        with holder(state / "opencode.db") as pid:
            seen = look("root", pid, state, *UNSHARE)
        assert seen["reading"] is None
        assert [(one["name"], one["access"], one["pid"]) for one in seen["asked"]] == [("WRITE", "WRITE", None)]

    def test_files_that_refuse_are_unknown(state: Path) -> None:
        """The same on a made-up tree, file by file: each that refuses takes its own field away and no other."""
        stat = f"42 (x) S 1 1 1 {'0 ' * 13}0 0 77 0 5"
        task = state / "proc/42/task/42"
        task.mkdir(parents=True)
        for folder in (task.parents[1], task):
            (folder / "stat").write_text(stat)
        texts = {"wchan": "ep_poll", "syscall": "202 0x1 0x80 0x0 0x0 0x0 0x0 0x1 0x2", "schedstat": "1 2 3",
                 "status": "voluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n"}  # fmt: skip
        for name, text in texts.items():
            (task / name).write_text(text)
        fields = {"wchan": "wchan", "syscall": "syscall", "schedstat": "cpu_ns", "status": "voluntary_switches"}
        for refused in texts:
            (task / refused).chmod(0)
            missing: list[str] = []
            os.seteuid(NOT_ROOT)
            try:
                reading = Reader(str(state / "proc"), machine="x86_64").read_process(
                    42, role="x", is_subject=True, full=True, missing=missing
                )
            finally:
                os.seteuid(0)
            (task / refused).chmod(0o644)
            assert reading is not None
            (thread,) = reading.threads
            unknown = {name for name, field in fields.items() if getattr(thread, field) is None}
            assert unknown == {refused}
            assert f"pid 42: {refused}: Permission denied" in missing


def test_a_pid_that_nobody_has_is_not_hidden(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    reader = Reader()
    assert not reader.hidden(child.pid)
    assert not reader.hidden(0)
    assert not reader.hidden(2**40)
    assert not reader.hidden(os.getpid())
    assert not Reader(str(tmp_path)).hidden(os.getpid()), "a made-up tree hides nothing"
    assert child.returncode != -signal.SIGKILL
