from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.observe import socket_diag
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.proctext import UnixRow
from pytest_ocrepro.observe.socket_diag import messages, parse_unix_diag, unix_rows
from pytest_ocrepro.observe.unix_sockets import unix_sockets
from pytest_ocrepro.readings import ProcessReading, UnixSocketReading

CLIENT = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX); client.connect(sys.argv[1])
print('ready', flush=True); sys.stdin.read()
"""
WRITER = """
import os, sys
if pid := os.fork():
    os.waitpid(pid, 0)
else:
    os.write(2, b'x' * 100); os.write(1, f'{os.getpid()}\\n'.encode()); sys.stdin.read()
"""


def observed(*pids: int) -> list[ProcessReading]:
    reader = Reader()
    found = [reader.read_process(pid, role=str(pid), is_subject=False, full=True, missing=[]) for pid in pids]
    return [reading for reading in found if reading is not None]


def of(pid: int, *others: int) -> list[UnixSocketReading]:
    missing: list[str] = []
    found = [one for one in unix_sockets(Reader(), observed(pid, *others), missing) if one.pid == pid]
    assert missing == []
    return found


@contextmanager
def client(path: str) -> Iterator[int]:
    command = [sys.executable, "-c", CLIENT, path]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def test_a_tool_whose_output_is_one_end_of_a_pair() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", WRITER]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs.fileno())
    try:
        theirs.close()
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        (from_child,) = of(child.pid)
        (from_grandchild,) = of(grandchild)
        (end,) = [one for one in of(os.getpid(), child.pid, grandchild) if one.fd == ours.fileno()]
    finally:
        child.communicate()
        ours.close()
    assert (from_child.fd, from_child.peer_pid, from_child.state) == (2, os.getpid(), "ESTABLISHED")
    assert from_grandchild.inode == from_child.inode, "both have inherited the same end"
    assert (end.peer_inode, end.rx_queue_bytes, end.peer_pid) == (from_child.inode, 100, child.pid)


def test_a_listener_tells_how_many_wait_and_who(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(7)

        def listener() -> UnixSocketReading:
            return next(one for one in of(os.getpid()) if one.fd == server.fileno())

        with client(path) as pid:
            before = listener()
            (waiting,) = of(pid)
            accepted, _ = server.accept()
            with accepted:
                (reading,) = of(pid)
                after = listener()
    assert (before.state, before.name, before.rx_queue_bytes, before.tx_queue_bytes) == ("LISTEN", path, 1, 7)
    assert (waiting.state, waiting.peer_pid) == ("ESTABLISHED", os.getpid()), "it listens and has not accepted"
    assert waiting.peer_inode == before.inode
    assert after.rx_queue_bytes == 0
    assert reading.peer_pid == os.getpid()
    assert reading.peer_inode not in (None, before.inode)


def test_an_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0ocrepro-{os.getpid()}")
        server.listen()
        names = {one.fd: one.name for one in of(os.getpid())}
        assert names[server.fileno()] == f"@ocrepro-{os.getpid()}"


def test_a_peer_that_has_left(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with client(path) as pid:
            server.accept()[0].close()
            (reading,) = of(pid)
    assert (reading.peer_inode, reading.peer_pid) == (None, None)


def test_where_the_kernel_does_not_tell_peers_are_unknown() -> None:
    def refuse() -> list[UnixRow]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    missing: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        processes = observed(os.getpid())
        found = {one.fd: one for one in unix_sockets(Reader(), processes, missing, ask=refuse)}
        reading = found[ours.fileno()]
    assert (reading.state, reading.peer_inode, reading.peer_pid) == ("ESTABLISHED", None, None)
    assert (reading.rx_queue_bytes, reading.tx_queue_bytes) == (None, None)
    assert missing == [f"pid {os.getpid()}: UNIX sockets: queues and peers: Operation not permitted"]


def test_processes_without_sockets_ask_nobody() -> None:
    def asked() -> Sequence[UnixRow]:
        raise AssertionError

    assert unix_sockets(Reader(), [], [], ask=asked) == ()


# --- the kernel's messages


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def body(*attributes: bytes, state: int = 10) -> bytes:
    return struct.pack("=BBBBIII", 1, 1, state, 0, 77, 0, 0) + b"".join(attributes)


def test_a_message() -> None:
    full = body(
        attribute(0, b"/run/s\0"),
        attribute(3, struct.pack("=II", 5, 6)),
        attribute(4, struct.pack("=II", 2, 128)),
        attribute(9, b"later kernels say more"),
    )
    assert parse_unix_diag(full) == UnixRow(
        inode=77, state="LISTEN", name="/run/s", rx_queue_bytes=2, tx_queue_bytes=128, unaccepted=(5, 6)
    )
    peer = parse_unix_diag(body(attribute(0, b"\0name"), attribute(2, struct.pack("=I", 9)), state=1))
    assert peer == UnixRow(inode=77, state="ESTABLISHED", name="@name", peer_inode=9)
    assert parse_unix_diag(body(state=7)) == UnixRow(inode=77, state="UNCONNECTED")
    assert parse_unix_diag(b"short") is None


def test_messages_that_are_cut_off_are_left_out() -> None:
    one = struct.pack("=IHHII", 20, 20, 0, 1, 0) + b"abcd"
    assert list(messages(one + one[:-1])) == [(20, b"abcd")]
    assert list(messages(struct.pack("=IHHII", 0, 20, 0, 1, 0))) == []


def test_a_refusal_is_raised() -> None:
    refused = struct.pack("=IHHII", 20, 2, 0, 1, 0) + struct.pack("=i", -errno.EACCES)
    with pytest.raises(PermissionError):
        socket_diag._take(refused, [])
    assert socket_diag._take(struct.pack("=IHHII", 16, 3, 0, 1, 0), []) is False


@given(st.binary(max_size=120))
def test_no_bytes_make_them_raise(data: bytes) -> None:
    for _, rest in messages(data):
        parse_unix_diag(rest)
    parse_unix_diag(data)


def test_our_own_pair_is_among_all_sockets() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inode, peer = (os.fstat(one.fileno()).st_ino for one in (ours, theirs))
        assert {row.peer_inode for row in unix_rows() if row.inode == inode} == {peer}
