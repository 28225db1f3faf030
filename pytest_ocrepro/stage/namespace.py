"""PID namespaces around what we start, where no control group is to be had and the kernel lets us make them.

A trial's namespace has an init of ours, which does nothing but wait for the end of file of a pipe that the supervisor
holds. When it ends, by whatever end of ours, the kernel ends everybody in the namespace, whatever sessions, signal
masks, parents and environments they have made for themselves (pid_namespaces(7)).

What we start there is forked twice: a child of the supervisor enters the namespace (setns(2)), forks and ends. So the
supervisor, a sub-reaper outside, becomes the parent and learns the exit status by the pid that everybody outside
knows. Orphans go to the init, which ignores SIGCHLD and so reaps them. Each gets a mount namespace with a /proc of
its own, which tells the pids that it knows. Who may not make one as it is (no CAP_SYS_ADMIN) does it in a user
namespace that maps its own ids to themselves (user_namespaces(7)).

Run as a program, it ends with 0 where that is allowed: standard library only, it starts in 30 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_ocrepro.observe.readers import ProcessReader

DIRECT, MAPPED = "direct", "mapped"  # as we are; through a user namespace
PROBE_S = 10.0
_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000  # linux/sched.h
_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE of linux/mount.h
_PROC_FLAGS = 2 | 4 | 8  # MS_NOSUID | MS_NODEV | MS_NOEXEC
_INIT = [shutil.which("cat") or "/bin/cat"]  # not a shell: some take SIGCHLD back, and then nobody reaps


class Namespace:
    """One PID namespace with an init of ours. Make it with :func:`begin`, give it back with :meth:`remove`."""

    def __init__(self, reader: ProcessReader, init: int, lifeline: int, way: str) -> None:
        self.init = init
        self._reader = reader
        self._lifeline = lifeline
        self._way = way
        self._handle = _pidfd(init)  # keeps the namespace's name from being given to another one
        self._name = reader.namespace(init, "pid")

    def enter(self, tell: int) -> None:
        """Between fork and exec of a process with one thread: go in; our pid as seen from outside goes to ``tell``.

        Returns in a child of the caller, which leads a session of its own. Raises OSError.
        """
        _call("setns", self._handle, _NEWPID | (_NEWUSER if self._way == MAPPED else 0))
        _fork_and_end(lambda pid: os.write(tell, b"%d" % pid))
        os.setsid()
        _mount_proc()

    def pids(self) -> set[int]:
        """Who is in it, but for its init."""
        found = {pid for pid in self._reader.pids() if self._reader.namespace(pid, "pid") == self._name}
        return found - {self.init} if self._name else set()

    def kill(self) -> None:
        """SIGKILL to its init, and so to all of them."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def remove(self) -> None:
        """Let it end; call it once."""
        os.close(self._lifeline)
        os.close(self._handle)


class Namespaces:
    """Those of a session's trials, each made when its first program is started. For a sub-reaper with one thread."""

    def __init__(self, reader: ProcessReader, way: str) -> None:
        self._reader = reader
        self._way = way
        self._of: dict[str, Namespace] = {}

    def made(self, mark: str) -> Namespace:
        """The one of this trial. Raises what :func:`begin` does."""
        if mark not in self._of:
            self._of[mark] = begin(self._reader, self._way)
        return self._of[mark]

    def inner_pid(self, pid: int) -> int:
        """Of a child of ours, also when it has ended: nobody but we reaps it. 0: not told."""
        return next(iter(self._reader.inner_pids(pid)[1:][-1:]), 0)

    def of(self, mark: str) -> Several:
        """Those of all trials that are meant; ``mark`` may end in ``*``."""
        prefix = mark[:-1] if mark.endswith("*") else None
        meant = [one for one in self._of if (one == mark if prefix is None else one.startswith(prefix))]
        return Several([self._of.pop(one) for one in meant])


class Several:
    """The namespaces that a sweep ends; nothing can be started in them any more."""

    def __init__(self, members: list[Namespace]) -> None:
        self._members = members

    def pids(self) -> set[int]:
        """Who is in them, but for their inits."""
        return {pid for one in self._members for pid in one.pids()}

    def kill(self) -> None:
        """SIGKILL to all of them."""
        for one in self._members:
            one.kill()

    def remove(self) -> None:
        """Give them back."""
        for one in self._members:
            one.remove()


def begin(reader: ProcessReader, way: str) -> Namespace:
    """Make one. Whoever calls must be a sub-reaper with one thread, and reap: its init is then a child of theirs.

    Raises OSError, or subprocess.SubprocessError for what failed between fork and exec.
    """
    told, tell = pipe_without_waits()
    theirs, ours = os.pipe()

    def go() -> None:
        _divide(way)
        _fork_and_end(lambda pid: os.write(tell, b"%d" % pid))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    try:
        init = start(_INIT, go, told, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={})
        return Namespace(reader, init, ours, way)
    except BaseException:
        os.close(ours)
        raise
    finally:
        for end in (told, tell, theirs):
            os.close(end)


def pipe_without_waits() -> tuple[int, int]:
    """The ends of a pipe at which nobody is blocked: to read from, to write to."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _pidfd(pid: int) -> int:
    if sys.platform != "linux":
        raise OSError("there are no pidfds on this system")
    return os.pidfd_open(pid)


def start(argv: list[str], go: Callable[[], None], told: int, **options: object) -> int:
    """Popen for a program that ``go`` starts in a grandchild; its pid, which ``go`` has written for ``told``."""
    between = subprocess.Popen(  # type: ignore[call-overload]
        argv,
        start_new_session=True,
        preexec_fn=go,  # noqa: PLW1509  one thread: it is safe here
        **options,
    )
    between.wait()  # it ends as soon as it has forked
    return int(os.read(told, 32))


@cache
def way_in() -> str:
    """How a PID namespace can be made here, tried: DIRECT, MAPPED, or "" where it cannot."""
    return next((way for way in (DIRECT, MAPPED) if sys.platform == "linux" and _allowed(way)), "")


def _allowed(way: str) -> bool:
    argv = [sys.executable, "-I", "-S", __file__, way]
    try:
        done = subprocess.run(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _divide(way: str) -> None:
    """The next child of ours is a namespace's init."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _NEWPID | (_NEWUSER if way == MAPPED else 0))
    if way == MAPPED:
        for name, text in (("setgroups", "deny"), ("gid_map", f"{group} {group} 1"), ("uid_map", f"{user} {user} 1")):
            handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(handle, text.encode())
            os.close(handle)


def _fork_and_end(tell: Callable[[int], object]) -> None:
    """Go on in a child."""
    pid = os.fork()
    if pid:
        tell(pid)
        os._exit(0)


def _mount_proc() -> None:
    """A /proc that tells the pids of the namespace that we are in, for us and our descendants alone."""
    _call("unshare", _NEWNS)
    _call("mount", b"none", b"/", None, _PRIVATE, None)
    _call("mount", b"proc", b"/proc", b"proc", _PROC_FLAGS, None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _try(way: str) -> int:
    """The whole of it, in a process that may be spoilt."""
    _divide(way)
    init = os.fork()
    if init:
        return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    _mount_proc()
    here = os.readlink("/proc/self")  # noqa: PTH115  standard library, and little of it
    os._exit(0 if here == "1" and hasattr(os, "pidfd_open") else 1)


if __name__ == "__main__":
    sys.exit(_try(sys.argv[1]))
