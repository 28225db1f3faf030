"""The reader on psutil beside that of proc(5), on the same processes: the same answer, or none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_ocrepro.observe.connections import asked, connections, owner_of_end
from pytest_ocrepro.observe.portable import PortableReader
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.readers import ProcessReader, reader_here
from pytest_ocrepro.observe.sockets import sockets
from pytest_ocrepro.observe.tables import client_of, look_at_tables
from pytest_ocrepro.readings import FdKind, ProcessId, ProcessReading, SocketReading

LINUX, PORTABLE = Reader(), PortableReader(tells_running=True)
# holds a log open, listens, is connected to us, and has a child
BUSY = """
import socket, subprocess, sys
log = open(sys.argv[1], "a")
listener = socket.create_server(("127.0.0.1", 0))
connected = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
child = subprocess.Popen([sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"])
sys.stdin.read()
"""
WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


@contextmanager
def stand_in(code: str, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python child, it or its own child having said "ready"; ended with what it has."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield child
    finally:
        assert child.stdin is not None
        assert child.stdout is not None
        child.send_signal(signal.SIGCONT)
        child.stdin.close()
        child.wait()
        child.stdout.read()  # to the end of its child too
        child.stdout.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def read(reader: ProcessReader, pid: int, missing: list[str] | None = None) -> ProcessReading:
    told = [] if missing is None else missing
    reading = reader.read_process(pid, role="first", is_subject=True, full=True, missing=told)
    assert reading is not None
    return reading


def test_both_read_the_same_of_one_process(tmp_path: Path) -> None:
    log = str(tmp_path / "opencode.log")
    with socket.create_server(("127.0.0.1", 0)) as ours, stand_in(BUSY, log, str(ours.getsockname()[1])) as child:
        until(lambda: LINUX.state(child.pid) == "S")
        one, other = read(LINUX, child.pid), read(PORTABLE, child.pid)
        for name in ("role", "name", "parent_pid", "session_pid", "state", "argv", "is_subject"):
            assert getattr(one, name) == getattr(other, name), name
        assert abs(one.cpu_ns - other.cpu_ns) <= 20_000_000  # two ticks
        assert abs(one.rss_bytes - other.rss_bytes) < 1 << 20
        assert one.threads[0].voluntary_switches is not None
        assert other.threads[0].voluntary_switches is not None
        assert one.threads[0].state == other.threads[0].state == "S"
        known = {fd.fd: fd for fd in one.fds}
        assert [fd.target for fd in other.fds if fd.kind is FdKind.LOG] == [log]
        assert all(known[fd.fd].kind is fd.kind for fd in other.fds)
        assert {fd.fd for fd in other.fds} == {
            number for number, fd in known.items() if fd.kind in (FdKind.LOG, FdKind.SOCKET)
        }
        # what psutil cannot tell is unknown, and no value
        assert (other.read_bytes, other.written_bytes) == (None, None)
        assert {(fd.position_bytes, fd.writable, fd.inode) for fd in other.fds} == {(None, None, None)}
        assert {(thread.syscall, thread.wchan, thread.runqueue_wait_ns) for thread in other.threads} == {(None,) * 3}
        for look in ("parent", "argv", "exe", "environ"):
            assert getattr(LINUX, look)(child.pid) == getattr(PORTABLE, look)(child.pid) is not None, look
        assert LINUX.is_open_at(child.pid, *next(link for link in LINUX.fd_links(child.pid) if link[1] == log))
        assert PORTABLE.is_open_at(child.pid, *PORTABLE.fd_links(child.pid)[0])


def test_both_see_the_same_tree_and_states() -> None:
    with stand_in(WAITS) as child, stand_in(WAITS) as stopped:
        os.kill(stopped.pid, signal.SIGSTOP)
        until(lambda: LINUX.state(stopped.pid) == "T")
        ended = subprocess.Popen([sys.executable, "-c", ""])
        until(lambda: LINUX.state(ended.pid) == "Z")
        until(lambda: LINUX.state(child.pid) == "S")
        for pid, letter in ((child.pid, "S"), (stopped.pid, "T"), (ended.pid, "Z")):
            assert (LINUX.state(pid), PORTABLE.state(pid)) == (letter, letter)
            one, other = LINUX.identify(pid), PORTABLE.identify(pid)
            assert one is not None
            assert other is not None
            assert (LINUX.alive(one), PORTABLE.alive(other)) == (letter != "Z", letter != "Z")
        ours = {pid for pid in LINUX.pids() if LINUX.parent(pid) == os.getpid()}
        assert ours == {pid for pid in PORTABLE.pids() if PORTABLE.parent(pid) == os.getpid()}
        ended.wait()
        until(lambda: PORTABLE.identify(ended.pid) is None)


def test_a_system_on_which_all_seem_to_run_tells_no_state_but_that_of_a_stopped_one() -> None:
    reader = PortableReader(tells_running=False)
    with stand_in(WAITS) as child:
        assert reader.state(child.pid) == "?"
        assert read(reader, child.pid).threads[0].state is None
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: LINUX.state(child.pid) == "T")
        assert reader.state(child.pid) == "T"


def test_an_identity_stays_and_is_no_other_ones() -> None:
    with stand_in(WAITS) as child:
        process = PORTABLE.identify(child.pid)
        assert process is not None
        assert process == PortableReader().identify(child.pid)
        assert PORTABLE.alive(process)
        assert 0.0 <= PORTABLE.age_s(process) < 60.0
        recycled = ProcessId(pid=child.pid, start_ticks=process.start_ticks - 1_000_000)
        assert not PORTABLE.alive(recycled)
    assert not PORTABLE.alive(process)
    assert PORTABLE.age_s(process) == float("inf")
    assert [PORTABLE.stat(child.pid), PORTABLE.argv(child.pid), PORTABLE.environ(child.pid)] == [None, None, None]


def test_both_find_who_carries_a_mark_and_only_these() -> None:
    with stand_in(WAITS, TEST_MARK="a.1") as one, stand_in(WAITS, TEST_MARK="b.1") as two, stand_in(WAITS) as three:
        for asked_for, pids in (("a.1", [one.pid]), ("a.*", [one.pid]), ("b.1", [two.pid]), ("c.1", [])):
            for reader in (LINUX, PORTABLE):
                for _ in range(2):  # what was learnt is used
                    assert [process.pid for process in reader.marked("TEST_MARK", asked_for)] == pids
        young = PortableReader()
        assert [process.pid for process in young.newly_marked("TEST_MARK", "a.1")] == [one.pid]
        assert three.pid not in {process.pid for process in PORTABLE.marked("TEST_MARK", "*")}


def test_who_does_not_show_an_environment_is_marked_as_the_parent_and_stays_it() -> None:
    """As Apple's own programs do: a bash that opencode starts."""
    inner = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {!r}], env={{}}); {}"
    reader = PortableReader()
    with stand_in(inner.format(WAITS, "sys.stdin.readline()"), TEST_MARK="m.1") as parent:
        (child,) = [pid for pid in LINUX.pids() if LINUX.parent(pid) == parent.pid]
        assert LINUX.environ(child) == {}
        assert {process.pid for process in reader.marked("TEST_MARK", "m.1")} == {parent.pid, child}
        parent.kill()
        until(lambda: LINUX.state(parent.pid) in ("Z", None))
        assert {process.pid for process in reader.marked("TEST_MARK", "m.1")} == {child}
        assert {process.pid for process in PortableReader().marked("TEST_MARK", "m.1")} == set()


def ends(found: tuple[SocketReading, ...]) -> set[tuple[object, ...]]:
    return {(one.pid, one.local, one.remote, one.state, one.peer_pid) for one in found}


def test_both_see_the_same_connections(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        with stand_in(BUSY, str(tmp_path / "a.log"), str(port)) as child, ours.accept()[0] as accepted:
            one, other = read(LINUX, child.pid), read(PORTABLE, child.pid)
            missing: list[str] = []
            told = look_at_tables(PORTABLE, [other], [os.getpid()], missing)
            listener = {(os.getpid(), f"127.0.0.1:{port}", "0.0.0.0:0", "LISTEN", None)}
            seen = ends(sockets(LINUX, [one], harness_pids=[os.getpid()])) & (ends(told.sockets) | listener)
            assert ends(told.sockets) >= seen > listener
            assert {one.pid for one in told.sockets} == {child.pid, os.getpid()}
            assert len([each for each in told.sockets if each.pid == child.pid]) == 2
            assert {(each.inode, each.rx_queue_bytes, each.sent_bytes) for each in told.sockets} == {(None,) * 3}
            assert (told.unix_sockets, told.locks) == ((), ())
            assert [line for line in missing if "unknown on this system: system calls" in line] == missing != []
            address = "{}:{}".format(*accepted.getpeername())
            for reader in (LINUX, PORTABLE):
                assert client_of(reader, address, [os.getpid(), child.pid]) == child.pid
                assert client_of(reader, "127.0.0.1:1", [os.getpid(), child.pid]) is None
    assert connections([other]) == ()
    assert owner_of_end(address, [child.pid]) is None


def test_what_may_not_be_asked_is_unknown() -> None:
    def refused() -> int:
        raise PermissionError

    assert asked(refused) is None
    assert asked(lambda: 5) == 5


@pytest.mark.parametrize(("system", "kind"), [("linux", Reader), ("darwin", PortableReader)])
def test_the_system_decides_who_reads(monkeypatch: pytest.MonkeyPatch, system: str, kind: type) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert type(reader_here()) is kind
