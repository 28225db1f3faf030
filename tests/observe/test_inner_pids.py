"""What the kernel tells of processes in a PID namespace to who reads from outside, and what is left to us."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from pytest_ocrepro.observe.errands import conflicts
from pytest_ocrepro.observe.inner_pids import InnerPids
from pytest_ocrepro.observe.locks import lock_directories
from pytest_ocrepro.readings import ProcessReading, ThreadReading
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import CHOICE, Rung
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import READER, READY_S, Child, needs, python, until_gone

pytestmark = needs(Rung.NAMESPACE)

HOLDS = """
import fcntl, json
folder = sys.argv[1]
file = open(folder + "/locked", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
lock = folder + "/opencode/locks/abc.lock"
os.makedirs(lock)
with open(lock + "/meta.json", "w") as meta:
    json.dump({"pid": os.getpid(), "token": "t"}, meta)
child = os.fork()
if child:
    tell(os.getpid(), child)
    os.write(1, b"ready\\n")
    os.waitpid(child, 0)
    rest()
os.setpgid(0, 0)
signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    monkeypatch.setenv(CHOICE, Rung.NAMESPACE)
    with closing(Supervisor()) as supervisor:
        child = Child(supervisor, [*python(HOLDS), str(tmp_path)], f"{supervisor.mark}.1")
        with child.stdout:
            yield child


def reading(pid: int) -> ProcessReading:
    missing: list[str] = []
    found = READER.read_process(pid, role="first", is_subject=True, full=True, missing=missing)
    assert found is not None
    return found


def test_locks_are_told_by_the_pid_outside_whoever_asks(holder: Child, tmp_path: Path) -> None:
    pid = holder.members()[0].pid
    assert READER.inner_pids(pid) == (pid, 2)
    assert [owner for *_, owner in conflicts(str(tmp_path / "locked"), [(0, 1)])] == [pid], "F_GETLK"
    inode = (tmp_path / "locked").stat().st_ino
    assert [line.pid for line in READER.locks() if line.inode == inode] == [pid], "/proc/locks"
    fd = next(fd for fd, target in READER.fd_links(pid) if target == str(tmp_path / "locked"))
    info = READER.fd_info(pid, fd)
    assert info is not None
    assert [line.pid for line in info.locks] == [pid], "fdinfo"


def test_a_pid_that_is_written_down_is_translated_for_the_living_and_the_dead(holder: Child, tmp_path: Path) -> None:
    mine = holder.members()[0]

    def holders(inner: InnerPids) -> list[tuple[int | None, bool | None]]:
        found = lock_directories([tmp_path], key_candidates=(), reader=READER, now_wall=time.time(), inner=inner)
        return [(lock.holder_pid, lock.holder_alive) for lock in found]

    assert json.loads((tmp_path / "opencode/locks/abc.lock/meta.json").read_bytes())["pid"] == 2
    table = InnerPids(READER, apart=True)
    assert table.learn(mine) == 2
    assert holders(table) == [(mine.pid, True)]
    os.kill(mine.pid, 9)
    until_gone([mine])
    assert holders(table) == [(mine.pid, False)]
    assert holders(InnerPids(READER, apart=True)) == [(None, None)], "nobody has seen it: unknown, and not dead"


def test_one_that_was_never_looked_at_is_found_while_it_lives(holder: Child) -> None:
    mine, child = holder.members()
    table = InnerPids(READER, apart=True)
    assert table.outer(3) is None, "no namespace is known yet"
    table.learn(mine, 2)
    assert table.outer(3) == child.pid
    os.kill(child.pid, 9)
    until_gone([child])
    assert (table.outer(3), table.outer(4711)) == (child.pid, None)


def test_whom_a_process_waits_for_is_told_by_the_pid_outside(holder: Child) -> None:
    mine, child = holder.members()
    until(lambda: reading(mine.pid).threads[0].syscall == "wait4", timeout_s=READY_S, what="a parent that waits")
    table = InnerPids(READER, apart=True)
    table.learn(mine)
    raw = reading(mine.pid)
    assert int(raw.threads[0].arguments[0], 16) == 3
    told = table.outward(raw).threads[0]
    assert int(told.arguments[0], 16) == child.pid
    assert told.arguments[1:] == raw.threads[0].arguments[1:]
    assert InnerPids(READER).outward(raw) is raw


@pytest.mark.parametrize(
    ("call", "arguments", "told"),
    [
        ("wait4", (0xFFFFFFFF, 5), (0xFFFFFFFF, 5)),
        ("wait4", (0xFFFFFFFFFFFFFFFF, 5), (0xFFFFFFFF, 5)),
        ("wait4", (0, 5), (0, 5)),
        ("wait4", (7, 5), (700, 5)),
        ("wait4", (0xFFFFFFF9, 5), (2**32 - 700, 5)),
        ("wait4", (8, 5), (0xFFFFFFFF, 5)),
        ("waitid", (1, 7, 5), (1, 700, 5)),
        ("waitid", (2, 7, 5), (2, 700, 5)),
        ("waitid", (1, 8, 5), (0, 0, 5)),
        ("waitid", (3, 7, 5), (3, 7, 5)),
        ("waitid", (0, 0, 5), (0, 0, 5)),
        ("read", (7, 7, 7), (7, 7, 7)),
        ("wait4", (), ()),
    ],
)
def test_arguments_of_waits(call: str, arguments: tuple[int, ...], told: tuple[int, ...]) -> None:
    mine = reading(os.getpid())
    table = InnerPids(READER, apart=True)
    table.learn(structs.replace(mine.id, pid=700), 7)
    thread = ThreadReading(tid=1, name="x", state="S", syscall=call, arguments=tuple(map(hex, arguments)))
    (found,) = table.outward(structs.replace(mine, threads=(thread,))).threads
    assert tuple(int(one, 16) for one in found.arguments) == told


def test_without_a_namespace_nothing_is_done() -> None:
    table = InnerPids(READER)
    assert (table.learn(reading(os.getpid()).id, 5), table.outer(5), table.outer(-1)) == (0, 5, -1)
