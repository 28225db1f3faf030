from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.judge.life import lives
from pytest_ocrepro.judge.sessions import asks_permission, lost_prompts, nobody_left, pending_tool, session_in
from pytest_ocrepro.judge.verdict import judge_process

DATA = Path(__file__).parents[1] / "data" / "judge"
if TYPE_CHECKING:
    from tests.data.judge import histories as w
else:
    _spec = importlib.util.spec_from_file_location("ocrepro_histories", DATA / "histories.py")
    w = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(w)

WALL = "2026-11-21T10:00:00+00:00"
WALL_S = 1795255200.0


def prompt(words: str, at: float, number: int = 1, provider: str = "mock") -> h.HttpAsked:
    body = {"parts": [{"type": "text", "text": words}], "model": {"providerID": provider, "modelID": "m1"}}
    path = "/session/ses_a/prompt_async"
    return h.HttpAsked(
        at_ns=w.ns(at), role="server", method="POST", path=path, body=json.dumps(body), number=number
    )  # fmt: skip


def taken(at: float, number: int = 1, status: int = 204) -> h.HttpCall:
    return h.HttpCall(
        at_ns=w.ns(at),
        role="server",
        method="POST",
        path="/session/ses_a/prompt_async",
        status=status,
        seconds=0.01,
        timeout_s=5.0,
        number=number,
    )


def asked(words: str, at: float) -> h.ProviderRequest:
    return h.ProviderRequest(
        at_ns=w.ns(at), request=1, pid=20, path="/v1", model="m1", tools=9, title=False, last_text=words
    )


def stored(at: float, *messages: r.UnfinishedMessage) -> h.DatabaseRead:
    reading = r.DatabaseReading(
        path="x.db", size_bytes=1, wal_bytes=0, readable=True, integrity="ok", unfinished_messages=messages
    )
    return h.DatabaseRead(at_ns=w.ns(at), when="then", reading=reading)


def unfinished(created: float | None = None, session: str = "ses_a") -> r.UnfinishedMessage:
    return r.UnfinishedMessage(session=session, message="msg_1", created=created)


SERVER = w.started(20, "server", obligation="serve")


@pytest.mark.parametrize(
    ("path", "session"),
    [
        ("/session/ses_a1", "ses_a1"),
        ("/session/ses_a1/message?limit=1", "ses_a1"),
        ("/session", ""),
        ("/session/status", ""),
        ("/x/y", ""),
    ],
)
def test_the_session_of_a_call(path: str, session: str) -> None:
    assert session_in(path) == session


def test_a_prompt_that_was_taken_and_never_asked_is_lost() -> None:
    history = w.of(SERVER, prompt("do it", 1.0), taken(1.1), stored(9.0))
    assert [one.kind for one in lost_prompts(history)] == ["lost-prompt"]
    assert "'do it'" in next(lost_prompts(history)).text


NOT_LOST: dict[str, list[Any]] = {
    "the model was asked": [prompt("do it", 1.0), taken(1.1), asked("do it", 2.0), stored(9.0)],
    "it was refused": [prompt("do it", 1.0), taken(1.1, status=409), stored(9.0)],
    "it is in a queue": [prompt("do it", 1.0), taken(1.1), stored(9.0, unfinished())],
    "too short ago": [prompt("do it", 6.0), taken(6.1), stored(9.0)],
    "the server ended at once": [prompt("do it", 1.0), taken(1.1), w.exited(20, "server", 2.0, -9), stored(9.0)],
    "another provider": [prompt("do it", 1.0, provider="bogus"), taken(1.1), stored(9.0)],
    "nobody read the database": [prompt("do it", 1.0), taken(1.1), w.progress(20, "server", 9.0)],
}


@pytest.mark.parametrize("name", NOT_LOST)
def test_near_misses_of_a_lost_prompt(name: str) -> None:
    assert list(lost_prompts(w.of(SERVER, *NOT_LOST[name]))) == []


def restarted(created: float | None) -> History:
    """A server that was killed at 5 s, one that was started at 6 s, and a reading at 8 s."""
    return w.of(
        h.TrialStarted(at_ns=0, scenario="x", version="1", trial=1, seed=0, wall=WALL, boot_id=""),
        SERVER,
        w.signal(20, "server", 5.0, "SIGKILL"),
        w.exited(20, "server", 5.0, -9, ours=True),
        w.started(30, "server-again", 6.0, obligation="serve"),
        stored(8.0, unfinished(created)),
    )


def test_a_message_older_than_all_who_live_is_stuck() -> None:
    assert [one.kind for one in nobody_left(restarted(WALL_S + 2.0))] == ["stuck-session"]


@pytest.mark.parametrize("created", [WALL_S + 7.0, None])
def test_a_message_of_one_that_lives_or_of_no_known_age_is_not(created: float | None) -> None:
    assert list(nobody_left(restarted(created))) == []


def run(*events: h.Event) -> History:
    return w.of(w.started(20, "run"), w.samples((20,), 0.0, 12.0), *events)


def called(tool: str, at: float) -> list[h.Event]:
    return [w.asked(20, at - 0.1), w.replied(20, at, "finished", turn=f"tool {tool}")]


def test_a_run_whose_model_asked_the_user_waits_for_input() -> None:
    history = run(*called("question", 2.0), *w.twice(9.0, w.process(20, "run")))
    told = judge_process(history, 20)
    assert told.verdict is Verdict.WAITING_FOR_INPUT
    assert "an answer to its question" in told.chain[0]


def test_a_run_that_went_on_after_its_question_does_not() -> None:
    events = [*called("question", 2.0), w.asked(20, 3.0, 2), w.replied(20, 3.1, "finished", 2)]
    assert judge_process(run(*events, *w.twice(9.0, w.process(20, "run"))), 20).verdict is Verdict.ALIVE


def furnished(permission: object) -> h.SandboxFurnished:
    return h.SandboxFurnished(at_ns=1, config=json.dumps({"permission": permission}))


@pytest.mark.parametrize(
    ("permission", "asks"),
    [
        ({"bash": "ask"}, True),
        ("ask", True),
        ({"*": "ask"}, True),
        ({"bash": {"rm *": "ask"}}, True),
        ({"bash": "allow"}, False),
        ({"edit": "ask"}, False),
        ([], False),
    ],
)
def test_a_permission_is_asked_as_configured(permission: object, *, asks: bool) -> None:
    assert asks_permission(w.of(furnished(permission)), "bash", w.ns(1.0)) is asks


def test_a_run_whose_tool_must_be_permitted_waits_for_input() -> None:
    waits = [*called("bash", 2.0), *w.twice(9.0, w.process(20, "run"))]
    told = judge_process(run(furnished({"bash": "ask"}), *waits), 20)
    assert told.verdict is Verdict.WAITING_FOR_INPUT
    assert "a permission for its bash tool" in told.chain[0]
    assert judge_process(run(*waits), 20).verdict is Verdict.ALIVE


def test_a_tool_is_pending_until_the_model_is_asked_again() -> None:
    life = lives(run())[0]
    found = pending_tool(run(*called("bash, stalled", 2.0)), life, w.ns(9.0))
    assert found is not None
    assert found.tool == "bash"
    assert pending_tool(run(*called("bash", 2.0), w.asked(20, 3.0, 2)), life, w.ns(9.0)) is None
    assert pending_tool(run(*called("bash", 2.0)), life, w.ns(1.0)) is None


def with_sessions(at: float) -> h.DatabaseRead:
    reading = r.DatabaseReading(path="x.db", size_bytes=1, wal_bytes=0, readable=True, sessions=("ses_a",))
    return h.DatabaseRead(at_ns=w.ns(at), when="then", reading=reading)


def test_the_database_and_http_tell_milestones_too() -> None:
    one = w.of(w.started(20, "run"), with_sessions(3.0))
    assert judge_process(one, 20).milestone == "session-created"
    two = w.of(w.started(20, "run"), w.started(30, "other"), with_sessions(3.0))
    assert judge_process(two, 20).milestone == "started"  # it may be the other's
    made = h.HttpCall(at_ns=5, role="server", method="POST", path="/session", status=200, seconds=0, timeout_s=5)
    assert judge_process(w.of(SERVER, made), 20).milestone == "session-created"
