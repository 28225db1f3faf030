"""The repro script: bash, Python 3 and opencode, fewer than 40 lines, a temporary HOME, exit 1 when the bug shows.

It is written from the scenario's own recorded moves (see :mod:`pytest_ocrepro.publish.plan`); nothing of this project
is needed to run it. Exit codes: 1 the bug shows, 0 it does not, 2 the script did not get to its point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from pytest_ocrepro.history import (
    FaultHealed,
    FaultInjected,
    HttpAsked,
    HttpCall,
    ProcessExited,
    ProcessStarted,
    ProviderRequest,
    ScriptedTurn,
    SignalSent,
    StepWaited,
)
from pytest_ocrepro.publish.pictures import visible
from pytest_ocrepro.publish.plan import InexpressibleError, Plan, Shows, made, plan
from pytest_ocrepro.publish.records import StoredTrial

MOST_LINES = 39
LONGEST_LINE = 600  # characters
PAUSE_S = 2.0  # for a wait on something that only the scenario can see
SANDBOX = "$SANDBOX"
DATABASE = "/data/opencode/opencode.db"
SHOWN_CODE = 9  # Python's own failures exit with 1, which must not look like the bug
MESSAGE_ID = re.compile(r'"info":\{"id":"(msg_[A-Za-z0-9]+)"')

HEAD = """\
#!/usr/bin/env bash
# {title}
# Needs bash, Python 3 and opencode on PATH; no key, no network. Works in a temporary HOME and removes it.
# Exit 1: the bug shows. Exit 0: it does not. Exit 2: the script did not get to its point.
T=$(mktemp -d) && mkdir -p "$T"/{{data,state,cache,config,tmp,project}} || exit 2
trap 'for p in /proc/[0-9]*; do grep -qs "HOME=$T" $p/environ && kill -9 ${{p#/proc/}}; done 2>/dev/null; rm -rf "$T"' EXIT
unset ${{!OPENCODE_@}}; export T NO_COLOR=1 OPENCODE_DISABLE_{{MODELS_FETCH,AUTOUPDATE,LSP_DOWNLOAD}}=1 OPENCODE_CONFIG="$T/opencode.json"
export HOME="$T" TMPDIR="$T/tmp" XDG_DATA_HOME="$T/data" XDG_STATE_HOME="$T/state" XDG_CACHE_HOME="$T/cache" XDG_CONFIG_HOME="$T/config"
python3 -u - <<'PY'
{imports}
T = os.environ["T"]"""
FOOT = """\
PY
case $? in 0) exit 0;; {code}) exit 1;; *) exit 2;; esac
"""
RUN = """\
def run(*argv, stdin=subprocess.DEVNULL, **more):
    print("+", *argv)
    return subprocess.Popen(argv, cwd=T + "/project", stdin=stdin, stdout=open(T + "/said", "ab"), stderr=2, env={**os.environ, **more})"""
RUN = RUN.replace("stderr=2", "stderr=subprocess.STDOUT")
WAIT = """\
def wait(ready, what, s=60):
    end = time.monotonic() + s
    while not ready(): time.sleep(0.05) if time.monotonic() < end else sys.exit(f"did not get there: {what}")"""
CALL = """\
def call(port, method, path, body=None, timeout=20):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    c.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse(); text = r.read().decode()
    return r.status, json.loads(text) if text[:1] in ("{", "[") else text"""
UP = """\
def up(port):
    with socket.socket() as s: return s.connect_ex(("127.0.0.1", port)) == 0"""
PORTS = "ports = [s.getsockname()[1] for s in [socket.create_server((\"127.0.0.1\", 0)) for _ in range({count})] if not s.close()]"
MODEL = """\
class Model(http.server.BaseHTTPRequestHandler):  # an OpenAI-compatible model; to npm, a registry that says 404
    log_message = lambda *_: None
    def do_GET(self): self.send_error(404)
    def do_POST(self):
        i, title = min(len(asked), len(TURNS) - 1), b'"tools"' not in self.rfile.read(int(self.headers["Content-Length"]))
        delta = {"content": "A title"} if title else TURNS[i]; asked.extend([i] * (not title))
        self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
        for d, end in ((delta, None), ({}, "tool_calls" if "tool_calls" in delta else "stop")):
            self.wfile.write(b"data: %s\\n\\n" % json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m1", "choices": [{"index": 0, "delta": d, "finish_reason": end}]}).encode())
        self.wfile.write(b"data: [DONE]\\n\\n")"""
SILENT = "            if not title and i in {which}: time.sleep(3600)  # says nothing more"
ERRORS = "        if not title and i in {which}: return self.send_error({which}[i])"
REGISTRY = """\
class Registry(http.server.BaseHTTPRequestHandler):  # an npm registry that says 404
    log_message = lambda *_: None
    def do_GET(self): self.send_error(404)"""
SERVE = """\
web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), {handler}); threading.Thread(target=web.serve_forever, daemon=True).start()"""
TARPIT = 'tarpit = socket.create_server(("127.0.0.1", 0), backlog=99)  # an npm registry that accepts and never answers'


def repro_script(trial: StoredTrial) -> str:
    """The script for a trial that reproduced; "" where it cannot be told in one (:func:`why_no_script` says why)."""
    try:
        return _script(trial)
    except InexpressibleError:
        return ""


def why_no_script(trial: StoredTrial) -> str:
    """One line; "" where there is a script."""
    try:
        _script(trial)
    except InexpressibleError as error:
        return str(error)
    return ""


def _script(trial: StoredTrial) -> str:
    found = plan(trial)
    title = visible(" ".join(f"{trial.info.title} (seen on opencode {trial.info.version}): {found.claim}".split()))
    body = list(_Writer(found).lines())
    used = [name for name in MODULES if any(re.search(rf"\b{re.escape(name)}\b", line) for line in body)]
    head = HEAD.format(title=title[:200], imports=f"import {', '.join(['os', 'sys', *used])}")
    text = "\n".join([head, *body, FOOT.format(code=SHOWN_CODE)])
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        raise InexpressibleError(f"its script would have {len(lines)} lines, more than {MOST_LINES}")
    if max(map(len, lines)) > LONGEST_LINE:
        raise InexpressibleError("a prompt, a file or an argument of it is too long for a short script")
    return text


MODULES = ("glob", "http.client", "http.server", "json", "pathlib", "signal", "socket", "sqlite3", "subprocess")
MODULES += ("threading", "time")


class _Writer:
    """Writes the Python part, step by step, and keeps what the ids of the trial are called in the script."""

    def __init__(self, found: Plan) -> None:
        self._plan = found
        self._names: dict[str, str] = {}  # an id of the trial -> an expression of the script
        self._servers: dict[str, str] = {}  # role -> the expression of its port
        self._sessions = 0
        self._asked = 0

    def lines(self) -> Iterator[str]:
        steps = [line for number in range(len(self._plan.steps)) for line in self._step(number)]
        check = list(self._check())
        whole = "\n".join([*steps, *check])
        yield from RUN.splitlines()
        for helper, mark in ((WAIT, "wait("), (CALL, "call("), (UP, "up(")):
            if re.search(rf"(?<![.\w]){re.escape(mark)}", whole):
                yield from helper.splitlines()
        yield from self._world()
        yield from steps
        yield from check

    # -- the world around it

    def _world(self) -> Iterator[str]:
        turns = self._plan.turns
        if self._servers:
            yield PORTS.format(count=len(self._servers))
        if turns:
            yield f"TURNS, asked = {[_delta(turn) for turn in turns]!r}, []"
            yield from _model(turns)
        elif self._plan.registry != "stalled":
            yield from REGISTRY.splitlines()
        if turns or self._plan.registry != "stalled":
            yield SERVE.format(handler="Model" if turns else "Registry")
        if self._plan.registry == "stalled":
            yield TARPIT
        here = "tarpit.getsockname()[1]" if self._plan.registry == "stalled" else "web.server_port"
        yield f'os.environ["npm_config_registry"] = f"http://127.0.0.1:{{{here}}}/"'
        yield from self._files()

    def _files(self) -> Iterator[str]:
        furniture = self._plan.furniture
        changes = json.loads(furniture.config) if furniture else {}
        config: dict[str, object] = {"autoupdate": False, "share": "disabled"}
        if self._plan.turns:
            config |= {"model": "mock/m1", "small_model": "mock/m1", "permission": {"bash": "allow", "edit": "allow"}}
        text = repr({**config, **changes})
        if self._plan.turns:
            options = '{"baseURL": f"http://127.0.0.1:{web.server_port}/v1", "apiKey": "x"}'
            models = '{"m1": {"tool_call": True, "limit": {"context": 100000, "output": 4000}}}'
            mock = f'{{"npm": "@ai-sdk/openai-compatible", "options": {options}, "models": {models}}}'
            text = f'{text[:-1]}, "provider": {{"mock": {mock}}}}}'
        yield f'open(T + "/opencode.json", "w").write(json.dumps({text}))'
        for file in furniture.files if furniture else ():
            path = f'pathlib.Path(T, {"project/" + file.path!r})'
            yield f"file = {path}; file.parent.mkdir(parents=True, exist_ok=True); file.write_text({file.text!r})"

    # -- the steps

    def _step(self, number: int) -> Iterator[str]:
        event = self._plan.steps[number]
        if isinstance(event, ProcessStarted):
            yield from self._start(event)
        elif isinstance(event, ProcessExited):
            yield f"{_variable(event.role)}.wait(60)"
        elif isinstance(event, ProviderRequest):
            self._asked += 1
        elif isinstance(event, StepWaited):
            yield from self._waited(event)
        elif isinstance(event, (FaultInjected, FaultHealed)):
            yield from _database_fault(event)
        elif isinstance(event, SignalSent):
            yield from _signal(event)
        elif isinstance(event, HttpAsked):
            answer = self._plan.answers[number]
            yield from self._call(event, answer, last=number == len(self._plan.steps) - 1)

    def _start(self, event: ProcessStarted) -> Iterator[str]:
        argv = [_text(word) for word in event.argv]
        if event.obligation == "serve" and "--port" in event.argv:
            port = self._servers[event.role] = f"ports[{len(self._servers)}]"
            argv[event.argv.index("--port") + 1] = f"str({port})"
        extra = [f"{name}={_text(value)}" for name, _, value in (one.partition("=") for one in event.environment)]
        if event.stdin == "open pipe":
            extra.append("stdin=subprocess.PIPE")
        yield f"{_variable(event.role)} = run({', '.join([*argv, *extra])})"
        if event.role in self._servers:
            yield f'wait(lambda: up({self._servers[event.role]}), "the server listens")'

    def _waited(self, event: StepWaited) -> Iterator[str]:
        what = visible(event.what)
        if event.kind == "lock-directory":
            yield f'wait(lambda: glob.glob(T + "/state/opencode/locks/*.lock/meta.json"), {what!r})'
        elif event.kind == "request":
            yield f"wait(lambda: len(asked) >= {event.count}, {what!r})"
        elif event.kind == "question":
            session, port = self._names.get(event.what), self._servers.get(event.role)
            if session is None or port is None:
                raise InexpressibleError("the scenario waits for a question of a session that the script does not know")
            pending = f'[q["id"] for q in call({port}, "GET", "/question")[1] if q["sessionID"] == {session}]'
            yield f"wait(lambda: {pending}, 'the question')"
        else:
            if self._asked or self._plan.turns:
                yield f"wait(lambda: len(asked) >= {max(1, self._asked)}, 'the model is asked')"
            yield f"time.sleep({PAUSE_S:g})  # {what}"

    def _call(self, event: HttpAsked, answer: HttpCall | None, *, last: bool) -> Iterator[str]:
        port = self._servers.get(event.role)
        if port is None:
            raise InexpressibleError(f"the script does not know the server {event.role!r}")
        if event.method == "POST" and event.path == "/session" and answer is not None:
            self._sessions += 1
            name = self._names[made(answer)] = f"s{self._sessions}"
            yield f'{name} = call({port}, "POST", "/session", {{}})[1]["id"]'
            return
        if event.method == "GET" and event.path.endswith("/message") and answer is not None:
            yield from self._messages(event, answer, port)
            return
        said = f"call({port}, {event.method!r}, {self._with_names(event.path)}{self._body(event)})"
        if last and self._plan.shows is Shows.REFUSED:
            yield f"try: status, body = {said[:-1]}, timeout={max(1.0, event.timeout_s):g})"
            yield 'except TimeoutError: status, body = 0, "no answer"'
        else:
            yield said

    def _messages(self, event: HttpAsked, answer: HttpCall, port: str) -> Iterator[str]:
        later = "\n".join(one.path + one.body for one in self._plan.steps if isinstance(one, HttpAsked))
        ids = MESSAGE_ID.findall(answer.body)
        if not any(one in later for one in ids):
            return
        for place, one in enumerate(ids):
            self._names[one] = f'm[{place}]["info"]["id"]'
        yield f"m = call({port}, 'GET', {self._with_names(event.path)})[1]"

    def _body(self, event: HttpAsked) -> str:
        if not event.body:
            return ""
        text = repr(json.loads(event.body))
        for one, name in self._names.items():
            text = text.replace(f"'{one}'", name)
        self._unknown(text)
        return f", {text}"

    def _with_names(self, path: str) -> str:
        found = [one for one in self._names if one in path]
        text = path.replace("{", "{{").replace("}", "}}") if found else path
        for one in found:
            text = text.replace(one, f"{{{self._names[one]}}}".replace('"', "'"))
        self._unknown(text)
        return f'f"{text}"' if found else repr(text)

    def _unknown(self, text: str) -> None:
        left = re.search(r"\b(?:ses|msg|prt|que)_[A-Za-z0-9]{8,}", text)
        if left:
            raise InexpressibleError(f"a call names {left[0][:4]}..., an id that the script cannot find out")

    # -- the check

    def _check(self) -> Iterator[str]:
        shows, process = self._plan.shows, _variable(self._plan.role)
        said = 'open(T + "/said", errors="replace").read()'
        if shows is Shows.STILL_RUNS:
            yield f"try: bug = {process}.wait({self._plan.limit_s:g}) is None"
            yield "except subprocess.TimeoutExpired: bug = True"
            yield f'print({said}, f"-> {self._plan.role} {{\'still runs\' if bug else \'has ended\'}} after at most {self._plan.limit_s:g} s")'
        elif shows is Shows.REFUSED:
            yield 'bug = not 200 <= status < 300; print("->", status, str(body)[:300])'
        elif shows in (Shows.ORPHANED_PART, Shows.ORPHANED_MESSAGE):
            yield from _orphans(shows)
        elif shows is Shows.SURVIVOR:
            raise InexpressibleError("whether a tool's process outlives its server is not told by a short script")
        else:
            yield f"{process}.wait({max(self._plan.limit_s, 1):g}); said = {said}; print(said)"
            words = self._plan.names
            known = f"any(re.search(r'\\b' + re.escape(w) + r'\\b', said) for w in {words!r})"
            locked = "re.search('database is locked|already exists|journal_mode|CREATE TABLE|SQLITE_', said)"
            yield f"import re; bug = {process}.returncode != 0 and not {known}" if shows is Shows.UNNAMED else (
                f"import re; bug = bool({locked})"
            )
        yield f'print("the bug shows" if bug else "the bug does not show"); sys.exit({SHOWN_CODE} if bug else 0)'


def _model(turns: Sequence[ScriptedTurn]) -> Iterator[str]:
    lines = MODEL.splitlines()
    silent = {place for place, turn in enumerate(turns) if turn.never_ends or turn.stall_after is not None}
    errors = {place: turn.status for place, turn in enumerate(turns) if turn.status != 200}  # noqa: PLR2004  HTTP OK
    for line in lines:
        if errors and "send_response" in line:
            yield ERRORS.format(which=errors)
        yield line
        if silent and "self.wfile.write(b\"data: %s" in line:
            yield SILENT.format(which=silent)


def _delta(turn: ScriptedTurn) -> dict[str, object]:
    if not turn.calls:
        return {"content": turn.words}
    calls = [
        {"index": n, "id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": given}}
        for n, (name, given) in enumerate(turn.calls)
    ]
    return {"tool_calls": calls}


def _database_fault(event: FaultInjected | FaultHealed) -> Iterator[str]:
    if isinstance(event, FaultHealed):
        yield "db.close()"
        return
    mode = "EXCLUSIVE" if "EXCLUSIVE" in event.detail else "IMMEDIATE"
    exclusive = 'db.execute("PRAGMA locking_mode = EXCLUSIVE"); ' if mode == "EXCLUSIVE" else ""
    touch = '; db.execute("CREATE TABLE IF NOT EXISTS held (x)")' if mode == "EXCLUSIVE" else ""
    yield f'db = sqlite3.connect(T + "{DATABASE}", isolation_level=None)  # another process that writes'
    yield f'{exclusive}db.execute("BEGIN {mode}"){touch}'


def _signal(event: SignalSent) -> Iterator[str]:
    process = _variable(event.role)
    if event.signal == "SIGKILL":
        yield f"{process}.kill(); {process}.wait()"
    else:
        yield f"{process}.send_signal(signal.{event.signal})"


def _orphans(shows: Shows) -> Iterator[str]:
    table = "part" if shows is Shows.ORPHANED_PART else "message"
    yield f'rows = [json.loads(row[0]) for row in sqlite3.connect(T + "{DATABASE}").execute("SELECT data FROM {table}")]'
    if shows is Shows.ORPHANED_PART:
        yield 'left = [p["tool"] + ": " + p["state"]["status"] for p in rows if p.get("state", {}).get("status") in ("pending", "running")]'
    else:
        yield 'left = [m["role"] for m in rows if m.get("role") == "assistant" and "completed" not in m.get("time", {})]'
    what = "tool parts" if shows is Shows.ORPHANED_PART else "messages"
    yield f'bug = bool(left); print("-> {what} that nobody will ever finish:", left)'


def _variable(role: str) -> str:
    name = re.sub(r"\W", "_", role) or "process"
    return f"p_{name}" if not name.isidentifier() or name in RESERVED else name


RESERVED = frozenset("T run wait call up ports web tarpit asked db m status body bug left rows said file os sys json".split())  # noqa: SIM905


def _text(value: str) -> str:
    """A Python literal; the sandbox of the trial becomes the script's own directory."""
    if value.startswith(SANDBOX):
        return f"T + {value.removeprefix(SANDBOX)!r}"
    if SANDBOX in value:
        return f"{value!r}.replace({SANDBOX!r}, T)"
    return repr(value)
