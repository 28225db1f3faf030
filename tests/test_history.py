from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.events import Note, Trouble
from pytest_ocrepro.history import LONGEST_SECRET, History, decode_event, now_ns
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


def test_what_was_stored_before_the_gate_had_learned_is_stored_anew() -> None:
    gate, stored = Redactor({}, {}, names={}), list[bytes]()

    def rewrite(lines: Sequence[bytes]) -> None:
        stored[:] = lines

    history = History(gate=gate, sink=stored.append, rewrite=rewrite)
    kept = history.append(Note(at_ns=1, text="it is Ocelot-5521"))
    history.append(Note(at_ns=2, text="nothing"))
    assert kept.text == "it is Ocelot-5521"
    assert gate.learn({"KEY": "Ocelot-5521"})
    history.pass_again()
    assert [event.text for event in history.of_type(Note)] == ["it is [masked:KEY]", "nothing"]
    assert [decode_event(line) for line in stored] == list(history)
    assert not gate.learn({"KEY": "Ocelot-5521"})
    stored.clear()
    history.pass_again()  # nothing changes: nothing is written
    assert stored == []


def test_no_event_is_kept_as_the_gate_saw_it_before_it_learned() -> None:
    """An event that is under way when a secret becomes known waits for the rewriting, or is in it."""
    gate, inside, go_on = Redactor({}, {}, names={}), threading.Event(), threading.Event()

    def slow(text: str) -> str:
        through = gate(text)
        if "Ocelot" in text and not go_on.is_set():
            inside.set()
            go_on.wait(20)
        return through

    history = History(gate=slow)
    writer = threading.Thread(target=lambda: history.append(Note(at_ns=1, text="it is Ocelot-5521")))
    writer.start()
    assert inside.wait(20)
    gate.learn({"KEY": "Ocelot-5521"})
    again = threading.Thread(target=history.pass_again)
    again.start()
    go_on.set()
    writer.join(20)
    again.join(20)
    assert [event.text for event in history.of_type(Note)] == ["it is [masked:KEY]"]


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


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("secret", ["q" * 1000, "q" * LONGEST_SECRET], ids=["long", "longest"])
def test_what_stands_at_the_edge_of_the_part_that_is_looked_at_is_dropped(secret: str, end: bool) -> None:  # noqa: FBT001
    """Masks are shorter than what they stand for: half a secret at the edge would come into the cut."""
    history = History(gate=Redactor({"KEY": secret}, {}, names={}))
    for before in range(0, LONGEST_SECRET, 97):
        parts = ["." * before, secret * (5 * LONGEST_SECRET // len(secret))]
        shown = history.excerpt("".join(reversed(parts) if end else parts), -200 if end else 200)
        assert "q" not in shown


def test_a_short_text_is_whole_and_no_limit_is_nothing() -> None:
    history = History()
    assert history.excerpt("short", 100) == history.excerpt("short", -100) == "short"
    assert history.excerpt("short", 0) == ""
    assert history.excerpt("x" * 100_000 + "end", -5) == "xxend"
