"""Who talks to whom: TCP sockets of the observed processes, joined by inode, with the peer on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from pytest_ocrepro.observe.proctext import parse_net_tcp
from pytest_ocrepro.observe.socket_diag import tcp_infos
from pytest_ocrepro.readings import FdKind, SocketReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_ocrepro.observe.procfs import Reader
    from pytest_ocrepro.observe.proctext import TcpRow
    from pytest_ocrepro.observe.socket_diag import TcpInfo
    from pytest_ocrepro.readings import ProcessReading

_LISTEN = "LISTEN"
_ANY_ADDRESS = ("0.0.0.0", "[::]")  # noqa: S104 compared with, never bound


def sockets(
    reader: Reader,
    processes: Sequence[ProcessReading],
    missing: list[str] | None = None,
    *,
    harness_pids: Iterable[int] = (),
    ask: Callable[[], Sequence[TcpInfo]] = tcp_infos,
) -> tuple[SocketReading, ...]:
    """TCP sockets of ``processes`` (which need their ``fds``) and the listeners of ``harness_pids``.

    ``peer_pid`` is who has the other end open, or, where nobody has accepted yet, who listens there. ``ask`` tells
    what the kernel counts of the connections of our own network namespace; where it is refused, and for processes in
    another one, bytes and ages are unknown (told in ``missing``).
    """
    owners = {
        fd.inode: (process.id.pid, fd.fd)
        for process in processes
        for fd in process.fds
        if fd.kind is FdKind.SOCKET and fd.inode is not None
    }
    ours = {inode: pid for pid in harness_pids for inode in _socket_inodes(reader, pid)}
    owning_pids = {pid for pid, _ in owners.values()}
    found: list[SocketReading] = []
    for pid in _one_of_each_namespace(reader, owning_pids or set(ours.values())):
        here = list(_Table(reader, parse_net_tcp(reader.net(pid)), owners, ours).readings())
        found.extend(_counted(here, _infos(reader, pid, missing, ask) if here else ()))
    return tuple(dict.fromkeys(found))


def owner_of_address(reader: Reader, local_address: str, pids: Iterable[int]) -> int | None:
    """Which of ``pids`` has the client end "127.0.0.1:54321" of a connection; None: gone, or somebody else."""
    port = local_address.rpartition(":")[2]
    if not port.isdecimal():
        return None
    in_hex = f":{int(port):04X} "
    lines = (line for line in reader.net().splitlines() if in_hex in line)
    for row in parse_net_tcp("\n".join(lines)):  # a busy host has thousands of rows, parsing them all takes 100 ms
        if row.local == local_address and row.inode:
            return reader.owner_of_socket(row.inode, pids)
    return None


class _Table:
    """The rows of one network namespace."""

    def __init__(
        self,
        reader: Reader,
        rows: Sequence[TcpRow],
        owners: dict[int, tuple[int, int]],
        ours: dict[int, int],
    ) -> None:
        self._reader = reader
        self._rows = rows
        self._owners = owners
        self._ours = ours
        self._by_ends = {(row.local, row.remote): row for row in rows if row.state != _LISTEN}
        self._listeners = {row.local: row for row in rows if row.state == _LISTEN}
        self._others: dict[int, int] | None = None

    def readings(self) -> Iterable[SocketReading]:
        for row in self._rows:
            if row.inode in self._owners:
                pid, fd = self._owners[row.inode]
                yield _reading(row, pid, fd, self._peer(row))
            elif row.state == _LISTEN and row.inode in self._ours:
                yield _reading(row, self._ours[row.inode], None, None)

    def _peer(self, row: TcpRow) -> int | None:
        if row.state == _LISTEN:
            return None
        other = self._by_ends.get((row.remote, row.local))
        if other is None or other.inode == 0:  # proc_net_tcp: nobody has accepted it, it belongs to the listener
            other = self._listener(row.remote)
        return None if other is None else self._owner(other.inode)

    def _listener(self, address: str) -> TcpRow | None:
        port = address.rpartition(":")[2]
        for local in (address, *(f"{host}:{port}" for host in _ANY_ADDRESS)):
            if local in self._listeners and _is_loopback(address):
                return self._listeners[local]
        return None

    def _owner(self, inode: int) -> int | None:
        if inode in self._owners:
            return self._owners[inode][0]
        if inode in self._ours:
            return self._ours[inode]
        if self._others is None:
            pids = self._reader.pids()
            self._others = {found: pid for pid in reversed(pids) for found in _socket_inodes(self._reader, pid)}
        return self._others.get(inode)


def _infos(
    reader: Reader, pid: int, missing: list[str] | None, ask: Callable[[], Sequence[TcpInfo]]
) -> Sequence[TcpInfo]:
    told: Sequence[TcpInfo] = ()
    namespace, why = reader.net_namespace(pid), ""
    if namespace is None or namespace != reader.net_namespace("self"):
        why = "another network namespace"
    else:
        try:
            told = ask()
        except OSError as error:
            why = error.strerror or str(error)
    if why and missing is not None:
        missing.append(f"pid {pid}: TCP connections: when they last had data: {why}")
    return told


def _counted(readings: Iterable[SocketReading], infos: Sequence[TcpInfo]) -> Iterable[SocketReading]:
    """With what the kernel counts of each, and of a listener's connections that nobody has accepted."""
    by_inode = {info.inode: info for info in infos}
    waiting: dict[int, float] = {}
    for waits in (info for info in infos if info.inode == 0):  # its own end has never sent anything
        waiting[waits.port] = max(waits.sent_ago_s, waiting.get(waits.port, 0.0))
    for one in readings:
        info = by_inode.get(one.inode) if one.inode else None
        if one.state == _LISTEN and one.rx_queue_bytes:
            yield structs.replace(one, waiting_s=waiting.get(int(one.local.rpartition(":")[2])))
        elif info is not None:
            names = ("received_bytes", "sent_bytes", "received_ago_s", "sent_ago_s")
            yield structs.replace(one, **{name: getattr(info, name) for name in names})
        else:
            yield one


def _reading(row: TcpRow, pid: int, fd: int | None, peer_pid: int | None) -> SocketReading:
    return SocketReading(
        pid=pid,
        fd=fd,
        inode=row.inode,
        local=row.local,
        remote=row.remote,
        state=row.state,
        rx_queue_bytes=row.rx_queue_bytes,
        tx_queue_bytes=row.tx_queue_bytes,
        peer_pid=peer_pid,
    )


def _socket_inodes(reader: Reader, pid: int) -> list[int]:
    names = (target for _, target in reader.fd_links(pid) if target.startswith("socket:["))
    return [int(name[8:-1]) for name in names if name[8:-1].isdecimal()]


def _one_of_each_namespace(reader: Reader, pids: Iterable[int]) -> list[int]:
    return list({reader.net_namespace(pid) or "": pid for pid in sorted(pids, reverse=True)}.values())


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "[::1]"))
