"""What the kernel tells of sockets and file locks, of all processes of a look; little of it without proc(5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_ocrepro.observe.connections import connections, owner_of_end
from pytest_ocrepro.observe.locks import file_locks
from pytest_ocrepro.observe.portable import missing_here
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.observe.sockets import owner_of_address, sockets
from pytest_ocrepro.observe.unix_sockets import unix_sockets
from pytest_ocrepro.readings import FileLock, ProcessReading, Reading, SocketReading, UnixSocketReading


class Tables(Reading, frozen=True, kw_only=True):
    """The parts of a snapshot that are of no one process."""

    sockets: tuple[SocketReading, ...] = ()
    unix_sockets: tuple[UnixSocketReading, ...] = ()
    locks: tuple[FileLock, ...] = ()


def look_at_tables(
    reader: ProcessReader, processes: Sequence[ProcessReading], harness_pids: Iterable[int], missing: list[str]
) -> Tables:
    """As far as this reader can see them; the rest is told in ``missing``."""
    if isinstance(reader, Reader):
        return Tables(
            sockets=sockets(reader, processes, missing, harness_pids=harness_pids),
            unix_sockets=unix_sockets(reader, processes, missing),
            locks=file_locks(reader, processes, missing),
        )
    missing.append(missing_here())
    return Tables(sockets=connections(processes, harness_pids=harness_pids))


def client_of(reader: ProcessReader, local_address: str, pids: Iterable[int]) -> int | None:
    """Which of ``pids`` has the client end "127.0.0.1:54321" of a connection; None: gone, or somebody else."""
    if isinstance(reader, Reader):
        return owner_of_address(reader, local_address, pids)
    return owner_of_end(local_address, pids)
