"""Sessions of opencode: the questions they wait for, and what is wrong in what they stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime

from pytest_ocrepro.events import (
    DatabaseRead,
    HttpAsked,
    HttpCall,
    ProviderReply,
    ProviderRequest,
    SandboxFurnished,
    StepWaited,
    TrialStarted,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Finding, Record
from pytest_ocrepro.judge.life import OK, REDIRECT, Life, lives

IN_PATH = re.compile(r"/session/(?P<session>ses_\w+)(?:/|$)")
ANSWERS = re.compile(r"/question/(?P<question>\w+)/(?:reply|reject)$")
LETS_GO = re.compile(r"/session/(?P<session>ses_\w+)(?:/abort)?$")  # POST .../abort, and DELETE of the session
CLOCKS_APART_S = 0.1  # between the wall clock and the monotonic one; no build stores anything so soon after its start
SHOWN = 80
SETTLED_S = 5.0  # a prompt so long before the end of the evidence should have been asked of the model


class OpenQuestion(Record, frozen=True, kw_only=True):
    """A question that a session was seen to ask, and that nobody has answered."""

    session: str
    question: str
    seen_ns: int


def session_in(path: str) -> str:
    """The session that a call is about; empty for none."""
    match = IN_PATH.search(path.partition("?")[0])
    return match["session"] if match else ""


def open_questions(history: History, life: Life, until_ns: int) -> list[OpenQuestion]:
    """Questions of this server that were seen and neither answered, rejected, nor let go."""
    found: dict[str, OpenQuestion] = {}
    for event in history:
        if event.at_ns > until_ns or event.at_ns < life.started.at_ns:
            continue
        if isinstance(event, StepWaited) and event.kind == "question" and event.role == life.started.role:
            found[event.what] = OpenQuestion(session=event.what, question=event.id, seen_ns=event.at_ns)
        elif isinstance(event, HttpCall) and event.role == life.started.role and OK <= event.status < REDIRECT:
            found = {key: one for key, one in found.items() if not _lets_go(event, one)}
    return list(found.values())


def _lets_go(call: HttpCall, asked: OpenQuestion) -> bool:
    path = call.path.partition("?")[0]
    answer, session = ANSWERS.search(path), LETS_GO.search(path)
    if answer is not None:
        return asked.question in ("", answer["question"])
    return session is not None and session["session"] == asked.session and call.method in ("POST", "DELETE")


class PendingTool(Record, frozen=True, kw_only=True):
    """The tool that the model's last word to a run called, with no request since."""

    tool: str
    called_ns: int


def pending_tool(history: History, life: Life, until_ns: int) -> PendingTool | None:
    """What this process is at since the model's last answer; None when it is no tool, or it has asked since."""
    titles = {event.request for event in history.of_type(ProviderRequest) if event.title}
    last: PendingTool | None = None
    for event in history:
        if event.at_ns > until_ns:
            continue
        if isinstance(event, ProviderRequest) and not event.title and life.owns(event):
            last = None
        elif isinstance(event, ProviderReply) and event.request not in titles and life.owns(event):
            called = event.what == "finished" and event.turn.startswith("tool ")
            last = PendingTool(tool=event.turn.split()[1].rstrip(","), called_ns=event.at_ns) if called else last
    return last


def asks_permission(history: History, tool: str, until_ns: int) -> bool:
    """Whether the configuration that the scenario set makes this tool ask first."""
    settings = [event.config for event in history.of_type(SandboxFurnished) if event.at_ns <= until_ns]
    try:
        rules = json.loads(settings[-1]).get("permission", {}) if settings else {}
    except (ValueError, AttributeError):
        return False
    rule = rules if isinstance(rules, str) else rules.get(tool, rules.get("*")) if isinstance(rules, dict) else None
    return rule == "ask" or (isinstance(rule, dict) and "ask" in rule.values())


def lost_prompts(history: History) -> Iterator[Finding]:
    """Prompts that a server took (2xx) and that nobody ever asked the model, although nothing is pending there."""
    words = [event.last_text for event in history.of_type(ProviderRequest)]
    taken = {(event.role, event.number) for event in history.of_type(HttpCall) if OK <= event.status < REDIRECT}
    for asked in history.of_type(HttpAsked):
        prompt = _prompt_of(asked)
        if not prompt or (asked.role, asked.number) not in taken or not _had_time(history, asked):
            continue
        session = session_in(asked.path)
        if any(prompt[:SHOWN] in said for said in words) or _is_at_work(history, session, asked.at_ns):
            continue
        text = f"{asked.role} took a prompt on session {session} and never asked the model"
        yield Finding(kind="lost-prompt", text=f"{text}: {prompt[:SHOWN]!r}")


def _had_time(history: History, asked: HttpAsked) -> bool:
    """The server lived on for long enough after the prompt."""
    served = [one for one in lives(history) if one.started.role == asked.role and one.started.at_ns <= asked.at_ns]
    ends = [end.at_ns for one in served[-1:] for end in (one.exited, one.gone) if end is not None]
    end_ns = min(ends, default=max((event.at_ns for event in history), default=0))
    return end_ns - asked.at_ns >= SETTLED_S * 1e9


def _prompt_of(asked: HttpAsked) -> str:
    """The words of a prompt to the scripted model; empty for every other call."""
    if asked.method != "POST" or not asked.number or not asked.path.endswith(("/prompt_async", "/message")):
        return ""
    try:
        body = json.loads(asked.body)
        mock = body.get("model", {}).get("providerID") == "mock"
        texts = [part["text"] for part in body["parts"] if part.get("type") == "text"]
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""
    return " ".join(texts).strip() if mock else ""


def _is_at_work(history: History, session: str, since_ns: int) -> bool:
    """A message of the session is unfinished: the prompt is in a queue behind it, or was cut short with it."""
    readings = [event for event in history.of_type(DatabaseRead) if event.at_ns >= since_ns]
    if not readings:
        return True  # nobody looked: it cannot be told
    return any(one.session == session for event in readings for one in event.reading.unfinished_messages)


def nobody_left(history: History) -> Iterator[Finding]:
    """Unfinished messages and parts that are older than every opencode that was alive when they were read.

    Only the process that began a turn can end it, so that one which began before all who live is orphaned for good
    (measured: no build resumes a turn after a restart).
    """
    frame = history.of_type(TrialStarted)
    if not frame:
        return
    seen: set[str] = set()
    for event in history.of_type(DatabaseRead):
        since = _oldest_alive(history, frame[0], event.at_ns)
        for message in event.reading.unfinished_messages:
            if message.message in seen or message.created is None or since is None:
                continue
            if message.created < since - CLOCKS_APART_S:
                seen.add(message.message)
                text = f"{message.message} of {message.session}: unfinished, and who began it is gone"
                yield Finding(kind="stuck-session", text=text)


def _oldest_alive(history: History, frame: TrialStarted, at_ns: int) -> float | None:
    """When the oldest subject that lived at this instant began, in seconds since 1970; None: nobody lived."""
    begun = [
        life.started.at_ns
        for life in lives(history)
        if life.started.is_subject and (life.started.obligation or life.started.foreign)
        if life.started.at_ns <= at_ns
        if not any(end is not None and end.at_ns <= at_ns for end in (life.exited, life.gone))
    ]
    return _wall(frame) + (min(begun) - frame.at_ns) / 1e9 if begun else None


def _wall(frame: TrialStarted) -> float:
    return datetime.fromisoformat(frame.wall).timestamp()
