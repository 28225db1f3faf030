from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_ocrepro.errors import NotReachedError, UsageError
from pytest_ocrepro.events import FaultHealed, FaultInjected, Trouble
from pytest_ocrepro.history import History
from pytest_ocrepro.stage import pressure as room
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.pressure import Pressure
from pytest_ocrepro.stage.process import Process, Stdin, until
from pytest_ocrepro.stage.supervisor import Supervisor

WAIT_S = 20.0
Make = Callable[..., Pressure]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def started() -> list[Process]:
    return []


@pytest.fixture
def make(history: History, started: list[Process], tmp_path: Path) -> Iterator[Make]:
    supervisor = Supervisor()
    mark = f"{supervisor.mark}.1"

    def begin(role: str, argv: list[str], stdin: Stdin) -> Process:
        output = tmp_path / f"output-{len(started)}"
        output.mkdir()
        started.append(Process(role, argv, supervisor=supervisor, history=history, output=output, stdin=stdin))
        started[-1].start({MARKER: mark, "PATH": os.defpath}, str(tmp_path))
        return started[-1]

    yield lambda burners, writers: Pressure(
        burners, writers, scratch=tmp_path / "scratch", spawn=begin, history=history
    )
    assert supervisor.sweep(mark, grace_s=0.1).leaked == []
    supervisor.close()


def test_pressure_is_there_while_it_is_in_force_and_gone_behind_it(
    make: Make, history: History, started: list[Process], tmp_path: Path
) -> None:
    with make(1, 1):
        burner, writer = started
        spent_s = sum(psutil.Process(burner.pid).cpu_times()[:2])
        until(
            lambda: sum(psutil.Process(burner.pid).cpu_times()[:2]) > spent_s,
            timeout_s=WAIT_S,
            what="CPU to be burned",
        )
        until(lambda: any((tmp_path / "scratch").iterdir()), timeout_s=WAIT_S, what="a file to be written")
        assert burner.alive
        assert writer.alive
    assert [one.exit_code for one in started] == [0, 0], "they end with their standard input"
    assert [one.fault for one in history.of_type(FaultInjected)] == ["pressure"]
    assert len(history.of_type(FaultHealed)) == 1
    assert history.of_type(Trouble) == []


def test_file_of_a_writer_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "FILE_BYTES", 2 << 20)
    with make(0, 1):
        (file,) = (tmp_path / "scratch").iterdir()
        until(lambda: file.stat().st_size >= 2 << 20, timeout_s=WAIT_S, what="a full file")
        times = {file.stat().st_mtime_ns}
        until(
            lambda: len(times | {file.stat().st_mtime_ns}) > 1, timeout_s=WAIT_S, what="a write behind the full file"
        )
    assert file.stat().st_size <= 2 << 20


def test_one_that_ends_too_early_makes_the_trial_inconclusive(
    make: Make, history: History, monkeypatch: pytest.MonkeyPatch, started: list[Process]
) -> None:
    monkeypatch.setattr(room, "MOST_S", 0.5)
    with make(1, 0):
        until(lambda: not started[0].alive, timeout_s=WAIT_S, what="the burner's own bound")
    assert "ended before it was told to" in history.of_type(Trouble)[0].what


def test_one_that_cannot_begin_is_told_and_nothing_is_left(
    make: Make, history: History, monkeypatch: pytest.MonkeyPatch, started: list[Process]
) -> None:
    monkeypatch.setattr(room, "WRITER", "raise SystemExit('no space')")
    with pytest.raises(NotReachedError, match=r"writer \(pid \d+\) has ended at once: no space"):
        make(1, 1).inject()
    assert not any(one.alive for one in started)
    assert history.of_type(FaultInjected) == []


@pytest.mark.parametrize(("burners", "writers"), [(0, 0), (-1, 2), (17, 0)])
def test_unreasonable_numbers_are_refused(make: Make, burners: int, writers: int) -> None:
    with pytest.raises(UsageError, match="give 1 to 16"):
        make(burners, writers)
