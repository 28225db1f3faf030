from __future__ import annotations

import os
import threading
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
    Guard,
    SessionBudget,
    Used,
    bytes_below,
    check_session,
    exceeded,
    measure,
    wait_for_memory,
)

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
