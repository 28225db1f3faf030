"""TCP sockets of single processes, asked through psutil: of all at once macOS tells root alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import psutil
from msgspec import structs

from pytest_ocrepro.readings import ProcessReading, SocketReading

_LISTEN: Final = "LISTEN"
_T = TypeVar("_T")


def connections(
    processes: Sequence[ProcessReading], *, harness_pids: Iterable[int] = ()
) -> tuple[SocketReading, ...]:
    """TCP sockets of ``processes`` and the listeners of ``harness_pids``; the peer is looked for among these."""
    theirs = [one for process in processes for one in tcp_of(process.id.pid)]
    ours = [one for pid in harness_pids for one in tcp_of(pid)]
    owners = {(one.local, one.remote): one.pid for one in (*ours, *theirs)}
    listeners = {one.local: one.pid for one in (*ours, *theirs) if one.state == _LISTEN}
    joined = (
        structs.replace(one, peer_pid=owners.get((one.remote, one.local)) or listeners.get(one.remote))
        for one in theirs
    )
    return (*joined, *(one for one in ours if one.state == _LISTEN))


def owner_of_end(local_address: str, pids: Iterable[int]) -> int | None:
    """Which of ``pids`` has the client end "127.0.0.1:54321" of a connection; None: gone, or somebody else."""
    return next((pid for pid in pids if any(one.local == local_address for one in tcp_of(pid))), None)


def tcp_of(pid: int) -> list[SocketReading]:
    """The TCP sockets of one process; queues are not told, and a v4-mapped address is written as IPv4."""
    process = process_of(pid)
    rows = None if process is None else asked(lambda: process.net_connections(kind="tcp"))
    return [
        SocketReading(
            pid=pid,
            fd=row.fd,
            inode=None,
            local=_address(row.laddr),
            remote=_address(row.raddr) if row.raddr else _nobody(row.laddr),
            state=row.status if row.status != psutil.CONN_NONE else "",
            rx_queue_bytes=None,
            tx_queue_bytes=None,
        )
        for row in rows or ()
        if row.laddr
    ]


def process_of(pid: int) -> psutil.Process | None:
    """The process that has this pid now; None: nobody, or not told."""
    try:
        return psutil.Process(pid)
    except (psutil.Error, OSError, ValueError):
        return None


def asked(question: Callable[[], _T]) -> _T | None:
    """The answer; None where the process is gone, or is a zombie that has none, or we may not ask."""
    try:
        return question()
    except (psutil.Error, OSError):
        return None


def _address(end: tuple[str, int]) -> str:
    host = end[0].removeprefix("::ffff:") if "." in end[0] else end[0]
    return f"[{host}]:{end[1]}" if ":" in host else f"{host}:{end[1]}"


def _nobody(end: tuple[str, int]) -> str:
    """The remote end of a listener, as proc_net_tcp(5) has it."""
    return "[::]:0" if ":" in end[0] else "0.0.0.0:0"
