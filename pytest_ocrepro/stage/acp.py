"""A client of the Agent Client Protocol: what an editor is to ``opencode acp``.

One JSON-RPC message a line, on the standard streams of the agent (agentclientprotocol.com). The agent asks back: a
permission is a request of its own, which waits until the client answers.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.process import Process, until
from pytest_ocrepro.stage.terminal import Keyboard

PROTOCOL = 1
PERMISSION = "session/request_permission"
ALLOWING = "allow_once"
ANSWERED_WITHIN_S = 60.0
SHOWN = 300


class Wire(Keyboard):
    """The standard input of an agent."""

    name = "ACP client"


class AcpClient:
    """One agent, and the client that talks to it. Made by the harness."""

    def __init__(self, agent: Process, wire: Wire, history: History) -> None:
        self.agent = agent
        self._wire = wire
        self._history = history
        self._numbers = itertools.count(1)

    def begin(self) -> None:
        """Greet the agent. Raises NotReachedError, StageError."""
        able = {"fs": {"readTextFile": False, "writeTextFile": False}}
        self.result(self.ask("initialize", protocolVersion=PROTOCOL, clientCapabilities=able))

    def new_session(self, directory: str) -> str:
        """The id of a session in this directory. Raises NotReachedError, StageError."""
        told = self.result(self.ask("session/new", cwd=directory, mcpServers=[]))
        return str(told["sessionId"])

    def prompt(self, session: str, words: str) -> int:
        """Begin a turn; the number by which its end is told."""
        return self.ask("session/prompt", sessionId=session, prompt=[{"type": "text", "text": words}])

    def permissions(self) -> list[dict[str, Any]]:
        """What the agent has asked the client to permit so far, answered or not."""
        return [one for one in self.messages() if one.get("method") == PERMISSION]

    def allow(self, asked: dict[str, Any]) -> None:
        """Permit it, this once. Raises StageError where that is none of the agent's options."""
        options = {one["kind"]: one["optionId"] for one in asked["params"]["options"]}
        if ALLOWING not in options:
            raise StageError(f"the agent takes no {ALLOWING!r} but {', '.join(options)}; see what it has asked")
        self._send(id=asked["id"], result={"outcome": {"outcome": "selected", "optionId": options[ALLOWING]}})

    def ask(self, method: str, **params: object) -> int:
        """Send a request; its number."""
        number = next(self._numbers)
        self._send(id=number, method=method, params=params)
        return number

    def answered(self, number: int) -> bool:
        """The agent has answered this request, with a result or with an error (:meth:`refusal`)."""
        return self._answer(number) is not None

    def refusal(self, number: int) -> str:
        """The error that the agent has answered this request with, as JSON; "" where it has not."""
        error = (self._answer(number) or {}).get("error")
        return "" if error is None else json.dumps(error)[:SHOWN]

    def result(self, number: int, timeout_s: float = ANSWERED_WITHIN_S) -> dict[str, Any]:
        """The answer to a request. Raises NotReachedError, and StageError where the agent has refused or is gone."""
        until(
            lambda: self.answered(number) or not self.agent.alive,
            timeout_s=timeout_s,
            what=f"the agent's answer to request {number}",
        )
        told = self._answer(number)
        if told is None:
            raise StageError(f"{self.agent.role} ended before it answered request {number}; see what it has printed")
        if refusal := self.refusal(number):
            raise StageError(f"{self.agent.role} refuses request {number}: {refusal}")
        return dict(told["result"] or {})

    def messages(self) -> list[dict[str, Any]]:
        """Whatever the agent has sent so far; a line that is not whole yet is none, and what is no message either."""
        try:
            whole, _, _ = self.agent.stdout_path.read_text(errors="replace").rpartition("\n")
        except OSError:
            return []
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def _answer(self, number: int) -> dict[str, Any] | None:
        return next((one for one in self.messages() if one.get("id") == number and "method" not in one), None)

    def _send(self, **message: object) -> None:
        what = message.get("method") or f"an answer to request {message['id']} of the agent"
        if not self.agent.alive:
            raise StageError(f"{self.agent.role} has ended and takes no {what}; see what it has printed")
        self._history.append(Note(at_ns=now_ns(), text=f"sent to {self.agent.role}: {what}"))
        self._wire.type(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
