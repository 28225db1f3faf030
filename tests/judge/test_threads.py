from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.judge.threads import Wait, groups, wait_of
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import FdKind, FdReading, ProcessId, ProcessReading, ThreadReading

FDS = (
    FdReading(fd=5, kind=FdKind.DATABASE, target="/s/opencode.db"),
    FdReading(fd=13, kind=FdKind.EVENTPOLL, target="anon_inode:[eventpoll]", detail="watches fds 3 11"),
)


def thread(syscall: str | None, *arguments: int, tid: int = 1, name: str = "t") -> ThreadReading:
    words = [*arguments, *[0] * (6 - len(arguments))]
    return ThreadReading(tid=tid, name=name, syscall=syscall, arguments=tuple(f"{word:#x}" for word in words))


MINUS_1 = 0xFFFFFFFFFFFFFFFF
PRIVATE = 0x80
REALTIME = 0x100


@pytest.mark.parametrize(
    ("reading", "wait"),
    [
        (thread("futex", 0x7F12, PRIVATE), Wait(words="waits for a futex, for ever", for_ever=True, futex="0x7f12")),
        (
            thread("futex", 0x7F12, 9 | PRIVATE | REALTIME, 2, 0xBEEF),
            Wait(words="waits for a futex, with a timeout that cannot be read", futex="0x7f12"),
        ),
        (
            thread("futex", 0x7F12, 6 | PRIVATE),
            Wait(words="waits for a futex with priority inheritance, for ever", for_ever=True, futex="0x7f12"),
        ),
        (thread("futex", 0x7F12, 1 | PRIVATE), Wait(words="is in futex operation 1", for_ever=False)),
        (
            thread("futex_wait", 0x9, 1, 2, 3, 0),
            Wait(words="waits for a futex, for ever", for_ever=True, futex="0x9"),
        ),
        (
            thread("futex_waitv", 0x9, 4, 0, 0x8),
            Wait(words="waits for one of 4 futexes, with a timeout that cannot be read"),
        ),
        (
            thread("epoll_wait", 13, 0x1, 8, 0xFFFFFFFF),
            Wait(words="waits for one of the 2 fds that epoll fd 13 watches, for ever", for_ever=True, fd=13),
        ),
        (
            thread("epoll_pwait", 13, 0x1, 8, MINUS_1),
            Wait(words="waits for one of the 2 fds that epoll fd 13 watches, for ever", for_ever=True, fd=13),
        ),
        (
            thread("epoll_wait", 14, 0x1, 8, 50_000),
            Wait(words="waits for epoll fd 14, for at most 50 s", for_ever=False, seconds=50.0, fd=14),
        ),
        (
            thread("epoll_wait", 14, 0x1, 8, 0),
            Wait(words="waits for epoll fd 14, without waiting", for_ever=False, seconds=0.0, fd=14),
        ),
        (
            thread("epoll_pwait2", 14, 0x1, 8, 0x7FFF),
            Wait(words="waits for epoll fd 14, with a timeout that cannot be read", fd=14),
        ),
        (thread("epoll_pwait2", 14, 0x1, 8, 0), Wait(words="waits for epoll fd 14, for ever", for_ever=True, fd=14)),
        (
            thread("poll", 0x1, 3, 1500),
            Wait(words="waits for one of 3 fds, for at most 1.5 s", for_ever=False, seconds=1.5),
        ),
        (thread("ppoll", 0x1, 3, 0), Wait(words="waits for one of 3 fds, for ever", for_ever=True)),
        (
            thread("pselect6", 9, 0, 0, 0, 0x1),
            Wait(words="waits for fds below 9, with a timeout that cannot be read"),
        ),
        (thread("wait4", 812), Wait(words="waits for its child pid 812 to end, for ever", for_ever=True, pid=812)),
        (thread("wait4", 0xFFFFFFFF), Wait(words="waits for any child to end, for ever", for_ever=True)),
        (thread("wait4", 0), Wait(words="waits for any child of its process group to end, for ever", for_ever=True)),
        (
            thread("wait4", 0xFFFFFFF8),
            Wait(words="waits for any child of process group 8 to end, for ever", for_ever=True),
        ),
        (
            thread("waitid", 1, 812),
            Wait(words="waits for its child pid 812 to end, for ever", for_ever=True, pid=812),
        ),
        (thread("waitid", 0, 0), Wait(words="waits for any child to end, for ever", for_ever=True)),
        (thread("waitid", 3, 9), Wait(words="waits for the child of pidfd 9 to end, for ever", for_ever=True)),
        (
            thread("fcntl", 5, 7),
            Wait(words="waits for a lock on fd 5 (/s/opencode.db), for ever", for_ever=True, fd=5),
        ),
        (
            thread("fcntl", 5, 38),
            Wait(words="waits for a lock on fd 5 (/s/opencode.db), for ever", for_ever=True, fd=5),
        ),
        (thread("fcntl", 5, 6), Wait(words="tries for a lock on fd 5 (/s/opencode.db)", for_ever=False, fd=5)),
        (
            thread("fcntl", 5, 1033),
            Wait(words="is in fcntl command 1033 on fd 5 (/s/opencode.db)", for_ever=False, fd=5),
        ),
        (thread("flock", 6, 2), Wait(words="waits for a flock on fd 6, for ever", for_ever=True, fd=6)),
        (thread("flock", 6, 6), Wait(words="tries for a flock on fd 6", for_ever=False, fd=6)),
        (thread("read", 5), Wait(words="reads from fd 5 (/s/opencode.db)", fd=5)),
        (thread("recvfrom", 7), Wait(words="waits for data on fd 7", fd=7)),
        (thread("clock_nanosleep", 0, 0, 1), Wait(words="sleeps, for a time that cannot be read", for_ever=False)),
        (thread("pause"), Wait(words="waits for a signal, for ever", for_ever=True)),
        (thread("mkdir", 1), Wait(words="makes a directory")),
        (thread("syscall-999", 1, 0x20), Wait(words="is in syscall-999(0x1, 0x20, 0x0)")),
        (ThreadReading(tid=1, name="t", syscall="running"), Wait(words="runs, or is ready to run", for_ever=False)),
        (
            ThreadReading(tid=1, name="t", syscall="none"),
            Wait(words="sleeps outside of any call: a page fault, or stopped"),
        ),
        (ThreadReading(tid=1, name="t"), Wait(words="waits for what cannot be read")),
        (
            ThreadReading(tid=1, name="t", syscall="futex"),
            Wait(words="is in futex, with arguments that cannot be read"),
        ),
        (
            ThreadReading(tid=1, name="t", syscall="read", arguments=("x",)),
            Wait(words="is in read, with arguments that cannot be read"),
        ),
    ],
)
def test_a_wait_in_words(reading: ThreadReading, wait: Wait) -> None:
    assert wait_of(reading, FDS) == wait


@given(
    st.sampled_from(
        ["futex", "epoll_wait", "poll", "wait4", "waitid", "fcntl", "flock", "read", "epoll_pwait2", "x"]
    ),
    st.lists(st.text(max_size=8) | st.integers(0, 2**64 - 1).map(hex), max_size=7),
)
def test_no_arguments_make_it_raise(syscall: str, arguments: list[str]) -> None:
    assert wait_of(ThreadReading(tid=1, name="t", syscall=syscall, arguments=tuple(arguments)), FDS).words


def process(*threads: ThreadReading) -> ProcessReading:
    return ProcessReading(
        id=ProcessId(pid=1, start_ticks=1), role="first", name="opencode", parent_pid=0, session_pid=0, state="S",
        threads=threads, fds=FDS,
    )  # fmt: skip


def test_threads_that_share_a_futex_are_one_group() -> None:
    found = groups(
        process(
            thread("epoll_pwait2", 13, 0x1, 8, 0, tid=1, name="opencode"),
            thread("futex", 0x7F12, PRIVATE, tid=2, name="Bun Pool 0"),
            thread("futex", 0x9000, PRIVATE, tid=3, name="HeapHelper"),
            thread("futex", 0x7F12, PRIVATE, tid=4, name="Bun Pool 1"),
            thread("mkdir", 1, tid=5, name="a"),
            thread("mkdir", 2, tid=6, name="b"),
        )
    )
    assert [[one.tid for one in group.threads] for group in found] == [[1], [2, 4], [3], [5, 6]]
    assert [group.words for group in found] == [
        "opencode waits for one of the 2 fds that epoll fd 13 watches, for ever",
        "2 threads (Bun Pool 0, Bun Pool 1), each waits for one futex (0x7f12), for ever",
        "HeapHelper waits for a futex, for ever",
        "2 threads (a, b), each makes a directory",
    ]


# --- real threads, in each of these calls

CHILD = """
import ctypes, fcntl, os, select, signal, socket, subprocess, sys, threading, time
what, path = sys.argv[1:]
print('ready', flush=True)
if what == 'futex':
    lock = threading.Lock(); lock.acquire()
    for _ in range(3): threading.Thread(target=lock.acquire, daemon=True).start()
    lock.acquire()
if what == 'epoll': select.epoll().poll(50)
if what == 'epoll-for-ever': select.epoll().poll()
if what == 'wait4':
    child = subprocess.Popen(['sleep', '300'], stdin=subprocess.DEVNULL); print(child.pid, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: (child.kill(), os._exit(0)))
    os.waitpid(child.pid, 0)
if what == 'fcntl': fcntl.lockf(open(path, 'r+'), fcntl.LOCK_EX)
if what == 'flock': fcntl.flock(open(path), fcntl.LOCK_EX)
if what == 'sleep': time.sleep(300)
if what == 'read': os.read(0, 1)
if what == 'recv': ours, theirs = socket.socketpair(); ours.recv(1)
if what == 'pause': signal.pause()
"""


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("futex", "waits for a futex, for ever"),
        ("epoll", "waits for epoll fd FD, for at most 50 s"),
        ("epoll-for-ever", "waits for epoll fd FD, for ever"),
        ("wait4", "waits for its child pid CHILD to end, for ever"),
        ("fcntl", "waits for a lock on fd FD (PATH), for ever"),
        ("flock", "waits for a flock on fd FD (PATH), for ever"),
        ("sleep", "sleeps, for a time that cannot be read"),
        ("read", "reads from fd FD (TARGET)"),
        ("recv", "waits for data on fd FD (TARGET)"),
        ("pause", "waits for a signal, for ever"),
    ],
)
def test_a_real_wait_in_words(what: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.touch()
    with path.open("r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-c", CHILD, what, str(path)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            grandchild = child.stdout.readline().strip() if what == "wait4" else ""
            settled(child.pid)
            reading = Reader().read_process(child.pid, role="x", is_subject=False, full=True, missing=[])
        finally:
            child.terminate()
            child.communicate(timeout=10)
    assert reading is not None
    wait = wait_of(reading.threads[0], reading.fds)
    target = next((fd.target for fd in reading.fds if fd.fd == wait.fd), "")
    for word, value in (("FD", wait.fd), ("CHILD", grandchild), ("PATH", path), ("TARGET", target)):
        expected = expected.replace(word, str(value))
    assert wait.words == expected
    assert wait.pid == (int(grandchild) if grandchild else None)
    if what == "futex":
        assert [len(group.threads) for group in groups(reading)] == [4]


def settled(pid: int) -> None:
    """Every thread sleeps in the same call in two looks with no switch in between."""
    deadline = time.monotonic() + 10
    before: object = None
    while time.monotonic() < deadline:
        reading = Reader().read_process(pid, role="x", is_subject=False, full=True, missing=[])
        assert reading is not None
        seen = [(one.tid, one.state, one.syscall, one.voluntary_switches) for one in reading.threads]
        if seen == before and all(state == "S" for _, state, *_ in seen):
            return
        before = seen
        time.sleep(0.05)
    pytest.fail(f"pid {pid} does not come to rest; {os.getpid()} has waited 10 s")
