"""The repro script: bash, Python 3 and opencode, fewer than 40 lines, a temporary HOME, exit 1 when the bug shows.

It is written from the scenario's own recorded moves (see :mod:`pytest_ocrepro.publish.plan`); nothing of this project
is needed to run it. Exit codes: 1 the bug shows, 0 it does not, 2 the script could not tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from pytest_ocrepro.events import (
    COMPLETES,
    Event,
    FaultHealed,
    FaultInjected,
    HttpAsked,
    HttpCall,
    ProcessExited,
    ProcessStarted,
    ProviderRequest,
    SignalSent,
    StepWaited,
)
from pytest_ocrepro.judge.rates import Rate, needed
from pytest_ocrepro.publish import repro_lines as lines_of
from pytest_ocrepro.publish.plan import InexpressibleError, Plan, Shows, made, plan
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.text import flat

SHOWS, NOT_SHOWN, NO_TELLING = 1, 0, 2  # exit codes of a script
MOST_LINES = 39
LONGEST_LINE = 400  # characters
MOST_TRIES, RACY_TRIES = 20, 5
LAST_WAIT_S = 90.0  # for several runs at once
MESSAGE_ID = re.compile(r'"info":\{"id":"(msg_[A-Za-z0-9]+)"')
UNKNOWN_ID = re.compile(r"\b(?:ses|msg|prt|que)_[A-Za-z0-9]{8,}")
PLAIN_PATH = re.compile(r"[\w/.?=&%:~+,@$-]*", re.ASCII)  # of a call; one with an id in it is put into an f-string
SANDBOX = "$SANDBOX"


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` "": it cannot be told in one, and ``why_not`` says why. ``tries``: how many before it exits with 0."""

    text: str = ""
    why_not: str = ""
    tries: int = 1


def repro_script(trial: StoredTrial, rate: Rate | None = None) -> Script:
    """The script for a trial; ``rate``: of the failure on this version, which says how often it is to try."""
    try:
        found = plan(trial)
        tries = _tries(found, rate)
        text = written(found, f"{trial.info.title} (seen on opencode {trial.info.version})", tries=tries)
    except InexpressibleError as error:
        return Script(why_not=str(error))
    return Script(text=text, tries=tries)


def _tries(found: Plan, rate: Rate | None) -> int:
    """So many that a failure as frequent as ours would be seen with 95 %."""
    if rate is not None and 0 < rate.k < rate.n:
        return min(MOST_TRIES, needed(rate.k / rate.n))
    return RACY_TRIES if found.shows is Shows.DATABASE_ERROR else 1


def written(found: Plan, title: str, *, tries: int = 1) -> str:
    """A plan as a script. Raises InexpressibleError where it would be too long to be read."""
    body = list(_Writer(found).lines())
    text = lines_of.framed(f"{flat(title)}. Does not hold: {flat(found.claim)}"[:180], body, tries=tries)
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        raise InexpressibleError(f"its script would have {len(lines)} lines, more than {MOST_LINES}")
    if max(map(len, lines)) > LONGEST_LINE:
        raise InexpressibleError("a prompt, a file or an argument of it is too long for a short script")
    return text


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
        check = [*self._check(), lines_of.END]
        captured = self._plan.shows in (Shows.UNNAMED, Shows.DATABASE_ERROR)
        yield from lines_of.functions("\n".join([*steps, *check]), captured=captured)
        yield from self._world()
        yield from steps
        yield from check

    # -- the world around it

    def _world(self) -> Iterator[str]:
        turns, stalled = self._plan.turns, self._plan.registry == "stalled"
        if self._servers:
            yield lines_of.PORTS.format(count=len(self._servers))
        if turns:
            yield from lines_of.model(turns, awaited=any(map(self._is_of_command, self._plan.steps)))
        elif not stalled:
            yield from lines_of.registry()
        if stalled:
            yield lines_of.TARPIT
        port = "tarpit.getsockname()[1]" if stalled else "web.server_port"
        changes = _decoded(self._plan.furniture.config)
        yield from lines_of.configuration(port, changes, with_model=bool(turns))
        for file in self._plan.furniture.files:
            if {"..", ""} & set(file.path.split("/")):
                raise InexpressibleError(f"a file of its project lies outside of it: {file.path!r:.60}")
            path = f"pathlib.Path(T, {'project/' + file.path!r})"
            yield f"file = {path}; file.parent.mkdir(parents=True, exist_ok=True); file.write_text({file.text!r})"

    # -- the steps

    def _step(self, number: int) -> Iterator[str]:
        event = self._plan.steps[number]
        if isinstance(event, ProcessStarted):
            yield from self._start(event)
        elif isinstance(event, ProcessExited):
            name = _variable(event.role)
            yield f'{name}.wait(60) and sys.exit("{name} failed")' if event.code == 0 else f"{name}.wait(60)"
        elif isinstance(event, ProviderRequest):
            self._asked += 1
        elif isinstance(event, StepWaited):
            yield from self._waited(event)
        elif isinstance(event, (FaultInjected, FaultHealed)):
            yield from lines_of.database_fault(event)
        elif isinstance(event, SignalSent):
            process = _variable(event.role)
            killed = event.signal == "SIGKILL"
            yield f"{process}.kill(); {process}.wait()" if killed else f"{process}.send_signal(signal.{event.signal})"
        elif isinstance(event, HttpAsked):
            last = number == len(self._plan.steps) - 1
            yield from self._call(event, self._plan.answers[number], last=last)

    def _start(self, event: ProcessStarted) -> Iterator[str]:
        argv = [_text(word) for word in event.argv]
        if event.obligation == "serve" and "--port" in event.argv:
            self._servers[event.role] = port = f"ports[{len(self._servers)}]"
            argv[event.argv.index("--port") + 1] = f"str({port})"
        extra = list(_variables(event))
        if event.stdin == "open pipe":
            extra.append("stdin=subprocess.PIPE")
        elif event.stdin != "/dev/null":
            raise InexpressibleError(f"the standard input of {event.role!r} is {event.stdin}")
        started = f"{_variable(event.role)} = run({', '.join([*argv, *extra])})"
        port = self._servers.get(event.role, "")
        yield f"{started}; {lines_of.ANSWERS.format(port=port)}" if port else started

    def _waited(self, event: StepWaited) -> Iterator[str]:
        what = flat(event.what)[:80]
        if event.kind == "offset":
            yield f"time.sleep({event.seconds:.3f})  # {what}"
        elif event.kind == "lock-directory":
            yield f"wait(lambda: glob.glob(T + {lines_of.LOCKS!r}), {what!r})"
        elif event.kind == "request":
            yield f"wait(lambda: len(asked) >= {event.count}, {what!r})"
        elif event.kind == "question":
            yield from self._question(event)
        elif self._is_of_command(event):
            yield f'wait(lambda: os.path.exists(T + "/began"), {what!r}); time.sleep(1)'
        else:
            first = f"wait(lambda: len(asked) >= {max(1, self._asked)}, 'the model is asked'); "
            yield f"{first if self._plan.turns else ''}time.sleep({max(2.0, 2 * event.seconds):.0f})  # {what}"

    def _is_of_command(self, event: Event) -> bool:
        """A wait for anything else is one for the command that the model runs."""
        plain = isinstance(event, StepWaited) and event.kind not in ("lock-directory", "request", "question")
        return plain and lines_of.runs_a_command(self._plan.turns)

    def _question(self, event: StepWaited) -> Iterator[str]:
        session, port = self._names.get(event.what), self._servers.get(event.role)
        if session is None or port is None:
            raise InexpressibleError("the scenario waits for a question of a session that the script does not know")
        pending = f'[one["id"] for one in call({port}, "GET", "/question")[1] if one["sessionID"] == {session}]'
        yield f"wait(lambda: {pending}, 'the question')"
        if event.id and event.id in self._said_in_calls():
            self._names[event.id] = "q[0]"
            yield f"q = {pending}"

    def _call(self, event: HttpAsked, answer: HttpCall | None, *, last: bool) -> Iterator[str]:
        port = self._servers.get(event.role)
        if port is None:
            raise InexpressibleError(f"the script does not know the server {event.role!r}")
        if event.method == "POST" and event.path == "/session" and answer is not None:
            self._sessions += 1
            name = self._names[made(answer)] = f"s{self._sessions}"
            yield f'{name} = call({port}, "POST", "/session", {{}})[1]["id"]'
        elif event.method == "GET" and event.path.endswith("/message") and answer is not None:
            yield from self._messages(event, answer, port)
        elif last and self._plan.shows is Shows.REFUSED:
            limit = f"timeout={max(1.0, event.timeout_s):g}"
            said = f"call({port}, {event.method!r}, {self._path(event.path)}{self._body(event)}, {limit})"
            yield f"status, body = {said}"
            yield lines_of.refused(answer)
        else:
            yield f"call({port}, {event.method!r}, {self._path(event.path)}{self._body(event)})"

    def _messages(self, event: HttpAsked, answer: HttpCall, port: str) -> Iterator[str]:
        later, ids = self._said_in_calls(), MESSAGE_ID.findall(answer.body)
        if not any(one in later for one in ids):
            return
        for place, one in enumerate(ids):
            self._names[one] = f'm[{place}]["info"]["id"]'
        yield f"m = call({port}, 'GET', {self._path(event.path)})[1]"

    def _said_in_calls(self) -> str:
        return "\n".join(one.path + one.body for one in self._plan.steps if isinstance(one, HttpAsked))

    def _body(self, event: HttpAsked) -> str:
        if not event.body:
            return ""
        text = repr(_decoded(event.body))
        if self._names and '"' in text:  # a text with quotes of its own, in which an id must not be replaced
            raise InexpressibleError("a call's body holds quotation marks beside an id that changes")
        for one, name in self._names.items():
            text = text.replace(f"'{one}'", name)
        self._unknown(text)
        return f", {text}"

    def _path(self, path: str) -> str:
        found = [one for one in self._names if one in path]
        if found and not PLAIN_PATH.fullmatch(path):
            raise InexpressibleError(f"a call's path holds more than letters and digits: {path!r:.60}")
        text = path.replace("{", "{{").replace("}", "}}") if found else path
        for one in found:
            text = text.replace(one, f"{{{self._names[one]}}}".replace('"', "'"))
        self._unknown(text)
        return f'f"{text}"' if found else repr(text)

    def _unknown(self, text: str) -> None:
        left = UNKNOWN_ID.search(text)
        if left:
            raise InexpressibleError(f"a call names {left[0][:4]}..., an id that the script cannot find out")

    # -- the check

    def _check(self) -> Iterator[str]:
        shows, roles = self._plan.shows, [_variable(role) for role in self._plan.roles]
        limit_s = max(self._plan.limit_s, 1.0)
        if shows is Shows.STILL_RUNS:
            yield from lines_of.still_runs(roles[0], limit_s, must_succeed=self._plan.claim.endswith(COMPLETES))
        elif shows is Shows.DATABASE_ERROR:
            yield from lines_of.database_error(roles, LAST_WAIT_S)
        elif shows is Shows.UNNAMED:
            words = self._plan.turns[0].words.strip() if self._plan.turns else ""
            yield from lines_of.unnamed(roles[0], self._plan.names, words)
        elif shows is not Shows.REFUSED:  # what was refused is told by the call itself
            yield from lines_of.orphans(parts=shows is Shows.ORPHANED_PART)


def _variables(event: ProcessStarted) -> Iterator[str]:
    for name, _, value in (one.partition("=") for one in event.environment):
        if not name.isidentifier():
            raise InexpressibleError(f"the environment of {event.role!r} has a name that is none: {name!r:.40}")
        yield f"{name}={_text(value)}"


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InexpressibleError(f"what it was given is no JSON: {text!r:.60}") from None


def _variable(role: str) -> str:
    """A name that no other of the script can be."""
    return "p_" + re.sub(r"\W", "_", role, flags=re.ASCII)


def _text(value: str) -> str:
    """A Python literal; the sandbox of the trial becomes the script's own directory."""
    if value.startswith(SANDBOX):
        return f"T + {value.removeprefix(SANDBOX)!r}"
    if SANDBOX in value:
        return f"{value!r}.replace({SANDBOX!r}, T)"
    return repr(value)
