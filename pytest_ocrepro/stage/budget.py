"""What a trial may use of the machine: disk, memory, processes; who uses more is ended, and the evidence says so.

Measured twice a second are the files where a subject is likely to fill them (what it prints, data with database and
logs, temporary files, home, project), and what the file system and the memory have left; now and then, as far as that
is cheap, all files of its sandbox.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import psutil

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.ladder import descendants

MEBIBYTE = 1 << 20
PERIOD_S = 0.5
NEEDED_BYTES = 500 * MEBIBYTE  # one more opencode: 290 to 460 MB resident
WAIT_S = 120.0
WALK_EVERY_S = 2.0
WALK_SHARE = 0.05  # of a core, at most
WALK_S = 1.0  # at most; a subject can make directories without end
DEEPEST = 200  # levels; a handle each while it is walked
BLOCK_BYTES = 512  # of st_blocks (stat(2))


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one trial may use, and the least that it must leave to the machine."""

    files_bytes: int = 1024 * MEBIBYTE
    processes: int = 1000
    memory_bytes: int = 32 * 1024 * MEBIBYTE
    disk_left_bytes: int = 200 * MEBIBYTE
    memory_left_bytes: int = 200 * MEBIBYTE


class SessionBudget(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one session may keep, and what must be free for one more trial to begin.

    ``processes`` and ``memory_bytes`` are those of all its workers together, ourselves included. Its time is
    pytest-timeout's own ``--session-timeout``.
    """

    evidence_bytes: int = 20 * 1024 * MEBIBYTE  # a trial keeps 0.2 to 2 MiB as a rule
    disk_needed_bytes: int = 300 * MEBIBYTE
    processes: int = 4000
    memory_bytes: int = 64 * 1024 * MEBIBYTE


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers of a session use on this machine; ``memory_bytes`` as in :class:`Used`."""

    processes: int
    memory_bytes: int


class Deep(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at all depths found; ``levels``: how deep directories are nested, counted up to DEEPEST."""

    files_bytes: int = 0
    levels: int = 0


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial uses now, and what is left. ``memory_bytes``: resident sizes, shared pages counted each time."""

    files_bytes: int
    processes: int
    memory_bytes: int
    disk_left_bytes: int
    memory_left_bytes: int
    levels: int = 0


def exceeded(used: Used, budget: Budget) -> str:
    """What is over the budget, in words; "" for nothing.

    Where the machine's memory or disk runs short, that is only held against a trial with a large part in it.
    """
    if used.files_bytes > budget.files_bytes:
        return f"its files have {_size(used.files_bytes)}, the budget is {_size(budget.files_bytes)}"
    if used.levels >= DEEPEST:
        return f"its directories are nested {used.levels} levels deep or more, where files cannot be counted"
    if used.processes > budget.processes:
        return f"it has {used.processes} processes, the budget is {budget.processes}"
    if used.memory_bytes > budget.memory_bytes:
        return f"its processes have {_size(used.memory_bytes)} resident, the budget is {_size(budget.memory_bytes)}"
    if used.disk_left_bytes < budget.disk_left_bytes < used.files_bytes:
        return f"the disk has {_size(used.disk_left_bytes)} left and its files have {_size(used.files_bytes)}"
    if used.memory_left_bytes < budget.memory_left_bytes < used.memory_bytes:
        return (
            f"the memory has {_size(used.memory_left_bytes)} left and its processes have {_size(used.memory_bytes)}"
        )
    return ""


def check_session(kept_bytes: int, places: Iterable[Path], budget: SessionBudget) -> None:
    """Raise StageError where no further trial may begin. ``places``: where it would write."""
    if kept_bytes > budget.evidence_bytes:
        raise StageError(
            f"the evidence of this session has {_size(kept_bytes)}, its budget is {_size(budget.evidence_bytes)}: "
            "run fewer trials at once, and merge"
        )
    for place in places:
        if (left := _free(place)) < budget.disk_needed_bytes:
            raise StageError(
                f"the disk of {place} has {_size(left)} left, one more trial needs "
                f"{_size(budget.disk_needed_bytes)}: free some, or set TMPDIR and --ocrepro-reports"
            )


def summed(reader: ProcessReader, root: int) -> Together:
    """Look once at everybody who descends from a process: the one that started all workers."""
    table = reader.table()
    stats = [table[pid] for pid in descendants(table, {root}) if pid in table]
    return Together(
        processes=len(stats), memory_bytes=sum(stat.rss_pages for stat in stats) * os.sysconf("SC_PAGE_SIZE")
    )


def overdrawn(together: Together, budget: SessionBudget) -> str:
    """What all workers have too much of, in words; "" for nothing."""
    if together.processes > budget.processes:
        return f"all workers have {together.processes} processes, the budget of a session is {budget.processes}"
    if together.memory_bytes > budget.memory_bytes:
        have, most = _size(together.memory_bytes), _size(budget.memory_bytes)
        return f"the processes of all workers have {have} resident, the budget of a session is {most}"
    return ""


def blamed(used: Used, together: Together, workers: int, budget: SessionBudget) -> str:
    """Why this trial must end for what all have too much of; "" for one with less than an equal part.

    Each worker asks this for itself: one of them has an equal part or more (what is ours counts as one more), so
    somebody ends without a word between them.
    """
    why = overdrawn(together, budget)
    of_processes = together.processes > budget.processes
    part = used.processes / together.processes if of_processes else used.memory_bytes / max(1, together.memory_bytes)
    return f"{why}; {part:.0%} of it is this trial's" if why and part * (workers + 1) >= 1 else ""


def bytes_below(folder: Path) -> int:
    """What a directory and all below it take on the disk."""
    return sum(_bytes_in(Path(root)) for root, _, _ in os.walk(folder))


class Depths:
    """All that a directory holds at any depth, and what processes hold that has no name any more.

    Looked at anew now and then, no more often than is cheap.
    """

    def __init__(
        self,
        folder: Path,
        nameless_bytes: Callable[[], int] = lambda: 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._nameless_bytes = nameless_bytes
        self._clock = clock
        self._due = clock() + WALK_EVERY_S
        self._last = Deep()

    def known(self) -> Deep:
        """The last look; nothing before the first one, and too little where it did not come to its end in 1 s."""
        begun = self._clock()
        if begun >= self._due:
            found = self._walk(begun + WALK_S)
            self._last = msgspec.structs.replace(found, files_bytes=found.files_bytes + self._nameless_bytes())
            now = self._clock()
            self._due = now + max(WALK_EVERY_S, (now - begun) / WALK_SHARE)
        return self._last

    def _walk(self, deadline: float) -> Deep:
        total, deepest, several = 0, 0, set()
        above = len(self._folder.parts)
        for root, folders, names, handle in os.fwalk(self._folder):  # by handles: a path can be too long to be opened
            deepest = max(deepest, len(Path(root).parts) - above)
            if deepest >= DEEPEST:
                folders.clear()
            for name in names:
                with contextlib.suppress(OSError):
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    if found.st_nlink > 1:  # what a package manager has linked is there once
                        if (found.st_dev, found.st_ino) in several:
                            continue
                        several.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * BLOCK_BYTES
            if self._clock() > deadline:
                break
        return Deep(files_bytes=total, levels=deepest)


def nameless_bytes(reader: ProcessReader, processes: Iterable[ProcessId]) -> int:
    """What regular files take that these have open and that were deleted since, each once."""
    found = {}
    for process in processes:
        for fd, target in reader.fd_links(process.pid):
            status = reader.open_file(process.pid, fd) if target.endswith(" (deleted)") else None
            if status is not None and stat.S_ISREG(status.st_mode) and not status.st_nlink:
                found[status.st_dev, status.st_ino] = status.st_blocks * BLOCK_BYTES
    return sum(found.values())


def measure(
    reader: ProcessReader,
    places: Iterable[Path],
    processes: Iterable[ProcessId],
    *,
    deep: Deep = Deep(),  # noqa: B008  frozen
) -> Used:
    """Look once. ``places``: directories whose files count, not those of their subdirectories.

    ``deep``: what is known of all files (:class:`Depths`), if that is more.
    """
    folders = list(places)
    seen = [(one, reader.stat(one.pid)) for one in processes]
    stats = [stat for one, stat in seen if stat is not None and stat.start_ticks == one.start_ticks]
    return Used(
        files_bytes=max(sum(map(_bytes_in, folders)), deep.files_bytes),
        processes=len(stats),
        memory_bytes=sum(stat.rss_pages for stat in stats) * os.sysconf("SC_PAGE_SIZE"),
        disk_left_bytes=min(map(_free, folders), default=0),
        memory_left_bytes=psutil.virtual_memory().available,
        levels=deep.levels,
    )


class Guard:
    """A thread that looks until :meth:`stop`; ``end(why)`` is called once, when something is over the budget.

    ``beyond``: why it must end although the trial itself is within its own. ``trouble`` is told of the first look
    that failed.
    """

    def __init__(
        self,
        look: Callable[[], Used],
        end: Callable[[str], object],
        budget: Budget,
        *,
        beyond: Callable[[Used], str] = lambda _: "",
        trouble: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self._look = look
        self._beyond = beyond
        self._trouble = trouble
        self._end = end
        self._budget = budget
        self._told = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ocrepro-budget", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End it; safe to call again, and before the start."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _tell_once(self, error: Exception) -> None:
        if not self._told:
            self._trouble(error)
        self._told = True

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            try:
                used = self._look()
                why = exceeded(used, self._budget) or self._beyond(used)
            except Exception as error:  # noqa: BLE001  a look that fails must not be the last one
                self._tell_once(error)
                continue
            if why:
                self._end(why)
                return


def wait_for_memory(
    available: Callable[[], int] = lambda: int(psutil.virtual_memory().available), *, most_s: float = WAIT_S
) -> float:
    """Block until there is memory for one more opencode; seconds that it took. Raises StageError after ``most_s``."""
    begun = time.monotonic()
    while (left := available()) < NEEDED_BYTES:
        if time.monotonic() - begun > most_s:
            raise StageError(
                f"the memory has {_size(left)} left, one more opencode needs {_size(NEEDED_BYTES)}: waited "
                f"{most_s:g} s; free some, or run with fewer workers"
            )
        time.sleep(min(PERIOD_S, most_s / 10))
    return time.monotonic() - begun


def _bytes_in(folder: Path) -> int:
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    """Of what it takes on the disk: a file with holes can be of any length."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # not made yet, or deleted by the subject
        return 1 << 62


def _size(size_bytes: int) -> str:
    return f"{size_bytes / MEBIBYTE:,.0f} MiB"
