"""Whole messages with descriptors, over the kind of socket that Linux has and the one that macOS has."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_ocrepro.stage import wire
from pytest_ocrepro.stage.orders import MESSAGE_BYTES

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["linux", "darwin"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    with monkeypatch.context() as system:
        system.setattr(sys, "platform", request.param)
        ours, theirs = wire.pair()
    kinds = {"linux": socket.SOCK_SEQPACKET, "darwin": socket.SOCK_STREAM}
    assert ours.type == theirs.type == kinds[request.param]
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
    with ours, theirs:
        yield ours, theirs


def test_messages_arrive_one_by_one_with_their_own_descriptors(ends: Ends) -> None:
    ours, theirs = ends
    reader, writer = os.pipe()
    wire.send(ours, b"first")
    wire.send(ours, b"with a pipe", (reader,))
    wire.send(ours, b"last")
    os.close(reader)
    assert wire.receive(theirs, 3) == (b"first", [])
    message, (copy,) = wire.receive(theirs, 3)
    assert message == b"with a pipe"
    os.write(writer, b"through it")
    assert os.read(copy, 99) == b"through it"
    assert wire.receive(theirs, 3) == (b"last", [])
    ours.close()
    assert wire.receive(theirs, 3) == (b"", [])
    for fd in (copy, writer):
        os.close(fd)


def test_a_large_message_arrives_whole(ends: Ends) -> None:
    ours, theirs = ends
    large = os.urandom(200_000)
    sender = threading.Thread(target=wire.send, args=(ours, large))
    sender.start()
    assert wire.receive(theirs) == (large, [])
    sender.join()


@pytest.mark.parametrize("part", [b"\0\0", b"\0\0\0\x09half"])
def test_a_torn_message_is_an_end_and_its_descriptors_are_closed(part: bytes) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with theirs:
        socket.send_fds(ours, [part], [writer])
        ours.close()
        os.close(writer)
        assert wire.receive(theirs, 3) == (b"", [])
    assert os.read(reader, 1) == b"", "nobody has the other end any more"
    os.close(reader)


def test_a_stream_that_takes_no_more_is_shut_down() -> None:
    """Else the next message would be read as the rest of this one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.send(ours, b"x" * 10_000_000)
        assert wire.receive(theirs) == (b"", [])
        with contextlib.suppress(BrokenPipeError):
            wire.send(ours, b"next")
        assert wire.receive(theirs) == (b"", [])
