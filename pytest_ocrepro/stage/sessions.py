"""Who is still in a session that a child of ours began: found this way where there is no sub-reaper.

An orphan descends from nobody there, and the environment of a system's own programs may not be read; but whoever
has not begun a session of its own (setsid(2)) is still in that of the child.
"""

from __future__ import annotations

from pytest_ocrepro.observe.proctext import Stat
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.ladder import DEAD
from pytest_ocrepro.stage.orders import matches


class Sessions:
    """The sessions of one supervisor's children. A pid is no session's once nobody was in it."""

    def __init__(self, reader: ProcessReader) -> None:
        self._reader = reader
        self._begun: dict[ProcessId, str] = {}

    def begun(self, leader: ProcessId, mark: str) -> None:
        """A child leads a session from now on."""
        self._begun[leader] = mark

    def left(self, pid: int) -> None:
        """The child has ended; its session goes on as long as somebody is in it."""
        if not any(one.session_pid == pid for one in self._living()):
            self._begun = {leader: mark for leader, mark in self._begun.items() if leader.pid != pid}

    def members(self, mark: str) -> set[int]:
        """The living ones of all sessions of a mark; none of one whose pid another process has by now."""
        asked = {
            leader: self._reader.identify(leader.pid) for leader, own in self._begun.items() if matches(own, mark)
        }
        leaders = {leader.pid: leader for leader, now in asked.items() if now in (None, leader)}
        return {
            one.pid
            for one in self._living()
            if one.session_pid in leaders and one.start_ticks >= leaders[one.session_pid].start_ticks
        }

    def _living(self) -> list[Stat]:
        stats = filter(None, map(self._reader.stat, self._reader.pids()))
        return [one for one in stats if one.state not in DEAD]
