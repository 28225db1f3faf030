"""Pids that processes of a PID namespace write down, and what they are called outside, where we look from.

The kernel tells both for the living (NSpid of proc_pid_status(5)), and nobody tells it for the dead: so who is seen
is kept. For who reads from outside the kernel translates everything else: F_GETLK, /proc/locks, fdinfo (measured in
tests/observe/test_inner_pids.py).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from msgspec import structs

if TYPE_CHECKING:
    from pytest_ocrepro.observe.readers import ProcessReader
    from pytest_ocrepro.readings import ProcessId, ProcessReading, ThreadReading

_P_ALL, _P_PID, _P_PGID = 0, 1, 2  # waitid(2)
_INT: Final = 1 << 32  # an int argument is the lower half of its register
_WAITS_FOR: Final = 2  # the first arguments of both calls
_ANY_CHILD: Final = _INT - 1  # wait4(-1)


class InnerPids:
    """Those of one trial. Thread-safe. Not ``apart``: its processes have the pids that we see; nothing is done."""

    def __init__(self, reader: ProcessReader, *, apart: bool = False) -> None:
        self._inside = reader if apart else None
        self._lock = threading.Lock()
        self._outer: dict[int, int] = {}
        self._namespace: str | None = None

    def learn(self, process: ProcessId, inner_pid: int = 0) -> int:
        """Keep a process at first sight; its inner pid, 0 where that is the same or not told.

        ``inner_pid``: where it is known already.
        """
        if self._inside is None:
            return 0
        inner = inner_pid or next(iter(self._inside.inner_pids(process.pid)[1:][-1:]), 0)
        namespace = self._inside.namespace(process.pid, "pid")
        with self._lock:
            self._namespace = self._namespace or namespace
            if inner:
                self._outer[inner] = process.pid
        return inner

    def outer(self, pid: int) -> int | None:
        """The pid outside of who calls himself ``pid``; None: nobody living, and nobody that was seen."""
        if self._inside is None:
            return pid
        with self._lock:
            found = self._outer.get(pid)
        return found if found is not None else self._look_for(pid, self._inside)

    def outward(self, reading: ProcessReading) -> ProcessReading:
        """The same process with the pids that it waits for as we call them."""
        if self._inside is None:
            return reading
        return structs.replace(reading, threads=tuple(map(self._waiting, reading.threads)))

    def is_init(self, pid: int | None) -> bool:
        """Whether a living process is the one that orphans of a namespace go to."""
        return pid is not None and self._inside is not None and self._inside.inner_pids(pid)[1:][-1:] == (1,)

    def _look_for(self, inner: int, reader: ProcessReader) -> int | None:
        for pid in reader.pids():
            if self._namespace is None or reader.namespace(pid, "pid") != self._namespace:
                continue
            if reader.inner_pids(pid)[-1:] == (inner,):
                with self._lock:
                    return self._outer.setdefault(inner, pid)
        return None

    def _waiting(self, thread: ThreadReading) -> ThreadReading:
        """Who cannot be named any more is one of its children at least."""
        if thread.syscall not in ("wait4", "waitid") or len(thread.arguments) < _WAITS_FOR:
            return thread
        first, second = (int(argument, 16) % _INT for argument in thread.arguments[:_WAITS_FOR])
        told = self._of_wait4(first) if thread.syscall == "wait4" else self._of_waitid(first, second)
        arguments = (*map(hex, told), *thread.arguments[len(told) :])
        return structs.replace(thread, arguments=arguments)

    def _of_wait4(self, who: int) -> tuple[int]:
        if who in (0, _ANY_CHILD):
            return (who,)
        group = who > _INT // 2  # minus the pid of its leader
        outer = self.outer(_INT - who if group else who)
        return (_ANY_CHILD if outer is None else _INT - outer if group else outer,)

    def _of_waitid(self, kind: int, who: int) -> tuple[int, int]:
        if kind not in (_P_PID, _P_PGID) or who == 0:
            return kind, who
        outer = self.outer(who)
        return (_P_ALL, 0) if outer is None else (kind, outer)
