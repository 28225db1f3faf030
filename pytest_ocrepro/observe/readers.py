"""What every reader of processes answers, whatever the system has to read from; and the reader of this system.

Linux has proc(5), read by ``procfs.Reader``; elsewhere psutil answers (``portable.PortableReader``), and what it
cannot tell is None or left out.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from typing import Protocol

from pytest_ocrepro.observe.portable import PortableReader
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import FdInfo, Stat
from pytest_ocrepro.platforms import has_proc
from pytest_ocrepro.readings import ProcessId, ProcessReading


class ProcessReader(Protocol):
    """The methods are described where they are the richest: in ``procfs.Reader``."""

    def boot_id(self) -> str:
        """The name of this boot; "" where start times are never the same in two of them."""

    def boottime_ns(self) -> int:
        """A clock that goes on while the machine is suspended."""

    def pids(self) -> list[int]:
        """All processes that can be seen."""

    def stat(self, pid: int) -> Stat | None:
        """The short record of a process; "?" for a state that this system does not tell."""

    def table(self) -> dict[int, Stat]:
        """All processes that can be seen, by pid."""

    def identify(self, pid: int) -> ProcessId | None:
        """The name for this process and no later one of its pid."""

    def alive(self, process: ProcessId) -> bool:
        """Whether this very process is there, and not a zombie."""

    def hidden(self, pid: int) -> bool:
        """A process has this pid although it is not shown to us."""

    def age_s(self, process: ProcessId) -> float:
        """Seconds since the process was started."""

    def state(self, pid: int) -> str | None:
        """The letter of its state."""

    def parent(self, pid: int) -> int | None:
        """The parent's pid."""

    def environ(self, pid: int) -> dict[str, str] | None:
        """The environment that it was started with; None: unreadable or gone."""

    def argv(self, pid: int) -> tuple[str, ...] | None:
        """The command line."""

    def exe(self, pid: int) -> str | None:
        """The path of the executable."""

    def marked(
        self,
        name: str,
        value: str,
        *,
        known: Container[ProcessId] = (),
        among: Mapping[int, Stat] | None = None,
    ) -> list[ProcessId]:
        """Living processes, but for ours, whose environment has ``name=value`` (``value*``: begins with it)."""

    def newly_marked(self, name: str, value: str) -> list[ProcessId]:
        """The same among processes that are young or new."""

    def forget(self, name: str, value: str) -> None:
        """Nobody will be asked for this mark again."""

    def read_process(
        self, pid: int, *, role: str, is_subject: bool, full: bool, missing: list[str]
    ) -> ProcessReading | None:
        """One process at one instant."""

    def written_bytes(self, pid: int) -> int | None:
        """All that it has written so far."""

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, target) of its open files."""

    def open_file(self, pid: int, fd: int) -> os.stat_result | None:
        """The status of what a descriptor has open, also of a file that was deleted."""

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """Position and more of one of them."""

    def is_open_at(self, pid: int, fd: int, path: str) -> bool:
        """Whether ``path`` is the file that the descriptor has open."""

    def namespace(self, pid: int | str, kind: str) -> str | None:
        """The name of a namespace that it is in; None: unreadable, or there are none."""

    def inner_pids(self, pid: int) -> tuple[int, ...]:
        """Its pids from our PID namespace inwards; () where that is not told."""

    def own_group(self) -> str | None:
        """The directory of our own control group; None: there are none."""


def reader_here() -> ProcessReader:
    """The reader of the system that we are on."""
    return Reader() if has_proc() else PortableReader()
