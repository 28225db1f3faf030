from __future__ import annotations

import sys

import psutil
import pytest

from pytest_ocrepro.versions import programs
from tests.data.versions import groups


def test_a_bounded_run_returns_what_was_printed() -> None:
    done = programs.run_bounded(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=20)
    assert (done.code, done.out, done.err, done.cut) == (3, "out\n", "err\n", "")


def test_a_bounded_run_keeps_its_deadline_also_with_closed_output() -> None:
    done = programs.run_bounded(["sh", "-c", "exec >&- 2>&-; exec sleep 300"], timeout_s=0.3)
    assert (done.code, done.cut) == (-9, "no end within 0.3 s")


def test_a_flood_of_output_is_ended() -> None:
    done = programs.run_bounded(["yes", "x" * 4096], timeout_s=60)
    assert (done.code, done.cut) == (-9, "too much output")


def test_a_child_that_holds_the_output_is_not_waited_for() -> None:
    done = programs.run_bounded(["sh", "-c", "sleep 300 & echo group $$"], timeout_s=60)
    assert (done.code, done.cut) == (0, "")
    assert not groups.after_kill(int(done.out.split()[1]))


def test_an_exception_in_the_tick_ends_the_program() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    ours = {child.pid for child in psutil.Process().children()}
    with pytest.raises(KeyboardInterrupt):
        programs.run_bounded(["sleep", "300"], timeout_s=60, tick=interrupted)
    assert {child.pid for child in psutil.Process().children()} == ours


def test_a_tied_run_that_ends_by_itself_is_told_as_any_other() -> None:
    done = programs.run_bounded([sys.executable, "-c", "import sys; sys.exit(3)"], timeout_s=20, tied=True)
    assert (done.code, done.cut) == (3, "")
