"""The way down for processes of ours: SIGTERM, a grace, SIGSTOP until nobody is new, SIGKILL, and look again.

Only who carries our marker, is in our control group or PID namespace, or descends from what we started is ever
signalled: by identity, never by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from pytest_ocrepro.observe.proctext import Stat
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.orders import MARKER

KILL_DEADLINE_S = 5.0
DEAD = ("Z", "X", "x")  # proc_pid_stat(5)
_EXEC_S = 0.005  # execve shows an empty environment for some microseconds


class Enclosure(Protocol):
    """What nobody leaves by himself: a control group, or a PID namespace."""

    def pids(self) -> set[int]:
        """Who is in it, as far as they may be signalled."""

    def kill(self) -> None:
        """SIGKILL to all of them, in one step."""

    def remove(self) -> None:
        """Give it back, as far as nobody is in it."""


class Ladder:
    """The way down for everything of one mark: found by the marker or by descent, and not forgotten until gone.

    Descent finds what has wiped its environment, ``group`` what has lost its parents too. ``children`` gives the pids
    of unreaped children that count too; ``pause`` waits no longer than it is told, and reaps.
    """

    def __init__(
        self,
        reader: ProcessReader,
        mark: str,
        *,
        group: Enclosure | None = None,
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
        table = self._reader.table()
        marked = {process.pid for process in self._reader.marked(MARKER, self._mark, among=table)}
        children = self._children()
        known = {one.pid for one in self._known if one.pid in table and table[one.pid].start_ticks == one.start_ticks}
        grouped = self._group.pids() if self._group is not None else set()
        family = descendants(table, known | children | grouped | marked) - {os.getpid()}
        found = {
            ProcessId(pid=stat.pid, start_ticks=stat.start_ticks, boot_id=self._reader.boot_id())
            for stat in (table[pid] for pid in family if pid in table)
            if stat.state not in DEAD or stat.pid in children  # a main thread can end before the others
        }
        self._known |= found
        return found


def descendants(table: dict[int, Stat], roots: set[int]) -> set[int]:
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


def send_signal(reader: ProcessReader, process: ProcessId, number: int) -> bool:
    """Send a signal to this very process; False when it is gone, or not ours to signal."""
    try:
        with _pinned(process.pid) as handle:
            now = reader.identify(process.pid)
            if now is None or now.start_ticks != process.start_ticks:
                return False
            if handle is None:
                os.kill(process.pid, number)
            else:
                _signal_pinned(handle, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A pidfd, so that the pid cannot be recycled between look and signal; None where there are none (Linux 5.3)."""
    if sys.platform != "linux":
        yield None
        return
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


def _signal_pinned(handle: int, number: int) -> None:
    if sys.platform == "linux":
        signal.pidfd_send_signal(handle, number)
