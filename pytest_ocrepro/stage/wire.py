"""How harness and supervisor send each other whole messages, with descriptors beside them (unix(7)).

Linux keeps messages apart itself (SOCK_SEQPACKET). macOS has no such UNIX sockets: there each message goes over a
stream, behind its length.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import Final

from pytest_ocrepro.stage.orders import MESSAGE_BYTES

_LENGTH: Final = struct.Struct(">I")


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, of the best kind that the system has. Raises OSError."""
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
    return socket.socketpair(socket.AF_UNIX, kind)


def send(end: socket.socket, message: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one message. Raises OSError; a stream that took a part of it only is shut down."""
    if end.type == socket.SOCK_SEQPACKET:
        socket.send_fds(end, [message], fds)
        return
    data = _LENGTH.pack(len(message)) + message
    sent = socket.send_fds(end, [data], fds) if fds else end.send(data)
    try:
        end.sendall(data[sent:])
    except OSError:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        raise


def receive(end: socket.socket, most_fds: int = 0) -> tuple[bytes, list[int]]:
    """The next message and what came with it, b"" at the end. Raises OSError."""
    if end.type == socket.SOCK_SEQPACKET:
        message, fds, _, _ = socket.recv_fds(end, MESSAGE_BYTES, most_fds)
        return message, fds
    head, fds, _, _ = socket.recv_fds(end, _LENGTH.size, most_fds)
    message = b""
    with contextlib.suppress(OSError):
        head += _exactly(end, _LENGTH.size - len(head)) if head else b""
        message = _exactly(end, _LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not message:
        for fd in fds:
            os.close(fd)
        return b"", []
    return message, fds


def _exactly(end: socket.socket, size_bytes: int) -> bytes:
    """So many bytes; b"" when the other end is gone before."""
    parts: list[bytes] = []
    while size_bytes > 0:
        part = end.recv(size_bytes)
        if not part:
            return b""
        parts.append(part)
        size_bytes -= len(part)
    return b"".join(parts)
