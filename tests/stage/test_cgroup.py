from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage.cgroup import PREFIX, Group, Groups
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import Rung, can_enter, choose
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import needs

MARK = f"{os.getpid()}-0123456789ab"
READER = Reader()


def made_up(root: Path, mounted: Path) -> Reader:
    """A /proc that says where a control group is."""
    (root / "self").mkdir(parents=True)
    (root / "self/cgroup").write_text("9:name=systemd:/\n0::/user.slice/a\n")
    (root / "self/mounts").write_text(f"tmpfs /x tmpfs rw 0 0\ncgroup2 {mounted} cgroup2 rw,relatime 0 0\n")
    return Reader(str(root))


def test_our_own_group_is_where_it_is_mounted(tmp_path: Path) -> None:
    assert made_up(tmp_path / "proc", tmp_path).own_group() == f"{tmp_path}/user.slice/a"
    assert Reader(str(tmp_path / "nothing")).own_group() is None


def test_a_group_belongs_to_a_mark_or_to_all_that_begin_so(tmp_path: Path) -> None:
    groups = Groups(tmp_path)
    assert groups.of("7-ab.12").path == tmp_path / f"{PREFIX}7-ab/7-ab.12"
    assert groups.of("7-ab").path == tmp_path / f"{PREFIX}7-ab/7-ab"
    assert {groups.of(mark).path for mark in ("7-ab*", "7-ab.*")} == {tmp_path / f"{PREFIX}7-ab"}


def test_where_groups_do_not_work_nothing_is_left_and_nobody_falls(tmp_path: Path) -> None:
    place = tmp_path / "user.slice/a"
    reader = made_up(tmp_path / "proc", tmp_path)
    assert Groups.for_session(MARK, reader, lambda _: True) is None, "not there"
    place.mkdir(parents=True)
    assert Groups.for_session(MARK, reader, lambda _: True) is None, "a kernel without cgroup.kill"
    assert choose(MARK, reader).rung is not Rung.CGROUP
    assert list(place.iterdir()) == []
    group = Group(tmp_path / "none")
    group.enter()
    group.kill()
    group.remove()
    assert group.pids() == set()
    (tmp_path / "file").touch()
    assert not Group(tmp_path / "file/x").make()


def test_empty_groups_of_the_dead_go_and_no_others(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    dead, living = tmp_path / f"{PREFIX}{gone.pid}-ab", tmp_path / f"{PREFIX}{os.getpid()}-ab"
    held = tmp_path / f"{PREFIX}{gone.pid}-cd"
    for path in (dead / f"{gone.pid}-ab.1", living, held, tmp_path / "somebody-s", tmp_path / f"{PREFIX}x-y"):
        path.mkdir(parents=True)
    (held / "cgroup.procs").touch()  # rmdir refuses it, as it refuses a group with a process
    Groups(tmp_path).remove_those_of_the_dead(READER)
    assert not dead.exists()
    assert len(list(tmp_path.iterdir())) == 4


needed = needs(Rung.CGROUP)


@pytest.fixture
def group() -> Iterator[Group]:
    groups = Groups.for_session(MARK, READER, can_enter)
    assert groups is not None
    yield groups.of(f"{MARK}*")
    groups.of(f"{MARK}*").remove()
    assert not groups.of(f"{MARK}*").path.exists()


FAMILY = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"x")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: signal.pause()
"""


@needed
def test_the_kernel_keeps_who_is_in_it_and_ends_all_at_once(group: Group) -> None:
    inner = Group(group.path / f"{MARK}.1")
    assert inner.make()
    argv = [sys.executable, "-I", "-c", FAMILY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={}, preexec_fn=inner.enter) as process:  # noqa: PLW1509
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        assert len(inner.pids()) == 3
        assert process.pid in group.pids()
        group.remove()
        assert inner.path.exists(), "one with somebody in it is not removed"
        inner.kill()
        assert process.wait(10) == -signal.SIGKILL
    until(lambda: not inner.pids(), timeout_s=20, what="an empty group")


@needed
def test_a_supervisor_leaves_no_group() -> None:
    own = READER.own_group()
    assert own is not None
    supervisor = Supervisor()
    place = Groups(Path(own)).of(f"{supervisor.mark}*").path
    assert place.exists()
    supervisor.close()
    assert not place.exists()
