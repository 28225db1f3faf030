"""A trace shows what was inferred: the repeated mkdir of one lock directory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.judge.judgement import Grade
from pytest_ocrepro.judge.verdict import judge_process

if TYPE_CHECKING:
    from tests.data.judge import histories as made
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_histories", Path(__file__).parents[1] / "data" / "judge" / "histories.py"
    )
    made = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(made)

LOCK = "$SANDBOX/state/opencode/locks/5688.lock"


def traced(at: float, *, path: str = LOCK, times: int = 2, result: str = "EEXIST", pid: int = 20) -> h.CallsTraced:
    call = r.TracedCall(name="mkdir", path=path, result=result, at_s=tuple(2.0 * n for n in range(times)))
    return h.CallsTraced(at_ns=made.ns(at), pid=pid, role="second", seconds=2.5, calls=(call,))


def first_link(*more: h.Event, **sight: Any) -> tuple[str, Grade]:
    """Of the waiter in the reported overlap: looks at 5.0 and 5.6, and what is added; and how sure the verdict is."""
    judged = judge_process(made.overlap(more=more, sight=sight), 20)
    return judged.chain[0].partition(" [")[2], judged.grade


def test_the_edge_is_proved_and_with_it_the_verdict() -> None:
    evidence, grade = first_link(traced(5.9))
    assert evidence.startswith("proved: strace: 2 times mkdir of it within 2.5 s, each EEXIST; its log ends at")
    assert grade is Grade.PROVED
    assert "but a repeated mkdir" not in evidence
    assert first_link()[0].startswith("inferred: ")
    assert first_link()[1] is Grade.STRONG


@pytest.mark.parametrize(
    "event",
    [
        traced(5.9, times=1),
        traced(5.9, result="0"),
        traced(5.9, path="$SANDBOX/state/opencode/locks/another.lock"),
        traced(5.9, pid=10),
        traced(4.0),  # it began at 1.5, before the waiter's last step
    ],
)
def test_what_does_not_prove_it(event: h.CallsTraced) -> None:
    evidence, grade = first_link(event)
    assert evidence.startswith("inferred: ")
    assert grade is Grade.STRONG


def test_a_step_between_the_look_and_the_trace_makes_it_another_wait() -> None:
    history = made.overlap(more=[made.progress(20, "second", 5.8), traced(5.9)], until=6.0)
    judged = judge_process(history, 20)
    assert not judged.chain or "inferred" in judged.chain[0]


def test_what_is_seen_to_be_tried_needs_no_log() -> None:
    evidence, _ = first_link(traced(5.9), logs=())
    assert evidence.startswith("proved: strace: 2 times mkdir")


def test_a_lock_of_its_own_is_not_waited_for() -> None:
    own = {"lock_directories": (made.lock_directory(20),), "logs": ()}
    assert judge_process(made.overlap(more=[traced(5.9)], sight=own), 20).chain == ()
