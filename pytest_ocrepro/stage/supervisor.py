"""The process that owns everything we start, so that nothing outlives us, even when we are SIGKILLed.

One supervisor a pytest process (:mod:`pytest_ocrepro.stage.keeper`), on one end of a socket pair that is the
lifeline: end of file, or the harness' end (pidfd_open(2), for a lifeline that a forked child of the harness keeps
open), means that everything of this session is ended, by the rungs of :mod:`pytest_ocrepro.stage.ladder`.

Each trial has a control group of version 2 (:mod:`pytest_ocrepro.stage.cgroup`) or a PID namespace
(:mod:`pytest_ocrepro.stage.namespace`) where one may be made (:mod:`pytest_ocrepro.stage.rungs` chooses): the kernel
keeps who is in it, and all of it ends should harness and supervisor be SIGKILLed at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import wire
from pytest_ocrepro.stage.ladder import KILL_DEADLINE_S, Ladder
from pytest_ocrepro.stage.ledger import Ledger
from pytest_ocrepro.stage.orders import (
    MARKER,
    MESSAGE_BYTES,
    Ended,
    Exited,
    Reply,
    Request,
    Signal,
    Signalled,
    Spawn,
    Spawned,
    Sweep,
    decode_reply,
    encoded,
    matches,
    too_large,
)
from pytest_ocrepro.stage.rungs import Chosen, choose

ANSWER_DEADLINE_S = 60.0  # a sweep of everything takes at most its grace and KILL_DEADLINE_S
# -I keeps the user's PYTHON* variables and working directory out; sys.path comes as arguments instead.
_BOOT = "import sys; sys.path[:] = sys.argv[6:]; from pytest_ocrepro.stage.keeper import serve; sys.exit(serve())"

OnExit = Callable[[Exited], None]


class Supervisor:
    """The harness' side. Thread-safe. ``mark`` is this session's marker; trials append ``.<n>`` to it.

    ``controller``: a process without which the harness has nothing to go on for (pytest-xdist's, for a worker): the
    supervisor ends everything when either is gone. Raises StageError when the supervisor cannot be started.
    """

    def __init__(self, *, ledger: Path | None = None, controller: ProcessId | None = None) -> None:
        self.mark = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._ledger = Ledger(ledger) if ledger is not None else None
        chosen = choose(self.mark, reader_here())
        self.rung = chosen.rung
        self._groups = chosen.groups
        try:
            self._socket, self._process = _start_server(self.mark, controller, chosen)
        except StageError:
            if self._groups is not None:
                self._groups.of(f"{self.mark}*").remove()
            raise
        self._number = 0
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._answers: dict[int, Reply | None] = {}  # None: awaited
        self._spawning: dict[int, tuple[str, OnExit]] = {}
        self._running: dict[int, tuple[str, OnExit]] = {}
        self._failure: Exception | None = None
        self._gone = False
        self._closing = threading.Lock()
        self._closed = self._put_away = False
        self._listener = threading.Thread(target=self._listen, name="ocrepro-supervisor", daemon=True)
        self._listener.start()
        identity = reader_here().identify(self._process.pid)
        if self._ledger is not None and identity is not None:
            self._ledger.enter(self.mark, identity)

    @property
    def pid(self) -> int:
        """The supervisor's own pid."""
        return self._process.pid

    def spawn(
        self,
        argv: list[str],
        *,
        environment: dict[str, str],
        directory: str,
        stdio: tuple[int, int, int],
        on_exit: OnExit,
    ) -> ProcessId:
        """:meth:`begin`, for who needs the identity alone."""
        begun = self.begin(argv, environment=environment, directory=directory, stdio=stdio, on_exit=on_exit)
        return begun.id

    def begin(
        self,
        argv: list[str],
        *,
        environment: dict[str, str],
        directory: str,
        stdio: tuple[int, int, int],
        on_exit: OnExit,
    ) -> Spawned:
        """Start a program in its own session.

        ``on_exit`` is called once, from the listening thread, perhaps before this returns; it must not ask the
        supervisor for anything. Raises StageError when the program cannot be started.
        """
        self.check()
        answer = self._ask(
            lambda n: Spawn(number=n, argv=argv, environment=environment, directory=directory),
            stdio,
            (environment.get(MARKER, ""), on_exit),
        )
        assert isinstance(answer, Spawned)  # noqa: S101  the supervisor answers in kind
        if answer.error:
            raise StageError(f"cannot start {argv[0]}: {answer.error}; check the path and its permissions")
        return answer

    def start_helper(self, argv: list[str], stdin: int, stdout: int) -> ProcessId:
        """Start a small program of ours that belongs to no trial; it ends with the session. Raises StageError."""
        environment = {MARKER: self.mark, "PATH": os.defpath}
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  a descriptor is all that is wanted
            return self.spawn(
                argv,
                environment=environment,
                directory="/",
                stdio=(stdin, stdout, nowhere.fileno()),
                on_exit=lambda _: None,
            )

    def signal(self, process: ProcessId, number: int) -> bool:
        """Send a signal; False when that process (same start time) is gone. Raises StageError."""
        answer = self._ask(lambda n: Signal(number=n, id=process, signal=number))
        return isinstance(answer, Signalled) and answer.sent

    def sweep(self, mark: str, *, grace_s: float = 1.0) -> Ended:
        """SIGTERM and SIGCONT, ``grace_s``, SIGSTOP all, rescan until stable, SIGKILL, reap, look again.

        Done from here when the supervisor itself is gone. Raises StageError when it does not answer.
        """
        try:
            answer = self._ask(lambda n: Sweep(number=n, mark=mark, grace_s=grace_s))
        except StageError:
            if not self._gone:
                raise
            return self._sweep_alone(mark, grace_s)
        assert isinstance(answer, Ended)  # noqa: S101  the supervisor answers in kind
        return answer

    def check(self) -> None:
        """Raise StageError when the supervisor is gone: no end of a process will be told any more."""
        if self._failure is not None:
            what = f"{type(self._failure).__name__}: {self._failure}"
            raise StageError(f"the end of a process could not be recorded ({what}); run again")
        if self._gone or self._process.poll() is not None:  # the listener may not have noticed yet
            raise StageError(self._obituary())

    def close(self) -> None:
        """End everything of this session and the supervisor itself. Safe to call again."""
        with self._closing:
            if self._put_away:
                return
            self._closed = True  # and again where a Ctrl-C came in between
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            code = self._wait_for_end()
            self._listener.join(timeout=KILL_DEADLINE_S)
            self._socket.close()
            leaked = self._sweep_alone(f"{self.mark}*", 0.3).leaked if code else []
            if self._ledger is not None and not leaked:
                self._ledger.strike(self.mark)
            self._put_away = True

    def _wait_for_end(self) -> int:
        try:
            return self._process.wait(timeout=KILL_DEADLINE_S * 3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _sweep_alone(self, mark: str, grace_s: float) -> Ended:
        """The same ladder without the supervisor, over what PR_SET_PDEATHSIG has not killed with it."""
        ended, leaked = Ladder(reader_here(), mark, group=self._groups.of(mark) if self._groups else None).run(
            grace_s
        )
        with self._changed:
            lost = [(pid, entry[1]) for pid, entry in self._running.items() if matches(entry[0], mark)]
            for pid, _ in lost:
                del self._running[pid]
        for pid, on_exit in lost:
            if pid not in leaked:  # its status went with the supervisor; SIGKILL is what the kernel sends then
                on_exit(Exited(pid=pid, code=-signal.SIGKILL, at_ns=time.monotonic_ns()))
        return Ended(number=0, ended=ended, leaked=leaked)

    def _obituary(self) -> str:
        if self._closed:
            return f"the supervisor (pid {self.pid}) is closed: the session is over; start a new one"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # the lifeline breaks a moment before
        code = self._process.returncode
        how = "?" if code is None else signal.Signals(-code).name if code < 0 else f"exit {code}"
        return f"the supervisor (pid {self.pid}) has ended ({how}) and its processes with it; run again"

    def _ask(
        self,
        request: Callable[[int], Request],
        fds: tuple[int, ...] = (),
        child: tuple[str, OnExit] | None = None,
    ) -> Reply:
        number = self._send(request, fds, child)
        deadline = time.monotonic() + ANSWER_DEADLINE_S
        try:
            with self._changed:
                while (answer := self._answers[number]) is None:
                    if self._gone:
                        raise StageError(self._obituary())
                    if time.monotonic() > deadline:
                        raise self._silence()
                    self._changed.wait(0.5)
                return answer
        finally:
            with self._changed:
                del self._answers[number]

    def _send(self, request: Callable[[int], Request], fds: tuple[int, ...], child: tuple[str, OnExit] | None) -> int:
        with self._sending:
            self._number += 1
            number = self._number
            message = encoded(request(number))
            with self._changed:
                self._answers[number] = None
                if child is not None:
                    self._spawning[number] = child
            try:
                wire.send(self._socket, message, fds)
            except OSError as error:
                with self._changed:
                    del self._answers[number]
                    self._spawning.pop(number, None)
                raise self._refusal(error, len(message)) from error
        return number

    def _refusal(self, error: OSError, size_bytes: int) -> StageError:
        if error.errno == errno.EMSGSIZE:
            return too_large(size_bytes)
        return self._silence() if error.errno == errno.EAGAIN else StageError(self._obituary())

    def _silence(self) -> StageError:
        what = f"the supervisor (pid {self.pid}) does not answer within {ANSWER_DEADLINE_S:g} s"
        return StageError(f"{what}; see whether it is suspended, and run again")

    def _listen(self) -> None:
        while message := self._receive():
            reply = decode_reply(message)
            if isinstance(reply, Exited):
                self._note_exit(reply)
                continue
            with self._changed:
                if (
                    isinstance(reply, Spawned)
                    and (child := self._spawning.pop(reply.number, None))
                    and not reply.error
                ):
                    self._running[reply.id.pid] = child
                if reply.number in self._answers:  # else its asker was interrupted
                    self._answers[reply.number] = reply
                self._changed.notify_all()
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _receive(self) -> bytes:
        try:
            return wire.receive(self._socket)[0]
        except OSError:
            return b""

    def _note_exit(self, reply: Exited) -> None:
        with self._changed:
            _, on_exit = self._running.pop(reply.pid, ("", None))
        if on_exit is None:
            return
        try:
            on_exit(reply)
        except Exception as failure:  # noqa: BLE001  the next one who asks is told; this thread must go on
            self._failure = failure


def _start_server(
    mark: str, controller: ProcessId | None, chosen: Chosen
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    watched = [os.getpid(), *([controller.pid] if controller and reader_here().alive(controller) else [])]
    with contextlib.ExitStack() as opened:
        try:
            ours, theirs = map(opened.enter_context, wire.pair())
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            # a supervisor that somebody suspends must not block its askers for ever
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_DEADLINE_S), 0))
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-c",
                    _BOOT,
                    str(theirs.fileno()),
                    mark,
                    ",".join(map(str, watched)),
                    str(chosen.groups.base) if chosen.groups else "",
                    chosen.way,
                    *sys.path,
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise StageError(f"cannot start the supervisor: {error}; see `ulimit -u` and `ulimit -n`") from error
        opened.pop_all()
        theirs.close()
    return ours, process
