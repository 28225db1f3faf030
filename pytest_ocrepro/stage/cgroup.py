"""Control groups of version 2 around what we start, where we may make them: who is in one cannot leave it by itself.

    <our own group>/ocrepro-<session's mark>/<trial's mark>

What a subject starts stays in its group, whatever it does to its environment, its session or its parents, and
``cgroup.kill`` ends all of it at once, forks under way included (cgroups(7); Linux 5.14). Where that is not to be had
(containers mount it read-only), marker, descent and sub-reaper find the processes, as they do beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pytest_ocrepro.observe.readers import ProcessReader

PREFIX = "ocrepro-"


class Group:
    """One group and those below it. Nothing here raises: a group that is not there holds nobody."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> bool:
        """Make it, if it is not there; False where that is not allowed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
        return True

    def enter(self) -> None:
        """Put the calling process into it; safe between fork and exec of a process with one thread."""
        with contextlib.suppress(OSError):
            handle = os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            os.write(handle, b"0")
            os.close(handle)

    def pids(self) -> set[int]:
        """Who is in it or below it; 0, somebody of another PID namespace, is left out."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError, ValueError):
                found |= set(map(int, Path(folder, "cgroup.procs").read_text(encoding="ascii").split()))
        return found - {0, os.getpid()}

    def kill(self) -> None:
        """SIGKILL to all of them, in one step."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1", encoding="ascii")

    def watch(self) -> list[str]:
        """The command of a guard that kills all of them at the end of file of its standard input."""
        return ["/bin/sh", "-c", 'read -r _; echo 1 >"$1/cgroup.kill"', "ocrepro-guard", str(self.path)]

    def remove(self) -> None:
        """Remove it and those below it, as far as nobody is in them."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106  a path of os.walk


class Groups:
    """The groups of all sessions beneath one place. Make it with :meth:`for_session`."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @classmethod
    def for_session(cls, mark: str, reader: ProcessReader, can_enter: Callable[[Group], bool]) -> Self | None:
        """With the session's own group made and tried by a process that goes in; None where that does not work."""
        own = reader.own_group()
        if own is None or not os.access(own, os.W_OK):
            return None
        groups = cls(Path(own))
        groups.remove_those_of_the_dead(reader)
        group = groups.of(f"{mark}*")
        if group.make() and (group.path / "cgroup.kill").exists() and can_enter(group):
            return groups
        group.remove()
        return None

    def remove_those_of_the_dead(self, reader: ProcessReader) -> None:
        """Empty ones of sessions whose harness is gone: killed before its supervisor began, or while it ended."""
        for path in self.base.glob(f"{PREFIX}*-*"):
            pid = path.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdecimal() and reader.state(int(pid)) is None:
                Group(path).remove()  # not one with somebody in it: the kernel refuses

    def of(self, mark: str) -> Group:
        """The group of a mark; of all that begin so, for one that ends in ``*``."""
        session = self.base / f"{PREFIX}{mark.partition('.')[0].rstrip('*')}"
        return Group(session if mark.endswith("*") else session / mark)
