"""The process that owns everything we start, so that nothing outlives us, even when we are SIGKILLed.

One supervisor a pytest process: its own session (a Ctrl-C does not reach it), sub-reaper (orphans become its
children, prctl(2) PR_SET_CHILD_SUBREAPER), and on one end of a socket pair that is the lifeline: end of file, or the
harness' end (pidfd_open(2), for a lifeline that a forked child of the harness keeps open), means that everything of
this session is ended. It has one thread, so that PR_SET_PDEATHSIG on its children fires only when the supervisor
itself dies.

Where a control group of version 2 may be made, each trial has one (:mod:`pytest_ocrepro.stage.cgroup`), and the
kernel keeps who is in it. A PID namespace is not used: in it a subject would write down pids that mean nothing
outside, and what it writes down is evidence.

Only processes that carry our marker, are in our group or descend from what we started are ever signalled, by
identity, never by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import Stat
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.cgroup import Group, Groups

MARKER = "OCREPRO_MARK"
MESSAGE_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
KILL_DEADLINE_S = 5.0
ANSWER_DEADLINE_S = 60.0  # a sweep of everything takes at most its grace and KILL_DEADLINE_S
WITH_GROUPS, WITHOUT_GROUPS = "cgroup.kill and a supervisor", "a supervisor"
PROBE_S = 5.0
_DEAD = ("Z", "X", "x")  # proc_pid_stat(5)
_EXEC_S = 0.005  # execve shows an empty environment for some microseconds


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
    """A child of the supervisor has ended. ``code``: status, or minus the signal.

    ``swept``: while the supervisor was ending everything, so that nobody can say it ended by itself.
    """

    pid: int
    code: int
    at_ns: int
    swept: bool = False


Request = Spawn | Signal | Sweep
Reply = Spawned | Signalled | Ended | Exited
_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)
_encode = msgspec.json.encode


OnExit = Callable[[Exited], None]


class Supervisor:
    """The harness' side. Thread-safe. ``mark`` is this session's marker; trials append ``.<n>`` to it.

    ``controller``: a process without which the harness has nothing to go on for (pytest-xdist's, for a worker): the
    supervisor ends everything when either is gone. Raises StageError when the supervisor cannot be started.
    """

    def __init__(self, *, ledger: Path | None = None, controller: ProcessId | None = None) -> None:
        self.mark = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._ledger = Ledger(ledger) if ledger is not None else None
        self._groups = Groups.for_session(self.mark, Reader(), can_enter)
        try:
            self._socket, self._process = _start_server(self.mark, controller, self._groups)
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
        on_exit: OnExit,
    ) -> ProcessId:
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
        return answer.id

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
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            code = self._wait_for_end()
            self._listener.join(timeout=KILL_DEADLINE_S)
            self._socket.close()
            leaked = self._sweep_alone(f"{self.mark}*", 0.3).leaked if code else []
            if self._ledger is not None and not leaked:
                self._ledger.strike(self.mark)

    def _wait_for_end(self) -> int:
        try:
            return self._process.wait(timeout=KILL_DEADLINE_S * 3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _sweep_alone(self, mark: str, grace_s: float) -> Ended:
        """The same ladder without the supervisor, over what PR_SET_PDEATHSIG has not killed with it."""
        ended, leaked = Ladder(Reader(), mark, group=self._groups.of(mark) if self._groups else None).run(grace_s)
        with self._changed:
            lost = [(pid, entry[1]) for pid, entry in self._running.items() if _matches(entry[0], mark)]
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
            message = _encoded(request(number))
            with self._changed:
                self._answers[number] = None
                if child is not None:
                    self._spawning[number] = child
            try:
                socket.send_fds(self._socket, [message], fds)
            except OSError as error:
                with self._changed:
                    del self._answers[number]
                    self._spawning.pop(number, None)
                raise self._refusal(error, len(message)) from error
        return number

    def _refusal(self, error: OSError, size_bytes: int) -> StageError:
        if error.errno == errno.EMSGSIZE:
            return _too_large(size_bytes)
        return self._silence() if error.errno == errno.EAGAIN else StageError(self._obituary())

    def _silence(self) -> StageError:
        what = f"the supervisor (pid {self.pid}) does not answer within {ANSWER_DEADLINE_S:g} s"
        return StageError(f"{what}; see whether it is suspended, and run again")

    def _listen(self) -> None:
        while message := self._receive():
            reply = _replies.decode(message)
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
            return self._socket.recv(MESSAGE_BYTES)
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


def rung(reader: Reader) -> str:
    """With what everything that we start is ended on this machine, in words."""
    mark = f"{os.getpid()}-probe"
    groups = Groups.for_session(mark, reader, can_enter)
    if groups is None:
        return WITHOUT_GROUPS
    groups.of(f"{mark}*").remove()
    return WITH_GROUPS


def can_enter(group: Group) -> bool:
    """Whether a process of ours may go into a group: tried, since several files and the tree decide it."""
    argv = ["/bin/sh", "-c", 'echo 0 > "$1"', "sh", str(group.path / "cgroup.procs")]
    try:
        done = subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _start_server(
    mark: str, controller: ProcessId | None, groups: Groups | None
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    watched = [os.getpid(), *([controller.pid] if controller and Reader().alive(controller) else [])]
    with contextlib.ExitStack() as opened:
        try:
            ours, theirs = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
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
                    str(groups.base) if groups else "",
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


def _encoded(request: Request) -> bytes:
    try:
        message = _encode(request)
    except UnicodeEncodeError as error:
        raise StageError(f"cannot send {error.object!r} to the supervisor: not UTF-8; change it") from error
    if len(message) > MESSAGE_BYTES:
        raise _too_large(len(message))
    return message


def _too_large(size_bytes: int) -> StageError:
    return StageError(
        f"cannot start a program with {size_bytes} bytes of arguments and environment: more than one message to the "
        "supervisor holds; pass less, or a file"
    )


def _matches(value: str, mark: str) -> bool:
    return value.startswith(mark[:-1]) if mark.endswith("*") else value == mark


class Ledger:
    """Which supervisors live on this machine, so that the next start finds what a dead one left behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def enter(self, mark: str, supervisor: ProcessId) -> None:
        """Write the line of a supervisor that has begun."""
        with contextlib.suppress(OSError):  # a lost line costs only the sweep of the next start
            self._directory.mkdir(parents=True, exist_ok=True)
            draft = self._directory / f"{mark}.draft"
            draft.write_bytes(_encode(supervisor))
            draft.rename(self._directory / f"{mark}.json")

    def strike(self, mark: str) -> None:
        """Its work is done."""
        with contextlib.suppress(OSError):
            (self._directory / f"{mark}.json").unlink()

    def leftovers(self, reader: Reader) -> dict[str, list[ProcessId]]:
        """Marks of supervisors that are gone -> processes that still carry them; strike a mark when it is swept."""
        found: dict[str, list[ProcessId]] = {}
        for line in sorted(self._directory.glob("*.json")):
            try:
                supervisor = msgspec.json.decode(line.read_bytes(), type=ProcessId)
            except (OSError, msgspec.DecodeError):
                continue
            if supervisor.boot_id == reader.boot_id() and reader.alive(supervisor):
                continue
            found[line.stem] = reader.marked(MARKER, f"{line.stem}.*")
        return found


class Ladder:
    """The way down for everything of one mark: found by the marker or by descent, and not forgotten until gone.

    Descent finds what has wiped its environment, ``group`` what has lost its parents too. ``children`` gives the pids
    of unreaped children that count too; ``pause`` waits no longer than it is told, and reaps.
    """

    def __init__(
        self,
        reader: Reader,
        mark: str,
        *,
        group: Group | None = None,
        children: Callable[[], set[int]] = set,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = reader
        self._group = group
        self._mark = mark
        self._children = children
        self._pause = pause
        self._known: set[ProcessId] = set()

    def run(self, grace_s: float) -> tuple[list[int], list[int]]:
        """Pids that were ended, and those that would not end within KILL_DEADLINE_S after the grace."""
        for process in self._living():
            send_signal(self._reader, process, signal.SIGTERM)
            send_signal(self._reader, process, signal.SIGCONT)
        self._wait(grace_s)
        deadline = time.monotonic() + KILL_DEADLINE_S
        self._stop_all(deadline)
        left = self._confirmed()
        if self._group is not None:
            self._group.kill()
        while left and time.monotonic() < deadline:
            for process in left:
                send_signal(self._reader, process, signal.SIGKILL)
            self._pause(0.01)
            left = self._confirmed()
        leaked = {process.pid for process in left}
        if self._group is not None:
            self._group.remove()
        return sorted({process.pid for process in self._known} - leaked), sorted(leaked)

    def _wait(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while any(self._reader.alive(one) for one in self._known) and time.monotonic() < deadline:
            self._pause(0.01)

    def _stop_all(self, deadline: float) -> None:
        """SIGSTOP until a scan finds nobody new: what is stopped cannot fork any more."""
        stopped: set[ProcessId] = set()
        while (new := self._living() - stopped) and time.monotonic() < deadline:
            for process in new:
                send_signal(self._reader, process, signal.SIGSTOP)
            stopped |= new

    def _confirmed(self) -> set[ProcessId]:
        """Who lives; nobody is believed only on the second look, since an execve hides the environment."""
        if living := self._living():
            return living
        self._pause(_EXEC_S)
        return self._living()

    def _living(self) -> set[ProcessId]:
        self._pause(0)
        marked = {process.pid: process for process in self._reader.marked(MARKER, self._mark)}
        table = {stat.pid: stat for pid in self._reader.pids() if (stat := self._reader.stat(pid)) is not None}
        children = self._children()
        known = {one.pid for one in self._known if one.pid in table and table[one.pid].start_ticks == one.start_ticks}
        grouped = self._group.pids() if self._group is not None else set()
        family = _descendants(table, known | children | grouped | marked.keys()) - {os.getpid()}
        found = {
            ProcessId(pid=stat.pid, start_ticks=stat.start_ticks, boot_id=self._reader.boot_id())
            for stat in (table[pid] for pid in family if pid in table)
            if stat.state not in _DEAD or stat.pid in children  # a main thread can end before the others
        }
        found |= {process for pid, process in marked.items() if pid not in table}
        self._known |= found
        return found


def _descendants(table: dict[int, Stat], roots: set[int]) -> set[int]:
    """``roots`` and whoever descends from them; a child is never older than its parent."""
    family: set[int] = set()
    found = roots
    while found:
        family |= found
        found = {
            stat.pid
            for stat in table.values()
            if stat.pid not in family
            and stat.parent_pid in found
            and (parent := table.get(stat.parent_pid)) is not None
            and parent.start_ticks <= stat.start_ticks
        }
    return family


def send_signal(reader: Reader, process: ProcessId, number: int) -> bool:
    """Send a signal to this very process; False when it is gone, or not ours to signal."""
    try:
        with _pinned(process.pid) as handle:
            now = reader.identify(process.pid)
            if now is None or now.start_ticks != process.start_ticks:
                return False
            if handle is None:
                os.kill(process.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A pidfd, so that the pid cannot be recycled between look and signal; None on a kernel before 5.3."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


# -I keeps the user's PYTHON* variables and working directory out; sys.path comes as arguments instead.
_BOOT = "import sys; sys.path[:] = sys.argv[5:]; from pytest_ocrepro.stage.supervisor import serve; sys.exit(serve())"


def serve() -> int:
    """The supervisor's own main; arguments: socket fd, session mark, pids to watch (the harness' own first), base.

    base: the place of the control groups, "" where there are none.
    Returns 1 when something would not end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    groups = Groups(Path(sys.argv[4])) if sys.argv[4] else None
    return _Server(lifeline, libc, sys.argv[2], list(map(int, sys.argv[3].split(","))), groups).run()


class _Server:
    def __init__(
        self, lifeline: socket.socket, libc: ctypes.CDLL, mark: str, watched: list[int], groups: Groups | None
    ) -> None:
        self._groups = groups
        self._lifeline = lifeline
        self._libc = libc
        self._mark = mark
        self._pid = os.getpid()
        self._reader = Reader()
        self._children: dict[int, str] = {}  # unreaped: pid -> its mark
        self._ending = False
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._harness = [handle for pid in watched for handle in self._watch(pid)]
        self._orphaned = os.getppid() != watched[0]
        self._poll = select.poll()  # not select(2): a lifeline's number can be past 1023
        for fd in (lifeline.fileno(), self._wake_read, *self._harness):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> int:
        try:
            while not self._orphaned and self._turn():
                pass
        finally:
            leaked = self._end_everything()
        return 1 if leaked else 0

    def _turn(self) -> bool:
        ready = {fd for fd, _ in self._poll.poll()}
        if self._wake_read in ready:
            self._pause(0)
        if ready & set(self._harness):
            return False
        return self._lifeline.fileno() not in ready or self._one_request()

    def _end_everything(self) -> list[int]:
        self._ending = True
        _, leaked = self._sweep(f"{self._mark}*", grace_s=0.3)
        ladder = Ladder(self._reader, f"{self._mark}*", children=lambda: {self._pid}, pause=self._pause)
        return leaked or ladder.run(0)[1]  # what wiped its environment and lost its parent is still our child

    def _watch(self, pid: int) -> list[int]:
        try:
            return [os.pidfd_open(pid)]
        except OSError:  # gone (then our parent is another), or a kernel before 5.3
            return []

    def _one_request(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self._lifeline, MESSAGE_BYTES, 3)
        except OSError:  # ECONNRESET: killed before it read our last answer
            return False
        if not message:
            return False
        request = _requests.decode(message)
        if isinstance(request, Spawn):
            self._send(self._spawn(request, fds))
        elif isinstance(request, Signal):
            self._reap()  # a zombie is gone
            self._send(Signalled(number=request.number, sent=send_signal(self._reader, request.id, request.signal)))
        else:
            ended, leaked = self._sweep(request.mark, grace_s=request.grace_s)
            self._send(Ended(number=request.number, ended=ended, leaked=leaked))
        return True

    def _send(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):  # the harness is gone: the next read sees it
            self._lifeline.send(_encode(reply))

    def _spawn(self, request: Spawn, fds: list[int]) -> Spawned:
        nobody = ProcessId(pid=0, start_ticks=0)
        group = self._group_for(request.environment.get(MARKER, ""))
        try:
            child = subprocess.Popen(
                request.argv,
                env=request.environment,
                cwd=request.directory,
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
                start_new_session=True,
                preexec_fn=lambda: self._begin_child(group),  # noqa: PLW1509  one thread: it is safe here
            )
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return Spawned(number=request.number, id=nobody, error=f"{error.strerror}{where}")
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            return Spawned(number=request.number, id=nobody, error=str(error))
        finally:
            for fd in fds:
                os.close(fd)
        child.returncode = 0  # waited for by _reap, never by Popen
        self._children[child.pid] = request.environment.get(MARKER, "")
        identity = self._reader.identify(child.pid)
        return Spawned(number=request.number, id=identity or ProcessId(pid=child.pid, start_ticks=0))

    def _group_for(self, mark: str) -> Group | None:
        if self._groups is None:
            return None
        group = self._groups.of(mark if mark.startswith(self._mark) else self._mark)
        return group if group.make() else None

    def _begin_child(self, group: Group | None) -> None:
        """Between fork and exec: in its group, bound to our life, with signals as programs expect them."""
        if group is not None:
            group.enter()
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:  # it died before the line above
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._children.pop(pid, None) is not None:  # the others are orphans that the kernel handed to us
                code = os.waitstatus_to_exitcode(status)
                self._send(Exited(pid=pid, code=code, at_ns=time.monotonic_ns(), swept=self._ending))

    def _sweep(self, mark: str, *, grace_s: float) -> tuple[list[int], list[int]]:
        def children() -> set[int]:
            return {pid for pid, carried in self._children.items() if _matches(carried, mark)}

        group = self._groups.of(mark) if self._groups else None
        return Ladder(self._reader, mark, group=group, children=children, pause=self._pause).run(grace_s)

    def _pause(self, seconds: float) -> None:
        """Wait for a child's end, no longer than this; and reap."""
        waiting = select.poll()
        waiting.register(self._wake_read, select.POLLIN)
        waiting.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._reap()
