from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import ladder, orders
from pytest_ocrepro.stage import supervisor as module
from pytest_ocrepro.stage.ladder import Ladder
from pytest_ocrepro.stage.ledger import Ledger
from pytest_ocrepro.stage.orders import MARKER, Exited
from pytest_ocrepro.stage.process import until
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
        self.stdout = os.fdopen(reader)

    def _note(self, exited: Exited) -> None:
        self.exits.append(exited)
        self._ended.set()

    def members(self) -> list[ProcessId]:
        """Who is told to be there, once all are."""
        return members(self.stdout)

    def code(self) -> int:
        assert self._ended.wait(READY_S)
        return self.exits[0].code


def members(stdout: object) -> list[ProcessId]:
    found = []
    for line in stdout:  # type: ignore[attr-defined]
        if line == "ready\n":
            break
        one = READER.identify(int(line))
        assert one is not None
        found.append(one)
    return found


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", TELL + code]


def living(processes: list[ProcessId]) -> list[int]:
    return [one.pid for one in processes if READER.alive(one)]


def until_gone(processes: list[ProcessId]) -> None:
    until(lambda: not living(processes), timeout_s=READY_S, what=f"the end of {processes}")


NO_GROUP = "no control group"
BOTH_RUNGS = pytest.mark.parametrize("supervisor", ["what there is", NO_GROUP], indirect=True)


@pytest.fixture
def supervisor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    if getattr(request, "param", "") == NO_GROUP:
        monkeypatch.setattr(module, "can_enter", lambda _: False)
    one = Supervisor()
    yield one
    one.close()
    assert READER.state(one.pid) is None


@pytest.fixture
def start(supervisor: Supervisor) -> Iterator[Callable[..., Child]]:
    with contextlib.ExitStack() as opened:

        def begin(argv: list[str], number: int = 1, **environment: str) -> Child:
            child = Child(supervisor, argv, f"{supervisor.mark}.{number}", **environment)
            opened.callback(child.stdout.close)
            return child

        yield begin


# -- sweeping


@BOTH_RUNGS
@pytest.mark.parametrize("kind", list(ZOO))
def test_sweep_ends_everything_of_its_mark_and_nothing_else(
    supervisor: Supervisor, start: Callable[..., Child], kind: str
) -> None:
    mine = start(python(ZOO[kind])).members()
    other = start(python(ZOO["plain"]), 2).members()
    assert len(mine) == (50 if kind == "fork bomb" else len(mine))
    assert not supervisor.sweep(f"{supervisor.mark}.10", grace_s=0.1).ended
    assert living(mine) == [one.pid for one in mine], "a sweep of another mark has touched it"

    swept = supervisor.sweep(f"{supervisor.mark}.1", grace_s=0.1)

    assert living(mine) == []
    assert {one.pid for one in mine} <= set(swept.ended)
    assert swept.leaked == []
    assert living(other) == [one.pid for one in other]


def test_sweep_gives_a_chance_to_end_politely(supervisor: Supervisor, start: Callable[..., Child]) -> None:
    polite = start(python("signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); rest()"))
    suspended = start(python("signal.signal(signal.SIGTERM, lambda *_: os._exit(8)); rest()"))
    polite.members()
    suspended.members()
    supervisor.signal(suspended.id, signal.SIGSTOP)
    supervisor.sweep(f"{supervisor.mark}.1", grace_s=READY_S)
    assert (polite.code(), suspended.code()) == (7, 8)


def test_sweep_says_what_would_not_end(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Child]) -> None:
    monkeypatch.setattr(ladder, "KILL_DEADLINE_S", 0.05)
    monkeypatch.setattr(ladder, "send_signal", lambda *_: True)
    child = start(python(ZOO["plain"]))
    child.members()
    ended, leaked = Ladder(READER, READER.environ(child.id.pid)[MARKER]).run(0.01)  # type: ignore[index]
    assert (ended, leaked) == ([], [child.id.pid])


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_process_in_the_middle_of_an_execve_is_not_missed(start: Callable[..., Child], hidden: int) -> None:
    """Its environment is empty for a moment: one look that finds nobody proves nothing."""

    class Blinking(Reader):
        looks = 0

        def marked(self, name: str, value: str, *, known: Container[ProcessId] = ()) -> list[ProcessId]:
            self.looks += 1
            return [] if self.looks <= hidden else super().marked(name, value, known=known)

    child = start(python(ZOO["plain"]))
    child.members()
    ended, leaked = Ladder(Blinking(), READER.environ(child.id.pid)[MARKER]).run(0)  # type: ignore[index]
    assert (ended, leaked) == ([child.id.pid], [])


@BOTH_RUNGS
def test_orphan_without_marker_and_parent_ends_with_the_session(
    supervisor: Supervisor, request: pytest.FixtureRequest
) -> None:
    """A control group has it at once; without one it is known as the supervisor's own child at the end."""
    grouped = NO_GROUP not in request.node.name and module.rung(READER) == module.WITH_GROUPS
    code = """
if os.fork() == 0:
    os.setsid()
    tell(os.getpid())
    os.write(1, b"ready\\n")
    os.execve(sys.executable, [sys.executable, "-I", "-c", "import signal; signal.pause()"], {})
"""
    child = Child(supervisor, python(code), f"{supervisor.mark}.1")
    with child.stdout:
        orphan = child.members()
        assert child.code() == 0
        until(lambda: not READER.environ(orphan[0].pid), timeout_s=READY_S, what="a wiped environment")
        ended = supervisor.sweep(f"{supervisor.mark}.1", grace_s=0).ended
        assert ended == ([orphan[0].pid] if grouped else [])
        assert living(orphan) == ([] if grouped else [orphan[0].pid])
        supervisor.close()
        assert living(orphan) == []


# -- the harness ends

HARNESS = """
import sys; sys.path[:] = {path!r}
import os, signal, threading
from pathlib import Path
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.supervisor import Supervisor
from pytest_ocrepro.stage import supervisor as module
if {alone!r}:
    module.can_enter = lambda _: False
supervisor = Supervisor(ledger=Path({ledger!r}))
def begin(argv):
    return supervisor.spawn(argv, environment={{MARKER: supervisor.mark + ".1"}}, directory="/", stdio=(0, 1, 2),
                            on_exit=lambda exited: None)
print(supervisor.pid, flush=True)
{action}
signal.pause()
"""
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


@contextlib.contextmanager
def harness(action: str, ledger: Path, *, alone: bool = False) -> Iterator[subprocess.Popen[str]]:
    """``alone``: without control groups."""
    code = HARNESS.format(path=[ROOT, *sys.path], ledger=str(ledger), action=action, alone=alone)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("moment", list(ACTIONS))
def test_nothing_outlives_a_harness_that_is_killed(tmp_path: Path, moment: str, *, alone: bool) -> None:
    action, readies = ACTIONS[moment]
    with harness(action, tmp_path, alone=alone) as process:
        assert process.stdout is not None
        told = [one for _ in range(readies) for one in members(process.stdout)]
        supervisor_id, first = told[0], told[1:]
        assert living(told) == [one.pid for one in told]
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
        assert process.stdout is not None
        told = members(process.stdout)
        told += members(process.stdout)
        child = next(one for one in told if READER.parent(one.pid) == told[0].pid and one != told[0])
        process.send_signal(signal.SIGSTOP)
        until(lambda: READER.state(process.pid) == "T", timeout_s=READY_S, what="a suspended harness")
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: READER.state(child.pid) is None, timeout_s=READY_S, what="the child reaped, its end sent")
        process.kill()
        until_gone(told)


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


# -- the supervisor ends


def kill_supervisor(supervisor: Supervisor) -> None:
    os.kill(supervisor.pid, signal.SIGKILL)
    until(lambda: READER.state(supervisor.pid) in ("Z", None), timeout_s=READY_S, what="the supervisor's end")


ALONE = pytest.mark.parametrize("supervisor", [NO_GROUP], indirect=True)


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
    monkeypatch.setattr(module, "can_enter", lambda _: False)
    supervisor = Supervisor(ledger=tmp_path)
    with (child := Child(supervisor, python(ZOO["setsid daemon"]), f"{supervisor.mark}.1")).stdout:
        daemon = child.members()
        kill_supervisor(supervisor)
        assert living(daemon) != []
        supervisor.close()
        assert living(daemon) == []
    assert list(tmp_path.iterdir()) == []


def test_next_start_finds_what_a_killed_harness_and_supervisor_left(tmp_path: Path) -> None:
    action = f"begin({python(ZOO['setsid daemon'])!r})"
    with harness(action, tmp_path, alone=True) as process:
        assert process.stdout is not None
        boss, *daemon = members(process.stdout)
        assert Ledger(tmp_path).leftovers(READER) == {}, "its supervisor lives: nothing is left over"
        process.send_signal(signal.SIGSTOP)  # or its own close would clean up
        os.kill(boss.pid, signal.SIGKILL)
        process.kill()
        until_gone([boss])
        assert living(daemon) != []
        supervisor = Supervisor(ledger=tmp_path)
        left = Ledger(tmp_path).leftovers(READER)
        assert list(left.values()) == [daemon]
        for mark in left:
            assert supervisor.sweep(f"{mark}.*", grace_s=0.1).ended == [daemon[0].pid]
            assert Ledger(tmp_path).leftovers(READER) == {mark: []}
            Ledger(tmp_path).strike(mark)
        assert Ledger(tmp_path).leftovers(READER) == {}
        supervisor.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(module.rung(READER) != module.WITH_GROUPS, reason="no control group may be made here")
def test_a_group_ends_when_harness_and_supervisor_are_killed_at_once(tmp_path: Path) -> None:
    """Even who has no marker and no parent of ours any more, and nobody waits for a next start."""
    wiped = """
if os.fork() == 0:
    os.setsid()
    tell(os.getpid())
    os.write(1, b"ready\\n")
    os.execve(sys.executable, [sys.executable, "-I", "-c", "import signal; signal.pause()"], {})
os._exit(0)
"""
    with harness(f"begin({python(wiped)!r})\nbegin({python(ZOO['traps TERM'])!r})", tmp_path) as process:
        assert process.stdout is not None
        boss, *mine = [*members(process.stdout), *members(process.stdout)]
        process.send_signal(signal.SIGSTOP)  # or its own close would clean up
        os.kill(boss.pid, signal.SIGKILL)
        process.kill()
        until_gone([boss, *mine])


def test_ledger_survives_a_broken_line_and_a_missing_directory(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").leftovers(READER) == {}
    (tmp_path / "broken.json").write_text("{")
    gone = ProcessId(pid=os.getpid(), start_ticks=1, boot_id=READER.boot_id())
    Ledger(tmp_path).enter("recycled", gone)
    assert Ledger(tmp_path).leftovers(READER) == {"recycled": []}
    Ledger(tmp_path).strike("recycled")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]
    (tmp_path / "file").touch()
    Ledger(tmp_path / "file").enter("x", gone)  # a place that cannot be written is not an error


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


@pytest.mark.parametrize("size_bytes", [2_000_000, 20_000_000])
def test_environment_that_is_too_large_for_a_message(start: Callable[..., Child], size_bytes: int) -> None:
    with pytest.raises(
        StageError, match=r"with \d{7,8} bytes of arguments and environment: .*; pass less, or a file$"
    ):
        start(["/bin/true"], HUGE="x" * size_bytes)
    assert start(["/bin/true"]).code() == 0


def test_message_larger_than_this_socket_takes(start: Callable[..., Child], supervisor: Supervisor) -> None:
    supervisor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with pytest.raises(StageError, match="more than one message to the supervisor holds"):
        start(["/bin/true"], HUGE="x" * 100_000)
    assert start(["/bin/true"]).code() == 0


def test_text_that_is_not_utf8(start: Callable[..., Child]) -> None:
    with pytest.raises(StageError, match="not UTF-8; change it"):
        start(["/bin/true"], NAME="\udcff")
    assert start(["/bin/true"]).code() == 0


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
