"""Who talks to whom over UNIX sockets: what opencode's tools print comes to it through such pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from pytest_ocrepro.observe.proctext import UnixRow, parse_net_unix
from pytest_ocrepro.observe.socket_diag import unix_rows
from pytest_ocrepro.readings import FdKind, UnixSocketReading

if TYPE_CHECKING:
    from pytest_ocrepro.observe.procfs import Reader
    from pytest_ocrepro.readings import ProcessReading


def unix_sockets(
    reader: Reader,
    processes: Sequence[ProcessReading],
    missing: list[str],
    *,
    ask: Callable[[], Sequence[UnixRow]] = unix_rows,
) -> tuple[UnixSocketReading, ...]:
    """UNIX sockets of ``processes`` (which need their ``fds``), with the peer among all processes that we may see.

    ``ask`` tells the sockets of our own network namespace; where it is refused, and for processes in another one,
    net/unix tells that the sockets are there, and their queues and peers are unknown (told in ``missing``).
    """
    processes = [one for one in processes if any(fd.kind is FdKind.SOCKET for fd in one.fds)]
    rows = _rows(reader, processes, missing, ask)
    clients = {client: row.inode for row in rows.values() for client in row.unaccepted}
    owners: dict[int, int] = {}
    for process in reversed(processes):
        owners.update((fd.inode, process.id.pid) for fd in process.fds if fd.kind is FdKind.SOCKET and fd.inode)
    found = [
        _reading(process.id.pid, fd.fd, rows[fd.inode], clients.get(fd.inode))
        for process in processes
        for fd in process.fds
        if fd.kind is FdKind.SOCKET and fd.inode in rows
    ]
    wanted = {one.peer_inode for one in found if one.peer_inode is not None} - owners.keys()
    owners.update(reader.owners_of_sockets(wanted) if wanted else {})
    return tuple(_with_peer(one, owners) for one in found)


def _rows(
    reader: Reader, processes: Sequence[ProcessReading], missing: list[str], ask: Callable[[], Sequence[UnixRow]]
) -> dict[int, UnixRow]:
    ours = reader.net_namespace("self")
    namespaces = {reader.net_namespace(process.id.pid) or "": process.id.pid for process in reversed(processes)}
    rows: dict[int, UnixRow] = {}
    for namespace, pid in namespaces.items():
        why = "another network namespace" if namespace != ours else ""
        try:
            told = ask() if not why else ()
        except OSError as error:
            told, why = (), error.strerror or str(error)
        if why:
            missing.append(f"pid {pid}: UNIX sockets: queues and peers: {why}")
            told = parse_net_unix(reader.net_unix(pid))
        rows.update((row.inode, row) for row in told)
    return rows


def _reading(pid: int, fd: int, row: UnixRow, listener: int | None) -> UnixSocketReading:
    return UnixSocketReading(
        pid=pid,
        fd=fd,
        inode=row.inode,
        name=row.name,
        state=row.state,
        rx_queue_bytes=row.rx_queue_bytes,
        tx_queue_bytes=row.tx_queue_bytes,
        peer_inode=row.peer_inode or listener,
    )


def _with_peer(one: UnixSocketReading, owners: dict[int, int]) -> UnixSocketReading:
    if one.peer_inode not in owners:
        return one
    return structs.replace(one, peer_pid=owners[one.peer_inode])
