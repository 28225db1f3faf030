from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import NotReachedError, StageError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History
from pytest_ocrepro.stage.acp import AcpClient, Wire
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.supervisor import Supervisor

WAIT_S = 20.0
AGENT = """
import json, sys
print("a line that is no message", flush=True)
kinds = sys.argv[1:]
def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    method = asked.get("method")
    if method == "initialize":
        send(id=asked["id"], result={"protocolVersion": asked["params"]["protocolVersion"]})
    elif method == "session/new":
        send(id=asked["id"], result={"sessionId": "of " + asked["params"]["cwd"]})
    elif method == "session/prompt":
        turn = asked["id"]
        options = [{"optionId": f"my-{kind}", "kind": kind, "name": kind} for kind in kinds]
        send(id=1, method="session/request_permission", params={"options": options})
    elif method == "end":
        sys.exit(3)
    elif method:
        send(id=asked["id"], error={"code": -32601, "message": "no such thing"})
    else:
        send(id=turn, result={"stopReason": asked["result"]["outcome"]["optionId"]})
"""
Open = Callable[..., AcpClient]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def opened(history: History, tmp_path: Path) -> Iterator[Open]:
    supervisor = Supervisor()
    mark = f"{supervisor.mark}.1"

    def start(*kinds: str) -> AcpClient:
        wire = Wire()
        argv = [sys.executable, "-I", "-c", AGENT, *kinds]
        agent = Process("agent", argv, supervisor=supervisor, history=history, output=tmp_path, stdin=wire)
        agent.start({MARKER: mark, "PATH": os.defpath}, str(tmp_path))
        client = AcpClient(agent, wire, history)
        client.begin()
        return client

    yield start
    supervisor.sweep(mark)
    supervisor.close()


def test_a_turn_waits_for_the_permission_and_ends_with_it(opened: Open, history: History) -> None:
    client = opened("reject_once", "allow_once")
    session = client.new_session("/a/project")
    assert session == "of /a/project"
    turn = client.prompt(session, "hello")
    until_asked(client)
    assert not client.answered(turn)
    client.allow(client.permissions()[0])
    assert client.result(turn, WAIT_S) == {"stopReason": "my-allow_once"}
    told = [one.text for one in history.of_type(Note)]
    assert told[-1] == "sent to agent: an answer to request 1 of the agent"


def until_asked(client: AcpClient) -> None:
    with pytest.raises(StageError, match=r"agent refuses request \d+: .*no such thing"):
        client.result(client.ask("other/thing"), WAIT_S)  # behind it the agent has read all that was sent before
    assert len(client.permissions()) == 1


def test_what_cannot_be_permitted_once_is_told(opened: Open) -> None:
    client = opened("reject_once")
    client.prompt(client.new_session("/"), "hello")
    until_asked(client)
    with pytest.raises(StageError, match="takes no 'allow_once' but reject_once; see what it has asked"):
        client.allow(client.permissions()[0])


def test_an_agent_that_ends_is_not_waited_for(opened: Open) -> None:
    client = opened()
    with pytest.raises(StageError, match="agent ended before it answered request 2"):
        client.result(client.ask("end"), WAIT_S)
    with pytest.raises(StageError, match="agent has ended and takes no session/new"):
        client.new_session("/")


def test_an_answer_that_does_not_come_is_named(opened: Open) -> None:
    client = opened("allow_once")
    turn = client.prompt(client.new_session("/"), "hello")
    with pytest.raises(NotReachedError, match=r"answer to request 3 did not happen within 0\.1 s"):
        client.result(turn, 0.1)


def test_an_error_is_an_answer_and_is_told(opened: Open) -> None:
    client = opened("allow_once")
    turn = client.prompt(client.new_session("/"), "hello")
    refused = client.ask("other/thing")
    with pytest.raises(StageError, match="no such thing"):
        client.result(refused, WAIT_S)
    assert client.answered(refused)
    assert "no such thing" in client.refusal(refused)
    assert (client.answered(turn), client.refusal(turn)) == (False, "")
    client.allow(client.permissions()[0])
    client.result(turn, WAIT_S)
    assert client.refusal(turn) == ""
