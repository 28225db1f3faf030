"""One process as proc(5) tells it, in full: its threads, its descriptors, what it has read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import structs

from pytest_ocrepro.observe.procfiles import ProcFiles, note
from pytest_ocrepro.observe.proctext import (
    FdInfo,
    Stat,
    fd_kind,
    parse_argv,
    parse_fdinfo,
    parse_io,
    parse_schedstat,
    parse_stat,
    parse_status_switches,
    parse_syscall,
)
from pytest_ocrepro.readings import FdReading, ProcessReading, ThreadReading

_TASK_PASSES: Final = 5
_MOST_THREADS: Final = 512  # of one process: a look must stay short, and each thread costs 0.1 ms
_MOST_FDS: Final = 2048


class InFull:
    """``calls``: names of system calls by number."""

    def __init__(self, files: ProcFiles, calls: Mapping[int, str]) -> None:
        self._files = files
        self._calls = calls

    def in_full(self, reading: ProcessReading, missing: list[str]) -> ProcessReading:
        """A reading with all that only a full look tells."""
        pid = reading.id.pid
        threads = self._threads(pid, missing)  # first: reading cmdline may block on a stuck process's memory lock
        numbers = self._fds(pid, missing)
        if len(numbers) > _MOST_FDS:
            missing.append(f"pid {pid}: {len(numbers) - _MOST_FDS} of {len(numbers)} descriptors were not read")
        links = self._targets(pid, numbers[:_MOST_FDS], missing)
        fds = tuple(self._fd(pid, fd, target, missing) for fd, target in links)
        read_bytes, written_bytes = parse_io(self._files.text(f"{pid}/io", missing) or "")
        return structs.replace(
            reading,
            threads=threads,
            fds=fds,
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            argv=parse_argv(self._files.content(f"{pid}/cmdline") or b""),
        )

    def main_thread(self, stat: Stat) -> ThreadReading:
        """The main thread, with its switches alone."""
        voluntary, involuntary = parse_status_switches(self._files.text(f"{stat.pid}/status") or "")
        return ThreadReading(
            tid=stat.pid,
            name=stat.name,
            state=stat.state,
            voluntary_switches=voluntary,
            involuntary_switches=involuntary,
        )

    def fd_links(self, pid: int, missing: list[str] | None = None) -> list[tuple[int, str]]:
        """(descriptor, target) of every open file, in order; of the first ones of a process with very many."""
        return self._targets(pid, self._fds(pid, missing)[:_MOST_FDS], missing)

    def fd_info(self, pid: int, fd: int, missing: list[str] | None = None) -> FdInfo | None:
        """The parsed fdinfo; None: closed since, or unreadable."""
        text = self._files.text(f"{pid}/fdinfo/{fd}", missing)
        return None if text is None else parse_fdinfo(text)

    # --- below: how

    def _threads(self, pid: int, missing: list[str]) -> tuple[ThreadReading, ...]:
        seen: dict[int, ThreadReading | None] = {}
        for _ in range(_TASK_PASSES):
            tids = {int(name) for name in self._files.entries(f"{pid}/task") if name.isdecimal()}
            if tids <= seen.keys() or len(seen) >= _MOST_THREADS:
                break
            new = sorted(tids - seen.keys(), key=lambda tid: (tid != pid, tid))  # the main thread is never cut
            wanted = new[: _MOST_THREADS - len(seen)]
            seen.update((tid, self._thread(pid, tid, missing)) for tid in wanted)
            if len(tids) > _MOST_THREADS:
                missing.append(f"pid {pid}: {len(tids) - _MOST_THREADS} of {len(tids)} threads were not read")
        return tuple(thread for _, thread in sorted(seen.items()) if thread is not None)

    def _thread(self, pid: int, tid: int, missing: list[str]) -> ThreadReading | None:
        task = f"{pid}/task/{tid}"
        text = self._files.text(f"{task}/stat")
        stat = None if text is None else parse_stat(text)
        if stat is None:
            return None
        syscall, arguments = parse_syscall(self._files.text(f"{task}/syscall", missing) or "", self._calls)
        voluntary, involuntary = parse_status_switches(self._files.text(f"{task}/status", missing) or "")
        cpu_ns, runqueue_wait_ns = parse_schedstat(self._files.text(f"{task}/schedstat", missing) or "")
        return ThreadReading(
            tid=tid,
            name=stat.name,
            state=stat.state,
            wchan=self._wchan(task, stat.state, missing),
            syscall=syscall,
            arguments=arguments,
            voluntary_switches=voluntary,
            involuntary_switches=involuntary,
            cpu_ns=cpu_ns,
            runqueue_wait_ns=runqueue_wait_ns,
        )

    def _wchan(self, task: str, state: str, missing: list[str]) -> str | None:
        text = self._files.text(f"{task}/wchan", missing)
        if text in ("0", "") and state in "SD":
            note(
                missing,
                f"{task}/wchan",
                "0 for a sleeping thread (no permission, or not told by this kernel)",
            )
        return text if text not in ("0", "") else None

    def _fds(self, pid: int, missing: list[str] | None) -> list[int]:
        return sorted(int(name) for name in self._files.entries(f"{pid}/fd", missing) if name.isdecimal())

    def _targets(self, pid: int, numbers: Iterable[int], missing: list[str] | None) -> list[tuple[int, str]]:
        links = ((fd, self._files.link(f"{pid}/fd/{fd}", missing)) for fd in numbers)
        return [(fd, target) for fd, target in links if target is not None]

    def _fd(self, pid: int, fd: int, target: str, missing: list[str]) -> FdReading:
        info = self.fd_info(pid, fd, missing) or FdInfo()
        in_name = re.search(r":\[(\d{1,20})\]$", target)
        return FdReading(
            fd=fd,
            kind=fd_kind(target, info.flags),
            target=target,
            inode=int(in_name[1]) if in_name else info.inode if target.startswith("/") else None,
            position_bytes=info.position_bytes,
            writable=None if info.flags is None else bool(info.flags & os.O_ACCMODE),
            detail=info.detail,
        )
