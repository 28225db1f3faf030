"""What the stand-ins do as opencode does: its log, its questions to the model, its lock directories, its server.

Only what can be seen from outside matters; the words of the log, the places of the files and the limits of the locks
are those of 1.18.34. Nothing of pytest_ocrepro is imported: the stand-ins must not know who watches them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

STALE_AFTER_S = 60.0
FIRST_DELAY_S, GROWTH, LONGEST_DELAY_S = 0.1, 1.7, 2.0  # between two tries to take a lock directory
PROJECT = Path.cwd()
DATABASE = Path(os.environ["XDG_DATA_HOME"]) / "opencode/opencode.db"
LOG = Path(os.environ["XDG_DATA_HOME"]) / "opencode/log/opencode.log"
LOCK = Path(os.environ["XDG_STATE_HOME"]) / (
    "opencode/locks/" + hashlib.sha1(f"npm-install:{PROJECT}/.opencode".encode()).hexdigest() + ".lock"  # noqa: S324  opencode's own choice
)
WORD = sys.argv[-1]  # the prompt: what this one is to do

LOG.parent.mkdir(parents=True, exist_ok=True)
_log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def log(message: str, **fields: object) -> None:
    """One line, in one write."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    more = "".join(f" {name}={value}" for name, value in fields.items())
    os.write(_log, f'timestamp={now} level=INFO run={os.getpid():08x} message="{message}"{more}\n'.encode())


def start() -> None:
    """As far as the place where opencode may wait for another one's install."""
    log("creating instance", directory=PROJECT)
    log("bootstrapping", directory=PROJECT)
    log("loading", path=f"{PROJECT}/.opencode/opencode.json")


def begin() -> None:
    """The whole of its start."""
    start()
    log("all LSPs are disabled")


def hold(name: str) -> None:
    """Tell the others that this point is reached."""
    (PROJECT / name).touch()


def wait_for(name: str) -> None:
    """Until another one has reached this point."""
    while not (PROJECT / name).exists():
        time.sleep(0.01)


def ask(timeout_s: float | None = None) -> int:
    """Put the prompt to the model and print its answer; the HTTP status."""
    log("created", id=f"ses_{os.getpid()}")
    log("event connected")
    log("loop", step=0)
    log("stream", modelID="m1")
    options = json.loads(Path(os.environ["OPENCODE_CONFIG"]).read_text())["provider"]["mock"]["options"]
    where = urlsplit(options["baseURL"])
    line = http.client.HTTPConnection(str(where.hostname), where.port, timeout=timeout_s)
    body = {"model": "m1", "stream": True, "tools": [{}], "messages": [{"role": "user", "content": WORD}]}
    with contextlib.closing(line):
        line.request("POST", f"{where.path}/chat/completions", json.dumps(body))
        answer = line.getresponse()
        for event in answer:
            if event.startswith(b"data: {"):
                word = json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"].get("content")
                print(word or "", end="", flush=True)
    return answer.status


def answer() -> None:
    """An ordinary turn, and its end."""
    ask()
    log("exiting loop")


def install() -> None:
    """Ask the registry for the plugin's package; it may take its time."""
    where = urlsplit(os.environ["npm_config_registry"])  # noqa: SIM112  npm's own spelling
    line = http.client.HTTPConnection(str(where.hostname), where.port)
    with contextlib.closing(line):
        line.request("GET", "/@opencode-ai%2fplugin")
        line.getresponse().read()


def take_lock(*, pid: int = 0, age_s: float = 0.0, quiet_for_s: float = 0.0) -> bool:
    """One try to take the lock directory, in the name of ``pid`` and so many seconds ago; whether it is ours now."""
    try:
        LOCK.mkdir(parents=True)
    except FileExistsError:
        return False
    created = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat(timespec="milliseconds")
    meta = {"token": os.urandom(4).hex(), "pid": pid or os.getpid(), "hostname": socket.gethostname()}
    (LOCK / "meta.json").write_text(json.dumps({**meta, "createdAt": created.replace("+00:00", "Z")}))
    beat = LOCK / "heartbeat"
    beat.touch()
    beaten = time.time() - max(age_s, quiet_for_s)
    os.utime(beat, (beaten, beaten))
    return True


def wait_for_lock() -> None:
    """Try again and again; break a lock that is stale."""
    delay_s = FIRST_DELAY_S
    while not (take_lock() or break_lock()):
        time.sleep(delay_s)
        delay_s = min(LONGEST_DELAY_S, delay_s * GROWTH)


def break_lock() -> bool:
    """Take a stale lock from whoever has it, by way of a breaker; whether it is ours now."""
    breaker = LOCK.with_name(f"{LOCK.name}.breaker")
    try:
        if time.time() - (LOCK / "heartbeat").stat().st_mtime <= STALE_AFTER_S:
            return False
        breaker.mkdir()
    except OSError:
        return False
    shutil.rmtree(LOCK)
    taken = take_lock()
    breaker.rmdir()
    return taken


def release_lock() -> None:
    """Let go of it."""
    shutil.rmtree(LOCK)


def serve(handle: Callable[[str], str | None]) -> None:
    """One thread and one loop, as opencode's: a handler that blocks it blocks everybody. None: no answer, ever."""
    port = int(sys.argv[sys.argv.index("--port") + 1])
    with socket.create_server(("127.0.0.1", port)) as listener, selectors.EpollSelector() as loop:
        loop.register(listener, selectors.EVENT_READ)
        print(f"opencode server listening on http://127.0.0.1:{port}", flush=True)
        while True:
            for key, _ in loop.select():
                if key.fileobj is listener:
                    line = listener.accept()[0]
                    loop.register(line, selectors.EVENT_READ, line)
                else:
                    _serve_one(loop, key.data, handle)


def _serve_one(loop: selectors.BaseSelector, line: socket.socket, handle: Callable[[str], str | None]) -> None:
    request = line.recv(1 << 16).decode()
    body = handle(request.split(" ")[1]) if request else ""
    if body is None:
        return
    if request:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        line.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
    loop.unregister(line)
    line.close()
