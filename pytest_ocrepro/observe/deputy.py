"""A tiny process opens the subject's files for us: no lock of ours is lost by it, and what hangs does not hang us."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.observe import errands
from pytest_ocrepro.observe.errands import Conflict

Start = Callable[[list[str], int, int], object]

_ANSWER_S: Final = 1.0
_COPY_S: Final = 30.0
_READ_BYTES: Final = 65536
_ARGV: Final = [sys.executable, "-I", "-S", errands.__file__]


class DeputyError(OcreproError):
    """The deputy could not be started, or has not answered in time: what it was asked is unknown."""


class _Answer(msgspec.Struct, array_like=True, frozen=True):
    number: int
    value: Any
    error: tuple[int | None, str] | None
    cpu_ns: int = 0  # of its whole life


class _Ended(Exception):  # noqa: N818  it is no error of ours
    pass


class Deputy:
    """Asks another process. Thread-safe; a question is answered, or refused with DeputyError, within its time.

    ``start`` starts a program with two descriptors as its standard input and output (it may raise OSError or
    OcreproError); it is called at the first question, and again when the deputy has ended. A deputy that does not
    answer is asked nothing more until its late answer has come.
    """

    def __init__(self, start: Start, *, answer_s: float = _ANSWER_S) -> None:
        self._start = start
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._ends: tuple[int, int] | None = None  # what we read from, what we write to
        self._rest = b""
        self._asked = self._answered = 0
        self._cpu_ns = self._earlier_cpu_ns = 0

    @property
    def cpu_ns(self) -> int:
        """CPU time that deputies have used, their starts included, as they told in their last answers."""
        return self._earlier_cpu_ns + self._cpu_ns

    def conflicts(self, path: Path, ranges: Iterable[tuple[int, int]]) -> list[Conflict]:
        """Who keeps a writer out of each (start, length); see errands. Raises OSError or DeputyError."""
        answer = self._ask("conflicts", [str(path), list(ranges)], self._answer_s)
        return [(access, start, end, pid) for access, start, end, pid in answer]

    def head(self, path: Path, size_bytes: int) -> bytes:
        """The first bytes of a file. Raises OSError or DeputyError."""
        return bytes.fromhex(self._ask("head", [str(path), size_bytes], self._answer_s))

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file's bytes. Raises OSError (TimedOut included, after 30 s)."""
        try:
            self._ask("copy", [str(source), str(target)], _COPY_S)
        except DeputyError as error:
            raise OSError(errno.ETIMEDOUT, str(error)) from error

    def begin(self) -> None:
        """Start it now, so that the first question need not wait for it. Raises DeputyError."""
        with self._lock:
            self._ends = self._ends or self._begin()

    def close(self) -> None:
        """Let it end. Safe to call again; a later question starts another."""
        with self._lock:
            self._forget()

    # --- below: how

    def _ask(self, errand: str, arguments: list[object], timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise DeputyError("the deputy is busy with another question; this one is not answered")
        try:
            return self._asked_twice(errand, arguments, deadline)
        finally:
            self._lock.release()

    def _asked_twice(self, errand: str, arguments: list[object], deadline: float) -> Any:
        """A deputy may have ended with a supervisor that was replaced since."""
        try:
            return self._ask_once(errand, arguments, deadline)
        except _Ended:
            self._forget()
        try:
            return self._ask_once(errand, arguments, deadline)
        except _Ended:
            self._forget()
            raise DeputyError("the deputy has ended twice; see whether a Python can be started") from None

    def _ask_once(self, errand: str, arguments: list[object], deadline: float) -> Any:
        reader, writer = self._ends = self._ends or self._begin()
        self._collect(reader, self._asked, 0.0)
        if self._answered < self._asked:
            raise DeputyError("the deputy has not answered an earlier question; a file system may hang")
        self._asked += 1
        try:
            os.write(writer, msgspec.json.encode([self._asked, errand, arguments]) + b"\n")
        except BrokenPipeError as error:
            raise _Ended from error
        except BlockingIOError as error:
            raise DeputyError("the deputy takes no question; see whether it is suspended") from error
        answer = self._collect(reader, self._asked, deadline)
        if answer is None:
            raise DeputyError(f"the deputy has not answered {errand!r} in time; a file system may hang")
        if answer.error is not None:
            raise OSError(*answer.error)
        return answer.value

    def _collect(self, reader: int, number: int, deadline: float) -> _Answer | None:
        """Read until the answer with this number is there, no longer than until the deadline."""
        ready = select.poll()
        ready.register(reader, select.POLLIN)
        while self._answered < number:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                answer = msgspec.json.decode(line, type=_Answer)
                self._answered, self._cpu_ns = answer.number, answer.cpu_ns
                if answer.number == number:
                    return answer
                continue
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            data = os.read(reader, _READ_BYTES)
            if not data:
                raise _Ended
            self._rest += data
        return None

    def _begin(self) -> tuple[int, int]:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                their_input, writer = os.pipe()
                theirs.callback(os.close, their_input)
                ours.callback(os.close, writer)
                reader, their_output = os.pipe()
                theirs.callback(os.close, their_output)
                ours.callback(os.close, reader)
                os.set_blocking(writer, False)
                self._start(_ARGV, their_input, their_output)
            except (OSError, OcreproError) as error:
                raise DeputyError(f"the deputy cannot be started: {error}") from error
            ours.pop_all()
        self._rest, self._asked, self._answered = b"", 0, 0
        self._earlier_cpu_ns, self._cpu_ns = self.cpu_ns, 0
        return reader, writer

    def _forget(self) -> None:
        for end in self._ends or ():
            os.close(end)
        self._ends = None
