"""The process that owns everything we start, so that nothing outlives us, even when we are SIGKILLed.

One supervisor a pytest process: its own session (a Ctrl-C does not reach it), sub-reaper (orphans become its
children, prctl(2) PR_SET_CHILD_SUBREAPER), and on one end of a socket pair that is the lifeline: end of file means
that the harness is gone, and then everything that carries the session's marker is ended. It has one thread, so that
PR_SET_PDEATHSIG on its children fires only when the supervisor itself dies.

Only processes that carry our marker are ever signalled, by identity, never by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId

MARKER = "OCREPRO_MARK"
MESSAGE_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
KILL_DEADLINE_S = 5.0


class Spawn(msgspec.Struct, frozen=True, kw_only=True, tag="spawn"):
    """Start a program; stdin, stdout and stderr travel with the message (SCM_RIGHTS)."""

    number: int
    argv: list[str]
    environment: dict[str, str]
    directory: str


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag="signal"):
    """Send a signal to a process, if it is still that process."""

    number: int
    id: ProcessId
    signal: int


class Sweep(msgspec.Struct, frozen=True, kw_only=True, tag="sweep"):
    """End every process whose marker is ``mark`` (a prefix when it ends in ``*``)."""

    number: int
    mark: str
    grace_s: float


class Spawned(msgspec.Struct, frozen=True, kw_only=True, tag="spawned"):
    """Answer to Spawn; ``error`` is empty when it worked."""

    number: int
    id: ProcessId
    error: str = ""


class Signalled(msgspec.Struct, frozen=True, kw_only=True, tag="signalled"):
    """Answer to Signal; not ``sent`` when that process was gone."""

    number: int
    sent: bool


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="swept"):
    """Answer to Sweep: pids that we ended, and those that would not end."""

    number: int
    ended: list[int]
    leaked: list[int]


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """A child of the supervisor has ended. ``code``: status, or minus the signal."""

    pid: int
    code: int
    at_ns: int


Request = Spawn | Signal | Sweep
Reply = Spawned | Signalled | Ended | Exited
_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)
_encode = msgspec.json.encode


class Supervisor:
    """The harness' side. Thread-safe. ``mark`` is this session's marker; trials append ``.<n>`` to it."""

    def __init__(self, *, ledger: Path | None = None) -> None:
        self.mark = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._ledger = Ledger(ledger) if ledger is not None else None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), self.mark, *sys.path],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._number = 0
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._answers: dict[int, Reply] = {}
        self._exits: dict[int, Exited] = {}
        self._on_exit: dict[int, Callable[[Exited], None]] = {}
        self._closed = False
        self._listener = threading.Thread(target=self._listen, name="ocrepro-supervisor", daemon=True)
        self._listener.start()
        identity = Reader().identify(self._process.pid)
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
        on_exit: Callable[[Exited], None],
    ) -> ProcessId:
        """Start a program in its own session; ``on_exit`` is called once, from another thread.

        Raises StageError when the program cannot be started.
        """
        answer = self._ask(lambda n: Spawn(number=n, argv=argv, environment=environment, directory=directory), stdio)
        assert isinstance(answer, Spawned)  # noqa: S101  the supervisor answers in kind
        if answer.error:
            raise StageError(f"cannot start {argv[0]}: {answer.error}; check the path and its permissions")
        with self._changed:
            gone = self._exits.pop(answer.id.pid, None)
            if gone is None:
                self._on_exit[answer.id.pid] = on_exit
        if gone is not None:
            on_exit(gone)
        return answer.id

    def signal(self, process: ProcessId, number: int) -> bool:
        """Send a signal; False when that process (same start time) is gone."""
        answer = self._ask(lambda n: Signal(number=n, id=process, signal=number))
        return isinstance(answer, Signalled) and answer.sent

    def sweep(self, mark: str, *, grace_s: float = 1.0) -> Ended:
        """SIGCONT and SIGTERM, ``grace_s``, SIGSTOP all, rescan until stable, SIGKILL, reap, look again."""
        answer = self._ask(lambda n: Sweep(number=n, mark=mark, grace_s=grace_s))
        assert isinstance(answer, Ended)  # noqa: S101  the supervisor answers in kind
        return answer

    def close(self) -> None:
        """End everything of this session and the supervisor itself."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout=KILL_DEADLINE_S * 3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(timeout=KILL_DEADLINE_S)
        self._socket.close()
        if self._ledger is not None:
            self._ledger.strike(self.mark)

    def _ask(self, request: Callable[[int], Request], fds: tuple[int, ...] = ()) -> Reply:
        with self._sending:
            self._number += 1
            number = self._number
            try:
                socket.send_fds(self._socket, [_encode(request(number))], fds)
            except OSError as error:
                raise StageError(f"the supervisor (pid {self.pid}) is gone: {error}; run again") from error
        with self._changed:
            while number not in self._answers:
                if not self._listener.is_alive():
                    raise StageError(f"the supervisor (pid {self.pid}) ended without an answer; run again")
                self._changed.wait(0.5)
            return self._answers.pop(number)

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv(MESSAGE_BYTES)
            except OSError:
                message = b""
            if not message:
                break
            reply = _replies.decode(message)
            if isinstance(reply, Exited):
                self._note_exit(reply)
                continue
            with self._changed:
                self._answers[reply.number] = reply
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _note_exit(self, reply: Exited) -> None:
        with self._changed:
            callback = self._on_exit.pop(reply.pid, None)
            if callback is None:
                self._exits[reply.pid] = reply
        if callback is not None:
            callback(reply)


class Ledger:
    """Which supervisors live on this machine, so that the next start finds what a dead one left behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, mark: str, supervisor: ProcessId) -> None:
        """Write the line of a supervisor that has begun."""
        with contextlib.suppress(OSError):  # a lost line costs only the sweep of the next start
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / f"{mark}.json").write_bytes(_encode(supervisor))

    def strike(self, mark: str) -> None:
        """Its work is done."""
        with contextlib.suppress(OSError):
            (self._directory / f"{mark}.json").unlink()

    def leftovers(self, reader: Reader) -> dict[str, list[ProcessId]]:
        """Marks of supervisors that are gone -> processes that still carry them; clean lines are struck."""
        found: dict[str, list[ProcessId]] = {}
        for line in sorted(self._directory.glob("*.json")):
            try:
                supervisor = msgspec.json.decode(line.read_bytes(), type=ProcessId)
            except (OSError, msgspec.DecodeError):
                continue
            if supervisor.boot_id == reader.boot_id() and reader.alive(supervisor):
                continue
            left = reader.marked(MARKER, f"{line.stem}.*")
            if left:
                found[line.stem] = left
            else:
                self.strike(line.stem)
        return found


# -I keeps the user's PYTHON* variables and working directory out; sys.path comes as arguments instead.
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from pytest_ocrepro.stage.supervisor import serve; serve()"


def serve() -> None:
    """The supervisor's own main; arguments: socket fd, session mark."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _Server(lifeline, libc, sys.argv[2]).run()


class _Server:
    def __init__(self, lifeline: socket.socket, libc: ctypes.CDLL, mark: str) -> None:
        self._lifeline = lifeline
        self._libc = libc
        self._mark = mark
        self._reader = Reader()
        self._children: set[int] = set()
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([self._lifeline.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if self._lifeline.fileno() in ready and not self._one_request():
                break
        self._sweep(f"{self._mark}*", grace_s=0.3)

    def _one_request(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._lifeline, MESSAGE_BYTES, 3)
        if not message:
            return False
        request = _requests.decode(message)
        if isinstance(request, Spawn):
            self._send(self._spawn(request, fds))
        elif isinstance(request, Signal):
            self._send(Signalled(number=request.number, sent=self._signal(request.id, request.signal)))
        else:
            ended, leaked = self._sweep(request.mark, grace_s=request.grace_s)
            self._send(Ended(number=request.number, ended=ended, leaked=leaked))
        return True

    def _send(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):  # the harness is gone: the next read sees it
            self._lifeline.send(_encode(reply))

    def _spawn(self, request: Spawn, fds: list[int]) -> Spawned:
        try:
            child = subprocess.Popen(
                request.argv,
                env=request.environment,
                cwd=request.directory,
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
                start_new_session=True,
                preexec_fn=self._die_with_parent,  # noqa: PLW1509  one thread: it is safe here
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return Spawned(number=request.number, id=ProcessId(pid=0, start_ticks=0), error=str(error))
        finally:
            for fd in fds:
                os.close(fd)
        child.returncode = 0  # waited for by _reap, never by Popen
        self._children.add(child.pid)
        identity = self._reader.identify(child.pid)
        return Spawned(number=request.number, id=identity or ProcessId(pid=child.pid, start_ticks=0))

    def _die_with_parent(self) -> None:
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _signal(self, process: ProcessId, number: int) -> bool:
        now = self._reader.identify(process.pid)
        if now is None or now.start_ticks != process.start_ticks:
            return False
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:  # the others are orphans that the kernel handed to us
                self._children.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._send(Exited(pid=pid, code=code, at_ns=time.monotonic_ns()))

    def _sweep(self, mark: str, *, grace_s: float) -> tuple[list[int], list[int]]:
        """The kill ladder over everything that carries ``mark``."""
        first = self._marked(mark)
        ended = {process.pid for process in first}
        for process in first:
            self._signal(process, signal.SIGTERM)
            self._signal(process, signal.SIGCONT)
        self._until_empty(mark, grace_s)
        ended |= self._stop_all(mark)
        deadline = time.monotonic() + KILL_DEADLINE_S
        while left := self._marked(mark):
            for process in left:
                ended.add(process.pid)
                self._signal(process, signal.SIGKILL)
            if time.monotonic() > deadline:
                return sorted(ended), sorted(process.pid for process in left)
            self._pause(0.01)
        return sorted(ended), []

    def _stop_all(self, mark: str) -> set[int]:
        """SIGSTOP until a scan finds nobody new: what is stopped cannot fork any more."""
        stopped: set[ProcessId] = set()
        while new := set(self._marked(mark)) - stopped:
            for process in new:
                self._signal(process, signal.SIGSTOP)
            stopped |= new
        return {process.pid for process in stopped}

    def _until_empty(self, mark: str, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while self._marked(mark) and time.monotonic() < deadline:
            self._pause(0.01)

    def _pause(self, seconds: float) -> None:
        """Wait for a child's end, no longer than this; and reap."""
        select.select([self._wake_read], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._reap()

    def _marked(self, mark: str) -> list[ProcessId]:
        self._reap()
        return [process for process in self._reader.marked(MARKER, mark) if process.pid != os.getpid()]
