from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage import loopback
from pytest_ocrepro.stage.loopback import Handler, LoopbackServer
from pytest_ocrepro.stage.process import until

WAIT_S = 10.0
READER = Reader()
SERVERS: list[LoopbackServer] = []


class Answers(Handler):
    gate = threading.Event()
    left: list[bool]

    def do_GET(self) -> None:  # noqa: N802  http.server calls it so
        if self.path == "/bug":
            raise ZeroDivisionError("planted")
        if self.path == "/hold":
            self.left.append(not self.hold(self.gate))
        self.answer(200, b"{}")

    do_HEAD = do_GET  # noqa: N815  http.server calls it so


def serve(troubles: list[str] | None = None) -> LoopbackServer:
    told: list[str] = [] if troubles is None else troubles
    handler = type("Fresh", (Answers,), {"gate": threading.Event(), "left": []})
    server = LoopbackServer(handler, "test-server", trouble=told.append)
    SERVERS.append(server)
    return server


@pytest.fixture(autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    while SERVERS:
        SERVERS.pop().close()


def read_until(line: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        more = line.recv(1000)
        assert more, f"closed after {got!r}"
        got += more
    return got


def ask(server: LoopbackServer, path: str = "/", method: str = "GET") -> socket.socket:
    line = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    line.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return line


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


def test_close_ends_idle_and_held_connections_and_all_threads() -> None:
    threads_before, fds_before = threads(), READER.fd_links(os.getpid())
    troubles: list[str] = []
    server = serve(troubles)
    with (
        ask(server) as idle,
        ask(server, "/hold") as held,
        socket.create_connection(("127.0.0.1", server.port)) as mute,
    ):
        assert read_until(idle, b"{}")
        until(lambda: len(threads()) >= len(threads_before) + 4, timeout_s=WAIT_S, what="a thread a connection")
        server.close()
        for line in (idle, held, mute):
            line.settimeout(WAIT_S)
            assert line.recv(1) == b""
        server.close()
    until(lambda: threads() == threads_before, timeout_s=WAIT_S, what="the end of all threads")
    assert READER.fd_links(os.getpid()) == fds_before
    assert troubles == []


def test_thread_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "CLOSE_S", 0.1)
    stuck, entered = threading.Event(), threading.Event()

    def hold(*_: object) -> bool:
        entered.set()
        return stuck.wait(WAIT_S)

    monkeypatch.setattr(Answers, "hold", hold)
    troubles: list[str] = []
    server = serve(troubles)
    with ask(server, "/hold"):
        assert entered.wait(WAIT_S)
        server.close()
    stuck.set()
    assert troubles == ["a thread of test-server did not end within 0.1 s; this is a bug of ours"]


def test_hold_ends_when_released() -> None:
    """With a timeout on the socket recv(MSG_DONTWAIT) waits: the peek must not be one."""
    server = serve()
    handler = server._handler
    with ask(server, "/hold") as line:
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(1)
        handler.gate.set()  # type: ignore[attr-defined]
        line.settimeout(WAIT_S)
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    server.close()
    assert handler.left == [False]  # type: ignore[attr-defined]


@pytest.mark.parametrize("extra", [b"", b"GET /pipelined HTTP/1.1\r\n\r\n"])
def test_hold_sees_a_client_that_leaves(extra: bytes) -> None:
    server = serve()
    left = server._handler.left  # type: ignore[attr-defined]
    with ask(server, "/hold") as line:
        line.sendall(extra)
        line.settimeout(0.1)
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert left == []
    until(lambda: left == [True], timeout_s=WAIT_S, what="the client seen leaving")
    server.close()


def test_refuse_keeps_the_port_and_listen_gives_it_back() -> None:
    server = serve()
    server.refuse()
    server.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(server)
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", server.port))
    server.listen()
    server.listen()
    with ask(server) as line:
        assert read_until(line, b"{}")
    server.close()


def test_head_has_no_body() -> None:
    server = serve()
    with ask(server, method="HEAD") as line:
        assert b"Content-Length: 2" in read_until(line, b"\r\n\r\n")
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 200"), "a body would stand before the next answer"
    server.close()


def test_bug_of_ours_is_told_and_a_client_that_leaves_is_not() -> None:
    troubles: list[str] = []
    server = serve(troubles)
    with ask(server, "/bug") as line:
        assert line.recv(1) == b""
    assert troubles == ["an answer of ours failed: ZeroDivisionError: planted; this is a bug of ours"]
    for _ in range(3):
        ask(server).close()
    server.close()
    assert len(troubles) == 1


def test_nothing_to_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = READER.fd_links(os.getpid())

    def fail(*_: object) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socketserver.TCPServer, "server_bind", fail)
    line = r"^cannot listen on 127.0.0.1: Cannot assign requested address; see whether `lo` is up$"
    with pytest.raises(StageError, match=line):
        serve()
    assert READER.fd_links(os.getpid()) == before


def test_start_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("looked up a name"))
    serve().close()
