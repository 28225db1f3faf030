"""Stand-ins of every kind that is hard to end, started by a supervisor or by a harness that is to be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import rungs
from pytest_ocrepro.stage import supervisor as module
from pytest_ocrepro.stage.orders import MARKER, Exited
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import CHOICE, Rung
from pytest_ocrepro.stage.supervisor import Supervisor

ROOT = str(Path(module.__file__).parents[2])
READER = Reader()
READY_S = 20.0

# Each prints the pids of what must be ended, then a line "ready"; none ends by itself.
TELL = """
import os, signal, sys, time
def tell(*pids):
    os.write(1, "".join(f"{pid}\\n" for pid in pids).encode())
def rest():
    tell(os.getpid())
    os.write(1, b"ready\\n")
    while True:
        signal.pause()
"""
ZOO = {
    "plain": "rest()",
    "traps TERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN); rest()",
    "setsid daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        rest()
    os._exit(0)
os.wait()
""",
    "suspended": """
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    signal.pause()
os.waitpid(pid, os.WUNTRACED)
tell(pid)
rest()
""",
    "zombie": """
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
rest()
""",
    "fork bomb": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
here, there = os.pipe()
for _ in range(49):
    if os.fork() == 0:
        os.setsid()
        tell(os.getpid())
        os.write(there, b"x")
        break
else:
    while os.read(here, 1) and (told := globals().get("told", 0) + 1) < 49:
        pass
    rest()
while True:
    signal.pause()
""",
    "always in execve": """
if os.fork() == 0:
    os.setsid()
    tell(os.getpid())
    os.write(1, b"ready\\n")
    loop = 'trap "" TERM; exec sh -c "$1" sh "$1"'
    os.execv("/bin/sh", ["sh", "-c", loop, "sh", loop])
os._exit(0)
""",
    "wiped environment": """
pid = os.fork()
if pid == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, "-I", "-c", "import signal; signal.pause()"], {})
tell(pid)
rest()
""",
}


class Child:
    """A stand-in under a supervisor, with a pipe on its stdout."""

    def __init__(self, supervisor: Supervisor, argv: list[str], mark: str, **environment: str) -> None:
        self.exits: list[Exited] = []
        self._supervisor = supervisor
        self._ended = threading.Event()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.id = supervisor.spawn(
                argv,
                environment={MARKER: mark, "PATH": "/usr/bin:/bin", **environment},
                directory="/",
                stdio=(nothing, writer, writer),
                on_exit=self._note,
            )
        except StageError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(nothing)
        self.namespace = READER.namespace(self.id.pid, "pid")
        self.stdout = os.fdopen(reader)

    def _note(self, exited: Exited) -> None:
        self.exits.append(exited)
        self._ended.set()

    def members(self) -> list[ProcessId]:
        """Who is told to be there, once all are."""
        return members(self.stdout, self._supervisor.pid, self.namespace)

    def code(self) -> int:
        assert self._ended.wait(READY_S)
        return self.exits[0].code


def members(stdout: IO[str], boss: int = 0, namespace: str | None = None) -> list[ProcessId]:
    """Who is told until the line "ready", under this supervisor, and in this namespace where that is known."""
    told = [int(line) for line in iter(stdout.readline, "ready\n")]
    outer = outer_pids(boss, namespace) if boss else {}
    found = [READER.identify(outer.get(pid, pid)) for pid in told]
    assert None not in found
    return [one for one in found if one is not None]


def outer_pids(boss: int, namespace: str | None) -> dict[int, int]:
    """Pids as they are told in a supervisor's namespaces, or in one of them -> as we know them."""
    names = {named(pid) for pid in READER.children_of(boss) if READER.inner_pids(pid)[1:] == (1,)}
    names &= {namespace} if namespace else names
    return {READER.inner_pids(pid)[-1]: pid for pid in READER.pids() if names and named(pid) in names}


def named(pid: int) -> str | None:
    return READER.namespace(pid, "pid")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", TELL + code]


def living(processes: list[ProcessId]) -> list[int]:
    return [one.pid for one in processes if READER.alive(one)]


def until_gone(processes: list[ProcessId]) -> None:
    until(lambda: not living(processes), timeout_s=READY_S, what=f"the end of {processes}")


def needs(rung: Rung) -> pytest.MarkDecorator:
    """For a test of one rung; others take what there is."""
    reader = Reader()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CHOICE, rung)
            rungs.in_words(reader)
    except StageError:
        return pytest.mark.skip(reason=f"this machine does not allow {rungs.WORDS[rung]}")
    return pytest.mark.skipif(False, reason="allowed")


RUNGS = [pytest.param(rung, marks=needs(rung)) for rung in Rung]
ON_EACH_RUNG = pytest.mark.parametrize("supervisor", RUNGS, indirect=True)

HARNESS = """
import sys; sys.path[:] = {path!r}
import os, signal, threading
from pathlib import Path
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.supervisor import Supervisor
supervisor = Supervisor(ledger=Path({ledger!r}))
def begin(argv):
    return supervisor.spawn(argv, environment={{MARKER: supervisor.mark + ".1"}}, directory="/", stdio=(0, 1, 2),
                            on_exit=lambda exited: None)
print(supervisor.pid, flush=True)
{action}
signal.pause()
"""


@contextlib.contextmanager
def harness(action: str, ledger: Path, *, rung: str = "") -> Iterator[subprocess.Popen[str]]:
    """``rung``: by what it ends what it starts; "" for the best that there is."""
    code = HARNESS.format(path=[ROOT, *sys.path], ledger=str(ledger), action=action)
    argv, environment = [sys.executable, "-c", code], {**os.environ, CHOICE: rung}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], readies: int = 1) -> list[ProcessId]:
    """The supervisor of a harness, and who is told to be there by so many stand-ins."""
    assert process.stdout is not None
    boss = READER.identify(int(process.stdout.readline()))
    assert boss is not None
    return [boss, *[one for _ in range(readies) for one in members(process.stdout, boss.pid)]]
