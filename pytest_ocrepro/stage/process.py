"""One started program: its identity, its ends, the signals it gets, what it prints."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from pytest_ocrepro.errors import NotReachedError, StageError, advice
from pytest_ocrepro.events import ProcessExited, SignalSent
from pytest_ocrepro.history import LONGEST_SECRET, History, now_ns
from pytest_ocrepro.observe.regular import open_regular
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.orders import Exited
from pytest_ocrepro.stage.supervisor import Supervisor

OUTPUT_TAIL_BYTES = 8000
TAIL_READ_BYTES = 4 * (OUTPUT_TAIL_BYTES + 4 * LONGEST_SECRET)  # 4 a character; more than an excerpt looks at
LOOK_S = 0.5  # between two looks whether the supervisor, who tells the end, is still there
ENDING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT})


class Stdin(Protocol):
    """Where a program's standard input comes from."""

    name: str

    def open(self) -> int:
        """The read end, for the program."""

    def close(self) -> None:
        """Let go of whatever we hold open."""


class NoInput:
    """``/dev/null``: end of file at once. The default, because an open stdin is a hang of its own."""

    name = "/dev/null"

    def open(self) -> int:
        """A descriptor on /dev/null."""
        return os.open("/dev/null", os.O_RDONLY)

    def close(self) -> None:
        """Nothing is held."""


class OpenPipe:
    """A pipe whose writer stays open and never writes, until :meth:`close`."""

    name = "open pipe"

    def __init__(self) -> None:
        self._writer: int | None = None

    def open(self) -> int:
        """The read end."""
        self.close()
        reader, self._writer = os.pipe()
        return reader

    def close(self) -> None:
        """Close the write end: the reader sees end of file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)


class Process:
    """A program that runs under the supervisor. Made by the harness, used by scenarios.

    ``role`` is its name in the evidence; ``stdout`` and ``stderr`` are files in the sandbox, so that a full pipe can
    never be what it waits for.
    """

    def __init__(
        self, role: str, argv: list[str], *, supervisor: Supervisor, history: History, output: Path, stdin: Stdin
    ) -> None:
        self.role = role
        self.argv = argv
        self.stdin = stdin
        self.stdout_path = output / f"{role}.out"
        self.stderr_path = output / f"{role}.err"
        self.started_ns = 0
        self.id = ProcessId(pid=0, start_ticks=0)
        self.inner_pid = 0  # as it is told itself, where it has a PID namespace; 0: the same
        self._supervisor = supervisor
        self._history = history
        self._exit: Exited | None = None
        self._ended = threading.Event()
        self._signalled: set[int] = set()

    def start(self, environment: dict[str, str], directory: str) -> None:
        """Start it. Raises StageError when it cannot be started."""
        with self._stdio() as fds:
            self.started_ns = now_ns()
            try:
                begun = self._supervisor.begin(
                    self.argv, environment=environment, directory=directory, stdio=fds, on_exit=self._note_exit
                )
                self.id, self.inner_pid = begun.id, begun.inner_pid
            except StageError:
                self.stdin.close()
                raise

    @contextlib.contextmanager
    def _stdio(self) -> Iterator[tuple[int, int, int]]:
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with contextlib.ExitStack() as opened:
            fds = []
            try:
                for open_one in (
                    self.stdin.open,
                    lambda: os.open(self.stdout_path, append, 0o600),
                    lambda: os.open(self.stderr_path, append, 0o600),
                ):
                    fds.append(open_one())
                    opened.callback(os.close, fds[-1])
            except OSError as error:
                self.stdin.close()
                what = f"cannot open the files of {self.role}: {error.strerror} ({error.filename})"
                raise StageError(f"{what}; {advice(error)}") from error
            yield fds[0], fds[1], fds[2]

    @property
    def pid(self) -> int:
        """Its pid; stays the same after its end."""
        return self.id.pid

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return not self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """Status, minus the signal, or None while it lives."""
        return None if self._exit is None else self._exit.code

    @property
    def ended_by_itself(self) -> bool:
        """It has ended, and not by a signal of ours."""
        return self._exit is not None and not self._by_us(self._exit)

    @property
    def output(self) -> str:
        """Everything it has printed so far, stdout then stderr."""
        return _text(self.stdout_path) + _text(self.stderr_path)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still lives after ``timeout_s`` seconds.

        Raises StageError when the supervisor is gone: its end will not be told any more.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ended.wait(max(0.0, min(LOOK_S, deadline - time.monotonic()))):
            self._supervisor.check()
            if time.monotonic() >= deadline:
                return False
        return True

    def wait_for_end(self, timeout_s: float = 30.0) -> int:
        """Its exit code. Raises NotReachedError when it still lives after ``timeout_s`` seconds."""
        if not self.wait(timeout_s):
            raise NotReachedError(f"{self.role} (pid {self.pid}) still lives after {timeout_s:g} s")
        assert self._exit is not None  # noqa: S101  the event is set after the code
        return self._exit.code

    def suspend(self) -> bool:
        """SIGSTOP; False when it was gone already."""
        return self._send(signal.SIGSTOP)

    def resume(self) -> bool:
        """SIGCONT; False when it was gone already."""
        return self._send(signal.SIGCONT)

    def terminate(self) -> bool:
        """SIGTERM; False when it was gone already."""
        return self._send(signal.SIGTERM)

    def kill(self) -> bool:
        """SIGKILL, and wait until it is gone; False when it was gone already."""
        sent = self._send(signal.SIGKILL)
        self.wait_for_end(10.0)
        return sent

    def _send(self, number: signal.Signals) -> bool:
        fresh = number in ENDING and number not in self._signalled
        if fresh:
            self._signalled.add(number)  # first: its end may be told before the answer comes
        begun_ns = now_ns()  # its end may be known before we are told that the signal was sent
        sent = self._supervisor.signal(self.id, number)
        if sent:
            self._history.append(
                SignalSent(at_ns=begun_ns, pid=self.pid, role=self.role, signal=number.name, why="scenario")
            )
        elif fresh:
            self._signalled.discard(number)
        return sent

    def _by_us(self, exited: Exited) -> bool:
        """Killed by a signal that we sent, or ended by the handler that it has for one (exit 128 + n)."""
        return bool({-exited.code, exited.code - 128} & self._signalled)

    def expect_end(self, number: int) -> None:
        """Somebody else of ours (the sweep, a trigger) is about to send this signal."""
        self._signalled.add(number)

    def _note_exit(self, exited: Exited) -> None:
        if self._exit is not None:
            return
        self._exit = exited
        try:
            printed = _text(self.stdout_path, tail=True) + _text(self.stderr_path, tail=True)
            self._history.append(
                ProcessExited(
                    at_ns=exited.at_ns,
                    pid=self.pid or exited.pid,
                    role=self.role,
                    code=exited.code,
                    ours=exited.swept or self._by_us(exited),
                    output=self._history.excerpt(printed, -OUTPUT_TAIL_BYTES),
                )
            )
        finally:  # whoever waits for its end must not wait for our record of it
            self._ended.set()


def _text(path: Path, *, tail: bool = False) -> str:
    """The text of a file, "" where there is none; ``tail``: its end, so that a gigabyte is never read."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        if tail:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_READ_BYTES))
        return file.read().decode(errors="replace")
    return ""


def until(condition: Callable[[], object], *, timeout_s: float, what: str, every_s: float = 0.02) -> None:
    """Poll a callable until it is true; for things that give no event (a file of another process).

    Raises NotReachedError naming ``what``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotReachedError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(every_s)
