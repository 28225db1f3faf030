"""The intrusive step on one process: opt-in, the last thing that is done to it, and marked as such in the history.

First strace (which proves a polling waiter), then gdb's stacks of all threads, then, only when a path is given for
it, a core. What cannot be had is told in one line, and the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pytest_ocrepro.events import CallsTraced, CoreWritten, Event, IntrusionBegun, Note, StacksTaken
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.observe import intrusive
from pytest_ocrepro.observe.intrusive import IntrusiveError


def intrude(history: History, pid: int, role: str, *, core: Path | None = None) -> None:
    """Take all steps on this process; never raises for what the tools do. ``core``: where its memory may be put."""
    step = _Step(history, pid, role)
    step.take("strace", step.calls)
    step.take("gdb", step.stacks)
    if core is not None:
        step.take("core", lambda: step.core(core))


class _Step:
    def __init__(self, history: History, pid: int, role: str) -> None:
        self._history = history
        self._pid = pid
        self._role = role

    def take(self, tool: str, how: Callable[[], Event]) -> None:
        """Marked before it begins: the tool may be the last that the process meets."""
        self._history.append(IntrusionBegun(at_ns=now_ns(), pid=self._pid, role=self._role, tool=tool))
        try:
            self._history.append(how())
        except IntrusiveError as error:
            self._history.append(Note(at_ns=now_ns(), text=f"{self._role} (pid {self._pid}): {error}"))

    def calls(self) -> Event:
        begun = time.monotonic()
        calls = intrusive.trace(self._pid)
        seconds = time.monotonic() - begun
        return CallsTraced(at_ns=now_ns(), pid=self._pid, role=self._role, seconds=seconds, calls=calls)

    def stacks(self) -> Event:
        stacks = intrusive.native_stacks(self._pid)
        return StacksTaken(at_ns=now_ns(), pid=self._pid, role=self._role, stacks=stacks)

    def core(self, path: Path) -> Event:
        begun = time.monotonic()
        size = intrusive.write_core(self._pid, path)
        return CoreWritten(
            at_ns=now_ns(),
            pid=self._pid,
            role=self._role,
            file=path.name,
            size_bytes=size,
            seconds=time.monotonic() - begun,
        )
