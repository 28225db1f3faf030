"""One trial from start to bundle: stage, act, observe, judge, publish.

:class:`Trial` is what a scenario gets as ``ocrepro``. It alone brings stage and observe together. Whatever happens in
a scenario, :meth:`Trial.finish` ends everything that carries the trial's marker and stores a judgement.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

import msgspec

from pytest_ocrepro.bounded import within
from pytest_ocrepro.conductor import Conductor
from pytest_ocrepro.errors import NotReachedError, OcreproError, UsageError
from pytest_ocrepro.events import (
    DatabaseRead,
    Note,
    ProcessStarted,
    ScenarioSkipped,
    SignalSent,
    Swept,
    SweptOffset,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.expect import AnswerDemands, Claims, DatabaseDemands, ProcessDemands
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.intrusion import intrude
from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement
from pytest_ocrepro.judge.verdict import judge, judge_process
from pytest_ocrepro.observe.database import read_database
from pytest_ocrepro.observe.sampler import Sampler, is_subject
from pytest_ocrepro.observe.tables import client_of
from pytest_ocrepro.publish.bundle import TrialInfo, TrialResult
from pytest_ocrepro.publish.credentials import key_file, secret_values, stored_secrets
from pytest_ocrepro.publish.records import result_of
from pytest_ocrepro.readings import DatabaseReading, ProcessId
from pytest_ocrepro.roster import Roster
from pytest_ocrepro.schedule import Schedule
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.acp import AcpClient, Wire
from pytest_ocrepro.stage.budget import (
    Depths,
    Guard,
    Used,
    measure,
    nameless_bytes,
    wait_for_memory,
)
from pytest_ocrepro.stage.faults import AtLockDirectory, AtMilestone, AtRequest, DatabaseLock, SignalAt, Trigger
from pytest_ocrepro.stage.language_server import has_started, language_server
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.pressure import Pressure
from pytest_ocrepro.stage.process import NoInput, OpenPipe, Process, Stdin, until
from pytest_ocrepro.stage.provider import Provider
from pytest_ocrepro.stage.registry import Registry
from pytest_ocrepro.stage.rungs import Rung
from pytest_ocrepro.stage.sandbox import Project, Sandbox, make_sandbox
from pytest_ocrepro.stage.server import Answer, Server, free_port
from pytest_ocrepro.stage.subject import Build, fetch
from pytest_ocrepro.stage.terminal import Keyboard, Terminal, host_argv
from pytest_ocrepro.steps import Furniture, RecordedProvider, RecordedServer, step_waited, waited
from pytest_ocrepro.trial_store import TrialStore
from pytest_ocrepro.watching import Watcher

DEADLINE_S = 45.0  # what the reported script of anomalyco/opencode#29395 waits
WAITED_S = 1.0  # from when on a wait for memory is told
FAIL_FAST_S = 20.0  # a run with a bogus model takes 1.2 to 4.7 s alone on 2 cores, several at once a few times that
LAST_LOOK_S = 20.0  # a look takes some ms, and seconds on a machine that is very busy


class Trial:
    """One run of one scenario on one build. The public face for scenarios; see the README for the verbs."""

    def __init__(
        self, session: Session, build: Build, info: TrialInfo, slug: str, *, schedule: Schedule | None = None
    ) -> None:
        session.admit()
        waited_s = wait_for_memory()
        self.build = build
        self.info = info
        self._session = session
        self._store = TrialStore(session.run_dir, info, slug, session.rules)
        self._expired = threading.Event()
        self._judgement: Judgement | None = None
        self._judging = False
        self.random = random.Random(f"{info.scenario}:{info.seed}")  # noqa: S311  offsets and pauses, no secrets
        self.mark = session.next_mark()
        self.history = History(gate=self._store.gate, sink=self._store.sink, rewrite=self._store.rewrite)
        self.claims = Claims(self.history)
        self.registry = Registry(self.history, asker=self._asker)
        self.provider: Provider = RecordedProvider(self.history, asker=self._asker)
        with self._or_abandon():
            self.sandbox = self._make_sandbox()
        self._store.hide(self.sandbox.root)
        self.roster = Roster(
            self.sandbox,
            session.reader,
            self.history,
            mark=self.mark,
            supervisor_pid=session.supervisor.pid,
            apart=session.supervisor.rung is Rung.NAMESPACE,
            fail_fast_s=FAIL_FAST_S,
            deadline_s=DEADLINE_S,
            learn=self._learn,
        )
        self._furniture = Furniture(self.sandbox, self.history)
        with self._or_abandon():
            self.configure()
        self._begin()
        if waited_s > WAITED_S:
            self.note(f"waited {waited_s:.0f} s until there was memory for one more opencode")
        self.sampler = Sampler(
            self.roster, self.history, session.reader, deputy=session.deputy, inner=self.roster.inner
        )
        self._watcher = Watcher(
            self.history,
            self.roster,
            self.sampler,
            expired=self._expired,
            check_time=self._check_time,
            read_database=self._read_at_suspicion,
            intrude=self._intrude if session.intrusive else None,
        )
        self.sampler.start()
        self._conductor = Conductor(self, schedule)
        self._conductor.begin()
        self._depths = Depths(self.sandbox.root, lambda: nameless_bytes(session.reader, self._living()))
        self._guard = Guard(
            self._used, self._cut_off, session.budget, beyond=session.blames, trouble=self._not_looked
        )
        self._guard.start()

    # -- the stage

    @property
    def project(self) -> Project:
        """The directory that opencode works in."""
        return self.sandbox.project

    def configure(self, **changes: object) -> None:
        """Write opencode's configuration: the provider, and these top-level keys."""
        config = {
            **self.provider.config(),
            "autoupdate": False,
            "share": "disabled",
            "permission": {"bash": "allow", "edit": "allow"},
            **changes,
        }
        self.sandbox.configure(config)
        self._furniture.configured(changes)

    def run(
        self,
        *words: str,
        model: str = "mock/m1",
        role: str = "",
        args: Sequence[str] = (),
        stdin: Stdin | None = None,
        deadline_s: float = DEADLINE_S,
        fail_fast_s: float = FAIL_FAST_S,
        **environment: str,
    ) -> Process:
        """Start ``opencode run -m MODEL ARGS WORDS`` and return at once.

        ``environment`` adds or replaces variables (XDG_DATA_HOME=... for a data directory of its own). Raises
        TypeError for a value that is no text.
        """
        argv = ["opencode", "run", "-m", model, *args, *words]
        return self._start(role, argv, "answer", stdin, environment, deadline_s=deadline_s, fail_fast_s=fail_fast_s)

    def serve(
        self, *, role: str = "server", args: Sequence[str] = (), executable: str = "opencode", **environment: str
    ) -> Server:
        """Start ``opencode serve`` on a free port and wait until it listens. Raises NotReachedError."""
        port = free_port()
        argv = [executable, "serve", "--port", str(port), "--hostname", "127.0.0.1", *args]
        environment.setdefault("OPENCODE_ENABLE_QUESTION_TOOL", "1")
        process = self._start(role, argv, "serve", None, environment)
        server = RecordedServer(process, port, self.history, self._watcher)
        server.wait_until_ready()
        return server

    def spawn(
        self,
        argv: Sequence[str],
        *,
        role: str = "",
        stdin: Stdin | None = None,
        deadline_s: float = DEADLINE_S,
        fail_fast_s: float = FAIL_FAST_S,
        **environment: str,
    ) -> Process:
        """Start any program in the sandbox: a wrapper under test. The chosen opencode is first on its PATH."""
        return self._start(
            role or Path(argv[0]).name,
            list(argv),
            "exit",
            stdin,
            environment,
            deadline_s=deadline_s,
            fail_fast_s=fail_fast_s,
        )

    def interactive(self, *args: str, role: str = "terminal", **environment: str) -> Terminal:
        """Start the interactive ``opencode`` in a terminal of its own (TERM: xterm-256color) and return at once."""
        keyboard = Keyboard()
        argv = host_argv(["opencode", *args])
        host = self._start(role, argv, "", keyboard, {"TERM": "xterm-256color", **environment})
        return Terminal(host, keyboard, self.history, outer=self.roster.inner.outer)

    def acp(self, *args: str, role: str = "agent", **environment: str) -> AcpClient:
        """Start ``opencode acp`` and greet it as an editor does. Raises NotReachedError, StageError."""
        wire = Wire()
        client = AcpClient(self._start(role, ["opencode", "acp", *args], "", wire, environment), wire, self.history)
        client.begin()
        return client

    def language_server(self, *, stays: bool = False) -> dict[str, object]:
        """The value of opencode's ``lsp`` key: a server of files ``*.stub``; ``stays``: when its input ends, too."""
        return language_server(self.sandbox.root, stays=stays)

    def language_server_started(self) -> bool:
        """Somebody has started that one."""
        return has_started(self.sandbox.root)

    def other_build(self, version: str) -> str:
        """The executable of another published build, from the cache or npm, for :meth:`spawn`. Raises BuildError."""
        return fetch(version).path

    def hold_database(self, mode: str = "IMMEDIATE") -> DatabaseLock:
        """A fault: another process holds SQLite's write lock (``with ocrepro.hold_database("EXCLUSIVE"):``)."""
        return DatabaseLock(self.sandbox.database, mode, spawn=self._helper, history=self.history)

    def pressure(self, *, burners: int = 2, writers: int = 1) -> Pressure:
        """A fault: so many processes burn CPU, and so many write to the disk (``with ocrepro.pressure():``)."""
        scratch = self.sandbox.root / "pressure"
        return Pressure(burners, writers, scratch=scratch, spawn=self._helper, history=self.history)

    def at_milestone(self, process: Process, milestone: str) -> Trigger:
        """The moment when a process reaches a milestone."""
        return AtMilestone(self.history, process, milestone)

    def at_request(self, count: int = 1) -> Trigger:
        """The moment when the model is asked for the nth time."""
        return AtRequest(self.history, count)

    def at_lock_directory(self, process: Process) -> Trigger:
        """The moment when a process has taken one of opencode's lock directories."""
        return AtLockDirectory(self.sandbox.state, process, self.history, outer=self.roster.inner.outer)

    def kill_at(self, process: Process, trigger: Trigger) -> SignalAt:
        """A fault: kill -9 when the trigger comes."""
        return SignalAt(process, signal.SIGKILL, trigger, history=self.history)

    def suspend_at(self, process: Process, trigger: Trigger) -> SignalAt:
        """A fault: SIGSTOP when the trigger comes; healed by SIGCONT."""
        return SignalAt(process, signal.SIGSTOP, trigger, history=self.history)

    # -- observation and demands

    def wait_for(self, trigger: Trigger, timeout_s: float = 30.0) -> None:
        """Block until a trigger has come. Raises NotReachedError."""
        self._check_time()
        begun_ns = now_ns()
        trigger.wait(timeout_s)
        self.history.append(step_waited(trigger, begun_ns))

    def wait_until(self, condition: object, *, what: str, timeout_s: float = 30.0) -> None:
        """Poll a callable of the scenario until it is true. Raises NotReachedError naming ``what``."""
        self._check_time()
        if not callable(condition):
            raise NotReachedError(f"{what}: the condition is not callable; pass a function")
        begun_ns = now_ns()
        until(condition, timeout_s=timeout_s, what=what)
        self.history.append(waited("condition", begun_ns, what=what))

    def sweep(self, after: Process | Trigger, most_s: float, *, least_s: float = 0.0) -> float:
        """Block until so many seconds after a process' start, or a trigger; the offset, in seconds, is returned.

        Each trial has another offset: the one at which the rate of failure is known least from the trials of this
        session so far. Offset and outcome are in the results, and all trials together show the danger window.
        Raises NotReachedError, UsageError.
        """
        if not 0 <= least_s < most_s:
            raise UsageError(f"a sweep from {least_s:g} to {most_s:g} s has no offsets: give 0 <= least_s < most_s")
        begun_ns = now_ns()
        if isinstance(after, Process):
            since_ns, what = after.started_ns, f"the start of {after.role}"
        else:
            self.wait_for(after)
            since_ns, what = now_ns(), after.describe()
        offset_s = self._session.sweeps.choose(self.info, least_s, most_s)
        self._expired.wait(max(0.0, (since_ns - now_ns()) / 1e9 + offset_s))
        self._check_time()
        chosen = SweptOffset(asked_s=offset_s, low_s=least_s, high_s=most_s, since_ns=since_ns)
        self.history.append(waited("offset", begun_ns, what=what, offset=chosen))
        return offset_s

    def database(self, when: str, path: Path | None = None) -> DatabaseReading:
        """Read a byte copy of the database; ``when`` says at which point of the scenario."""
        scratch, copy = self.sandbox.root / "scratch", self._session.deputy.copy
        reading = read_database(path or self.sandbox.database, scratch, self.history.excerpt, copy=copy)
        self.history.append(DatabaseRead(at_ns=now_ns(), when=when, reading=reading))
        return reading

    def alive(self, *, tools_only: bool = False) -> list[str]:
        """Who carries the marker right now, as ``pid argv``; ``tools_only``: no opencode, no helper of ours."""
        return self.roster.alive(tools_only=tools_only)

    def kill_tools(self) -> None:
        """SIGKILL to everybody who is alive with ``tools_only``."""
        for one, argv in self.roster.living(tools_only=True).items():
            if self._session.supervisor.signal(one, signal.SIGKILL):
                role = Path(argv[0]).name
                self.history.append(
                    SignalSent(at_ns=now_ns(), pid=one.pid, role=role, signal="SIGKILL", why="scenario")
                )

    def note(self, text: str) -> None:
        """Something that a reader of the evidence should know."""
        self.history.append(Note(at_ns=now_ns(), text=text))

    def claim(self, what: str, *, held: bool | None, because: str, finding: str = "", role: str = "") -> bool | None:
        """A demand of the scenario's own; None: could not be told."""
        return self.claims.state(what, held=held, because=because, finding=finding, role=role)

    @overload
    def expect(self, what: Process) -> ProcessDemands: ...
    @overload
    def expect(self, what: Answer) -> AnswerDemands: ...
    @overload
    def expect(self, what: DatabaseReading) -> DatabaseDemands: ...

    def expect(self, what: Process | Answer | DatabaseReading) -> ProcessDemands | AnswerDemands | DatabaseDemands:
        """What is demanded of a process, an HTTP answer, or stored state."""
        if isinstance(what, Process):
            return ProcessDemands(what, self.claims, self.watch, self.wait_until)
        if isinstance(what, Answer):
            return AnswerDemands(what, self.claims)
        return DatabaseDemands(what, self.claims)

    def watch(self, process: Process) -> ProcessJudgement:
        """Block until the process has ended, or a verdict about its wait is stable, or its deadline has passed."""
        if self._conductor.took_out(process):
            return judge_process(self.history, process.pid)
        return self._watcher.process(process)

    def expire(self) -> None:
        """The outer guard's time is up: every wait of ours ends, and the trial is inconclusive."""
        self._expired.set()

    # -- the end

    def finish(self, trouble: str = "", *, skipped: str = "") -> tuple[Judgement, TrialResult]:
        """End everything, judge, store. Safe to call again. Raises BundleError when nothing could be stored.

        ``skipped``: why the scenario has ended itself, as the build lacks what it is about.
        """
        if self._judgement is None:
            if skipped:
                self.history.append(ScenarioSkipped(at_ns=now_ns(), why=skipped))
            if trouble:
                self.history.append(Trouble(at_ns=now_ns(), what=trouble))
            self._close_stage()
            self._judgement = judge(self.history)
            run_id = self._session.run_dir.info.run_id
            self._result = result_of(run_id, self.info, self.history, self._judgement, self._store.relative)
            self._store.finish(self._judgement, self._result)
            self._store.close()
            self._session.count(self._store.path)
            self._session.sweeps.note(self._result)
            self._store.check()
        return self._judgement, self._result

    def store_expectation(self, expected: str, *, known: bool) -> TrialResult:
        """Add what pytest made of the result, and give the line for results.jsonl."""
        judgement, result = self.finish()
        self._result = msgspec.structs.replace(result, expected=expected, known=known)
        self._store.finish(judgement, self._result)
        return self._result

    @property
    def judging(self) -> bool:
        """The scenario is over and its evidence is being put away."""
        return self._judging

    def _close_stage(self) -> None:
        """Every step is taken, whatever becomes of the others."""
        self._judging = True
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("look once more", lambda: within(LAST_LOOK_S, self._last_look)),
            ("stop the sampler", self.sampler.stop),
            ("end the schedule", self._conductor.close),
            ("stop to look at the budget", lambda: within(LAST_LOOK_S, self._guard.stop)),
            ("end what is left", self._sweep),
            ("read the key files", lambda: self._learn({})),
            ("stop the provider", self.provider.close),
            ("stop the registry", self.registry.close),
            ("read the database", self._last_database),
            ("remove the sandbox", self.sandbox.remove),
            ("forget the mark", lambda: self._session.reader.forget(MARKER, self.mark)),
        )
        for what, step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  one that fails must not keep the others from cleaning up
                self.history.append(Trouble(at_ns=now_ns(), what=f"could not {what}: {error}"))

    def _last_look(self) -> None:
        self.sampler.light()
        if any(process.alive for process in self.roster.started):
            self.sampler.snapshot()

    def _read_at_suspicion(self, when: str) -> None:
        if self.sandbox.database.exists():
            self.database(when)

    def _last_database(self) -> None:
        self._read_at_suspicion("at the end of the trial")

    def _living(self) -> list[ProcessId]:
        return [one.id for one in self.roster.processes()]

    def _used(self) -> Used:
        return measure(self._session.reader, self.sandbox.places(), self._living(), deep=self._depths.known())

    def _not_looked(self, error: Exception) -> None:
        what = f"the budget was not looked at: {type(error).__name__}: {error}"
        self.history.append(Trouble(at_ns=now_ns(), what=what))

    def _cut_off(self, why: str) -> None:
        """More than a trial may use: everything ends now, and nobody is blamed for how it ended."""
        self.history.append(Trouble(at_ns=now_ns(), what=f"cut off: {why}"))
        self._expect_ends()
        self._session.supervisor.sweep(self.mark, grace_s=0.0)

    def _expect_ends(self) -> None:
        for process in self.roster.started:
            if process.alive:
                process.expect_end(signal.SIGTERM)
                process.expect_end(signal.SIGKILL)
                self.history.append(
                    SignalSent(at_ns=now_ns(), pid=process.pid, role=process.role, signal="SIGTERM", why="sweep")
                )

    def _sweep(self) -> None:
        self.roster.note_the_gone()
        survivors, locks = self.roster.survivors(), self.roster.locks_of_the_dead()
        self._expect_ends()
        ended = self._session.supervisor.sweep(self.mark)
        for process in self.roster.started:
            process.wait(2.0)
            process.stdin.close()
        self.history.append(
            Swept(
                at_ns=now_ns(),
                ended=tuple(str(pid) for pid in ended.ended),
                leaked=tuple(str(pid) for pid in ended.leaked),
                survivors=tuple(survivors),
                lock_directories=locks,
            )
        )

    # -- how

    def _start(
        self,
        role: str,
        argv: list[str],
        obligation: str,
        stdin: Stdin | None,
        environment: dict[str, str],
        *,
        deadline_s: float = DEADLINE_S,
        fail_fast_s: float = FAIL_FAST_S,
    ) -> Process:
        _check_texts(environment)
        owes = obligation in ("answer", "exit")
        if owes:
            self._conductor.before_start()
        self._check_time()
        process = Process(
            self.roster.free_role(role),
            argv,
            supervisor=self._session.supervisor,
            history=self.history,
            output=self.sandbox.output,
            stdin=stdin or NoInput(),
        )
        self._learn(environment)
        self._furniture.note()
        variables, directory = self.sandbox.environment(**environment), str(self.project.root)
        self.roster.start(process, lambda: process.start(variables, directory))
        self.history.append(
            ProcessStarted(
                at_ns=process.started_ns,
                id=process.id,
                inner_pid=process.inner_pid,
                role=process.role,
                argv=tuple(argv),
                obligation=obligation,
                fail_fast_s=fail_fast_s,
                deadline_s=deadline_s,
                stdin=process.stdin.name,
                is_subject=is_subject(argv),
                environment=tuple(f"{name}={value}" for name, value in sorted(environment.items())),
            )
        )
        if owes:
            self._conductor.started(process)
        return process

    def _helper(self, role: str, argv: list[str], stdin: OpenPipe) -> Process:
        return self._start(role, argv, "", stdin, {})

    def _intrude(self, process: Process) -> None:
        intrude(self.history, process.pid, process.role)

    def _check_time(self) -> None:
        if self._expired.is_set():
            raise NotReachedError("the trial's time is up (pytest-timeout); raise --timeout or shorten the scenario")

    def _asker(self, address: str) -> int | None:
        """Who has this end of a connection: one of the roster, or one that may ask before it is known to us."""
        reader = self._session.reader
        pid = client_of(reader, address, self.roster.pids())
        if pid is not None:
            return pid
        return client_of(reader, address, [one.pid for one in reader.marked(MARKER, self.mark)])

    def _learn(self, environment: Mapping[str, str]) -> None:
        """Whatever a process can print of its environment and of key files is masked, and was all along."""
        own = key_file(environment)
        places = dict.fromkeys([*self.sandbox.key_files(), *([own] if own is not None else [])])
        if self._store.learn({**secret_values(environment), **stored_secrets(places)}):
            self.history.pass_again()

    def _make_sandbox(self) -> Sandbox:
        return make_sandbox(
            binary=Path(self.build.path), registry_url=self.registry.url, mark=self.mark, marker=MARKER
        )

    @contextlib.contextmanager
    def _or_abandon(self) -> Iterator[None]:
        """A trial that cannot begin (a full disk) leaves nothing behind but its torn bundle."""
        try:
            yield
        except OcreproError:
            if hasattr(self, "sandbox"):
                self.sandbox.remove()
            self.provider.close()
            self.registry.close()
            self._store.close()
            raise

    def _begin(self) -> None:
        self.history.append(
            TrialStarted(
                at_ns=now_ns(),
                scenario=self.info.scenario,
                version=self.info.version,
                trial=self.info.trial,
                seed=self.info.seed,
                wall=datetime.now(UTC).isoformat(timespec="milliseconds"),
                boot_id=self._session.reader.boot_id(),
                python=platform.python_version(),
                kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
                cpus=os.cpu_count() or 0,
                load_average=os.getloadavg()[0],
            )
        )


def _check_texts(environment: dict[str, str]) -> None:
    for name, value in environment.items():
        if not isinstance(value, str):
            raise TypeError(f'{name} is a {type(value).__name__}: give each variable by itself, as NAME="value"')
