"""Stands in for opencode where a repro script is run: as sick or as well as its first argument says.

Like the real one it does not answer a request that comes in the first moments after its listen.
"""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from typing import Any

HEALTH, *ARGV = sys.argv[1:]
HOME = pathlib.Path(os.environ["HOME"])
DATA = HOME / ".local/share/opencode"
LOCK = HOME / ".local/state/opencode/locks/x.lock/meta.json"


def configuration() -> dict[str, Any]:
    """What OPENCODE_CONFIG says."""
    found: dict[str, Any] = json.loads(pathlib.Path(os.environ["OPENCODE_CONFIG"]).read_text())
    return found


def ask_the_model() -> str:
    """One question; the raw answer."""
    url = configuration()["provider"]["mock"]["options"]["baseURL"] + "/chat/completions"
    data = json.dumps({"tools": [{}], "messages": []}).encode()
    request = urllib.request.Request(url, data)  # noqa: S310  ours, on loopback
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return str(answer.read().decode())


def database() -> sqlite3.Connection:
    """Its own, in WAL mode."""
    DATA.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(DATA / "opencode.db", isolation_level=None, timeout=0.2)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS part (data TEXT)")
    return connection


def run() -> int:
    """``opencode run``."""
    if "bogus/1" in ARGV:  # takes the lock, waits for npm
        LOCK.parent.mkdir(parents=True)
        LOCK.write_text("{}")
        signal.pause()
    if "bogus/2" in ARGV:
        if HEALTH == "sick":
            signal.pause()
        if HEALTH == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        print("Error: Model not found")
        return 1
    try:
        database().execute("INSERT INTO part VALUES ('{}')")
    except sqlite3.OperationalError as error:
        print("Error: Unexpected", error if HEALTH == "well" else "failure")
        return 1
    said = ask_the_model()
    print(json.loads(said.splitlines()[0].removeprefix("data: "))["choices"][0]["delta"]["content"])
    return 0


class Api(http.server.BaseHTTPRequestHandler):
    """``opencode serve``: one session; what was asked leaves a tool part."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class' name
        """Say nothing."""

    def handle(self) -> None:
        """The first one is never answered."""
        if not self.server.first.is_set():  # type: ignore[attr-defined]
            self.server.first.set()  # type: ignore[attr-defined]
            self.rfile.readline()
            threading.Event().wait(3)
            return
        super().handle()

    def answer(self, body: object, status: int = 200) -> None:
        """As JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Health, questions, messages."""
        if self.path == "/question":
            self.answer([{"id": "que_1", "sessionID": "ses_stand"}] if pathlib.Path("asked").exists() else [])
        elif self.path.endswith("/message"):
            self.answer([{"info": {"id": "msg_first"}}, {"info": {"id": "msg_last"}}])
        else:
            self.answer({"healthy": True})

    def do_POST(self) -> None:
        """A session, a prompt."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/session":
            self.answer({"id": "ses_stand"})
            return
        chunk = json.loads(ask_the_model().splitlines()[0].removeprefix("data: "))
        call = chunk["choices"][0]["delta"]["tool_calls"][0]["function"]
        tool(call["name"], json.loads(call["arguments"]))
        self.answer({})

    def do_DELETE(self) -> None:
        """Refused by a sick one."""
        sick = HEALTH == "sick"
        status = 404 if HEALTH == "dies" else 409 if sick else 200
        self.answer({"_tag": "SessionBusyError"} if sick else {}, status)


def tool(name: str, arguments: dict[str, Any]) -> None:
    """Run it; what it leaves in the database."""
    status = "running" if HEALTH == "sick" else "completed"
    database().execute("INSERT INTO part VALUES (?)", [json.dumps({"tool": name, "state": {"status": status}})])
    if name == "question":
        pathlib.Path("asked").touch()
    else:
        child = subprocess.Popen(["/bin/sh", "-c", arguments["command"]], start_new_session=True)
        pathlib.Path(os.environ["CHILDREN"]).write_text(str(child.pid))


def serve() -> int:
    """``opencode serve --port N``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(ARGV[ARGV.index("--port") + 1])), Api)
    server.first = threading.Event()  # type: ignore[attr-defined]
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(serve() if ARGV[:1] == ["serve"] else run())
