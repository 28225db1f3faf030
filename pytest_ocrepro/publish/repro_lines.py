"""The lines that a repro script is put together from: what each does is told by the script itself. Pure text.

A server's first moments: a request that comes between its listen and the first turn of its event loop is never
answered (measured on 1.14.48 and 1.18.34). So readiness is an answer to a call that is tried again, not a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pytest_ocrepro.events import FaultHealed, FaultInjected, HttpCall, ScriptedTurn

CODE = 9  # of the Python part, whose own failures exit with 1, which must not look like the bug
DATABASE = "/.local/share/opencode/opencode.db"
LOCKS = "/.local/state/opencode/locks/*.lock/meta.json"
MODULES = """
    glob http.client http.server json pathlib re signal socket sqlite3 subprocess tempfile threading time
""".split()  # noqa: SIM905 - as a list it would fill thirteen lines

# Who carries our temporary HOME in its environment was started from here; a tool may outlive its server.
# An empty T would mean everybody's HOME. Without /proc nobody would be found, and all would be left behind.
ENDING = (
    '[ -e /proc/self/environ ] || { echo "this script needs Linux" >&2; exit 2; }; '
    'T=; end() { [ "$T" ] || return; for p in /proc/[0-9]*; do grep -qsaF "HOME=$T" "$p/environ" && '
    'kill -9 "${p#/proc/}"; done; rm -rf "$T"; } 2>/dev/null'
)
PREPARED = (
    (
        'T=$(mktemp -d) && mkdir -p "$T"/{tmp,project/.git/{objects,refs}} || exit 2; '
        'echo ref: refs/heads/main > "$T/project/.git/HEAD"'
    ),
    (
        'unset ${!OPENCODE_@} ${!XDG_@} ${!npm_config_@}; export T HOME="$T" TMPDIR="$T/tmp" '
        'OPENCODE_CONFIG="$T/opencode.json" NO_COLOR=1'
    ),
    (
        "export OPENCODE_DISABLE_{MODELS_FETCH,AUTOUPDATE,LSP_DOWNLOAD}=1 {no_proxy,NO_PROXY}=127.0.0.1 "
        "{{http,https}_proxy,{HTTP,HTTPS}_PROXY}=http://127.0.0.1:9"
    ),
)
RUN = """\
def run(*argv, stdin=subprocess.DEVNULL, **more):
    print("+", *argv); return subprocess.Popen(argv, cwd=T + "/project", stdin=stdin, env={**os.environ, **more})"""
CAPTURED_RUN = """\
def run(*argv, stdin=subprocess.DEVNULL, **more):
    print("+", *argv); out = tempfile.TemporaryFile(); env = {**os.environ, **more}
    p = subprocess.Popen(argv, cwd=T + "/project", stdin=stdin, stdout=out, stderr=out, env=env)
    p.out = out; return p
def said_by(p): p.out.seek(0); text = p.out.read().decode(errors="replace"); print(text); return text"""
WAIT = """\
def wait(ready, what, s=60):
    while not ready(): s -= 0.05; time.sleep(0.05) if s > 0 else sys.exit(f"did not get there: {what}")"""
CALL = """\
def call(port, method, path, body=None, timeout=20):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout); s = body is not None and json.dumps(body)
    try: c.request(method, path, s or None, {"Content-Type": "application/json"}); r = c.getresponse(); s = r.read()
    except OSError as error: return 0, str(error)
    return r.status, json.loads(s) if s[:1] in (b"{", b"[") else s.decode(errors="replace")"""
PORTS = (
    'ports = [socket.create_server(("127.0.0.1", 0)).getsockname()[1] for _ in range({count})]  # free a moment ago'
)
ANSWERS = 'wait(lambda: call({port}, "GET", "/global/health", timeout=1)[0], "the server answers")'
SAY = (
    'say = lambda delta, end: b"data: %s\\n\\n" % json.dumps({"choices": [{"delta": delta, "finish_reason": end}]})'
    ".encode()"
)
# of a configuration: what stands for a place of the trial becomes the script's own
PLACES = {
    "$SANDBOX": '.replace("$SANDBOX", T)',
    "$PYTHON/bin/python3": '.replace("$PYTHON/bin/python3", sys.executable)',
}
WIDE = 395  # characters; what is longer is parted
MODEL = """\
class Model(http.server.BaseHTTPRequestHandler):  # an OpenAI-compatible model; to npm, a registry that says 404
    def do_POST(self):
        title = b'"tools"' not in self.rfile.read(int(self.headers["Content-Length"])); title or asked.append(1)
        says, end = ({"content": "A title"}, "stop") if title else TURNS[min(len(asked), len(TURNS)) - 1]"""
REFUSES = "        if isinstance(end, int): return self.send_error(end)"
BEGINS = (
    '        self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers(); '
)
ANSWERS_ALL = "self.wfile.write(say(says, None) + say({}, end))"
FALLS_SILENT = "self.wfile.write(say(says, None)); end or time.sleep(3600); self.wfile.write(say({}, end))"
REGISTRY = (
    "class Registry(http.server.BaseHTTPRequestHandler): do_GET = lambda self: self.send_error(404)  # as npm's"
)
NOT_FOUND = "Model.do_GET = lambda self: self.send_error(404); "
SERVE = (
    'web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), {handler}); '
    "threading.Thread(target=web.serve_forever, daemon=True).start()"
)
TARPIT = (
    'tarpit = socket.create_server(("127.0.0.1", 0), backlog=99)  # an npm registry that accepts and never answers'
)
PROVIDER = (
    '{"mock": {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"http://127.0.0.1:{web.server_port}/v1", '
    '"apiKey": "x"}, "models": dict.fromkeys(["m1", "m2", "m3", "m4"], '
    '{"tool_call": True, "limit": {"context": 100000, "output": 4000}})}}'
)
END = (
    f'print("the bug shows:" if bug else "the bug does not show:", repr(seen)[:300]); sys.exit({CODE} if bug else 0)'
)
# What opencode prints when its database fails it: measured on 1.14.48 to 1.18.34
DATABASE_ERROR = "is locked|SQLITE_|journal_mode|already exists|CREATE (TABLE|INDEX)|Failed (query|to run)|malformed"
BUSY = (400, 409, 423)  # how builds say that a session is busy


def framed(title: str, body: Sequence[str], *, tries: int) -> str:
    """The whole script around the lines of its Python part."""
    used = [name for name in MODULES if any(re.search(rf"\b{re.escape(name)}\b", line) for line in body)]
    python = f'import {", ".join(["os", "sys", *used])}; T = os.environ["T"]'
    exits = (
        f"Exit 1: the bug shows{f' in one of {tries} tries' if tries > 1 else ''}; 0: it does not; 2: could not tell."
    )
    head = [
        "#!/usr/bin/env bash",
        f"# {title}",
        f"# Needs Linux, bash, Python 3 and opencode on PATH; no key, no network. {exits}",
    ]
    before, after = [f"{ENDING}; trap end EXIT"], []
    if tries > 1:
        before, after = [ENDING, f"for n in {{1..{tries}}}; do (trap end EXIT"], [") || exit; done"]
    begin = f"python3 -u - <<'PY' || exit $(($? == {CODE} ? 1 : 2))"
    return "\n".join([*head, *before, *PREPARED, begin, python, *body, "PY", *after, ""])


def functions(used_in: str, *, captured: bool) -> Iterator[str]:
    """Those that these lines call."""
    yield from (CAPTURED_RUN if captured else RUN).splitlines()
    for function, mark in ((WAIT, "wait("), (CALL, "call(")):
        if re.search(rf"(?<![.\w]){re.escape(mark)}", used_in):
            yield from function.splitlines()


def model(turns: Sequence[ScriptedTurn], *, awaited: bool = False) -> Iterator[str]:
    """The scripted model and what it says: a delta with how it ends, None for never, a number for an HTTP error.

    ``awaited``: the script waits for a command of its bash tool to begin.
    """
    said = [_answer(turn, awaited=awaited) for turn in turns]
    if turns[-1].calls and not turns[-1].repeats:
        said.append(({"content": "done"}, "stop"))  # or the last call would be made for ever
    ends = [end for _, end in said]
    whole = f"asked, TURNS = [], {said!r}"
    yield from [whole] if len(whole) <= WIDE else [f"asked, TURNS = [], [{said[0]!r},", *_rest(said[1:])]
    yield SAY
    yield from MODEL.splitlines()
    if any(isinstance(end, int) for end in ends):
        yield REFUSES
    yield BEGINS + (FALLS_SILENT if None in ends else ANSWERS_ALL)
    yield NOT_FOUND + SERVE.format(handler="Model")


def _rest(said: Sequence[object]) -> Iterator[str]:
    """Of a list that was opened, one a line."""
    for number, one in enumerate(said, start=1):
        yield f"    {one!r}{',' if number < len(said) else ']'}"


def registry() -> Iterator[str]:
    """An npm registry that has nothing."""
    yield REGISTRY
    yield SERVE.format(handler="Registry")


def runs_a_command(turns: Sequence[ScriptedTurn]) -> bool:
    """The model calls the bash tool."""
    return any(name == "bash" for turn in turns for name, _ in turn.calls)


def configuration(port: str, changes: Mapping[str, object], *, with_model: bool) -> Iterator[str]:
    """The configuration of opencode, and where npm asks."""
    config: dict[str, object] = {"autoupdate": False, "share": "disabled"}
    config |= {"permission": {"bash": "allow", "edit": "allow"}}
    config |= {"model": "mock/m1", "small_model": "mock/m1"} if with_model else {}
    places = "".join(words for place, words in PLACES.items() if place in str(changes))
    written = f'pathlib.Path(T, "opencode.json").write_text(json.dumps(config){places})'
    whole = f"config = { ({**config, **changes})!r}"
    asks = f'os.environ["npm_config_registry"] = f"http://127.0.0.1:{{{port}}}/"'
    yield from [f"{whole}; {asks}"] if len(whole) + len(asks) < WIDE else [whole, asks]
    provided = f'config["provider"] = {PROVIDER}'
    if not with_model or "provider" in changes:
        yield written
    else:
        yield from [f"{provided}; {written}"] if len(provided) + len(written) < WIDE else [provided, written]


def database_fault(event: FaultInjected | FaultHealed) -> Iterator[str]:
    """Another process that writes; only to a database that is there."""
    if isinstance(event, FaultHealed):
        yield "db.close()"
        return
    begin = 'db.execute("BEGIN IMMEDIATE")'
    if "EXCLUSIVE" in event.detail:
        begin = 'db.executescript("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE held (x)")'
    yield f'db = sqlite3.connect(f"file:{{T}}{DATABASE}?mode=rw", uri=True, isolation_level=None); {begin}'


def still_runs(name: str, limit_s: float, *, must_succeed: bool) -> Iterator[str]:
    """Whether it gave control back. One that works on, or waits for a CPU, is slow; that tells nothing.

    A waiter that looks again and again waits for a CPU each time, on a busy machine for long: that is no work.
    ``must_succeed``: one that ends with an error has not done what it was asked, but for another reason.
    """
    yield f"until = time.time() + {limit_s:g}"
    yield f"while {name}.poll() is None and time.time() < until: time.sleep(0.1)"
    still = f'"it still runs after {limit_s:g} s"'
    yield f'bug = {name}.returncode is None; seen = {still} if bug else f"exit {{{name}.returncode}}"'
    cpu = f'sum(map(int, open(f"/proc/{{{name}.pid}}/schedstat").read().split()[:2])) / 1e9'
    yield f"if bug: used = lambda: {cpu}; before = used(); time.sleep(3)  # s of CPU that it had, or waited for"
    yield 'if bug and used() - before > 2.4: sys.exit("it works on: it may be slow, try again with less beside it")'
    wrong = "!=" if must_succeed else "<"
    ended = "an error" if must_succeed else "a signal"
    yield f'if not bug and {name}.returncode {wrong} 0: sys.exit(f"{name} ended with {ended} ({{seen}})")'


def refused(answer: HttpCall | None) -> str:
    """Whether the last call was refused; an answer that says neither tells nothing."""
    if answer is not None and not answer.status:
        return "bug, seen = not status, (status, body)"
    busy = sorted({*BUSY, answer.status if answer is not None else 0} - {0})
    return f"bug, seen = status in {busy}, (status, body); bug or 200 <= status < 300 or sys.exit(str(seen))"


def database_error(names: Sequence[str], limit_s: float) -> Iterator[str]:
    """Whether any of them died of the database."""
    every = f"({', '.join(names)},)"
    yield f"runs, until = {every}, time.time() + {limit_s:g}"
    yield "while any(p.poll() is None for p in runs) and time.time() < until: time.sleep(0.1)"
    yield f'seen = [text for text in map(said_by, runs) if re.search("{DATABASE_ERROR}", text)]; bug = bool(seen)'
    yield 'bug or all(p.returncode in (0, 1) for p in runs) or sys.exit("a run did not end by itself")'


def unnamed(name: str, words: Sequence[str], answer: str) -> Iterator[str]:
    """Whether its error fails to say which resource it is about; one that answers has nothing to name."""
    named = "|".join(_word(word) for word in words)
    done = f"{answer!r} in seen or " if answer else ""
    yield f'{name}.wait(60) < 0 and sys.exit("{name} was ended by a signal"); seen = said_by({name})'
    yield f'bug = not ({done}re.search(r"{named}", seen.partition("Error")[2], re.I))'


def orphans(*, parts: bool) -> Iterator[str]:
    """Whether stored state is left unfinished."""
    table = "part" if parts else "message"
    which = (
        'd.get("state", {}).get("status") in ("pending", "running")'
        if parts
        else 'd.get("role") == "assistant" and "completed" not in d.get("time", {})'
    )
    query = f"SELECT data FROM {table}"  # noqa: S608  one of two words
    select = f'sqlite3.connect(f"file:{{T}}{DATABASE}?mode=ro", uri=True).execute("{query}")'
    yield f'rows = [json.loads(d) for d, in {select}]; rows or sys.exit("nothing is stored")'
    yield f"seen = [d for d in rows if {which}]; bug = bool(seen)"


def _word(word: str) -> str:
    """A word of its own; a plain one that is a folder in some path does not count (as in expect)."""
    before, after = (r"(?<![\w-])", r"(?![\w-])") if "." in word else (r"(?<![\w./-])", r"(?![\w/-])")
    return before + re.escape(word).replace('"', r"\x22") + after


def _answer(turn: ScriptedTurn, *, awaited: bool) -> tuple[dict[str, object], str | int | None]:
    calls = [
        {
            "index": n,
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": name, "arguments": _told(name, given) if awaited else given},
        }
        for n, (name, given) in enumerate(turn.calls)
    ]
    delta: dict[str, object] = {"tool_calls": calls} if calls else {"content": turn.words}
    if turn.status != 200:  # noqa: PLR2004  HTTP OK
        return {}, turn.status
    if turn.never_ends or turn.stall_after is not None:
        return delta, None
    return delta, "tool_calls" if calls else "stop"


def _told(name: str, arguments: str) -> str:
    """A command says that it has begun: in a file outside the project, for which a permission may be needed."""
    return arguments.replace('"command": "', '"command": "> $T/began; ', 1) if name == "bash" else arguments
