from __future__ import annotations

import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.history import History, Note, Trouble, decode_event, now_ns
from pytest_ocrepro.publish.redaction import Redactor

SECRET = "sk-live-0123456789abcdefghijABCDEFGHIJ"


def test_events_pass_the_gate_before_anything_keeps_them() -> None:
    stored: list[bytes] = []
    history = History(gate=lambda text: text.replace("secret", "*"), sink=stored.append)
    kept = history.append(Note(at_ns=1, text="a secret"))
    assert kept.text == "a *"
    assert [event.text for event in history.of_type(Note)] == ["a *"]
    assert decode_event(stored[0]) == kept
    assert stored[0].endswith(b"\n")


def test_a_rubbish_line_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(b'{"event": "no-such-event", "at_ns": 1')
    with pytest.raises(msgspec.ValidationError):
        decode_event(b'{"event": "no-such-event", "at_ns": 1}')


def test_waiting_ends_with_the_event_and_not_with_the_deadline() -> None:
    history = History()
    reached = threading.Event()

    def wait() -> None:
        if history.wait_for(lambda told: bool(told.of_type(Note)), deadline_ns=now_ns() + 60_000_000_000):
            reached.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    history.append(Trouble(at_ns=now_ns(), what="not this one"))
    assert not reached.is_set()
    history.append(Note(at_ns=now_ns(), text="this one"))
    assert reached.wait(10)
    waiter.join()
    assert not history.wait_for(lambda told: len(told) > 2, deadline_ns=now_ns() + 1_000_000)


@given(before=st.integers(0, 400), limit=st.integers(1, 300), end=st.booleans())
def test_no_cut_lets_half_a_secret_through(before: int, limit: int, end: bool) -> None:  # noqa: FBT001
    gate = Redactor({"KEY": SECRET}, {"/srv/box-4711": "$SANDBOX"}, names={})
    history = History(gate=gate)
    text = "." * before + SECRET + "/srv/box-4711/project" + "." * (400 - before)
    shown = history.append(Note(at_ns=1, text=history.excerpt(text, -limit if end else limit))).text
    for length in range(6, len(SECRET)):
        assert SECRET[:length] not in shown
        assert SECRET[-length:] not in shown
    assert "box-47" not in shown
