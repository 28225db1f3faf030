"""``opencode serve`` and its HTTP API: every call has its own short timeout and is an event."""

from __future__ import annotations

import http.client
import itertools
import json
import secrets
import socket
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

import msgspec
import psutil

from pytest_ocrepro.errors import NotReachedError, StageError
from pytest_ocrepro.events import HEALTH_PROBE, HttpAsked, HttpCall
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.event_stream import EventStream
from pytest_ocrepro.stage.process import Process, until

CALL_TIMEOUT_S = 5.0
SETTING_UP_S = 20.0  # of a call that no scenario is about; one stood for over 5 s at a load of 14
PROBE_TIMEOUT_S = 2.0
BODY_BYTES = 2000
READ_BYTES = 1 << 16
SAID_BYTES = 200
PORTS = range(20_000, 32_768)  # below Linux' own net.ipv4.ip_local_port_range
PORT_TRIES = 50
OK, REDIRECT = 200, 300


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. ``status`` 0: no connection, or nothing within the timeout (``error`` says which)."""

    role: str
    purpose: str
    method: str
    path: str
    status: int
    seconds: float
    body: str
    error: str = ""
    timed_out: bool = False

    @property
    def accepted(self) -> bool:
        """A 2xx status."""
        return OK <= self.status < REDIRECT

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Watch(Protocol):
    """Who looks on while a call waits for its answer."""

    def asking(self) -> AbstractContextManager[object]:
        """Entered when a call is sent, left when its answer or its timeout has come."""

    def unanswered(self, server: Server) -> None:
        """A call has timed out, and is in the history."""


class NoWatch:
    """Nobody looks on."""

    def asking(self) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()

    def unanswered(self, server: Server) -> None:
        """Nothing."""


class Server:
    """A running ``opencode serve``: its process and its API. Made by the harness."""

    def __init__(self, process: Process, port: int, history: History, watch: Watch | None = None) -> None:
        self.process = process
        self.port = port
        self._history = history
        self._watch = watch or NoWatch()
        self._numbers = itertools.count(1)

    @property
    def role(self) -> str:
        """Its name in the evidence."""
        return self.process.role

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        """Block until it says that it listens. Raises NotReachedError."""
        until(
            lambda: "listening" in self.process.output or not self.process.alive,
            timeout_s=timeout_s,
            what=f"{self.role} (pid {self.process.pid}) listening",
        )
        if not self.process.alive:
            said = " ".join(self._history.excerpt(self.process.output, -SAID_BYTES).split()) or "nothing"
            raise NotReachedError(
                f"{self.role} ended with {self.process.exit_code} before it listened; it said: {said}"
            )

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        purpose: str = "",
        timeout_s: float = CALL_TIMEOUT_S,
        quiet: bool = False,
    ) -> Answer:
        """One request, with all of its answer within ``timeout_s``; an answer that streams on is a timeout.

        Never raises: no answer is an answer too. ``quiet`` keeps polls out of the history.
        """
        if quiet:
            return self._exchange(method, path, body, purpose, timeout_s)
        number = self._ask(method, path, body, purpose, timeout_s)
        with self._watch.asking():
            answer = self._exchange(method, path, body, purpose, timeout_s)
            self._record(answer, timeout_s, number)  # now: the look that is being taken may need seconds
        if answer.timed_out:
            self._watch.unanswered(self)
        return answer

    def probe(self) -> bool:
        """Whether its event loop answers at all: a call that needs no session, on a connection of its own."""
        number = self._ask("GET", "/global/health", None, HEALTH_PROBE, PROBE_TIMEOUT_S)
        answer = self._exchange("GET", "/global/health", None, HEALTH_PROBE, PROBE_TIMEOUT_S)
        self._record(answer, PROBE_TIMEOUT_S, number)
        return answer.status > 0

    def _ask(self, method: str, path: str, body: object, purpose: str, timeout_s: float) -> int:
        number = next(self._numbers)
        self._history.append(
            HttpAsked(
                at_ns=now_ns(),
                role=self.role,
                method=method,
                path=path,
                body="" if body is None else json.dumps(body),
                purpose=purpose,
                timeout_s=timeout_s,
                number=number,
            )
        )
        return number

    def _exchange(self, method: str, path: str, body: object, purpose: str, timeout_s: float) -> Answer:
        begun = time.monotonic()
        status, text, error, timed_out = self._send(method, path, body, timeout_s)
        return Answer(
            role=self.role,
            purpose=purpose,
            method=method,
            path=path,
            status=status,
            seconds=round(time.monotonic() - begun, 3),
            body=text,
            error=error,
            timed_out=timed_out,
        )

    def _send(self, method: str, path: str, body: object, timeout_s: float) -> tuple[int, str, str, bool]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            return _read(connection, timeout_s)
        except TimeoutError:
            return 0, "", f"no answer within {timeout_s:g} s", True
        except (OSError, http.client.HTTPException, UnicodeError) as failure:
            return 0, "", f"{type(failure).__name__}: {failure}", False
        finally:
            connection.close()

    def _record(self, answer: Answer, timeout_s: float, number: int) -> None:
        self._history.append(
            HttpCall(
                at_ns=now_ns(),
                role=answer.role,
                method=answer.method,
                path=answer.path,
                status=answer.status,
                seconds=answer.seconds,
                timeout_s=timeout_s,
                body=self._history.excerpt(answer.body, BODY_BYTES),
                error=answer.error,
                purpose=answer.purpose,
                number=number,
                timed_out=answer.timed_out,
            )
        )

    def _said(self, answer: Answer) -> str:
        shown = self._history.excerpt(answer.body or answer.error, SAID_BYTES)
        return f"{answer.status or 'no answer'}: {' '.join(shown.split())}"

    def new_session(self) -> str:
        """The id of a fresh session. Raises NotReachedError."""
        answer = self.call("POST", "/session", {}, purpose="make a session", timeout_s=SETTING_UP_S)
        made = answer.json
        if not answer.accepted or not isinstance(made, dict) or "id" not in made:
            raise NotReachedError(f"{self.role} made no session: {self._said(answer)}")
        return str(made["id"])

    def prompt(self, session: str, words: str, *, model: str = "m1") -> Answer:
        """Ask without waiting for the end of the turn."""
        body = prompt_body(words, model)
        return self.call("POST", f"/session/{session}/prompt_async", body, purpose="prompt")

    def wait_for_question(self, session: str, timeout_s: float = 30.0) -> str:
        """The id of the question that is pending in this session. Raises NotReachedError."""
        found: list[str] = []

        def pending() -> bool:
            asked = self.call("GET", "/question", quiet=True).json
            found[:] = [str(one["id"]) for one in _records(asked) if one.get("sessionID") == session]
            return bool(found)

        until(pending, timeout_s=timeout_s, what=f"a question in session {session}", every_s=0.05)
        return found[0]

    def messages(self, session: str) -> list[dict[str, Any]]:
        """The session's messages as the API gives them. Raises NotReachedError when it gives none."""
        answer = self.call("GET", f"/session/{session}/message", purpose="read the messages")
        if not answer.accepted or not isinstance(answer.json, list):
            raise NotReachedError(f"{self.role} did not list the messages of {session}: {self._said(answer)}")
        return _records(answer.json)

    def wait_for_tool_part(self, session: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The part of the session's last message that is a tool call, as the API gives it. Raises NotReachedError.

        Builds up to 1.3.2 ask their question up to 0.3 s before they store the call that asks it (own measurement).
        """
        found: list[dict[str, Any]] = []

        def stored() -> bool:
            parts = (self.messages(session) or [{}])[-1].get("parts")
            found[:] = [part for part in _records(parts) if part.get("type") == "tool"]
            return bool(found)

        until(stored, timeout_s=timeout_s, what=f"a tool call in the messages of {session}", every_s=0.05)
        return found[0]

    def dead_children(self) -> list[str] | None:
        """``pid name`` of its descendants that have ended and that nobody collects; None: it has ended itself."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return None
        return [said for one in family if (said := _said_if_dead(one))]

    def events(self) -> EventStream:
        """Listen to its events: ``with server.events() as events: events.wait_for("session.idle", session=..)``."""
        return EventStream(self.port, self.role, self._history)

    def busy(self, session: str) -> bool:
        """The status API calls the session anything but idle, or does not answer: silence is not idleness."""
        answer = self.call("GET", "/session/status", quiet=True)
        status = answer.json
        if not answer.accepted or not isinstance(status, dict):
            return True
        state = status.get(session, {"type": "idle"})
        return not isinstance(state, dict) or state.get("type") != "idle"

    def wait_until_idle(self, session: str, timeout_s: float = 10.0) -> bool:
        """Whether the session is idle before the timeout."""
        try:
            until(lambda: not self.busy(session), timeout_s=timeout_s, what="idle", every_s=0.05)
        except NotReachedError:
            return False
        return True


def _read(connection: http.client.HTTPConnection, timeout_s: float) -> tuple[int, str, str, bool]:
    """(status, body, error, timed out) of the whole answer; raises TimeoutError before its head has come.

    A socket's own timeout begins anew with every byte, so the deadline is kept here. A stream of events has no end to
    wait for (text/event-stream), so that it goes on is no broken promise.
    """
    deadline = time.monotonic() + timeout_s
    line = connection.sock  # the response takes it away from the connection
    response = connection.getresponse()
    with response:
        body = _whole(response, line, deadline)
    if body is not None:
        return response.status, body.decode(errors="replace"), "", False
    streams = (response.getheader("Content-Type") or "").startswith("text/event-stream")
    return 0, "", f"the answer had begun and not ended within {timeout_s:g} s", not streams


def _whole(response: http.client.HTTPResponse, line: socket.socket, deadline: float) -> bytes | None:
    """The body; None when the deadline came before its end."""
    body = bytearray()
    while time.monotonic() <= deadline:
        line.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            some = response.read1(READ_BYTES)
        except TimeoutError:
            return None
        if not some:
            return bytes(body)
        body += some
    return None


def _records(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def prompt_body(words: str, model: str = "m1") -> dict[str, object]:
    """What the prompt calls take."""
    parts = [{"type": "text", "text": words}]
    return {"parts": parts, "model": {"providerID": "mock", "modelID": model}}


def free_port() -> int:
    """A port that was free a moment ago, and that the kernel gives to no outgoing connection meanwhile (ip(7)).

    Raises StageError when none of many is free.
    """
    for _ in range(PORT_TRIES):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StageError(
        f"no free port on 127.0.0.1 among {PORT_TRIES} of {PORTS.start} to {PORTS.stop - 1}; see `ss -tln`"
    )


def _said_if_dead(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.name()}" if process.status() == psutil.STATUS_ZOMBIE else ""
    except psutil.NoSuchProcess:  # collected by now
        return ""
