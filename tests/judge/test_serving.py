from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Verdict
from pytest_ocrepro.judge.verdict import judge, judge_process

DATA = Path(__file__).parents[1] / "data" / "judge"
if TYPE_CHECKING:
    from tests.data.judge import histories as w
else:
    _spec = importlib.util.spec_from_file_location("ocrepro_histories", DATA / "histories.py")
    w = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(w)

PATH = "/session/ses_a/message"
ASKED_AT, TIMEOUT_S = 10.0, 5.0


def call(status: int, at: float = ASKED_AT, seconds: float = 0.1, *, path: str = PATH, **more: Any) -> h.HttpCall:
    values: dict[str, Any] = {"method": "POST", "timeout_s": TIMEOUT_S, "number": round(at * 10)}
    return h.HttpCall(
        at_ns=w.ns(at + seconds), role="server", path=path, status=status, seconds=seconds, **{**values, **more}
    )


def timed_out(at: float = ASKED_AT, **more: Any) -> h.HttpCall:
    return call(0, at, TIMEOUT_S, error="no answer within 5 s", timed_out=True, **more)


def probe(status: int, **more: Any) -> h.HttpCall:
    path = "/global/health"
    return call(
        status, ASKED_AT + TIMEOUT_S + 0.01, method="GET", path=path, purpose=h.HEALTH_PROBE, number=999, **more
    )


def listener(pid: int = 20, waiting: int = 0) -> r.SocketReading:
    return r.SocketReading(
        pid=pid,
        fd=9,
        inode=90,
        local="127.0.0.1:4096",
        remote="0.0.0.0:0",
        state="LISTEN",
        rx_queue_bytes=waiting,
        tx_queue_bytes=0,
    )


def question(at: float, session: str = "ses_a") -> h.StepWaited:
    return h.StepWaited(at_ns=w.ns(at), kind="question", what=session, role="server", id="que_1")


def looks(main: r.ThreadReading, *, waiting: int = 0, share: float = 0.01) -> Iterable[h.Event]:
    """Two looks at the server while the call is open."""
    for at in (ASKED_AT + 2.0, ASKED_AT + 4.0):
        seen = w.process(20, "server", cpu_ns=w.NS + w.ns(share * at), threads=(main,))
        yield w.look(at, seen, sockets=(listener(waiting=waiting),))


def server(*parts: h.Event | Iterable[h.Event]) -> History:
    return w.of(
        w.started(20, "server", obligation="serve", argv=("opencode", "serve")),
        w.samples((20,), 0.0, 15.0),
        call(200, 5.0, path="/session", number=1),
        *parts,
    )


def judged(*parts: h.Event | Iterable[h.Event]) -> ProcessJudgement:
    return judge_process(server(*parts), 20)


PARKED = w.thread(20)
BLOCKED = w.thread(20, syscall="flock", wchan="locks_lock_inode_wait")
SPINNING = w.thread(20, state="R", syscall="running", wchan=None)


def test_a_call_that_is_lost_behind_a_running_event_loop_is_a_stall() -> None:
    told = judged(timed_out(), looks(PARKED), probe(200))
    assert (told.verdict, told.grade) == (Verdict.STALLED, Grade.STRONG)
    assert f"it owes an answer to POST {PATH} for 5.0 s" in told.because
    assert any("answered 200" in fact for fact in told.because)
    assert "nobody is going to answer this call" in told.because[-1]


def test_a_blocked_event_loop_is_named_by_its_backlog_and_its_call() -> None:
    told = judged(timed_out(), looks(BLOCKED, waiting=1), probe(0))
    assert told.verdict is Verdict.STALLED
    assert any("accepts nobody: 1 connection(s) wait at 127.0.0.1:4096" in fact for fact in told.because)
    assert "event loop is blocked" in told.because[-1]


def test_a_blocked_event_loop_has_no_backlog_when_it_had_accepted_the_one_who_asks() -> None:
    told = judged(timed_out(), looks(BLOCKED), probe(0, timed_out=True))
    assert "event loop is blocked" in told.because[-1]
    assert "its main thread is in flock at both looks, and not in its event loop" in told.because
    for near_miss in ((looks(BLOCKED), probe(200)), (looks(PARKED), probe(0, timed_out=True)), (looks(BLOCKED),)):
        assert "blocked" not in judged(timed_out(), *near_miss).because[-1]


def test_a_spinning_event_loop_is_a_livelock() -> None:
    told = judged(timed_out(), looks(SPINNING, waiting=1, share=0.95), probe(0))
    assert told.verdict is Verdict.LIVELOCK
    assert "its event loop spins" in told.because[-1]


def starved_spin(*parts: h.Event) -> ProcessJudgement:
    """It gets an eighth of a core: 0.6 s while the call is open, 0.8 s until a probe behind it has timed out too."""
    waits = w.thread(20, state="R", syscall="running", wchan=None, runqueue_wait_ns=w.ns(1.8))
    first = w.look(12.0, w.process(20, "server", threads=(SPINNING,)))
    then = w.look(14.0, w.process(20, "server", cpu_ns=w.NS + w.ns(0.24), threads=(waits,)))
    begun = w.started(20, "server", obligation="serve", argv=("opencode", "serve"))
    return judge_process(w.of(begun, w.samples((20,), 0.0, 18.0, share=0.12), timed_out(), first, then, parts), 20)


def test_a_server_still_owes_its_answer_while_a_probe_waits_in_vain() -> None:
    probed = h.HttpCall(
        at_ns=w.ns(17.0),
        role="server",
        method="GET",
        path="/global/health",
        status=0,
        seconds=2.0,
        timeout_s=2.0,
        timed_out=True,
        purpose=h.HEALTH_PROBE,
        number=9,
    )
    assert starved_spin(probed).verdict is Verdict.LIVELOCK
    assert starved_spin(msgspec.structs.replace(probed, status=200, timed_out=False)).verdict is Verdict.INCONCLUSIVE
    assert starved_spin().verdict is Verdict.INCONCLUSIVE


NOT_HUNG: dict[str, list[Any]] = {
    "the call was answered": [call(200), looks(PARKED)],
    "the call was refused": [call(500), looks(PARKED)],
    "the connection was refused": [call(0, error="ConnectionRefusedError"), looks(PARKED)],
    "nobody looked": [timed_out(), probe(200)],
    "it was seen once": [timed_out(), list(looks(PARKED))[:1], probe(200)],
    "it logged just before the timeout": [timed_out(), looks(PARKED), w.progress(20, "server", 14.5)],
    "another call was answered since": [timed_out(), looks(PARKED), call(200, 16.0, path="/x")],
    "the call is still open and not late": [
        h.HttpAsked(
            at_ns=w.ns(12.0), role="server", method="POST", path=PATH, timeout_s=60.0, number=7
        ),
        looks(PARKED),
        w.progress(20, "other", 16.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_HUNG)
def test_near_misses(name: str) -> None:
    assert not judged(*NOT_HUNG[name]).verdict.hung


def test_a_session_that_asked_a_question_waits_for_its_answer_whatever_else_the_server_does() -> None:
    told = judged(question(9.0), timed_out(), looks(PARKED), w.progress(20, "server", 13.0), probe(200))
    assert told.verdict is Verdict.WAITING_FOR_INPUT
    assert "session ses_a waits for an answer to its question" in told.chain[0]
    assert "que_1" in told.chain[0]


def answer_to(question_id: str) -> h.HttpCall:
    return call(200, 9.5, path=f"/question/{question_id}/reply")


@pytest.mark.parametrize(
    "freed",
    [
        pytest.param(answer_to("que_1"), id="answered"),
        pytest.param(call(200, 9.5, path="/session/ses_a/abort"), id="aborted"),
        pytest.param(call(200, 9.5, path="/session/ses_a", method="DELETE"), id="deleted"),
    ],
)
def test_a_question_that_was_answered_or_let_go_holds_nobody(freed: h.HttpCall) -> None:
    told = judged(question(9.0), freed, timed_out(), looks(PARKED), probe(200))
    assert told.verdict is Verdict.STALLED


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(answer_to("que_2"), id="another question was answered"),
        pytest.param(call(200, 9.5, path="/session/ses_b/abort"), id="another session was aborted"),
        pytest.param(call(400, 9.5, path="/question/que_1/reply"), id="the answer was refused"),
        pytest.param(call(200, 9.5, path="/session/ses_a", method="GET"), id="the session was read"),
    ],
)
def test_a_question_stays_open_when_something_else_happens(other: h.HttpCall) -> None:
    assert judged(question(9.0), other, timed_out(), looks(PARKED)).verdict is Verdict.WAITING_FOR_INPUT


def test_a_question_of_another_session_explains_nothing() -> None:
    assert judged(question(9.0, "ses_b"), timed_out(), looks(PARKED), probe(200)).verdict is Verdict.STALLED


def test_a_call_that_was_refused_for_the_question_says_so_without_any_look() -> None:
    told = judged(question(9.0), call(409, path="/session/ses_a/revert"))
    assert (told.verdict, told.grade) == (Verdict.WAITING_FOR_INPUT, Grade.PROVED)
    assert "was refused (409)" in told.because[-1]
    assert judged(question(9.0), call(409, path="/session/ses_b/revert")).verdict is Verdict.ALIVE


def test_a_server_that_waits_for_a_lock_is_blocked_by_its_holder() -> None:
    locks = (w.file_lock(20, waiting=True), w.file_lock(10))
    seen = [
        w.look(at, w.process(20, "server", threads=(BLOCKED,)), w.process(10, "holder"), locks=locks)
        for at in (12.0, 14.0)
    ]
    told = judged(timed_out(), seen, w.started(10, "holder", obligation=""))
    assert told.verdict is Verdict.BLOCKED
    assert "is held by holder (pid 10)" in told.chain[1]


def test_connections_that_nobody_accepts_are_owed_too() -> None:
    stuck = [
        w.look(at, w.process(20, "server", threads=(BLOCKED,)), sockets=(listener(waiting=2),))
        for at in (20.0, 25.0, 31.0)
    ]
    history = w.of(w.started(20, "server", obligation="serve"), w.samples((20,), 0.0, 32.0), stuck)
    assert judge_process(history, 20).verdict is Verdict.STALLED
    short = w.of(w.started(20, "server", obligation="serve"), w.samples((20,), 0.0, 32.0), stuck[:2])
    assert judge_process(short, 20).verdict is Verdict.ALIVE


def test_each_unanswered_call_is_a_finding_with_its_cause() -> None:
    found = judge(server(timed_out(), looks(PARKED), probe(200))).findings
    assert [one.kind for one in found] == ["call-unanswered"]
    assert f"POST {PATH}: no answer within 5 s (stalled: " in found[0].text
    assert judge(server(call(200), looks(PARKED))).findings == ()
