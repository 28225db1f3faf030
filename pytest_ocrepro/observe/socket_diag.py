"""Sockets as the kernel tells them to ``ss``: NETLINK_SOCK_DIAG, sock_diag(7). Nobody is disturbed by it."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from pytest_ocrepro.observe.proctext import UnixRow
from pytest_ocrepro.readings import Reading

# Numbers: netlink.h, sock_diag.h, unix_diag.h, inet_diag.h and tcp.h of include/uapi/linux
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
_TCP_QUESTION: Final = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_TCP_STATES: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8  # established, the two FIN_WAITs, CLOSE_WAIT
_TCP_ROW: Final = struct.Struct(">4xH46x")  # struct inet_diag_msg up to its counters: the port here
_TCP_COUNTS: Final = struct.Struct("=4x4x4x4xI")  # and the inode behind four of them
_INFO: Final = 2  # INET_DIAG_INFO: struct tcp_info
_SENT_AGO_MS, _RECEIVED_AGO_MS, _RECEIVED, _SENT = 44, 52, 128, 200  # where in it; the last since Linux 4.19
_ANSWER_S: Final = 0.5
_READ_BYTES: Final = 1 << 18


class TcpInfo(Reading, frozen=True, kw_only=True):
    """What TCP_INFO (tcp(7)) counts of one connection; ``inode`` 0: nobody has accepted it yet."""

    inode: int
    port: int  # its own
    received_bytes: int
    sent_bytes: int
    received_ago_s: float  # since the connection was made where nothing has come
    sent_ago_s: float


def unix_rows() -> list[UnixRow]:
    """All UNIX sockets of our own network namespace. Raises OSError where the kernel does not tell."""
    question = _QUESTION.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW, 0, 0)
    return [row for body in _asked(question) if (row := parse_unix_diag(body)) is not None]


def tcp_infos() -> list[TcpInfo]:
    """What the kernel counts of each TCP connection of our own network namespace. Raises OSError if it does not."""
    bodies = (
        body
        for family in (socket.AF_INET, socket.AF_INET6)
        for body in _asked(_TCP_QUESTION.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _TCP_STATES))
    )
    return [found for body in bodies if (found := parse_tcp_diag(body)) is not None]


def _asked(question: bytes) -> list[bytes]:
    """The bodies of the kernel's answer. Raises OSError for its refusal."""
    if sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, "this system has no sock_diag")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_ANSWER_S)
        asked.send(_HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, _REQUEST_ALL, 1, 0) + question)
        found: list[bytes] = []
        while _take(asked.recv(_READ_BYTES), found):
            pass
    return found


def _take(data: bytes, found: list[bytes]) -> bool:
    """Add the bodies of one datagram; False when it was the last. Raises OSError for the kernel's refusal."""
    for kind, body in messages(data):
        if kind == _DONE:
            return False
        if kind == _ERROR:
            number = -int.from_bytes(body[:4], "little", signed=True)
            raise OSError(number, os.strerror(number))
        found.append(body)
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


def parse_tcp_diag(body: bytes) -> TcpInfo | None:
    """One message's connection; None for a message that is none, or that says nothing of its bytes."""
    begin = _TCP_ROW.size + _TCP_COUNTS.size
    if len(body) < begin:
        return None
    info = dict(_attributes(body[begin:])).get(_INFO, b"")
    if len(info) < _SENT + 8:
        return None
    return TcpInfo(
        inode=_TCP_COUNTS.unpack_from(body, _TCP_ROW.size)[0],
        port=_TCP_ROW.unpack_from(body)[0],
        received_bytes=int.from_bytes(info[_RECEIVED : _RECEIVED + 8], sys.byteorder),
        sent_bytes=int.from_bytes(info[_SENT : _SENT + 8], sys.byteorder),
        received_ago_s=int.from_bytes(info[_RECEIVED_AGO_MS : _RECEIVED_AGO_MS + 4], sys.byteorder) / 1000,
        sent_ago_s=int.from_bytes(info[_SENT_AGO_MS : _SENT_AGO_MS + 4], sys.byteorder) / 1000,
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
