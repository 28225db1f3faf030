"""The scripted model: an OpenAI-compatible server on loopback that says what the scenario wrote.

A script is a list of turns for one model name, or for the prompts that hold a phrase; each request takes the next
turn. Requests for a title (they carry no tools) are answered beside the script. A request that no turn is left for
fails the trial as ours, not the subject's. Every request is recorded with its instant and the pid that asked.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from typing import Any

from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.events import FaultInjected, ProviderReply, ProviderRequest, Trouble
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.loopback import NOBODY, Asker, Handler, LoopbackServer
from pytest_ocrepro.stage.turns import Barrier, Turn, events_of, text, whole

MODELS = ("m1", "m2", "m3", "m4")
TITLE = "A scripted session"
CONTEXT_TOKENS = 100_000
OUTPUT_TOKENS = 4_000


@dataclass
class _Script:
    turns: list[Turn] = field(default_factory=list)

    def take(self) -> Turn | None:
        if not self.turns:
            return None
        return self.turns[0] if self.turns[0].repeats else self.turns.pop(0)


class Provider:
    """The server. ``url`` is what a configuration calls baseURL."""

    def __init__(self, history: History, *, asker: Asker = NOBODY) -> None:
        self._history = history
        self._asker = asker
        self._lock = threading.Lock()
        self._by_model: dict[str, _Script] = {}
        self._by_phrase: dict[str, _Script] = {}
        self._count = 0
        self._closing = threading.Event()
        self._server = LoopbackServer(_handler_for(self), "ocrepro-provider", trouble=self._tell)
        self.address = self._server.address
        self.url = f"http://{self.address}/v1"

    def script(self, *turns: Turn, model: str = "m1", when: str = "") -> None:
        """Append turns to the script of a model, or of every conversation whose last prompt holds ``when``."""
        with self._lock:
            scripts = self._by_phrase if when else self._by_model
            scripts.setdefault(when or model, _Script()).turns.extend(turns)

    def barrier(self, name: str = "barrier") -> Barrier:
        """A new barrier for :func:`held`."""
        return Barrier(name)

    def config(self) -> dict[str, object]:
        """The part of opencode's configuration that makes ``mock/m1`` ... ``mock/m4`` models of ours."""
        limit = {"context": CONTEXT_TOKENS, "output": OUTPUT_TOKENS}
        models = {name: {"name": name, "tool_call": True, "limit": limit} for name in MODELS}
        options = {"baseURL": self.url, "apiKey": "scripted"}
        mock = {"npm": "@ai-sdk/openai-compatible", "name": "mock", "options": options, "models": models}
        return {"provider": {"mock": mock}, "model": "mock/m1", "small_model": "mock/m1"}

    def requests(self) -> list[ProviderRequest]:
        """All requests so far, titles included."""
        return self._history.of_type(ProviderRequest)

    def wait_for_request(self, count: int = 1, *, timeout_s: float = 30.0) -> None:
        """Block until ``count`` requests that are no title were made. Raises NotReachedError."""

        def enough(history: History) -> bool:
            asked = [event for event in history.of_type(ProviderRequest) if not event.title]
            return len(asked) >= count

        if not self._history.wait_for(enough, deadline_ns=now_ns() + int(timeout_s * 1e9)):
            what = f"the model was not asked {count} time(s) within {timeout_s:g} s"
            raise NotReachedError(f"{what}; see what the run printed")

    def close(self) -> None:
        """Stop; answers that are held end, and so do their threads. Safe to call again."""
        self._closing.set()
        self._server.close()

    # called by the handler

    def note_request(self, client: str, path: str, body: dict[str, Any]) -> tuple[int, int | None, Turn | None]:
        """Record a request and take its turn."""
        pid = self._asker(client)
        model = str(body.get("model", ""))
        tools = len(body.get("tools") or ())
        title = tools == 0
        asked = _last_text(body)
        with self._lock:
            self._count += 1
            number = self._count
            turn = text(TITLE) if title else self._script_for(model, asked).take()
        self._history.append(
            ProviderRequest(
                at_ns=now_ns(),
                request=number,
                pid=pid,
                path=path,
                model=model,
                tools=tools,
                title=title,
                last_text=self._history.excerpt(asked, 200),
                unanswered=_unanswered(body),
                offered=_offered(body),
            )
        )
        if turn is None:
            what = f"the provider was asked for {model!r} (request {number}) but its script is exhausted"
            self._tell(f"{what}; add a turn to the scenario's script")
        return number, pid, turn

    def note_unexpected(self, client: str, what: str) -> None:
        """Record a request that is no question to a model."""
        what = self._history.excerpt(what, 200)
        self._tell(f"the provider cannot read {what} (pid {self._asker(client)}); see that build's provider client")

    def _tell(self, what: str) -> None:
        self._history.append(Trouble(at_ns=now_ns(), what=what))

    def _script_for(self, model: str, asked: str) -> _Script:
        by_phrase = [script for phrase, script in self._by_phrase.items() if phrase in asked]
        return by_phrase[0] if by_phrase else self._by_model.get(model, _Script())

    def note_silence(self, turn: Turn) -> None:
        """Record that the scenario lets this turn fall silent."""
        self._history.append(
            FaultInjected(
                at_ns=now_ns(),
                fault="provider",
                detail=f"silent: the turn {turn.name!r} says nothing more",
                address=self.address,
                silent_for_good=True,
            )
        )

    def note_reply(self, number: int, pid: int | None, what: str, turn: str, detail: str = "") -> None:
        """Record what became of it."""
        self._history.append(
            ProviderReply(at_ns=now_ns(), request=number, pid=pid, what=what, turn=turn, detail=detail)
        )

    @property
    def closing(self) -> threading.Event:
        """Set when the trial is over."""
        return self._closing


def _handler_for(provider: Provider) -> type[Handler]:
    class Conversation(Handler):
        def do_GET(self) -> None:
            if self.path.rstrip("/").endswith("/models"):
                self.answer(200, json.dumps({"object": "list", "data": [{"id": name} for name in MODELS]}).encode())
            else:
                self._refuse()

        def do_POST(self) -> None:
            body = _question(self.body())
            if body is None or not self.path.endswith("/chat/completions"):
                self._refuse()
                return
            number, pid, turn = provider.note_request(self.client, self.path, body)
            if turn is None:
                provider.note_reply(number, pid, "unexpected", "none")
                self.answer(400, _error_body("the scripted model has no turn left"))
                return
            self._give(turn, number, pid, streaming=bool(body.get("stream")))

        def _refuse(self) -> None:
            provider.note_unexpected(self.client, f"{self.command} {self.path}")
            self.close_connection = True
            self.answer(400, _error_body("the scripted model cannot read this request"))

        def _give(self, turn: Turn, number: int, pid: int | None, *, streaming: bool) -> None:
            try:
                here = turn.barrier is None or self.hold(turn.barrier.arrive(), provider.closing)
                here = here and (turn.unheard or self.hold(provider.closing, timeout_s=turn.late_s))
                what, detail = self._say(turn, number, pid, streaming=streaming) if here else ("client-left", "")
            except OSError as failure:
                what, detail = "client-left", str(failure)
            if what in ("client-left", "stalled"):
                self.close_connection = True
            if not provider.closing.is_set() and what != "stalled":  # a silence is noted when it begins
                provider.note_reply(number, pid, what, turn.name, detail)

        def _say(self, turn: Turn, number: int, pid: int | None, *, streaming: bool) -> tuple[str, str]:
            """What became of it, with a detail."""
            if provider.closing.is_set():
                return "client-left", ""
            if turn.unheard:
                return self._fall_silent(turn, number, pid), ""
            if turn.status != 200:  # noqa: PLR2004  HTTP OK
                self.answer(turn.status, _error_body(f"scripted status {turn.status}"))
                return "error", str(turn.status)
            if streaming:
                return self._stream(turn, number, pid), ""
            if turn.silent:
                return self._fall_silent(turn, number, pid), ""
            self.answer(200, json.dumps(whole(turn)).encode())
            return "finished", ""

        def _stream(self, turn: Turn, number: int, pid: int | None) -> str:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            provider.note_reply(number, pid, "begun", turn.name)
            for sent, event in enumerate(list(events_of(turn))[: turn.stall_after]):
                if sent and turn.pace_s and not self._next(turn, number, pid):
                    return "client-left"
                self._chunk(f"data: {json.dumps(event)}\n\n".encode())
            if turn.breaks:
                return self._break_off(turn)
            if turn.silent:
                return self._fall_silent(turn, number, pid)
            self._chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
            return "finished"

        def _next(self, turn: Turn, number: int, pid: int | None) -> bool:
            """Wait as long as a slow turn does before its next event; False when nobody wants it any more."""
            if not self.hold(provider.closing, timeout_s=turn.pace_s) or provider.closing.is_set():
                return False
            provider.note_reply(number, pid, "continued", turn.name)
            return True

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def _fall_silent(self, turn: Turn, number: int, pid: int | None) -> str:
            provider.note_silence(turn)
            provider.note_reply(number, pid, "stalled", turn.name)
            while self.hold(provider.closing, timeout_s=turn.comment_s or math.inf):
                if provider.closing.is_set():
                    return "stalled"
                self._chunk(b": keepalive\n\n")
            return "client-left"

        def _break_off(self, turn: Turn) -> str:
            self.close_connection = True
            if turn.breaks == "reset":
                self.reset()
            else:
                self.wfile.write(b"0\r\n\r\n")
            return "broken-off"

    return Conversation


def _question(data: bytes | None) -> dict[str, Any] | None:
    """The body of a question to a model; None for anything else."""
    try:
        body = json.loads(data or b"")
    except ValueError:
        return None
    return body if isinstance(body, dict) and isinstance(body.get("messages"), list) else None


def _error_body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "scripted"}}).encode()


def _offered(body: dict[str, Any]) -> tuple[str, ...]:
    """The names of the tools; of what is none, nothing."""
    given = body.get("tools")
    functions = [one.get("function") for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return tuple(str(one.get("name", "")) for one in functions if isinstance(one, dict))


def _unanswered(body: dict[str, Any]) -> tuple[str, ...]:
    """The tools whose calls in this transcript no result follows."""
    messages = [one for one in body.get("messages") or [] if isinstance(one, dict)]
    answered = {one.get("tool_call_id") for one in messages}
    calls = [call for one in messages for call in one.get("tool_calls") or [] if isinstance(call, dict)]
    return tuple(str((one.get("function") or {}).get("name")) for one in calls if one.get("id") not in answered)


def _last_text(body: dict[str, Any]) -> str:
    for message in reversed(body.get("messages") or []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
            return str(content)
    return ""
