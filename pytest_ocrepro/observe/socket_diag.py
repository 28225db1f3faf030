"""UNIX sockets as the kernel tells them to ``ss``: NETLINK_SOCK_DIAG, sock_diag(7). Nobody is disturbed by it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from pytest_ocrepro.observe.proctext import UnixRow

# Numbers: netlink.h, sock_diag.h and unix_diag.h of include/uapi/linux
_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST_ALL: Final = 0x301  # NLM_F_REQUEST, NLM_F_DUMP
_ERROR, _DONE = 2, 3
_SHOW: Final = 0x01 | 0x04 | 0x08 | 0x10  # name, peer, waiting connections, queues
_NAME, _PEER, _WAITING, _QUEUES = 0, 2, 3, 4
_HEAD: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_QUESTION: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_ROW: Final = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr
_STATES: Final = {1: "ESTABLISHED", 10: "LISTEN"}  # as of TCP; 7 is one that is not connected
_ANSWER_S: Final = 0.5
_READ_BYTES: Final = 1 << 18


def unix_rows() -> list[UnixRow]:
    """All UNIX sockets of our own network namespace. Raises OSError where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_ANSWER_S)
        question = _QUESTION.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW, 0, 0)
        asked.send(_HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, _REQUEST_ALL, 1, 0) + question)
        found: list[UnixRow] = []
        while _take(asked.recv(_READ_BYTES), found):
            pass
    return found


def _take(data: bytes, found: list[UnixRow]) -> bool:
    """Add the rows of one datagram; False when it was the last. Raises OSError for the kernel's refusal."""
    for kind, body in messages(data):
        if kind == _DONE:
            return False
        if kind == _ERROR:
            number = -int.from_bytes(body[:4], "little", signed=True)
            raise OSError(number, os.strerror(number))
        row = parse_unix_diag(body)
        if row is not None:
            found.append(row)
    return bool(data)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each netlink message; what is cut off is left out."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, *_ = _HEAD.unpack_from(data, at)
        if length < _HEAD.size or at + length > len(data):
            return
        yield kind, data[at + _HEAD.size : at + length]
        at += length + 3 & ~3


def parse_unix_diag(body: bytes) -> UnixRow | None:
    """One message's socket; None for a message that is none."""
    if len(body) < _ROW.size:
        return None
    _, _, state, _, inode, *_ = _ROW.unpack_from(body)
    told = dict(_attributes(body[_ROW.size :]))
    waiting, peer = _integers(told.get(_WAITING, b"")), _integers(told.get(_PEER, b""))
    queues = _integers(told.get(_QUEUES, b""))
    return UnixRow(
        inode=inode,
        state=_STATES.get(state, "UNCONNECTED"),
        name=_name(told.get(_NAME, b"")),
        rx_queue_bytes=queues[0] if len(queues) > 1 else None,
        tx_queue_bytes=queues[1] if len(queues) > 1 else None,
        peer_inode=(peer[0] or None) if peer else None,  # 0: the other end has not been accepted yet
        unaccepted=tuple(waiting),
    )


def _name(data: bytes) -> str:
    """An abstract name begins with a zero byte (unix(7)), a path ends with one."""
    text = data.rstrip(b"\0").decode(errors="replace")
    return f"@{text[1:]}" if data[:1] == b"\0" and text else text


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _integers(data: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack("=I", data[: len(data) // 4 * 4])]
