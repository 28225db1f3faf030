from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.stage import orders
from pytest_ocrepro.stage import supervisor as module
from pytest_ocrepro.stage.orders import Exited
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import CHOICE, Rung
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import READER, READY_S, ZOO, Child, living, python, until_gone

# -- the supervisor ends


def kill_supervisor(supervisor: Supervisor) -> None:
    os.kill(supervisor.pid, signal.SIGKILL)
    until(lambda: READER.state(supervisor.pid) in ("Z", None), timeout_s=READY_S, what="the supervisor's end")


ALONE = pytest.mark.parametrize("supervisor", [Rung.SUPERVISOR], indirect=True)


@ALONE
def test_killed_supervisor_is_told_in_one_line_and_its_processes_are_ended(
    supervisor: Supervisor, start: Callable[..., Child]
) -> None:
    child, daemon = start(python(ZOO["traps TERM"])), start(python(ZOO["setsid daemon"]))
    told, far = child.members(), daemon.members()
    kill_supervisor(supervisor)
    with pytest.raises(StageError) as caught:
        start(python(ZOO["plain"]))
    line = f"the supervisor (pid {supervisor.pid}) has ended (SIGKILL) and its processes with it; run again"
    assert str(caught.value) == line
    with pytest.raises(StageError, match="has ended"):
        supervisor.signal(child.id, signal.SIGTERM)
    with pytest.raises(StageError, match="has ended"):
        supervisor.check()
    until_gone(told)  # PR_SET_PDEATHSIG
    assert living(far) != []

    swept = supervisor.sweep(f"{supervisor.mark}.1", grace_s=0.1)

    assert (far[0].pid in swept.ended, swept.leaked, living(far)) == (True, [], [])
    assert [exited.code for exited in child.exits] == [-signal.SIGKILL]


def test_close_ends_what_a_killed_supervisor_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, Rung.SUPERVISOR)
    supervisor = Supervisor(ledger=tmp_path)
    with (child := Child(supervisor, python(ZOO["setsid daemon"]), f"{supervisor.mark}.1")).stdout:
        daemon = child.members()
        kill_supervisor(supervisor)
        assert living(daemon) != []
        supervisor.close()
        assert living(daemon) == []
    assert list(tmp_path.iterdir()) == []


def test_suspended_supervisor_is_told_and_not_waited_for_for_ever(
    supervisor: Supervisor, start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_DEADLINE_S", 0.2)
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StageError) as caught:
            start(python(ZOO["plain"]))
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    what = f"the supervisor (pid {supervisor.pid}) does not answer within 0.2 s"
    assert str(caught.value) == f"{what}; see whether it is suspended, and run again"


def test_supervisor_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(StageError, match=r"^cannot start the supervisor: .*no-python.*; see `ulimit -u`"):
        Supervisor()


# -- spawning


def test_every_end_is_told_once_with_its_code(supervisor: Supervisor, start: Callable[..., Child]) -> None:
    quick = [start(["/bin/sh", "-c", f"exit {n}"]) for n in range(25)]
    assert [child.code() for child in quick] == list(range(25))
    killed = start(["/bin/sh", "-c", "kill -SEGV $$"])
    assert killed.code() == -signal.SIGSEGV
    supervisor.close()
    assert [len(child.exits) for child in [*quick, killed]] == [1] * 26


def test_end_that_comes_before_the_answer_to_spawn_is_taken_up(supervisor: Supervisor) -> None:
    """The listening thread joins pid and callback, so it does not matter how late the asker wakes."""
    told: list[int] = []
    ended = threading.Event()

    def on_exit(exited: Exited) -> None:
        told.append(exited.pid)
        ended.set()

    def request(number: int) -> orders.Request:
        return orders.Spawn(number=number, argv=["/bin/true"], environment={}, directory="/")

    number = supervisor._send(request, (0, 1, 2), ("", on_exit))  # the asker sleeps from here on
    assert ended.wait(READY_S)
    answer = supervisor._answers.pop(number)
    assert isinstance(answer, orders.Spawned)
    assert told == [answer.id.pid]
    assert (supervisor._spawning, supervisor._running, supervisor._answers) == ({}, {}, {})


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["/no/such/program"], "No such file or directory (/no/such/program)"),
        (["no-such-program"], "No such file or directory (no-such-program)"),
        (["/etc/passwd"], "Permission denied (/etc/passwd)"),
        (["/bin/echo", "a\0b"], "embedded null byte"),
        (["/bin/echo", "x" * 200_000], "Argument list too long (/bin/echo)"),
    ],
)
def test_program_that_cannot_be_started(start: Callable[..., Child], argv: list[str], says: str) -> None:
    with pytest.raises(StageError) as caught:
        start(argv)
    assert str(caught.value) == f"cannot start {argv[0]}: {says}; check the path and its permissions"
    assert start(["/bin/true"]).code() == 0


def test_directory_that_is_not_there(supervisor: Supervisor) -> None:
    with pytest.raises(StageError, match=r"cannot start /bin/true: No such file or directory \(/no/such/place\)"):
        supervisor.spawn(
            ["/bin/true"], environment={}, directory="/no/such/place", stdio=(0, 1, 2), on_exit=lambda _: None
        )


def test_record_that_fails_is_told_and_does_not_deafen_the_harness(
    supervisor: Supervisor, start: Callable[..., Child]
) -> None:
    def fail(_exited: Exited) -> None:
        raise OSError(28, "No space left on device")

    supervisor.spawn(["/bin/true"], environment={}, directory="/", stdio=(0, 1, 2), on_exit=fail)
    until(lambda: supervisor._failure is not None, timeout_s=READY_S, what="the failure")
    with pytest.raises(StageError, match=r"could not be recorded \(OSError: .*No space left.*\); run again"):
        start(["/bin/true"])
    assert supervisor.sweep(f"{supervisor.mark}.1").leaked == []


# -- the end


def test_close_is_idempotent_and_afterwards_says_so(tmp_path: Path) -> None:
    supervisor = Supervisor(ledger=tmp_path)
    with (child := Child(supervisor, python(ZOO["fork bomb"]), f"{supervisor.mark}.1")).stdout:
        told = child.members()
        closers = [threading.Thread(target=supervisor.close) for _ in range(3)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        assert living(told) == []
    supervisor.close()
    assert list(tmp_path.iterdir()) == []
    assert READER.state(supervisor.pid) is None
    with pytest.raises(StageError) as caught:
        supervisor.signal(child.id, signal.SIGTERM)
    line = f"the supervisor (pid {supervisor.pid}) is closed: the session is over; start a new one"
    assert str(caught.value) == line


def test_supervisor_leaves_no_descriptor_or_thread() -> None:
    before = set(READER.fd_links(os.getpid())), set(threading.enumerate())
    supervisor = Supervisor()
    with (child := Child(supervisor, ["/bin/true"], supervisor.mark)).stdout:
        child.code()
    supervisor.close()
    after = set(READER.fd_links(os.getpid())), set(threading.enumerate())
    assert after == before
