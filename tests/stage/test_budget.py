from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import budget as room
from pytest_ocrepro.stage.budget import (
    MEBIBYTE,
    Budget,
    Deep,
    Depths,
    Guard,
    SessionBudget,
    Together,
    Used,
    blamed,
    bytes_below,
    check_session,
    exceeded,
    measure,
    nameless_bytes,
    overdrawn,
    summed,
    wait_for_memory,
)
from pytest_ocrepro.stage.sandbox import Project, Sandbox

LITTLE = Used(files_bytes=0, processes=1, memory_bytes=0, disk_left_bytes=1 << 40, memory_left_bytes=1 << 40)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"files_bytes": 2 << 30}, "its files have 2,048 MiB, the budget is 1,024 MiB"),
        ({"processes": 1001}, "it has 1001 processes, the budget is 1000"),
        ({"memory_bytes": 40 << 30}, "its processes have 40,960 MiB resident, the budget is 32,768 MiB"),
        ({"disk_left_bytes": 0}, ""),
        ({"disk_left_bytes": 0, "files_bytes": 300 << 20}, "the disk has 0 MiB left and its files have 300 MiB"),
        ({"memory_left_bytes": 0}, ""),
        (
            {"memory_left_bytes": MEBIBYTE, "memory_bytes": 300 << 20},
            "the memory has 1 MiB left and its processes have 300 MiB",
        ),
    ],
)
def test_what_is_over_the_budget_is_told_and_the_shortage_of_others_is_not(
    changes: dict[str, int], words: str
) -> None:
    assert exceeded(msgspec.structs.replace(LITTLE, **changes), Budget()) == words


def test_a_look_counts_files_and_the_very_processes(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(bytes(range(256)) * 4096)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "link").symlink_to(tmp_path / "full")
    me = Reader().identify(os.getpid())
    assert me is not None
    used = measure(Reader(), [tmp_path, tmp_path / "gone"], [me, ProcessId(pid=me.pid, start_ticks=1)])
    assert MEBIBYTE <= used.files_bytes < 2 * MEBIBYTE
    assert used.processes == 1
    assert used.memory_bytes > 10 * MEBIBYTE
    assert 0 < used.disk_left_bytes < 1 << 60
    assert used.memory_left_bytes > 0


def test_what_lies_deep_counts_once_and_is_walked_no_more_often_than_is_cheap(tmp_path: Path) -> None:
    now, slow = [0.0], [0.0]

    def clock() -> float:
        now[0] += slow[0]
        return now[0]

    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    (deep / "full").write_bytes(bytes(range(256)) * 4096)
    (deep / "linked").hardlink_to(deep / "full")
    (deep / "symbolic").symlink_to("/usr")
    depths = Depths(tmp_path, clock=clock)
    assert depths.known().files_bytes == 0, "a trial of a moment pays nothing"
    now[0] = 2.0
    assert MEBIBYTE <= depths.known().files_bytes < 2 * MEBIBYTE
    assert measure(Reader(), [tmp_path], [], deep=depths.known()).files_bytes >= MEBIBYTE
    (deep / "more").write_bytes(bytes(range(256)) * 4096 * 4)
    now[0] = 3.9
    assert depths.known().files_bytes < 2 * MEBIBYTE
    now[0], slow[0] = 4.0, 0.1  # half a second for four directories
    assert depths.known().files_bytes >= 5 * MEBIBYTE
    (deep / "more").unlink()
    walked_s, slow[0] = now[0], 0.0
    now[0] = walked_s + 9.0
    assert depths.known().files_bytes >= 5 * MEBIBYTE, "half a second for a walk: no other one for ten"
    now[0] = walked_s + 11.0
    assert depths.known().files_bytes < 2 * MEBIBYTE


def test_what_is_too_long_to_be_named_is_counted_and_what_is_too_deep_told(tmp_path: Path) -> None:
    def below(levels: int, name: str) -> Deep:
        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=here)
            inside = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inside
        with os.fdopen(os.open("full", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
            file.write(bytes(range(256)) * 4096)
        os.close(here)
        times = iter([0.0, *[2.0] * 1000])
        return Depths(tmp_path, clock=lambda: next(times)).known()

    found = below(90, "d" * 60)
    assert found.levels == 90
    assert MEBIBYTE <= found.files_bytes < 2 * MEBIBYTE
    assert exceeded(measure(Reader(), [], [], deep=found), Budget()) == ""
    sandbox = Sandbox(root=tmp_path, project=Project(root=tmp_path))
    sandbox.remove()
    tmp_path.mkdir()
    found = below(3000, "e")
    told = exceeded(measure(Reader(), [], [], deep=found), Budget())
    assert told == "its directories are nested 200 levels deep or more, where files cannot be counted"
    sandbox.remove()
    assert not tmp_path.exists()


def test_a_file_without_a_name_counts_as_long_as_somebody_has_it_open(tmp_path: Path) -> None:
    me = Reader().identify(os.getpid())
    assert me is not None
    with (tmp_path / "full").open("wb") as file:
        file.write(bytes(range(256)) * 4096)
        file.flush()
        assert nameless_bytes(Reader(), [me]) < MEBIBYTE, "it has a name"
        (tmp_path / "full").unlink()
        twice = os.dup(file.fileno())
        assert MEBIBYTE <= nameless_bytes(Reader(), [me, me]) < 2 * MEBIBYTE
        times = iter([0.0, 2.0, 2.0, 2.0])
        depths = Depths(tmp_path, lambda: nameless_bytes(Reader(), [me]), clock=lambda: next(times))
        assert depths.known().files_bytes >= MEBIBYTE
        os.close(twice)
    assert nameless_bytes(Reader(), [me]) < MEBIBYTE


def test_a_look_that_fails_is_told_once_and_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PERIOD_S", 0.001)
    many = msgspec.structs.replace(LITTLE, processes=2000)
    looks: Iterator[Used | Exception] = iter([OSError("gone"), RecursionError("deep"), many])
    told: list[Exception] = []
    ended = threading.Event()

    def look() -> Used:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    guard = Guard(look, lambda _: ended.set(), Budget(), trouble=told.append)
    guard.start()
    assert ended.wait(20)
    guard.stop()
    assert [str(error) for error in told] == ["gone"]


def test_a_walk_has_its_end(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/full").write_bytes(bytes(range(256)) * 4096)
    times = iter([0.0, 2.0, 2.1, 9.0, 9.1])
    found = Depths(tmp_path, clock=lambda: next(times)).known().files_bytes
    assert MEBIBYTE <= found < 2 * MEBIBYTE, "what is behind the deadline is left out"


def test_a_guard_ends_a_trial_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PERIOD_S", 0.001)
    told: list[str] = []
    ended = threading.Event()
    looks = iter([LITTLE, LITTLE, msgspec.structs.replace(LITTLE, processes=2000)])

    def end(why: str) -> None:
        told.append(why)
        ended.set()

    guard = Guard(lambda: next(looks), end, Budget())
    guard.stop()  # one that has not begun
    guard = Guard(lambda: next(looks), end, Budget())
    guard.start()
    assert ended.wait(20)
    guard.stop()
    guard.stop()
    assert told == ["it has 2000 processes, the budget is 1000"]


def test_a_trial_waits_for_memory_and_not_for_ever() -> None:
    left = iter([0, 100 * MEBIBYTE, 600 * MEBIBYTE])
    assert wait_for_memory(lambda: next(left), most_s=20) > 0
    assert wait_for_memory(lambda: 600 * MEBIBYTE) < 10
    with pytest.raises(StageError) as caught:
        wait_for_memory(lambda: MEBIBYTE, most_s=0.01)
    line = "the memory has 1 MiB left, one more opencode needs 500 MiB: waited 0.01 s"
    assert str(caught.value) == f"{line}; free some, or run with fewer workers"


def test_a_session_keeps_and_leaves_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/full").write_bytes(bytes(range(256)) * 4096)
    assert MEBIBYTE <= bytes_below(tmp_path) < 2 * MEBIBYTE
    budget = SessionBudget(evidence_bytes=MEBIBYTE, disk_needed_bytes=500 * MEBIBYTE)
    monkeypatch.setattr(room, "_free", lambda _: 501 * MEBIBYTE)
    check_session(MEBIBYTE, [tmp_path], budget)
    with pytest.raises(StageError, match=r"^the evidence of this session has 2 MiB, its budget is 1 MiB: run fewer"):
        check_session(2 * MEBIBYTE, [tmp_path], budget)
    monkeypatch.setattr(room, "_free", lambda _: 499 * MEBIBYTE)
    with pytest.raises(StageError, match=r"^the disk of /.* has 499 MiB left, one more trial needs 500 MiB: "):
        check_session(0, [tmp_path], budget)


CROWD = """
import os, sys, signal
here, there = os.pipe()
for _ in range(9):
    if os.fork() == 0:
        os.close(there)
        os.setsid()
        os.write(1, b"x")
        os.read(here, 1)  # until the first of them ends
        os._exit(0)
room = bytearray(50 << 20)
os.write(1, b"x")
sys.stdin.read()
"""


def test_what_all_workers_use_is_summed_below_the_one_that_began_them() -> None:
    """A worker is a child of ours here; what leaves its session or its parents is still beneath us."""
    argv = [sys.executable, "-I", "-c", CROWD]
    before = summed(Reader(), os.getpid())
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.read(10) == b"x" * 10
        of_worker, of_all = summed(Reader(), worker.pid), summed(Reader(), os.getpid())
        assert of_worker.processes == 10
        assert of_worker.memory_bytes > 50 * MEBIBYTE
        assert of_all.processes >= before.processes + 10
        assert of_all.memory_bytes > of_worker.memory_bytes
        worker.communicate(b"")
    assert summed(Reader(), 0x7FFFFFFF) == Together(processes=0, memory_bytes=0)


MANY = Together(processes=40, memory_bytes=MEBIBYTE)
MUCH = Together(processes=20, memory_bytes=900 * MEBIBYTE)
OF_ALL = SessionBudget(processes=30, memory_bytes=800 * MEBIBYTE)


@pytest.mark.parametrize(
    ("together", "words"),
    [
        (MANY, "all workers have 40 processes, the budget of a session is 30"),
        (MUCH, "the processes of all workers have 900 MiB resident, the budget of a session is 800 MiB"),
        (Together(processes=30, memory_bytes=800 * MEBIBYTE), ""),
    ],
)
def test_what_all_workers_have_too_much_of(together: Together, words: str) -> None:
    assert overdrawn(together, OF_ALL) == words


@pytest.mark.parametrize(
    ("together", "processes", "memory", "words"),
    [
        (MANY, 20, 0, "all workers have 40 processes, the budget of a session is 30; 50% of it is this trial's"),
        (MANY, 9, MEBIBYTE, ""),
        (MUCH, 1, 300 * MEBIBYTE, "33% of it is this trial's"),
        (MUCH, 20, 200 * MEBIBYTE, ""),
        (Together(processes=30, memory_bytes=0), 30, 0, ""),
    ],
)
def test_who_has_an_equal_part_or_more_ends(together: Together, processes: int, memory: int, words: str) -> None:
    used = msgspec.structs.replace(LITTLE, processes=processes, memory_bytes=memory)
    found = blamed(used, together, 3, OF_ALL)
    assert found.endswith(words)
    assert bool(found) == bool(words)


def test_of_several_workers_somebody_ends_whoever_has_how_much() -> None:
    for parts in ((10, 10, 10), (28, 1, 1), (15, 15, 1), (31, 0, 0)):
        together = Together(processes=sum(parts) + 4, memory_bytes=0)  # 4: of ours
        used = [msgspec.structs.replace(LITTLE, processes=one) for one in parts]
        assert any(blamed(one, together, 3, OF_ALL) for one in used), parts


def test_a_guard_ends_a_trial_for_the_sake_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PERIOD_S", 0.001)
    told: list[str] = []
    ended = threading.Event()
    answers = iter(["", "", "all have too much"])

    def end(why: str) -> None:
        told.append(why)
        ended.set()

    guard = Guard(lambda: LITTLE, end, Budget(), beyond=lambda _: next(answers))
    guard.start()
    assert ended.wait(20)
    guard.stop()
    assert told == ["all have too much"]
