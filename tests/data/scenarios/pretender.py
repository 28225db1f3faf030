"""Stands in for opencode before the catalogue's oracles: behaves, but for the flaws that FLAWS names.

It keeps what it does in a database of the real one's shape, asks the scripted model, and runs its tools.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

FLAWS, ARGV = set(sys.argv[1].split(",")), sys.argv[2:]
DATA = Path(os.environ["XDG_DATA_HOME"]) / "opencode"
LOCK = Path(os.environ["XDG_STATE_HOME"]) / "opencode/locks/x.lock"
CONFIG: dict[str, Any] = json.loads(Path(os.environ["OPENCODE_CONFIG"]).read_text())
PATIENCE_S = 1.0  # with a model that says nothing
SETTLING_S = 0.3  # from the last word to idleness, as the real one's server takes
HARMLESS = {"todowrite", "read", "write", "task", "question"}
NUMBERS = itertools.count(time.time_ns())
LINES: dict[str, socket.socket] = {}  # to the model, by the name of the thread that asks: its session


class ModelError(Exception):
    """No answer of the model."""


def new(kind: str) -> str:
    """An id."""
    return f"{kind}_{next(NUMBERS)}x"


def now_ms() -> int:
    """What a row is stamped with."""
    if "writes-later" in FLAWS:
        STORE.do("UPDATE session SET owner = owner")  # whoever stamps then has nothing to wait for
    return time.time_ns() // 1_000_000


class Store:
    """The database."""

    def __init__(self) -> None:
        DATA.mkdir(parents=True, exist_ok=True)
        place = Path(os.environ.get("OPENCODE_DB") or DATA / "opencode.db")
        self._lock = threading.Lock()
        patience_s = 0.2 if "dies-locked" in FLAWS else 30
        self._line = sqlite3.connect(place, isolation_level=None, timeout=patience_s, check_same_thread=False)
        if "dies-locked" not in FLAWS:
            self._line.execute("PRAGMA busy_timeout = 30000")
        self._line.execute("PRAGMA synchronous = OFF")
        for table in (
            "session (id TEXT PRIMARY KEY, owner INTEGER)",
            "message (id TEXT PRIMARY KEY, session_id TEXT, data TEXT, time_created INTEGER)",
            "part (id TEXT PRIMARY KEY, session_id TEXT, message_id TEXT, data TEXT, time_updated INTEGER)",
            "event (data TEXT, time_created INTEGER)",
        ):
            self.do(f"CREATE TABLE IF NOT EXISTS {table}")
        if "loses-parts" in FLAWS and len(self.do("SELECT id FROM session")) > 1:
            self.do("DELETE FROM part WHERE id = (SELECT min(id) FROM part)")

    def do(self, words: str, *given: object) -> list[tuple[Any, ...]]:
        """One statement."""
        with self._lock:
            return self._line.execute(words, given).fetchall()

    def message(self, session: str, **data: object) -> str:
        """A new one."""
        name = new("msg")
        self.do("INSERT INTO message VALUES (?, ?, ?, ?)", name, session, json.dumps(data), now_ms())
        return name

    def part(self, session: str, message: str, tool: str, status: str, name: str = "") -> str:
        """A tool part, new or with a new status."""
        name = name or new("prt")
        data = json.dumps({"type": "tool", "tool": tool, "state": {"status": status}})
        self.do("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)", name, session, message, data, now_ms())
        return name

    def mend(self) -> None:
        """What another one has left unfinished."""
        self.do("UPDATE part SET data = json_set(data, '$.state.status', 'error')")
        self.do("UPDATE message SET data = json_set(data, '$.time.completed', 1)")
        told = DATA / "commands"
        for pid in told.read_text().split() if told.exists() else ():
            with contextlib.suppress(OSError):  # it has ended; and another one may have its number by now
                if os.environ["XDG_DATA_HOME"].encode() in (Path("/proc") / pid / "environ").read_bytes():
                    end(int(pid))


STORE: Store


def ask(messages: list[dict[str, Any]], model: str) -> tuple[str, list[tuple[str, str, dict[str, Any]]]]:
    """(words, calls) of one answer. Raises ModelError."""
    tries = 0
    while True:
        tries += 1
        try:
            return once(messages, model)
        except OSError as error:
            if "gives-up" not in FLAWS and tries < 3 and not isinstance(error, TimeoutError):
                continue
            raise ModelError(str(error)) from error
        except ModelError:
            if "retries" in FLAWS:
                time.sleep(0.5)
                continue
            raise


def once(messages: list[dict[str, Any]], model: str) -> tuple[str, list[tuple[str, str, dict[str, Any]]]]:
    """One request."""
    url = urllib.parse.urlsplit(CONFIG["provider"]["mock"]["options"]["baseURL"])
    patience_s = None if "waits-on-silence" in FLAWS else PATIENCE_S
    line = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=60)
    body = {"model": model, "stream": True, "tools": [{}], "messages": messages}
    line.request("POST", "/v1/chat/completions", json.dumps(body))
    assert line.sock is not None
    LINES[threading.current_thread().name] = line.sock
    held = 60 if any("held" in str(one.get("content")) for one in messages) else patience_s
    line.sock.settimeout(held if held is None else max(held, PATIENCE_S))
    try:
        with line.getresponse() as answer:
            if answer.status != 200:
                raise ModelError(f"status {answer.status}")
            return read(answer)
    except http.client.HTTPException as error:
        raise ModelError(str(error)) from error


def read(answer: http.client.HTTPResponse) -> tuple[str, list[tuple[str, str, dict[str, Any]]]]:
    """The words and calls of a stream."""
    words, calls, finish, told_s = "", [], None, time.monotonic()
    for line in answer:
        if line.startswith(b":") and "waits-on-silence" not in FLAWS and time.monotonic() - told_s > PATIENCE_S:
            raise ModelError("only comments")
        if not line.startswith(b"data: {"):
            continue
        told_s = time.monotonic()
        choice = json.loads(line.removeprefix(b"data: "))["choices"][0]
        words += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", ()):
            given = json.loads(call["function"]["arguments"] or "{}")
            calls.append((f"{call['id']}-{new('call')}", call["function"]["name"], given))
        finish = choice["finish_reason"] or finish
        STORE.do("INSERT INTO event VALUES (?, ?)", words if "stores-it-all" in FLAWS else "x" * 8, now_ms())
    if finish is None or finish not in ("stop", "tool_calls") or not (words or calls):
        raise ModelError(f"no answer, finish {finish}")
    return words, calls


class Turn:
    """One prompt of one session, to its end."""

    def __init__(self, session: str, prompt: str, *, api: Api | Editor | None = None, child: bool = False) -> None:
        self.session, self.prompt, self.api, self.child = session, prompt, api, child
        self.model = ARGV[ARGV.index("-m") + 1].partition("/")[2] if "-m" in ARGV else "m1"

    def go(self) -> str:
        """The last words. Raises ModelError."""
        STORE.message(self.session, role="user")
        if Path(".gitattributes").exists():
            snapshot()
        told: list[dict[str, Any]] = [*left_open(self.session), {"role": "user", "content": self.prompt}]
        while True:
            message = STORE.message(self.session, role="assistant", time={})
            kept = {} if "loses-snapshots" in FLAWS and told[1:] else {"snapshot": "x"}
            step = json.dumps({"type": "step-start", **kept})
            STORE.do("INSERT INTO part VALUES (?, ?, ?, ?, 1)", new("prt"), self.session, message, step)
            words, calls = ask(told, self.model)
            told.append({"role": "assistant", "content": words, "tool_calls": [as_call(*call) for call in calls]})
            same = len(calls) > 1 and len({(name, json.dumps(given)) for _, name, given in calls}) == 1
            if same and self.api is not None and "doubts-repeats" in FLAWS:
                self.api.ask(self.session, "permission", child=False)
            if calls:
                threads = [threading.Thread(target=self.call, args=(message, told, *call)) for call in calls]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            STORE.do("UPDATE message SET data = json_set(data, '$.time.completed', 1) WHERE id = ?", message)
            if "sums-up" in FLAWS and not calls:
                continue
            if not calls or ("loses-children" in FLAWS and calls[0][1] == "task"):
                return words

    def call(self, message: str, told: list[dict[str, Any]], call: str, name: str, given: dict[str, Any]) -> None:
        """One tool."""
        part = STORE.part(self.session, message, name, "running")
        result = self.result(name, given)
        STORE.part(self.session, message, name, "completed", part)
        told.append({"role": "tool", "tool_call_id": call, "content": result})

    def result(self, name: str, given: dict[str, Any]) -> str:
        """What the model is told of it."""
        rules = CONFIG.get("permission", {})
        asking = {"write": "edit", "read": "external_directory"}.get(name, name)
        if rules.get(asking) == "deny" or (name == "question" and self.api is None and "asks" not in FLAWS):
            return "refused"
        if rules.get(asking) == "ask" or name == "question":
            if self.api is None or self.api.alone:
                if "asks" in FLAWS:
                    signal.pause()
                auto = "--auto" in ARGV and "refuses-in-spite-of-auto" not in FLAWS
                if not auto and "permits-unasked" not in FLAWS:
                    return "refused"
            elif not self.api.ask(self.session, "question" if name == "question" else "permission", self.child):
                return "refused"
        if name == "task":
            first = given["prompt"].rpartition(" ")[0] + " 0"
            prompt = first if "one-child-for-all" in FLAWS else given["prompt"]
            child = Turn(self.session, prompt, api=self.api, child=True)
            return "it is done" if "starts-no-children" in FLAWS else child.go()
        if name == "write":
            LANGUAGES.start()
            Path(given["filePath"]).write_text(given["content"])
            snapshot()
        if name.startswith("stub_"):
            return "no such tool" if "calls-no-tools" in FLAWS else MCP.call()
        return shell(self.session, given["command"]) if name == "bash" and "runs-nothing" not in FLAWS else "done"


def as_call(call: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """In the API's shape."""
    return {"id": call, "function": {"name": name, "arguments": json.dumps(given)}}


def left_open(session: str) -> list[dict[str, Any]]:
    """What the transcript of a mended session holds of calls without a result."""
    rows = STORE.do("SELECT id FROM part WHERE session_id = ?", session) if "calls-stay-open" in FLAWS else []
    return [{"role": "assistant", "tool_calls": [as_call(name, "bash", {})]} for (name,) in rows]


CHILDREN: dict[str, list[subprocess.Popen[bytes]]] = {}


def shell(session: str, command: str) -> str:
    """The bash tool: waits for the command, or for whoever holds its output."""
    if "refuses-all" in FLAWS:
        return "refused"
    place = DATA / new("output")
    with place.open("wb") as file:
        piped = subprocess.PIPE if "waits-for-output" in FLAWS else file
        child = subprocess.Popen(["/bin/sh", "-c", command], stdout=piped, stdin=subprocess.DEVNULL,
                                 start_new_session=True)  # fmt: skip
    with (DATA / "commands").open("a") as told:
        told.write(f"{child.pid}\n")
    CHILDREN.setdefault(session, []).append(child)
    if child.stdout is not None:
        child.stdout.read()
        child.stdout.close()
    if "leaves-zombies" in FLAWS:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return "ran"
    child.wait()
    return "ran"


def end(group: int) -> None:
    """The whole group of a command."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def snapshot() -> None:
    """Keep what the project was before, in a repository of our own, whatever lock a dead git has left."""
    place = DATA / "snapshot/x"
    place.mkdir(parents=True, exist_ok=True)
    git = ["git", "--git-dir", str(place), "--work-tree", "."]
    subprocess.run([*git, "init", "-q"], check=True)
    if "keeps-the-lock" not in FLAWS:
        (place / "index.lock").unlink(missing_ok=True)
    subprocess.run([*git, "add", "-A"], check=False, stderr=subprocess.DEVNULL)


class Tools:
    """One MCP server."""

    def __init__(self) -> None:
        entry: dict[str, Any] = next(iter(CONFIG.get("mcp", {}).values()), {})
        self.process: subprocess.Popen[bytes] | None = None
        if entry.get("enabled"):
            self.process = subprocess.Popen(entry["command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self) -> str:
        """The stub's tool."""
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            return "no server"
        try:
            self.process.stdin.write(b'{"id": 1, "method": "tools/call"}\n')
            self.process.stdin.flush()
            return self.process.stdout.readline().decode() or "Not connected"
        except OSError:
            return "Not connected"

    def close(self) -> None:
        """With us."""
        if self.process is not None and "leaves-stub" not in FLAWS:
            self.process.kill()
            self.process.wait()


MCP: Tools


class Languages:
    """One language server."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """With the first file that is written."""
        for entry in CONFIG.get("lsp", {}).values():
            self.process = subprocess.Popen(entry["command"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            while not Path(entry["command"][3]).exists():  # where it says that it has started
                time.sleep(0.01)

    def close(self) -> None:
        """With us."""
        if self.process is not None and "leaves-language-server" not in FLAWS:
            self.process.kill()
            self.process.wait()


LANGUAGES = Languages()


def install() -> None:
    """Ask npm for what plugins need, and take it."""
    address = urllib.parse.urlsplit(os.environ["npm_config_registry"]).netloc  # noqa: SIM112  npm's own name
    line = http.client.HTTPConnection(address, timeout=60 if "installs-unasked" in FLAWS else PATIENCE_S)
    with contextlib.suppress(OSError):
        line.request("GET", "/@opencode-ai%2fplugin")
        with line.getresponse() as answer:
            told = json.loads(answer.read()) if answer.status == 200 else {}
        for version in told.get("versions", {}).values():
            line.request("GET", urllib.parse.urlsplit(version["dist"]["tarball"]).path)
            line.getresponse().read()
    line.close()


def plugins() -> None:
    """Those of the project wait behind a lock directory for the registry."""
    if not CONFIG.get("plugin") and not Path(".opencode/plugin").exists():
        if "installs-unasked" in FLAWS:
            install()
        return
    begun_s = time.monotonic()
    while LOCK.exists():
        if time.monotonic() - begun_s > PATIENCE_S and not {"waits-for-the-lock", "waits-for-the-dead"} & FLAWS:
            return
        holder = json.loads((LOCK / "meta.json").read_text())["pid"]
        if "waits-for-the-dead" not in FLAWS and not Path(f"/proc/{holder}").exists():
            (LOCK / "meta.json").unlink()
            LOCK.rmdir()
        else:
            time.sleep(0.05)
    LOCK.mkdir(parents=True)
    (LOCK / "meta.json").write_text(json.dumps({"pid": os.getpid()}))
    if "no-bound-for-npm" in FLAWS:
        signal.pause()
    if "installs-again" in FLAWS or not (DATA / "installed").exists():
        (DATA / "installed").touch()
        install()
    time.sleep(8 if "tries-npm-again" in FLAWS else 0.2)
    (LOCK / "meta.json").unlink()
    LOCK.rmdir()
    if "waits-in-plugins" in FLAWS:
        signal.pause()


def list_of_models() -> None:
    """Ask for it where the scenario says that there is one."""
    if url := os.environ.get("OPENCODE_MODELS_URL"):
        address = urllib.parse.urlsplit(url).netloc
        line = http.client.HTTPConnection(address, timeout=60 if "waits-for-models" in FLAWS else PATIENCE_S)
        with contextlib.suppress(OSError):
            line.request("GET", "/api.json")
            line.getresponse().read()
        line.close()


def run() -> int:
    """``opencode run``."""
    list_of_models()
    if "grows-tmp" in FLAWS:
        Path(os.environ["TMPDIR"], new("lib")).write_bytes(b"x" * 4_000_000)
    if "reads-stdin" in FLAWS and not sys.stdin.isatty():
        sys.stdin.read()
    if "--help" in ARGV:
        print("--auto")
        return 0
    if "bogus/nope" in ARGV or "ses_0000000000000000000000000" in ARGV:
        print("Error: not found")
        return 0 if "exit-0" in FLAWS else 1
    plugins()
    session = ARGV[ARGV.index("--session") + 1] if "--session" in ARGV else new("ses")
    STORE.do("INSERT OR IGNORE INTO session VALUES (?, 0)", session)
    try:
        print(Turn(session, ARGV[-1]).go(), flush=True)
    except ModelError as error:
        STORE.mend()
        if "exit-0" in FLAWS:
            return 0
        print("Error:", error)
        return 1
    if "stays" in FLAWS:
        signal.pause()
    return 0


def inventory() -> int:
    """A list of something."""
    if "lists-nothing-at-first" not in FLAWS or (DATA / "listed").exists():
        print("one\nanother")
    (DATA / "listed").touch()
    return 0


def interactive() -> int:
    """``opencode`` in a terminal: one line, one turn."""
    if "outlives-terminal" in FLAWS:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if "takes-no-keys" in FLAWS:
        os.system("stty -echo")  # noqa: S605
    print("mock", flush=True)
    if "takes-no-keys" in FLAWS:
        signal.pause()
    try:
        for line in sys.stdin:
            if "ignores-enter" not in FLAWS:
                print(Turn(new("ses"), line.strip()).go(), flush=True)
    except (KeyboardInterrupt, OSError):
        pass
    if "outlives-terminal" in FLAWS:
        signal.pause()
    return 0


def fail_if_flawed(session: str) -> None:
    """Raises ModelError in a session that had a turn before, unless we behave."""
    if "fails-turns" in FLAWS and STORE.do("SELECT 1 FROM message WHERE session_id = ?", session):
        raise ModelError("we do not go on")


def message_of(words: str) -> dict[str, object]:
    """What a call that waits for its turn is answered: without words an error, and the status says nothing of it."""
    if not words:
        return {"info": {"role": "assistant", "error": {"name": "APIError"}}, "parts": []}
    return {"info": {"role": "assistant"}, "parts": [{"type": "text", "text": words}]}


class Api(http.server.BaseHTTPRequestHandler):
    """``opencode serve``."""

    alone = False
    pending: dict[str, tuple[str, str, threading.Event]] = {}  # noqa: RUF012  one server a process
    running: dict[str, int] = {}  # noqa: RUF012
    prompts: dict[str, int] = {}  # noqa: RUF012
    shown: set[str] = set()  # noqa: RUF012
    queues: dict[str, threading.Lock] = {}  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class' name
        """Say nothing."""

    @classmethod
    def ask(cls, session: str, kind: str, child: bool) -> bool:  # noqa: FBT001
        """Wait for an answer of the user."""
        given = threading.Event()
        if not (child and "hides-children" in FLAWS):
            cls.pending[new(kind)] = (session, kind, given)
        return given.wait()

    def answer(self, body: object, status: int = 200) -> None:
        """As JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Lists."""
        kind = self.path.removeprefix("/")
        if kind == "event":
            self.listen()
            return
        if kind in ("question", "permission"):
            asked = [(name, own[0]) for name, own in self.pending.items() if own[1] == kind]
            self.answer([{"id": name, "sessionID": session, kind: "any"} for name, session in asked])
        elif self.path == "/session/status":
            shown = set(self.running) & self.shown if "idle-early" in FLAWS else set(self.running)
            self.shown |= set(self.running)  # such a one is told of at the second look only
            self.answer({name: {"type": "busy"} for name in shown})
        elif self.path.endswith("/message"):
            rows = STORE.do("SELECT id FROM message WHERE session_id = ? ORDER BY id", self.path.split("/")[2])
            self.answer([{"info": {"id": name}} for (name,) in rows])
        else:
            if "slow-health" in FLAWS and self.prompts:
                time.sleep(4.0)
            if "dies-at-work" in FLAWS and self.prompts:
                os._exit(1)
            self.answer({"healthy": True})

    def listen(self) -> None:
        """Tell events until nobody listens."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"data: %s\n\n" % json.dumps(list(self.prompts)).encode())
                time.sleep(0.05)
        if "lost-listener" in FLAWS:
            os._exit(1)

    def do_DELETE(self) -> None:
        """A message."""
        self.answer({}, 409 if "locked-up" in FLAWS else 200)

    def do_POST(self) -> None:
        """Sessions, prompts, replies, abort."""
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        words = " ".join(part["text"] for part in given.get("parts", ()))
        parts = self.path.split("/")
        if self.path == "/session":
            name = new("ses")
            STORE.do("INSERT INTO session VALUES (?, 0)", name)
            self.answer({"id": name})
        elif parts[-1] == "reply":
            self.pending.pop(parts[2])[2].set()
            self.answer({})
        elif parts[-1] == "abort":
            for child in CHILDREN.get(parts[2], ()) if "ignores-abort" not in FLAWS else ():
                end(child.pid)
            if parts[2] in LINES and "ignores-abort" not in FLAWS:
                LINES[parts[2]].shutdown(socket.SHUT_RDWR)
            self.answer({})
        else:
            self.prompt(parts[2], words, wait=parts[-1] == "message")

    def prompt(self, session: str, words: str, *, wait: bool) -> None:
        """A turn behind those of the session, unless another server is at one."""
        owner = STORE.do("SELECT owner FROM session WHERE id = ?", session)[0][0]
        if "two-owners" not in FLAWS and owner not in (0, os.getpid()) and Path(f"/proc/{owner}").exists():
            self.answer({"error": "another one works on it"}, 409)
            return
        self.prompts[session] = self.prompts.get(session, 0) + 1
        lost = "loses-the-second" in FLAWS and self.prompts[session] > 1
        if lost or ("loses-prompts" in FLAWS and session in self.running):
            self.answer({}, 204)
            return
        self.running.setdefault(session, time.monotonic_ns())
        said: list[str] = []
        thread = threading.Thread(target=self.work, name=session, args=(session, words, said), daemon=True)
        thread.start()
        if wait:
            thread.join()
        self.answer(message_of(said[0] if said else ""), 200 if wait else 204)

    def work(self, session: str, words: str, said: list[str]) -> None:
        """In a thread of its own."""
        with self.queues.setdefault(session, threading.Lock()):
            self.running.setdefault(session, time.monotonic_ns())
            STORE.do("UPDATE session SET owner = ? WHERE id = ?", os.getpid(), session)
            try:
                with contextlib.suppress(ModelError):
                    fail_if_flawed(session)
                    said.append(Turn(session, f"{words}, held until the scenario goes on", api=self).go())
                time.sleep(SETTLING_S)
                STORE.do("UPDATE session SET owner = 0 WHERE id = ?", session)
            finally:
                if "stays-busy" not in FLAWS:
                    self.running.pop(session, None)


class Editor:
    """The client of ``opencode acp``, which is asked for permissions."""

    alone = False

    def __init__(self) -> None:
        self.pending: dict[int, threading.Event] = {}

    def tell(self, **message: object) -> None:
        """One line."""
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

    def ask(self, session: str, kind: str, child: bool) -> bool:  # noqa: FBT001
        """Wait for its answer."""
        number = next(NUMBERS)
        given = self.pending[number] = threading.Event()
        if not (child and "hides-children" in FLAWS):
            options = [{"optionId": "once", "kind": "allow_once", "name": "Once"}]
            params = {"sessionId": session, "toolCall": {"title": kind}, "options": options}
            self.tell(id=number, method="session/request_permission", params=params)
        return given.wait()

    def turn(self, number: int, session: str, words: str) -> None:
        """In a thread of its own."""
        Turn(session, words, api=self).go()
        if "fails-in-company" in FLAWS:
            self.tell(id=number, error={"code": -32603, "message": "we do not go on"})
            return
        self.tell(id=number, result={"stopReason": "end_turn"})


def acp() -> int:
    """``opencode acp``."""
    editor = Editor()
    for line in sys.stdin:
        asked = json.loads(line)
        match asked.get("method"):
            case None:
                editor.pending[asked["id"]].set()
            case "session/prompt":
                given = asked["id"], asked["params"]["sessionId"], asked["params"]["prompt"][0]["text"]
                threading.Thread(target=editor.turn, args=given, daemon=True).start()
            case method:
                editor.tell(id=asked["id"], result={"sessionId": new("ses")} if method == "session/new" else {})
    return 0


def serve() -> int:
    """``opencode serve --port N``."""
    if "orphans" not in FLAWS:
        STORE.mend()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(ARGV[ARGV.index("--port") + 1])), Api)
    print("listening", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    return 0


def main() -> int:
    """Which command."""
    global STORE, MCP  # noqa: PLW0603  a program of one file
    if "abort-on-damage" in FLAWS and (DATA / "opencode.db").exists():
        os.abort()
    if "dies-in-company" in FLAWS:
        DATA.mkdir(parents=True, exist_ok=True)
        try:
            (DATA / "first").touch(exist_ok=False)
        except FileExistsError:
            print("Error: Unexpected database is locked")
            return 1
    if "dies-without-a-word" in FLAWS:
        DATA.mkdir(parents=True, exist_ok=True)
        try:
            (DATA / "first").touch(exist_ok=False)
        except FileExistsError:
            print("Error: Unexpected error, check log file at /somewhere for more details")
            return 1
    try:
        STORE = Store()
    except sqlite3.DatabaseError as error:
        print("Error: the database opencode.db:", error)
        return 1
    MCP = Tools()
    try:
        commands = {"serve": serve, "run": run, "acp": acp, "": interactive}
        return commands.get((ARGV or [""])[0], inventory)()
    except sqlite3.OperationalError as error:
        print("Error: Unexpected", error)
        return 1
    finally:
        MCP.close()
        LANGUAGES.close()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
