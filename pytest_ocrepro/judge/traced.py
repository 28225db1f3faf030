"""What a trace proves: it is taken last, since it disturbs, so it speaks for the looks before it in the same wait."""

from __future__ import annotations

from pytest_ocrepro.events import CallsTraced
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.life import Life
from pytest_ocrepro.judge.progress import progress_of
from pytest_ocrepro.readings import Snapshot

TRIES = 2  # of one path: a single one may be the start of something that works


def tries_of(history: History, life: Life, snapshot: Snapshot) -> dict[str, str]:
    """Paths that the process tried to make again and again, each time in vain, with the fact in words.

    Only of a trace of the wait that the snapshot shows: no step of the process lies between the two.
    """
    for event in reversed(history.of_type(CallsTraced)):
        if not life.owns(event):
            continue
        begun_ns = event.at_ns - round(event.seconds * 1e9)
        first_ns, last_ns = min(begun_ns, snapshot.started_ns), max(event.at_ns, snapshot.started_ns)
        if progress_of(history, life, last_ns)[0] > first_ns:
            continue
        return {
            call.path: f"strace: {len(call.at_s)} times {call.name} of it within {event.seconds:.1f} s, each EEXIST"
            for call in event.calls
            if call.result == "EEXIST" and len(call.at_s) >= TRIES
        }
    return {}
