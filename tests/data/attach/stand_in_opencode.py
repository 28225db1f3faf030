"""Stands in for an opencode that somebody else has started: does what PLAN says, prints "ready", and rests.

PLAN is a JSON list of [verb, arguments...]; places are those of the environment, as the real one finds them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])
DATA = Path(os.environ.get("XDG_DATA_HOME", HOME / ".local/share")) / "opencode"
STATE = Path(os.environ.get("XDG_STATE_HOME", HOME / ".local/state")) / "opencode"
KEPT: list[Any] = []
LOG: list[int] = []


def log(message: str, ago_s: float = 0.0) -> None:
    """A line of the dialect since 1.17, written so many seconds ago as far as it says."""
    if not LOG:
        (DATA / "log").mkdir(parents=True, exist_ok=True)
        LOG.append(os.open(DATA / "log/opencode.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=ago_s)
    stamp = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
    os.write(LOG[0], f"timestamp={stamp} level=INFO run=run{os.getpid()} {message}\n".encode())


def take(key: str, pid: int = 0) -> None:
    """One of opencode's lock directories, held by us or left by somebody."""
    lock = STATE / "locks" / f"{hashlib.sha1(key.encode()).hexdigest()}.lock"  # noqa: S324
    lock.mkdir(parents=True)
    meta = {"token": "t", "pid": pid or os.getpid(), "hostname": socket.gethostname()}
    meta["createdAt"] = dt.datetime.now(dt.UTC).isoformat()
    (lock / "meta.json").write_text(json.dumps(meta))
    (lock / "heartbeat").touch()


def poll(key: str) -> None:
    """Try to take it again and again, as a waiter does, on a thread of its own."""
    lock = STATE / "locks" / f"{hashlib.sha1(key.encode()).hexdigest()}.lock"  # noqa: S324

    def again() -> None:
        while not threading.Event().wait(0.2):
            with contextlib.suppress(FileExistsError):
                lock.mkdir()

    threading.Thread(target=again, daemon=True).start()


def connect(port: int) -> None:
    """A request on its way to a server of this machine."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET /@opencode-ai%2fplugin HTTP/1.1\r\n\r\n")
    KEPT.append(client)


def listen(file: str) -> None:
    """A server that accepts nobody; its port goes into the file."""
    server = socket.create_server(("127.0.0.1", 0))
    KEPT.append(server)
    Path(file).write_text(str(server.getsockname()[1]))


def accept(file: str) -> None:
    """A server that reads what it is sent and answers nobody; its port goes into the file."""
    server = socket.create_server(("127.0.0.1", 0))

    def go_on() -> None:
        while True:
            client, _ = server.accept()
            client.recv(4096)
            KEPT.append(client)

    threading.Thread(target=go_on, daemon=True).start()
    Path(file).write_text(str(server.getsockname()[1]))


def database(*, exclusive: bool = False, rubbish: bool = False) -> None:
    """Open as a build opens it; or as one that keeps everybody out; or no database at all."""
    DATA.mkdir(parents=True, exist_ok=True)
    path = DATA / "opencode.db"
    if rubbish:
        path.write_bytes(b"no database" * 1000)
        KEPT.append(path.open("rb"))
        return
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS session (id text PRIMARY KEY)")
    if exclusive:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
    KEPT.append(connection)


def large(name: str, size_bytes: int) -> None:
    """A hole of a file; a database is kept open."""
    path = DATA / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size_bytes)
    if path.suffix == ".db":
        KEPT.append(path.open("rb"))


def rubbish() -> None:
    """Binary rubbish in the log, and no end of a line."""
    os.write(LOG[0], bytes(range(256)) * 4000)


def threads(count: int) -> None:
    """So many that rest."""
    threading.stack_size(64 * 1024)
    gate = threading.Event()
    for _ in range(count):
        threading.Thread(target=gate.wait, daemon=True).start()


def beat() -> None:
    """Log lines without end: a healthy one at work."""

    def go_on() -> None:
        while not threading.Event().wait(0.1):
            log("message=more")

    threading.Thread(target=go_on, daemon=True).start()


def tool() -> None:
    """What the bash tool starts: a child in a session of its own."""
    KEPT.append(subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL))


def say(text: str) -> None:
    """To standard error, which may be a file."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


VERBS = {
    function.__name__: function
    for function in (log, take, poll, connect, listen, accept, database, large, rubbish, threads, beat, tool, say)
}
for verb, *arguments in json.loads(os.environ["PLAN"]):
    options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    VERBS[verb](*arguments, **options)
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdout.close()
if os.environ.get("READS_STDIN"):
    os.read(0, 1)
signal.pause()
