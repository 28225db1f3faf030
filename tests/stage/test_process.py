from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import NotReachedError, StageError
from pytest_ocrepro.events import ProcessExited, SignalSent
from pytest_ocrepro.history import E, History
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import OUTPUT_TAIL_BYTES, NoInput, OpenPipe, Process, Stdin, until
from pytest_ocrepro.stage.supervisor import Supervisor

READER = Reader()
WAIT_S = 20.0
SLEEP = "import signal; print('up', flush=True); signal.pause()"
Start = Callable[..., Process]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    one = Supervisor()
    yield one
    one.close()


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def make(supervisor: Supervisor, history: History, tmp_path: Path) -> Start:
    def begin(role: str, argv: list[str], stdin: Stdin | None = None) -> Process:
        return Process(role, argv, supervisor=supervisor, history=history, output=tmp_path, stdin=stdin or NoInput())

    return begin


@pytest.fixture
def start(make: Start, supervisor: Supervisor, tmp_path: Path) -> Iterator[Start]:
    mark = f"{supervisor.mark}.{os.urandom(3).hex()}"

    def begin(code: str, stdin: Stdin | None = None, role: str = "stand-in") -> Process:
        process = make(role, [sys.executable, "-I", "-c", code], stdin)
        process.start({MARKER: mark, "PATH": "/usr/bin:/bin"}, str(tmp_path))
        return process

    yield begin
    assert supervisor.sweep(mark, grace_s=0.1).leaked == []


def up(process: Process) -> Process:
    until(lambda: "up" in process.output, timeout_s=WAIT_S, what="the stand-in's word")
    return process


def exits(history: History) -> list[ProcessExited]:
    return history.of_type(ProcessExited)


def test_a_kill_is_told_as_sent_before_the_end_that_it_made(start: Start, history: History) -> None:
    """The supervisor knows the end before the killer is told that the signal was sent."""
    for number in range(10):
        up(start(SLEEP, role=f"stand-in-{number}")).kill()
    ends = {event.pid: event.at_ns for event in exits(history)}
    sent = history.of_type(SignalSent)
    assert len(sent) == len(ends) == 10
    assert all(event.at_ns < ends[event.pid] for event in sent)


def test_end_by_itself(start: Start, history: History) -> None:
    process = start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert process.wait_for_end(WAIT_S) == 3
    assert (process.alive, process.exit_code, process.ended_by_itself) == (False, 3, True)
    assert process.output == "out\nerr\n"
    (event,) = exits(history)
    assert (event.pid, event.role, event.code, event.ours, event.output) == (
        process.pid,
        "stand-in",
        3,
        False,
        "out\nerr\n",
    )
    assert not process.kill()
    assert process.ended_by_itself, "a kill that came too late has not ended it"
    assert history.of_type(SignalSent) == []


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (SLEEP, -signal.SIGTERM),
        (f"import os, signal; signal.signal(15, lambda *_: os._exit(143)); {SLEEP}", 128 + signal.SIGTERM),
    ],
)
def test_end_by_our_signal_is_ours(start: Start, history: History, code: str, exit_code: int) -> None:
    process = up(start(code))
    assert process.exit_code is None
    assert process.terminate()
    assert process.wait_for_end(WAIT_S) == exit_code
    assert not process.ended_by_itself
    assert [event.ours for event in exits(history)] == [True]
    assert [event.signal for event in history.of_type(SignalSent)] == ["SIGTERM"]


def test_end_by_a_signal_of_somebody_else_is_not_ours(start: Start, history: History) -> None:
    process = up(start(SLEEP))
    process.suspend()
    process.resume()
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait_for_end(WAIT_S) == -signal.SIGKILL
    assert process.ended_by_itself
    assert [event.ours for event in exits(history)] == [False]


def test_expected_end_is_ours(start: Start) -> None:
    process = up(start(SLEEP))
    process.expect_end(signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait_for_end(WAIT_S)
    assert not process.ended_by_itself


def test_suspend_and_resume(start: Start) -> None:
    process = up(start(SLEEP))
    assert process.suspend()
    until(lambda: READER.state(process.pid) == "T", timeout_s=WAIT_S, what="T")
    assert process.resume()
    until(lambda: READER.state(process.pid) == "S", timeout_s=WAIT_S, what="S")
    process.suspend()
    assert process.kill(), "KILL ends what is suspended, too"


def test_no_input_is_end_of_file_and_an_open_pipe_is_not(start: Start) -> None:
    read = "import sys; print('up', flush=True); sys.stdin.read(); sys.exit(5)"
    assert start(read).wait_for_end(WAIT_S) == 5
    pipe = OpenPipe()
    waiting = up(start(read, pipe, "waiting"))
    assert not waiting.wait(0.1)
    with pytest.raises(NotReachedError, match=rf"^waiting \(pid {waiting.pid}\) still lives after 0.1 s$"):
        waiting.wait_for_end(0.1)
    pipe.close()
    assert waiting.wait_for_end(WAIT_S) == 5
    pipe.close()


def test_open_pipe_opened_again_lets_the_first_go() -> None:
    before = len(READER.fd_links(os.getpid()))
    pipe = OpenPipe()
    for reader in (pipe.open(), pipe.open()):
        os.close(reader)
    pipe.close()
    assert len(READER.fd_links(os.getpid())) == before


def test_program_that_is_not_there_leaves_no_descriptor(make: Start, tmp_path: Path) -> None:
    before = READER.fd_links(os.getpid())
    with pytest.raises(StageError, match="cannot start /no/such/program: No such file"):
        make("absent", ["/no/such/program"], OpenPipe()).start({}, str(tmp_path))
    assert READER.fd_links(os.getpid()) == before


def test_output_that_cannot_be_written_is_a_stage_error(make: Start, tmp_path: Path) -> None:
    before = READER.fd_links(os.getpid())
    with pytest.raises(StageError) as caught:
        make("a/b", ["/bin/true"], OpenPipe()).start({}, str(tmp_path))
    what = f"cannot open the files of a/b: No such file or directory ({tmp_path}/a/b.out)"
    assert str(caught.value) == f"{what}; make it, or set TMPDIR to a directory that is there"
    assert READER.fd_links(os.getpid()) == before


def test_only_the_end_of_much_output_is_kept(start: Start, history: History) -> None:
    process = start("print('x' * 3_000_000 + 'é' * 20_000 + 'end')")
    process.wait_for_end(WAIT_S)
    (event,) = exits(history)
    assert len(event.output) == OUTPUT_TAIL_BYTES
    assert event.output.endswith("éend\n")
    assert set(event.output[:-4]) == {"é"}


def test_record_that_fails_does_not_hide_the_end(supervisor: Supervisor, tmp_path: Path) -> None:
    class Full(History):
        def append(self, event: E) -> E:
            raise OSError(28, f"No space left on device for {event}")

    own = Supervisor()
    process = Process("unlucky", ["/bin/true"], supervisor=own, history=Full(), output=tmp_path, stdin=NoInput())
    process.start({}, str(tmp_path))
    assert process.wait_for_end(WAIT_S) == 0
    until(lambda: own._failure is not None, timeout_s=WAIT_S, what="the failure")
    own.close()


def test_wait_does_not_go_on_when_the_supervisor_was_killed(history: History, tmp_path: Path) -> None:
    own = Supervisor()
    process = Process(
        "lost", [sys.executable, "-I", "-c", SLEEP], supervisor=own, history=history, output=tmp_path, stdin=NoInput()
    )
    process.start({MARKER: own.mark}, str(tmp_path))
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(StageError, match=rf"^the supervisor \(pid {own.pid}\) has ended \(SIGKILL\)"):
        process.wait(WAIT_S)
    assert process.alive, "nobody has told its end"
    assert exits(history) == []
    process.expect_end(signal.SIGKILL)
    own.sweep(own.mark)
    assert (process.wait(WAIT_S), process.exit_code) == (True, -signal.SIGKILL)
    assert [event.ours for event in exits(history)] == [True]
    own.close()


def test_until() -> None:
    seen = iter([False, False, True])
    until(lambda: next(seen), timeout_s=WAIT_S, what="it", every_s=0)
    with pytest.raises(NotReachedError, match=r"^the flood did not happen within 0 s$"):
        until(lambda: False, timeout_s=0, what="the flood")
