from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import Rung
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import (
    READER,
    READY_S,
    RUNGS,
    ZOO,
    Child,
    harness,
    living,
    members,
    python,
    told,
    until_gone,
)

ALL = [python(ZOO[kind]) for kind in ZOO]
ACTIONS = {
    "before the first spawn": ('print("ready", flush=True)', 1),
    "with the zoo running": (f"for argv in {ALL!r}: begin(argv)", len(ALL)),
    "while it spawns": (f"while True: begin({python(ZOO['traps TERM'] + '  # one of many')!r})", 3),
    "while a copy of it keeps the lifeline open": (
        f"if os.fork() == 0: signal.pause()\nbegin({python(ZOO['traps TERM'])!r})",
        1,
    ),
}


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("moment", list(ACTIONS))
def test_nothing_outlives_a_harness_that_is_killed(tmp_path: Path, moment: str, rung: Rung) -> None:
    action, readies = ACTIONS[moment]
    with harness(action, tmp_path, rung=rung) as process:
        assert process.stdout is not None
        supervisor_id, *first = everybody = told(process, readies)
        assert living(everybody) == [one.pid for one in everybody]
        copies = [one for one in READER.children_of(process.pid) if one != supervisor_id.pid]
        process.kill()
        until_gone([supervisor_id, *first])
        assert len(copies) == ("copy" in moment)
        for pid in copies:
            os.kill(pid, signal.SIGKILL)
        rest = process.stdout.read()  # the end of file says that nobody has our pipe any more
    assert "Traceback" not in rest
    assert not READER.marked(MARKER, f"{process.pid}-*")


def test_harness_killed_before_it_has_read_an_answer(tmp_path: Path) -> None:
    """Unread messages make the lifeline end with ECONNRESET instead of end of file (unix(7))."""
    daemon = python(ZOO["setsid daemon"])
    action = f"begin({daemon!r})\nchild = begin({python('rest()')!r})\nprint(child.pid, flush=True)"
    with harness(action, tmp_path) as process:
        boss, *others = told(process, 2)
        child = next(one for one in others if READER.parent(one.pid) == boss.pid)
        process.send_signal(signal.SIGSTOP)
        until(lambda: READER.state(process.pid) == "T", timeout_s=READY_S, what="a suspended harness")
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: READER.state(child.pid) is None, timeout_s=READY_S, what="the child reaped, its end sent")
        process.kill()
        until_gone([boss, *others])


def test_control_without_a_supervisor_the_daemon_outlives_its_harness() -> None:
    """The oracle of the tests above can fail."""
    with subprocess.Popen(python(ZOO["setsid daemon"]), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        daemon = members(process.stdout)
        process.kill()
        process.wait()
        assert living(daemon) == [daemon[0].pid]
        os.kill(daemon[0].pid, signal.SIGKILL)
        until_gone(daemon)


@pytest.mark.parametrize("rung", RUNGS)
def test_harness_and_supervisor_are_killed_at_once(tmp_path: Path, rung: Rung) -> None:
    """Even who has no marker and no parent of ours any more ends, and nobody waits for a next start.

    The supervisor alone cannot do that, so it is the control of the other two.
    """
    wiped = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell(os.getpid())
        os.write(1, b"ready\\n")
        os.execve(sys.executable, [sys.executable, "-I", "-c", "import signal; signal.pause()"], {})
    os._exit(0)
os.wait()
"""
    action = f"begin({python(wiped)!r})\nbegin({python(ZOO['traps TERM'])!r})"
    with harness(action, tmp_path, rung=rung) as process:
        boss, *both = told(process, 2)
        process.send_signal(signal.SIGSTOP)  # or its own close would clean up
        os.kill(boss.pid, signal.SIGKILL)
        process.kill()
        until_gone([boss])
        if rung is Rung.SUPERVISOR:
            until(lambda: len(living(both)) < 2, timeout_s=READY_S, what="the end of one")  # PR_SET_PDEATHSIG
            (daemon,) = living(both)
            assert (READER.argv(daemon) or ("",))[-1] == "import signal; signal.pause()"
            os.kill(daemon, signal.SIGKILL)
        until_gone(both)


def test_no_descriptor_of_the_harness_is_inherited(start: Callable[..., Child], tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as open_file:
        os.set_inheritable(open_file.fileno(), True)
        child = start(python(ZOO["plain"]))
        child.members()
        targets = READER.fd_links(child.id.pid)
    assert [number for number, _ in targets] == [0, 1, 2]
    assert targets[0][1] == "/dev/null"
    assert targets[1][1] == targets[2][1] == f"pipe:[{os.fstat(child.stdout.fileno()).st_ino}]"


def test_child_has_a_session_of_its_own_and_default_signals(start: Callable[..., Child]) -> None:
    child = start(["/bin/sh", "-c", "kill -TERM $$; exit 3"])
    assert child.code() == -signal.SIGTERM
    other = start(python(ZOO["plain"]))
    other.members()
    assert READER.session(other.id.pid) == other.id.pid


def test_signal_goes_to_this_process_and_no_later_one_of_its_pid(
    supervisor: Supervisor, start: Callable[..., Child]
) -> None:
    child = start(python(ZOO["plain"]))
    child.members()
    earlier = ProcessId(pid=child.id.pid, start_ticks=child.id.start_ticks - 1)
    assert not supervisor.signal(earlier, signal.SIGKILL)
    assert READER.alive(child.id)
    assert supervisor.signal(child.id, signal.SIGKILL)
    assert child.code() == -signal.SIGKILL
    assert not supervisor.signal(child.id, signal.SIGKILL)
