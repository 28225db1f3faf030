"""The supervisor's own process: it starts, signals, reaps, and ends everything when the harness is gone.

Its own session (a Ctrl-C does not reach it) and a sub-reaper (orphans become its children, prctl(2)
PR_SET_CHILD_SUBREAPER). It has one thread, so that PR_SET_PDEATHSIG on its children fires only when it dies itself.
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
import time
from collections.abc import Callable
from pathlib import Path

from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import namespace, wire
from pytest_ocrepro.stage.cgroup import Group, Groups
from pytest_ocrepro.stage.ladder import Enclosure, Ladder, send_signal
from pytest_ocrepro.stage.namespace import Namespaces
from pytest_ocrepro.stage.orders import (
    MARKER,
    Ended,
    Exited,
    Reply,
    Signal,
    Signalled,
    Spawn,
    Spawned,
    decode_request,
    encode,
    matches,
)
from pytest_ocrepro.stage.sessions import Sessions

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 0.5


def serve() -> int:
    """The supervisor's own main; arguments: socket fd, session mark, pids to watch, base, way.

    pids: the harness' own first; base: the place of the control groups; way: into a PID namespace; "" for none.
    Returns 1 when something would not end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    prctl = _prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    groups = Groups(Path(sys.argv[4])) if sys.argv[4] else None
    spaces = Namespaces(reader_here(), sys.argv[5]) if sys.argv[5] else None
    return _Keeper(lifeline, prctl, sys.argv[2], list(map(int, sys.argv[3].split(","))), groups, spaces).run()


def _prctl() -> Callable[[int, int], object]:
    """prctl(2), loaded before any fork; nothing where there is none: orphans go to another then, and live on."""
    if sys.platform != "linux":
        return lambda _option, _value: None
    call = ctypes.CDLL(None, use_errno=True).prctl
    return lambda option, value: call(option, value, 0, 0, 0)


class _Keeper:
    def __init__(
        self,
        lifeline: socket.socket,
        prctl: Callable[[int, int], object],
        mark: str,
        watched: list[int],
        groups: Groups | None,
        spaces: Namespaces | None,
    ) -> None:
        self._groups = groups
        self._spaces = spaces
        self._lifeline = lifeline
        self._prctl = prctl
        self._mark = mark
        self._pid = os.getpid()
        self._reader = reader_here()
        self._children: dict[int, str] = {}  # unreaped: pid -> its mark
        self._sessions = None if sys.platform == "linux" else Sessions(self._reader)
        self._ending = False
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._unwatched: list[ProcessId] = []
        self._harness = [handle for pid in watched for handle in self._watch(pid)]
        self._parent = watched[0]
        self._guard = self._start_guard()
        self._poll = select.poll()  # not select(2): a lifeline's number can be past 1023
        for fd in (lifeline.fileno(), self._wake_read, *self._harness):
            self._poll.register(fd, select.POLLIN)

    def _start_guard(self) -> int | None:
        """Who ends the whole group should we be SIGKILLed; the descriptor that tells it by being closed."""
        if self._groups is None:
            return None
        theirs, ours = os.pipe()
        with contextlib.suppress(OSError):  # without it the next start sweeps
            guard = subprocess.Popen(
                self._groups.of(f"{self._mark}*").watch(),
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
            guard.returncode = 0  # waited for by _reap, never by Popen
        os.close(theirs)
        return ours

    def run(self) -> int:
        try:
            while self._wanted() and self._turn():
                pass
        finally:
            leaked = self._end_everything()
        return 1 if leaked else 0

    def _turn(self) -> bool:
        ready = {fd for fd, _ in self._poll.poll(LOOK_S * 1000 if self._unwatched else None)}
        if not ready:
            return True
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
        """A pidfd; where there are none (Linux 5.3), its end is found by looking."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return [os.pidfd_open(pid)]
        process = self._reader.identify(pid)
        self._unwatched += [process] if process is not None else []
        return []

    def _wanted(self) -> bool:
        """Our parent is still the harness, and whoever we can only look at is there."""
        return os.getppid() == self._parent and all(self._reader.alive(one) for one in self._unwatched)

    def _one_request(self) -> bool:
        try:
            message, fds = wire.receive(self._lifeline, 3)
        except OSError:  # ECONNRESET: killed before it read our last answer
            return False
        if not message:
            return False
        request = decode_request(message)
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
            wire.send(self._lifeline, encode(reply))

    def _spawn(self, request: Spawn, fds: list[int]) -> Spawned:
        nobody = ProcessId(pid=0, start_ticks=0)
        mark = request.environment.get(MARKER, "")
        try:
            pid = self._start_inside(request, fds, mark) if self._belongs_inside(mark) else self._start(request, fds)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return Spawned(number=request.number, id=nobody, error=f"{error.strerror}{where}")
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            return Spawned(number=request.number, id=nobody, error=str(error))
        finally:
            for fd in fds:
                os.close(fd)
        self._children[pid] = mark
        identity = self._reader.identify(pid)
        if self._sessions is not None and identity is not None:
            self._sessions.begun(identity, mark)
        return Spawned(
            number=request.number,
            id=identity or ProcessId(pid=pid, start_ticks=0),
            inner_pid=self._spaces.inner_pid(pid) if self._spaces and self._belongs_inside(mark) else 0,
        )

    def _start(self, request: Spawn, fds: list[int]) -> int:
        group = self._group_for(request.environment.get(MARKER, ""))
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
        child.returncode = 0  # waited for by _reap, never by Popen
        return child.pid

    def _belongs_inside(self, mark: str) -> bool:
        """Of a trial, and not of the session: our own helpers must see the pids that we see."""
        return self._spaces is not None and mark.startswith(f"{self._mark}.")

    def _start_inside(self, request: Spawn, fds: list[int], mark: str) -> int:
        assert self._spaces is not None  # noqa: S101  as it was asked
        space = self._spaces.made(mark)
        told, tell = namespace.pipe_without_waits()

        def go() -> None:
            space.enter(tell)
            _take_default_signals()

        try:
            return namespace.start(
                request.argv,
                go,
                told,
                env=request.environment,
                cwd=request.directory,
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
            )
        finally:
            os.close(told)
            os.close(tell)

    def _group_for(self, mark: str) -> Group | None:
        if self._groups is None:
            return None
        group = self._groups.of(mark if mark.startswith(self._mark) else self._mark)
        return group if group.make() else None

    def _begin_child(self, group: Group | None) -> None:
        """Between fork and exec: in its group, bound to our life, with signals as programs expect them."""
        if group is not None:
            group.enter()
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:  # it died before the line above
            os._exit(1)
        _take_default_signals()

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
                if self._sessions is not None:
                    self._sessions.left(pid)
                self._send(Exited(pid=pid, code=code, at_ns=time.monotonic_ns(), swept=self._ending))

    def _sweep(self, mark: str, *, grace_s: float) -> tuple[list[int], list[int]]:
        def children() -> set[int]:
            ours = {pid for pid, carried in self._children.items() if matches(carried, mark)}
            return ours | self._sessions.members(mark) if self._sessions else ours

        group: Enclosure | None = self._groups.of(mark) if self._groups else None
        if self._spaces is not None:
            group = self._spaces.of(mark)
        swept = Ladder(self._reader, mark, group=group, children=children, pause=self._pause).run(grace_s)
        self._reader.forget(MARKER, mark)
        return swept

    def _pause(self, seconds: float) -> None:
        """Wait for a child's end, no longer than this; and reap."""
        waiting = select.poll()
        waiting.register(self._wake_read, select.POLLIN)
        waiting.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._reap()


def _take_default_signals() -> None:
    """Between fork and exec: what we ignore, programs do not expect to be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
