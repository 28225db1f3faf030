"""An HTTP server on 127.0.0.1 that knows who asks and can hold an answer: provider and registry stand on it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asker = Callable[[str], int | None]  # "127.0.0.1:54321" -> pid of the process that has this end
NOBODY: Asker = lambda _address: None  # noqa: E731  a named default
POLL_S = 0.05


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
        """A whole answer at once."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hold(self, released: threading.Event) -> bool:
        """Answer nothing until released; False when the client left first."""
        while not released.wait(POLL_S):
            if self._client_left():
                return False
        return True

    def reset(self) -> None:
        """Close with RST instead of FIN (socket(7), SO_LINGER with a zero timeout)."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _client_left(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def shutdown_request(self, request: Any) -> None:
        """Close without a shutdown first, or a reset would go out as a polite end."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of an answer is what we are here for."""


class LoopbackServer:
    """Serve ``handler`` on an ephemeral port of 127.0.0.1 until :meth:`close`."""

    def __init__(self, handler: type[Handler], name: str) -> None:
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port: int = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": POLL_S}, name=name, daemon=True
        )
        self._thread.start()
        self._refusing: socket.socket | None = None
        self._listening = True

    def refuse(self) -> None:
        """Stop listening but keep the port, so that connections are refused at once."""
        if not self._listening:
            return
        self._listening = False
        self._server.shutdown()
        self._server.server_close()
        self._refusing = socket.socket()
        self._refusing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # taken meanwhile: then somebody else answers, or nobody
            self._refusing.bind(("127.0.0.1", self.port))

    def close(self) -> None:
        """Stop; connections that are held are dropped with the process' daemon threads."""
        if self._listening:
            self._listening = False
            self._server.shutdown()
            self._server.server_close()
        if self._refusing is not None:
            self._refusing.close()
        self._thread.join(timeout=2)
