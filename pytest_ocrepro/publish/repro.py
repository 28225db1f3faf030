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
# Needs bash, Python 3 and opencode on PATH, no key, no network. Exit 1: the bug shows; 0: it does not; 2: not got there.
T=$(mktemp -d) && mkdir -p "$T"/{{data,state,cache,config,tmp,project}} || exit 2
trap '{ending}' EXIT
unset ${{!OPENCODE_@}}; export T NO_COLOR=1 OPENCODE_CONFIG="$T/opencode.json" {switches}=1
export HOME="$T" TMPDIR="$T/tmp" {homes}
python3 -u - <<'PY'
{imports}; T = os.environ["T"]"""
# whoever carries our temporary HOME in its environment was started from here, tools that outlived their server too
ENDING = """\
for p in /proc/[0-9]*; do grep -qs "HOME=$T" $p/environ && kill -9 ${p#/proc/}; done 2>/dev/null; rm -rf "$T\""""
SWITCHES = "OPENCODE_DISABLE_{MODELS_FETCH,AUTOUPDATE,LSP_DOWNLOAD}"
HOMES = " ".join(f'XDG_{name}_HOME="$T/{name.lower()}"' for name in ("DATA", "STATE", "CACHE", "CONFIG"))
FOOT = """\
PY
case $? in 0) exit 0;; {code}) exit 1;; *) exit 2;; esac
"""
RUN = """\
def run(*argv, stdin=subprocess.DEVNULL, **more):
    print("+", *argv); return subprocess.Popen(argv, cwd=T + "/project", stdin=stdin, {out}env={{**os.environ, **more}})"""
WAIT = """\
def wait(ready, what, s=60):
    while not ready(): s -= 0.05; time.sleep(0.05) if s > 0 else sys.exit(f"did not get there: {what}")"""
CALL = """\
def call(port, method, path, body=None, timeout=20):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout); type = {"Content-Type": "application/json"}
    c.request(method, path, None if body is None else json.dumps(body), type); r = c.getresponse(); text = r.read().decode()
    return r.status, json.loads(text) if text[:1] in ("{", "[") else text"""
PORTS = 'ports = [socket.create_server(("127.0.0.1", 0)).getsockname()[1] for _ in range({count})]  # free a moment ago'
LISTENS = 'wait(lambda: not socket.socket().connect_ex(("127.0.0.1", {port})), "the server listens")'
MODEL = """\
class Model(http.server.BaseHTTPRequestHandler):  # an OpenAI-compatible model; to npm, a registry that says 404
    log_message = lambda *_: None; do_GET = lambda self: self.send_error(404)
    def do_POST(self):
        i, title = min(len(asked), len(TURNS) - 1), b'"tools"' not in self.rfile.read(int(self.headers["Content-Length"]))
        says = {"content": "A title"} if title else TURNS[i]; asked.extend([i] * (not title)); end = "tool_calls" if "tool_calls" in says else "stop"
        self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
        for d, e in ((says, None), ({}, end)): self.wfile.write(b"data: %s\\n\\n" % json.dumps({"choices": [{"index": 0, "delta": d, "finish_reason": e}]}).encode())"""
SILENT = "        if not title and i in {which}: time.sleep(3600)  # says nothing more"
ERRORS = "        if not title and i in {which}: return self.send_error({which}[i])"
REGISTRY = """\
class Registry(http.server.BaseHTTPRequestHandler):  # an npm registry that says 404
    log_message = lambda *_: None; do_GET = lambda self: self.send_error(404)"""
SERVE = 'web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), {handler}); threading.Thread(target=web.serve_forever, daemon=True).start()'
TARPIT = (
    'tarpit = socket.create_server(("127.0.0.1", 0), backlog=99)  # an npm registry that accepts and never answers'
)


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
    head = HEAD.format(
        title=title[:200],
        ending=ENDING,
        switches=SWITCHES,
        homes=HOMES,
        imports=f"import {', '.join(['os', 'sys', *used])}",
    )
    text = "\n".join([head, *body, FOOT.format(code=SHOWN_CODE)])
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        raise InexpressibleError(f"its script would have {len(lines)} lines, more than {MOST_LINES}")
    if max(map(len, lines)) > LONGEST_LINE:
        raise InexpressibleError("a prompt, a file or an argument of it is too long for a short script")
    return text


MODULES = ("glob", "http.client", "http.server", "json", "pathlib", "re", "signal", "socket", "sqlite3", "subprocess")
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
        captured = self._plan.shows in (Shows.UNNAMED, Shows.DATABASE_ERROR)
        out = "stdout=subprocess.PIPE, stderr=subprocess.STDOUT, " if captured else ""
        yield from RUN.format(out=out).splitlines()
        for helper, mark in ((WAIT, "wait("), (CALL, "call(")):
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
            yield f"asked, TURNS = [], {[_delta(turn) for turn in turns]!r}"
            yield from _model(turns)
        elif self._plan.registry != "stalled":
            yield from REGISTRY.splitlines()
        if turns or self._plan.registry != "stalled":
            yield SERVE.format(handler="Model" if turns else "Registry")
        if self._plan.registry == "stalled":
            yield TARPIT
        here = "tarpit.getsockname()[1]" if self._plan.registry == "stalled" else "web.server_port"
        yield from self._files(f'os.environ["npm_config_registry"] = f"http://127.0.0.1:{{{here}}}/"')

    def _files(self, registry: str) -> Iterator[str]:
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
        yield f'{registry}; pathlib.Path(T, "opencode.json").write_text(json.dumps({text}))'
        for file in furniture.files if furniture else ():
            path = f"pathlib.Path(T, {'project/' + file.path!r})"
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
            self._servers[event.role] = port = f"ports[{len(self._servers)}]"
            argv[event.argv.index("--port") + 1] = f"str({port})"
        extra = [f"{name}={_text(value)}" for name, _, value in (one.partition("=") for one in event.environment)]
        if event.stdin == "open pipe":
            extra.append("stdin=subprocess.PIPE")
        started = f"{_variable(event.role)} = run({', '.join([*argv, *extra])})"
        port = self._servers.get(event.role, "")
        yield f"{started}; {LISTENS.format(port=port)}" if port else started

    def _waited(self, event: StepWaited) -> Iterator[str]:
        what = visible(event.what)
        if event.kind == "lock-directory":
            yield f'wait(lambda: glob.glob(T + "/state/opencode/locks/*.lock/meta.json"), {what!r})'
        elif event.kind == "request":
            yield f"wait(lambda: len(asked) >= {event.count}, {what!r})"
        elif event.kind == "question":
            session, port = self._names.get(event.what), self._servers.get(event.role)
            if session is None or port is None:
                raise InexpressibleError(
                    "the scenario waits for a question of a session that the script does not know"
                )
            pending = f'[q["id"] for q in call({port}, "GET", "/question")[1] if q["sessionID"] == {session}]'
            yield f"wait(lambda: {pending}, 'the question')"
        else:
            asked = max(1, self._asked)
            first = f"wait(lambda: len(asked) >= {asked}, 'the model is asked'); " if self._plan.turns else ""
            yield f"{first}time.sleep({PAUSE_S:g})  # {what}"

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
            unanswered = answer is not None and not answer.status
            yield f"{'try: ' * unanswered}status, body = {said[:-1]}, timeout={max(1.0, event.timeout_s):g})"
            if unanswered:
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
        shows, process, limit = self._plan.shows, _variable(self._plan.role), f"{max(self._plan.limit_s, 1):g}"
        if shows is Shows.STILL_RUNS:
            yield f"try: bug = {process}.wait({limit}) is None"
            yield "except subprocess.TimeoutExpired: bug = True"
            yield f'print("-> {self._plan.role}", f"still runs after {limit} s" if bug else f"ended with {{{process}.returncode}}")'
        elif shows is Shows.REFUSED:
            yield 'bug = not 200 <= status < 300; print("->", status, str(body)[:300])'
        elif shows in (Shows.ORPHANED_PART, Shows.ORPHANED_MESSAGE):
            yield from _orphans(shows)
        elif shows is Shows.SURVIVOR:
            raise InexpressibleError("whether a tool's process outlives its server is not told by a short script")
        else:
            yield f"said = {process}.communicate(timeout={limit})[0].decode(errors='replace'); print(said)"
            expression = "|".join(rf"\b{re.escape(word)}\b" for word in self._plan.names)
            named = f"re.search({expression!r}, said)"
            locked = "re.search('database is locked|already exists|journal_mode|CREATE TABLE|SQLITE_', said)"
            yield (
                f"bug = {process}.returncode != 0 and not {named}"
                if shows is Shows.UNNAMED
                else f"bug = bool({locked})"
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
        if silent and "for d, e in" in line:
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
    parts = shows is Shows.ORPHANED_PART
    rows = f'sqlite3.connect(T + "{DATABASE}").execute("SELECT data FROM {"part" if parts else "message"}")'
    which = (
        'd.get("state", {}).get("status") in ("pending", "running")'
        if parts
        else 'd.get("role") == "assistant" and "completed" not in d.get("time", {})'
    )
    yield f"left = [d for row in {rows} for d in [json.loads(row[0])] if {which}]"
    what = "tool parts" if parts else "messages"
    yield f'bug = bool(left); print("-> {what} that nobody will ever finish:", str(left)[:300])'


def _variable(role: str) -> str:
    name = re.sub(r"\W", "_", role) or "process"
    return f"p_{name}" if not name.isidentifier() or name in RESERVED else name


RESERVED = frozenset(
    ["T", "run", "wait", "call", "up", "ports", "web", "tarpit", "asked", "db", "m", "status", "body", "bug", "left", "rows", "said", "file", "os", "sys", "json"]
)


def _text(value: str) -> str:
    """A Python literal; the sandbox of the trial becomes the script's own directory."""
    if value.startswith(SANDBOX):
        return f"T + {value.removeprefix(SANDBOX)!r}"
    if SANDBOX in value:
        return f"{value!r}.replace({SANDBOX!r}, T)"
    return repr(value)
