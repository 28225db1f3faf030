"""An HTTP server on 127.0.0.1 that knows who asks and can hold an answer: provider and registry stand on it."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from pytest_ocrepro.errors import StageError

Tell = Callable[[str], None]
Asker = Callable[[str], int | None]  # "127.0.0.1:54321" -> pid of the process that has this end
NOBODY: Asker = lambda _address: None  # noqa: E731  a named default
POLL_S = 0.05
CLOSE_S = 5.0


class Handler(BaseHTTPRequestHandler):
    """Base of our handlers: HTTP/1.1, silent, with the few answers that both servers give."""

    protocol_version = "HTTP/1.1"
    timeout = 600
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class' name
        """Say nothing: the history is the log."""

    @property
    def client(self) -> str:
        """The asker's address, ``host:port``."""
        return f"{self.client_address[0]}:{self.client_address[1]}"

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """A whole answer at once (without its body to HEAD, RFC 9110 section 9.3.2)."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes | None:
        """The request's body; None where its length is not told, and the connection cannot be used again."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def hold(self, *released: threading.Event, timeout_s: float = math.inf) -> bool:
        """Answer nothing until one is set, or for ``timeout_s``; False when the client left first."""
        deadline = time.monotonic() + timeout_s
        while not any(event.is_set() for event in released) and (left_s := deadline - time.monotonic()) > 0:
            if self._client_left():
                return False
            released[0].wait(min(POLL_S, left_s))
        return True

    def reset(self) -> None:
        """Close with RST instead of FIN (socket(7), SO_LINGER with a zero timeout)."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _client_left(self) -> bool:
        # not recv: on a socket with a timeout Python waits for data first, whatever MSG_DONTWAIT says
        look = select.poll()
        if sys.platform == "linux":
            look.register(self.connection, select.POLLRDHUP)
            return bool(look.poll(0))
        else:  # noqa: RET505  mypy takes the two for two systems
            look.register(self.connection, select.POLLIN)
            try:
                return bool(look.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
            except OSError:
                return True


class _Connections:
    """What is open, so that a close ends it and its thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()

    def add(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.add(connection)

    def remove(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def end(self, timeout_s: float) -> bool:
        """Break them all off, and wait for their threads."""
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return self._changed.wait_for(lambda: not self._open, timeout_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_port = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[Handler], connections: _Connections, trouble: Tell) -> None:
        self._connections = connections
        self._trouble = trouble
        super().__init__(("127.0.0.1", port), handler)

    def server_bind(self) -> None:
        """Without http.server's look for our own name, which may ask a name server."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Before its thread starts: nothing is accepted that a close would miss."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread of the connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.remove(request)

    def shutdown_request(self, request: Any) -> None:
        """Close without a shutdown first, or a reset would go out as a polite end."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  the base class' shape
        """A client that was killed in the middle of an answer is what we are here for; the rest is our bug."""
        failure = sys.exception()
        if not isinstance(failure, OSError):
            self._trouble(f"an answer of ours failed: {type(failure).__name__}: {failure}; this is a bug of ours")


class LoopbackServer:
    """Serve ``handler`` on an ephemeral port of 127.0.0.1 until :meth:`close`.

    ``trouble`` is told when a handler fails by our fault. Raises StageError when nothing can be bound.
    """

    def __init__(self, handler: type[Handler], name: str, *, trouble: Tell) -> None:
        self._handler, self._name, self._trouble = handler, name, trouble
        self._connections = _Connections()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        # Never listens: keeps the port ours while the other one is closed (socket(7), SO_REUSEPORT).
        self._place = socket.socket()
        try:
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._place.bind(("127.0.0.1", 0))
            self.port: int = self._place.getsockname()[1]
            self.address = f"127.0.0.1:{self.port}"
            self.listen()
        except OSError as error:
            self._place.close()
            raise StageError(f"cannot listen on 127.0.0.1: {error.strerror}; see whether `lo` is up") from error

    def listen(self) -> None:
        """Accept connections (again)."""
        with self._lock:
            if self._server is not None:
                return
            self._server = _Server(self.port, self._handler, self._connections, self._trouble)
            threading.Thread(
                target=self._server.serve_forever, kwargs={"poll_interval": POLL_S}, name=self._name, daemon=True
            ).start()

    def refuse(self) -> None:
        """Stop listening but keep the port, so that connections are refused at once, until :meth:`listen`."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def close(self) -> None:
        """Stop, break off what is open, and wait for the threads. Safe to call again."""
        self.refuse()
        self._place.close()
        if not self._connections.end(CLOSE_S):
            self._trouble(f"a thread of {self._name} did not end within {CLOSE_S:g} s; this is a bug of ours")
