from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.socket_diag import TcpInfo, parse_tcp_diag
from pytest_ocrepro.observe.sockets import owner_of_address, sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_ocrepro.readings import ProcessReading, SocketReading

DEADLINE_S = 60.0
CLIENT = """
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
client = socket.socket(family); client.connect((sys.argv[1], int(sys.argv[2])))
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""
SERVER = """
import socket, sys
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
kept = []
for line in sys.stdin:
    kept.append(server.accept()); print('accepted', flush=True)
"""


@contextmanager
def stand_in(code: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


def until(condition: Callable[[], object], *, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def observed(*pids: int) -> list[ProcessReading]:
    reader = Reader()
    found = [reader.read_process(pid, role=str(pid), is_subject=False, full=True, missing=[]) for pid in pids]
    return [reading for reading in found if reading is not None]


def of(pid: int, *pids: int, harness: tuple[int, ...] = ()) -> list[SocketReading]:
    return [one for one in sockets(Reader(), observed(pid, *pids), harness_pids=harness) if one.pid == pid]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_peer_of_an_accepted_connection_is_our_listener(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        stand_in(CLIENT, host, str(server.getsockname()[1])) as (child, port),
    ):
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"unread")
            until(lambda: of(child.pid, harness=(os.getpid(),))[0].rx_queue_bytes)
            (reading,) = of(child.pid, harness=(os.getpid(),))
            all_of_them = sockets(Reader(), observed(child.pid), harness_pids=[os.getpid()])
    assert (reading.state, reading.peer_pid, reading.rx_queue_bytes) == ("ESTABLISHED", os.getpid(), len(b"unread"))
    assert reading.local.endswith(f":{port}")
    assert reading.fd is not None
    assert [one.state for one in all_of_them if one.pid == os.getpid()] == ["LISTEN"]


def test_the_peer_of_a_connection_that_nobody_accepts_is_the_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tarpit,
        stand_in(CLIENT, "127.0.0.1", str(tarpit.getsockname()[1])) as (child, _),
    ):
        (reading,) = of(child.pid, harness=(os.getpid(),))
        listeners = [one for one in sockets(Reader(), [], harness_pids=[os.getpid()]) if one.state == "LISTEN"]
        address = f"127.0.0.1:{tarpit.getsockname()[1]}"
    assert (reading.peer_pid, reading.remote) == (os.getpid(), address)
    assert [one.rx_queue_bytes for one in listeners if one.local == address] == [1]


def test_a_listener_on_every_address_is_found_too() -> None:
    with (
        socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        stand_in(CLIENT, "127.0.0.1", str(server.getsockname()[1])) as (child, _),
    ):
        accepted, _ = server.accept()
        with accepted:
            assert [one.peer_pid for one in of(child.pid, harness=(os.getpid(),))] == [os.getpid()]
        with stand_in(CLIENT, "127.0.0.1", str(server.getsockname()[1])) as (second, _):
            assert [one.peer_pid for one in of(second.pid, harness=(os.getpid(),))] == [os.getpid()]


def test_two_observed_processes_are_each_other_s_peers_and_so_is_a_stranger() -> None:
    with stand_in(SERVER) as (server, port), stand_in(CLIENT, "127.0.0.1", str(port)) as (client, _):
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("accept\n")
        server.stdin.flush()
        assert server.stdout.readline().strip() == "accepted"
        assert [one.peer_pid for one in of(client.pid, server.pid)] == [server.pid]
        states = {one.state: one.peer_pid for one in of(server.pid, client.pid)}
        assert states == {"LISTEN": None, "ESTABLISHED": client.pid}
        assert [one.peer_pid for one in of(client.pid)] == [server.pid], "found by a scan although not observed"


def test_a_peer_that_has_left() -> None:
    with stand_in(SERVER) as (server, port), stand_in(CLIENT, "127.0.0.1", str(port)) as (client, _):
        server.kill()
        server.wait()
        assert [one.peer_pid for one in of(client.pid) if one.state == "ESTABLISHED"] in ([], [None])


def test_processes_without_sockets() -> None:
    assert sockets(Reader(), []) == ()


def test_which_process_asks() -> None:
    reader = Reader()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = str(server.getsockname()[1])
        with stand_in(CLIENT, "127.0.0.1", address) as (one, _), stand_in(CLIENT, "127.0.0.1", address) as (two, _):
            for child in (one, two):
                accepted, (host, port) = server.accept()
                with accepted:
                    assert owner_of_address(reader, f"{host}:{port}", [two.pid, one.pid]) == child.pid
                    assert owner_of_address(reader, f"{host}:{port}", [os.getpid()]) is None
    assert owner_of_address(reader, "127.0.0.1:1", [os.getpid()]) is None
    assert owner_of_address(reader, "nonsense", [os.getpid()]) is None


def test_when_data_last_came_and_went_and_how_much() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        stand_in(CLIENT, "127.0.0.1", str(server.getsockname()[1])) as (child, port),
    ):
        (waiting,) = [one for one in of(os.getpid(), child.pid) if one.fd == server.fileno()]
        assert waiting.rx_queue_bytes == 1
        assert waiting.waiting_s is not None
        accepted, _ = server.accept()
        with accepted:
            (silent,) = of(child.pid)
            accepted.sendall(b"unread")
            until(lambda: of(child.pid)[0].rx_queue_bytes)
            (told,) = of(child.pid)
    assert (silent.received_bytes, silent.sent_bytes) == (0, 0)
    assert (told.received_bytes, told.sent_bytes, told.local) == (6, 0, f"127.0.0.1:{port}")
    ages = [told.received_ago_s, told.sent_ago_s, silent.received_ago_s]
    assert all(age_s is not None and 0 <= age_s < DEADLINE_S for age_s in ages), ages


def test_where_the_kernel_does_not_tell_the_ages_are_unknown() -> None:
    def refuse() -> list[TcpInfo]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    missing: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        stand_in(CLIENT, "127.0.0.1", str(server.getsockname()[1])) as (child, _),
    ):
        (reading,) = sockets(Reader(), observed(child.pid), missing, ask=refuse)
    assert (reading.received_bytes, reading.received_ago_s, reading.sent_ago_s) == (None, None, None)
    assert missing == [f"pid {child.pid}: TCP connections: when they last had data: Operation not permitted"]


@pytest.mark.parametrize("body", [b"", bytes(72), bytes(71), bytes(72) + b"\x04\0\x02\0", b"\xff" * 300])
def test_an_answer_of_a_kernel_that_counts_less_is_none(body: bytes) -> None:
    assert parse_tcp_diag(body) is None
