"""Trials that reproduced, with the scenario's own moves in their histories, as the harness records them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro import events as h
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Grade, Graph, Judgement, ProcessJudgement, Result, Verdict
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.records import StoredTrial, TrialInfo, result_of
from pytest_ocrepro.readings import ProcessId

_clock = itertools.count(1_000_000_000, 1_000_000)
MODEL = {"providerID": "mock", "modelID": "m1"}


def at() -> int:
    """The next instant."""
    return next(_clock)


def process(role: str, *argv: str, pid: int = 100, obligation: str = "answer", **more: object) -> h.ProcessStarted:
    """An opencode that the scenario started."""
    limits = {"fail_fast_s": 1.0, "deadline_s": 45.0, "stdin": "/dev/null", **more}
    return h.ProcessStarted(
        at_ns=at(),
        id=ProcessId(pid=pid, start_ticks=1),
        role=role,
        argv=("opencode", *argv),
        obligation=obligation,
        **limits,  # type: ignore[arg-type]
    )


def serve(role: str) -> h.ProcessStarted:
    """A server."""
    argv = ("serve", "--port", "4096", "--hostname", "127.0.0.1")
    return process(role, *argv, obligation="serve", environment=("OPENCODE_ENABLE_QUESTION_TOOL=1",))


def asked(role: str, method: str, path: str, body: object, answer: object, status: int = 200) -> list[h.Event]:
    """A call and its answer."""
    told = "" if body is None else json.dumps(body)
    said = json.dumps(answer, separators=(",", ":"))
    return [
        h.HttpAsked(at_ns=at(), role=role, method=method, path=path, body=told, timeout_s=5.0),
        h.HttpCall(
            at_ns=at(), role=role, method=method, path=path, status=status, seconds=0.1, timeout_s=5.0, body=said
        ),
    ]


def broken(claim: str, role: str = "", finding: str = "") -> h.Expectation:
    """A demand that did not hold."""
    return h.Expectation(at_ns=at(), claim=claim, held=False, because="seen", role=role, finding=finding)


def trial(
    events: Sequence[h.Event],
    *,
    title: str = "a title",
    verdict: Verdict = Verdict.BLOCKED,
    role: str = "second",
    result: Result = Result.REPRODUCED,
    furnished: h.SandboxFurnished | None = None,
) -> StoredTrial:
    """A whole bundle around these events."""
    furniture = furnished or h.SandboxFurnished(at_ns=0)
    judged = ProcessJudgement(
        role=role,
        pid=100,
        argv=("opencode",),
        exit=None,
        verdict=verdict,
        grade=Grade.PROVED,
        milestone="",
        next_milestone="",
        seconds=1.0,
        because=(),
        chain=(),
        refuted_by="",
    )
    judgement = Judgement(
        result=result,
        reason="r",
        verdict=verdict,
        grade=Grade.PROVED,
        seconds_to_verdict=1.0,
        chain=(),
        processes=(judged,),
        findings=(),
        leaked=(),
        signature="",
        graph=Graph(),
    )
    return StoredTrial(
        path=Path("trial"),
        info=TrialInfo(scenario="test_x.py::test_x", title=title, version="9.9.9"),
        history=History.of([furniture, *events]),
        judgement=judgement,
        result=None,
        torn=False,
    )


def store(run: RunDir, one: StoredTrial, test: str = "test_x") -> None:
    """Put it into a run, as if it had just been judged."""
    assert one.judgement is not None
    info = msgspec.structs.replace(one.info, scenario=f"scenarios/test_x.py::{test}")
    with run.open_trial(f"{test}-{info.version}", info) as bundle:
        for event in one.history:
            bundle.sink(msgspec.json.encode(event) + b"\n")
        bundle.finish(one.judgement, result_of(run.info.run_id, info, one.history, one.judgement, bundle.relative))


def overlap(**more: object) -> StoredTrial:
    """A run beside one that waits for its plugin install."""
    plugin = h.StagedFile(path=".opencode/plugin/quiet.js", text="export const Quiet = async () => ({})\n")
    more.setdefault("furnished", h.SandboxFurnished(at_ns=0, files=(plugin,)))
    registry = h.FaultInjected(
        at_ns=at(), fault="registry", detail="silent", address="127.0.0.1:1", silent_for_good=True
    )
    events = [
        registry,
        process("first", "run", "-m", "bogus/1", "hi"),
        h.StepWaited(at_ns=at(), kind="lock-directory", what="first holds a lock directory"),
        process("second", "run", "-m", "bogus/2", "hi"),
        broken("second answers or fails fast", role="second"),
    ]
    return trial(events, **more)  # type: ignore[arg-type]


def held_lock(mode: str = "IMMEDIATE") -> StoredTrial:
    """A run that meets a write lock."""
    events = [
        h.TurnsScripted(at_ns=at(), model="m1", turns=(h.ScriptedTurn(name="text", words="done ", repeats=True),)),
        process("warm-up", "run", "-m", "mock/m1", "hi"),
        h.ProcessExited(at_ns=at(), pid=100, role="warm-up", code=0, ours=False),
        process("lock-holder", obligation=""),
        h.FaultInjected(at_ns=at(), fault="database-lock", detail=f"pid 9 holds {mode} on $SANDBOX/x"),
        process("first", "run", "-m", "mock/m1", "hi"),
        broken("first names the resource (opencode.db, database)", role="first", finding="unnamed-resource"),
    ]
    return trial(events, verdict=Verdict.FAILED_FAST, role="first")


def killed_server() -> StoredTrial:
    """kill -9 of a server while bash runs."""
    call = (("bash", json.dumps({"command": "sleep 300", "description": "scripted"})),)
    turns = (h.ScriptedTurn(name="tool bash", calls=call), h.ScriptedTurn(name="text", words="went on "))
    prompt = {"parts": [{"type": "text", "text": "run it"}], "model": MODEL}
    events = [
        h.TurnsScripted(at_ns=at(), model="m1", turns=turns),
        serve("server"),
        *asked("server", "POST", "/session", {}, {"id": "ses_abc"}),
        *asked("server", "POST", "/session/ses_abc/prompt_async", prompt, {}),
        h.StepWaited(at_ns=at(), kind="condition", what="'sleep 300' running"),
        h.SignalSent(at_ns=at(), pid=100, role="server", signal="SIGKILL", why="scenario"),
        h.ProcessExited(at_ns=at(), pid=100, role="server", code=-9, ours=True),
        serve("server-again"),
        broken("no tool part stays unfinished", finding="orphaned-part"),
    ]
    return trial(events, verdict=Verdict.ALIVE, role="server-again")


def pending_question() -> StoredTrial:
    """A call that is refused while a question is pending."""
    given = {"questions": [{"question": "Which?", "header": "C", "options": []}]}
    turns = (h.ScriptedTurn(name="tool question", calls=(("question", json.dumps(given)),)),)
    prompt = {"parts": [{"type": "text", "text": "ask about it"}], "model": MODEL}
    messages = [{"info": {"id": "msg_firstfirst"}}, {"info": {"id": "msg_lastlast"}}]
    events = [
        h.TurnsScripted(at_ns=at(), model="m1", when="ask about it", turns=turns),
        serve("server"),
        *asked("server", "POST", "/session", {}, {"id": "ses_abc"}),
        *asked("server", "POST", "/session/ses_abc/prompt_async", prompt, {}),
        h.StepWaited(at_ns=at(), kind="question", what="ses_abc", role="server", id="que_1234567890"),
        *asked("server", "GET", "/session/ses_abc/message", None, messages),
        *asked("server", "DELETE", "/session/ses_abc/message/msg_lastlast", None, {"_tag": "Busy"}, 409),
        broken("delete the message is accepted", role="server", finding="call-refused"),
    ]
    return trial(events, verdict=Verdict.ALIVE, role="server")
