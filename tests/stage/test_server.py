from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import NotReachedError, StageError
from pytest_ocrepro.events import HttpCall
from pytest_ocrepro.history import History
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import NoInput, OpenPipe, Process, until
from pytest_ocrepro.stage.server import BODY_BYTES, Server, free_port, prompt_body
from pytest_ocrepro.stage.supervisor import Supervisor

# A stand-in of `opencode serve`: path -> (status, JSON); three paths misbehave.
STAND_IN = """
import http.server, json, sys, time
ROUTES = json.loads(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/event":
            self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
            while True:
                self.wfile.write(b"data: heartbeat\\n\\n"); time.sleep(0.02)
        if self.path == "/silent":
            time.sleep(60)
        if self.path == "/broken":
            return
        status, body = ROUTES.get(f"{self.command} {self.path}", (404, "not found"))
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    do_POST = do_DELETE = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
print("listening", flush=True)
server.serve_forever()
"""
WAIT_S = 20.0
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    one = Supervisor()
    yield one
    one.close()


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def begin(supervisor: Supervisor, history: History, tmp_path: Path) -> Iterator[Callable[[list[str], int], Server]]:
    mark = f"{supervisor.mark}.{os.urandom(3).hex()}"

    def start(argv: list[str], port: int) -> Server:
        output = tmp_path / str(len(list(tmp_path.iterdir())))  # the harness gives each process a role of its own
        output.mkdir()
        process = Process("server", argv, supervisor=supervisor, history=history, output=output, stdin=NoInput())
        process.start({MARKER: mark, "PATH": "/usr/bin:/bin"}, str(tmp_path))
        return Server(process, port, history)

    yield start
    supervisor.sweep(mark, grace_s=0.1)


@pytest.fixture
def serve(begin: Callable[[list[str], int], Server]) -> Serve:
    def start(**routes: tuple[int, object]) -> Server:
        port = free_port()
        named = {
            name.replace("__", " /", 1).replace("_", "/").replace("-", "_"): answer for name, answer in routes.items()
        }
        server = begin([sys.executable, "-I", "-c", STAND_IN, str(port), json.dumps(named)], port)
        server.wait_until_ready(WAIT_S)
        return server

    return start


def test_call_is_answered_and_recorded(serve: Serve, history: History) -> None:
    server = serve(POST__session=(201, {"id": "ses"}))
    answer = server.call("POST", "/session", {}, purpose="make")
    assert (answer.status, answer.accepted, answer.json, answer.error) == (201, True, {"id": "ses"}, "")
    (event,) = history.of_type(HttpCall)
    assert (event.role, event.method, event.path, event.status, event.purpose) == (
        "server",
        "POST",
        "/session",
        201,
        "make",
    )
    server.call("GET", "/quiet", quiet=True)
    assert len(history.of_type(HttpCall)) == 1
    refused = server.call("DELETE", "/x")
    assert (refused.status, refused.accepted, refused.json, refused.body) == (404, False, None, "not found")


def test_long_body_is_whole_for_the_scenario_and_cut_in_the_history(serve: Serve, history: History) -> None:
    answer = serve(GET__long=(200, "x" * 100_000)).call("GET", "/long")
    assert len(answer.body) == 100_000
    assert len(history.of_type(HttpCall)[0].body) == BODY_BYTES


@pytest.mark.parametrize("path", ["/silent", "/event"])
def test_call_ends_at_its_timeout_whatever_trickles_in(serve: Serve, path: str) -> None:
    server = serve()
    begun = time.monotonic()
    answer = server.call("GET", path, timeout_s=0.3)
    said = {"/silent": "no answer within 0.3 s", "/event": "the answer had begun and not ended within 0.3 s"}
    assert (answer.status, answer.error) == (0, said[path])
    assert answer.timed_out == (path == "/silent")  # a stream of events promises no end
    assert 0.3 <= time.monotonic() - begun < WAIT_S
    assert 0.3 <= answer.seconds < WAIT_S


def test_no_connection_is_an_answer_too(serve: Serve) -> None:
    server = serve()
    assert server.call("GET", "/broken").error.startswith("RemoteDisconnected: ")
    assert "InvalidURL" in server.call("GET", "/with space").error
    assert server.call("GET", "/ümlaut").error.startswith("UnicodeEncodeError: ")
    server.process.kill()
    answer = server.call("GET", "/")
    assert (answer.status, answer.accepted) == (0, False)
    assert answer.error.startswith("ConnectionRefusedError: ")


def test_server_that_ends_before_it_listens(begin: Callable[[list[str], int], Server]) -> None:
    server = begin(["/bin/sh", "-c", "echo port in use; echo bye >&2; exit 3"], 1)
    with pytest.raises(NotReachedError) as caught:
        server.wait_until_ready(WAIT_S)
    assert str(caught.value) == "server ended with 3 before it listened; it said: port in use bye"


def test_server_that_never_listens(begin: Callable[[list[str], int], Server]) -> None:
    server = begin(["/bin/sleep", "60"], 1)
    line = rf"^server \(pid {server.process.pid}\) listening did not happen within 0.1 s$"
    with pytest.raises(NotReachedError, match=line):
        server.wait_until_ready(0.1)


def test_session(serve: Serve) -> None:
    assert serve(POST__session=(200, {"id": "ses"})).new_session() == "ses"
    with pytest.raises(NotReachedError) as caught:
        serve(POST__session=(500, "line one\nline two")).new_session()
    assert str(caught.value) == "server made no session: 500: line one line two"
    with pytest.raises(NotReachedError, match=r'made no session: 200: \{"error": 1\}'):
        serve(POST__session=(200, {"error": 1})).new_session()


def test_question(serve: Serve) -> None:
    server = serve(GET__question=(200, [{"id": "q1", "sessionID": "other"}, {"id": "q2", "sessionID": "ses"}, 3]))
    assert server.wait_for_question("ses") == "q2"
    with pytest.raises(NotReachedError, match=r"^a question in session none did not happen within 0.1 s$"):
        server.wait_for_question("none", timeout_s=0.1)
    with pytest.raises(NotReachedError, match="a question in session ses"):
        serve(GET__question=(500, {"error": "x"})).wait_for_question("ses", timeout_s=0.1)


def test_messages(serve: Serve) -> None:
    assert serve(GET__session_ses_message=(200, [{"info": 1}])).messages("ses") == [{"info": 1}]
    with pytest.raises(NotReachedError, match=r"^server did not list the messages of ses: 404: not found$"):
        serve().messages("ses")


def test_a_tool_call_that_is_stored(serve: Serve) -> None:
    """Builds up to 1.3.2 ask a question before its part is there."""
    path = "GET__session_{}_message"
    parts = [{"type": "text"}, {"type": "tool", "id": "prt_1"}]
    server = serve(**{path.format("a"): (200, [{"parts": [{"type": "tool", "id": "old"}]}, {"parts": parts}])})
    assert server.wait_for_tool_part("a")["id"] == "prt_1"
    short: tuple[list[object], ...] = ([], [{}], [{"parts": [{"type": "text"}, 3]}])
    for messages in short:
        with pytest.raises(NotReachedError, match=r"^a tool call in the messages of b did not happen within 0.1 s$"):
            serve(**{path.format("b"): (200, messages)}).wait_for_tool_part("b", timeout_s=0.1)


def test_idle_is_what_the_server_says_and_not_its_silence(serve: Serve) -> None:
    server = serve(GET__session_status=(200, {"a": {"type": "busy"}, "b": {"type": "idle"}, "c": {"type": "retry"}}))
    assert [server.busy(session) for session in ("a", "b", "c", "gone")] == [True, False, True, False]
    assert server.wait_until_idle("b", 0.1)
    assert not server.wait_until_idle("a", 0.1)
    assert serve(GET__session_status=(500, {})).busy("b")
    server.process.kill()
    assert server.busy("b")
    assert not server.wait_until_idle("b", 0.1), "a server that is dead has freed nobody"


def test_prompt(serve: Serve) -> None:
    assert serve(**{"POST__session_ses_prompt-async": (204, "")}).prompt("ses", "hi").status == 204
    assert prompt_body("hi", "m2") == {
        "parts": [{"type": "text", "text": "hi"}],
        "model": {"providerID": "mock", "modelID": "m2"},
    }


def test_free_port_is_none_that_an_outgoing_connection_gets() -> None:
    """Measured with 35 trials at once: a server's port was taken between the look and its bind."""
    found = [free_port() for _ in range(200)]
    assert max(found) < 32_768, "where Linux' own range of outgoing ports begins"
    assert len(set(found)) > 150, "each asks for another one"


def test_no_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        port = taken.getsockname()[1]
        monkeypatch.setattr("pytest_ocrepro.stage.server.PORTS", range(port, port + 1))
        with pytest.raises(
            StageError, match=f"no free port on 127.0.0.1 among 50 of {port} to {port}; see `ss -tln`"
        ):
            free_port()


def test_free_port_is_free() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", free_port()))


def test_who_is_dead_and_not_collected_is_told(supervisor: Supervisor, history: History, tmp_path: Path) -> None:
    code = "import os, signal, sys; os.fork() or os._exit(0); sys.stdin.read(); os.wait(); signal.pause()"
    pipe = OpenPipe()
    argv = [sys.executable, "-c", code]
    parent = Process("server", argv, supervisor=supervisor, history=history, output=tmp_path, stdin=pipe)
    parent.start({MARKER: supervisor.mark}, "/")
    server = Server(parent, 1, history)
    until(server.dead_children, timeout_s=WAIT_S, what="a dead child")
    (told,) = server.dead_children() or [""]
    assert told.partition(" ")[2].startswith("python")
    pipe.close()
    until(lambda: server.dead_children() == [], timeout_s=WAIT_S, what="a collected child")
    parent.kill()
    parent.wait_for_end(WAIT_S)
    until(lambda: server.dead_children() is None, timeout_s=WAIT_S, what="its end")
