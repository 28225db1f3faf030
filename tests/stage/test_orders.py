from __future__ import annotations

import socket
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import orders
from pytest_ocrepro.stage.orders import (
    Ended,
    Exited,
    Signal,
    Signalled,
    Spawn,
    Spawned,
    Sweep,
    decode_reply,
    decode_request,
    encode,
    encoded,
    matches,
)
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import Child

SOMEBODY = ProcessId(pid=7, start_ticks=8, boot_id="b")


@pytest.mark.parametrize(
    "request_",
    [
        Spawn(number=1, argv=["a", "b\0c"], environment={"A": "ä"}, directory="/"),
        Signal(number=2, id=SOMEBODY, signal=9),
        Sweep(number=3, mark="7-ab.*", grace_s=0.5),
    ],
)
def test_a_request_arrives_as_it_was_sent(request_: orders.Request) -> None:
    assert decode_request(encoded(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [
        Spawned(number=1, id=SOMEBODY, error="no"),
        Signalled(number=2, sent=False),
        Ended(number=3, ended=[1, 2], leaked=[]),
        Exited(pid=4, code=-9, at_ns=5, swept=True),
    ],
)
def test_a_reply_arrives_as_it_was_sent(reply: orders.Reply) -> None:
    assert decode_reply(encode(reply)) == reply


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_a_request_that_they_are_not(data: bytes) -> None:
    try:
        found = decode_request(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert decode_request(encode(found)) == found


def test_what_no_message_holds_is_refused_before_it_is_sent() -> None:
    large = Spawn(number=1, argv=["x" * orders.MESSAGE_BYTES], environment={}, directory="/")
    with pytest.raises(
        StageError, match=r"^cannot start a program with \d+ bytes of arguments and environment: more"
    ):
        encoded(large)
    with pytest.raises(StageError, match="not UTF-8; change it"):
        encoded(Spawn(number=1, argv=["\udcff"], environment={}, directory="/"))


@pytest.mark.parametrize(
    ("value", "mark", "meant"),
    [
        ("7-ab.1", "7-ab.1", True),
        ("7-ab.10", "7-ab.1", False),
        ("7-ab.10", "7-ab.1*", True),
        ("7-ab.10", "7-ab.*", True),
        ("7-ab", "7-ab.*", False),
        ("", "*", True),
    ],
)
def test_who_is_meant_by_a_mark(value: str, mark: str, *, meant: bool) -> None:
    assert matches(value, mark) is meant


@pytest.mark.parametrize("size_bytes", [2_000_000, 20_000_000])
def test_environment_that_is_too_large_for_a_message(start: Callable[..., Child], size_bytes: int) -> None:
    with pytest.raises(
        StageError, match=r"with \d{7,8} bytes of arguments and environment: .*; pass less, or a file$"
    ):
        start(["/bin/true"], HUGE="x" * size_bytes)
    assert start(["/bin/true"]).code() == 0


def test_message_larger_than_this_socket_takes(start: Callable[..., Child], supervisor: Supervisor) -> None:
    supervisor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with pytest.raises(StageError, match="more than one message to the supervisor holds"):
        start(["/bin/true"], HUGE="x" * 100_000)
    assert start(["/bin/true"]).code() == 0


def test_text_that_is_not_utf8(start: Callable[..., Child]) -> None:
    with pytest.raises(StageError, match="not UTF-8; change it"):
        start(["/bin/true"], NAME="\udcff")
    assert start(["/bin/true"]).code() == 0
