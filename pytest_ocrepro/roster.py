"""Who takes part in a trial: the processes that we started, and those that were found beneath them by the marker.

It is what the sampler looks at (its ``World``), and it answers who is left at the end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_ocrepro.events import ProcessFound, ProcessGone
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.observe.inner_pids import InnerPids
from pytest_ocrepro.observe.locks import lock_directories
from pytest_ocrepro.observe.readers import ProcessReader
from pytest_ocrepro.observe.sampler import Observed, is_subject
from pytest_ocrepro.platforms import has_proc
from pytest_ocrepro.readings import LockDirectory, ProcessId
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.sandbox import Sandbox

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
OWES = {"run": "answer", "serve": "serve"}  # subcommand -> obligation


class Roster:
    """Thread-safe: the sampler's thread finds processes while the scenario's starts them.

    ``fail_fast_s`` and ``deadline_s`` are the limits for what a wrapper starts beneath us. ``apart``: they live in a
    PID namespace.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        reader: ProcessReader,
        history: History,
        *,
        mark: str,
        supervisor_pid: int,
        fail_fast_s: float,
        deadline_s: float,
        learn: Callable[[Mapping[str, str]], None],
        apart: bool = False,
    ) -> None:
        self.inner = InnerPids(reader, apart=apart)
        self._learn = learn  # the environment of whoever is found, before anything is said of it
        self.started: list[Process] = []
        self._found: dict[ProcessId, str] = {}
        self._gone: set[ProcessId] = set()
        self._sandbox = sandbox
        self._reader = reader
        self._history = history
        self._mark = mark
        self._supervisor_pid = supervisor_pid
        self._limits = (fail_fast_s, deadline_s)
        self._starting = threading.Lock()

    def start(self, process: Process, begin: Callable[[], None]) -> None:
        """Run ``begin`` and take the process in; nobody is adopted while a pid of our own is not known yet."""
        with self._starting:
            begin()
            self.inner.learn(process.id, process.inner_pid)
            self.started.append(process)

    def free_role(self, wanted: str) -> str:
        """The role, numbered when it is taken; without one ``first``, ``second`` ... by the count of runs."""
        taken = {process.role for process in self.started}
        runs = sum(process.role in ORDINALS for process in self.started)
        role = wanted or (ORDINALS[runs] if runs < len(ORDINALS) else f"run-{runs + 1}")
        if role not in taken:
            return role
        return next(name for n in range(2, len(taken) + 3) if (name := f"{role}-{n}") not in taken)

    def pids(self) -> list[int]:
        """All pids, those of processes that have ended included."""
        return [process.pid for process in list(self.started)] + [one.pid for one in list(self._found)]

    def note_the_gone(self) -> None:
        """Record the end of found processes; their exit status is not ours to know."""
        for one, role in list(self._found.items()):
            if one not in self._gone and not self._reader.alive(one):
                self._gone.add(one)
                self._history.append(ProcessGone(at_ns=now_ns(), pid=one.pid, role=role))

    def alive(self, *, tools_only: bool) -> list[str]:
        """Who carries the marker right now, as ``pid argv``."""
        return [f"{one.pid} {' '.join(argv)}" for one, argv in self.living(tools_only=tools_only).items()]

    def living(self, *, tools_only: bool) -> dict[ProcessId, tuple[str, ...]]:
        """The same, with their command lines."""
        own = {process.id for process in self.started}
        marked = [one for one in self._reader.marked(MARKER, self._mark) if not (tools_only and one in own)]
        told = [(one, self._reader.argv(one.pid) or ()) for one in marked]
        return {
            one: argv
            for one, argv in told
            if argv and not (tools_only and is_subject(argv, self._reader.exe(one.pid)))
        }

    def survivors(self) -> list[str]:
        """Tools' processes that outlived the opencode that started them.

        Orphans live under the supervisor or under the init of their PID namespace; where it is no sub-reaper, under a
        process that is none of the trial's.
        """
        living = [one for one in list(self._found) if one not in self._gone and self._reader.alive(one)]
        orphans = [one for one in living if self._orphaned(self._reader.parent(one.pid))]
        return [f"pid {one.pid}: {' '.join(self._reader.argv(one.pid) or ())}" for one in orphans]

    def _orphaned(self, parent_pid: int | None) -> bool:
        if not has_proc():
            return parent_pid not in self.pids()
        return parent_pid == self._supervisor_pid or self.inner.is_init(parent_pid)

    def locks_of_the_dead(self) -> tuple[LockDirectory, ...]:
        """Lock directories that a run left behind although nobody killed it."""
        ended = {process.pid for process in self.started if process.ended_by_itself}
        found = lock_directories(
            self.state_dirs(),
            key_candidates=self.lock_keys(),
            reader=self._reader,
            now_wall=time.time(),
            inner=self.inner,
        )
        return tuple(lock for lock in found if lock.holder_pid in ended)

    # -- the sampler's World

    def processes(self) -> Sequence[Observed]:
        """Everybody, the dead included."""
        ours = [
            Observed(
                id=process.id,
                role=process.role,
                is_subject=is_subject(process.argv),
                outputs=(process.stdout_path, process.stderr_path),
            )
            for process in list(self.started)
        ]
        found = [
            Observed(id=one, role=role, is_subject=role.startswith("opencode"))
            for one, role in list(self._found.items())
        ]
        return [*ours, *found]

    def log_dirs(self) -> Sequence[Path]:
        """The shared data directory's, and those of workers with one of their own."""
        root = self._sandbox.root
        return [self._sandbox.data / "log", *root.glob("*/data/opencode/log"), *root.glob("project/*/opencode/log")]

    def state_dirs(self) -> Sequence[Path]:
        """Values of XDG_STATE_HOME."""
        return [self._sandbox.root / "state", *self._sandbox.root.glob("*/state")]

    def databases(self) -> Sequence[Path]:
        """The shared database, and those of workers with a data directory of their own."""
        root = self._sandbox.root
        own = [*root.glob("*/data/opencode/opencode.db"), *root.glob("project/*/opencode/opencode.db")]
        return list(dict.fromkeys([self._sandbox.database, *own]))

    def lock_keys(self) -> Sequence[str]:
        """What opencode may lock under in this sandbox."""
        return self._sandbox.lock_keys()

    def marker(self) -> tuple[str, str]:
        """The trial's own."""
        return MARKER, self._mark

    def harness_pids(self) -> Sequence[int]:
        """Ours."""
        return [os.getpid(), self._supervisor_pid]

    def adopt(self, process: ProcessId, argv: tuple[str, ...], parent_pid: int) -> None:
        """Take in a process that carries the marker and that we did not start."""
        with self._starting:
            if any(one.id == process for one in self.started):
                return
            self._learn(self._reader.environ(process.pid) or {})
            subject = is_subject(argv, self._reader.exe(process.pid))
            name = "opencode" if subject else (Path(argv[0]).name if argv else "unknown")
            role = self._found[process] = f"{name}-{process.pid}"
            inner_pid = self.inner.learn(process)
        self._history.append(
            ProcessFound(
                at_ns=now_ns(),
                id=process,
                role=role,
                argv=argv,
                parent_pid=parent_pid,
                is_subject=subject,
                inner_pid=inner_pid,
                obligation=_obligation(argv) if subject else "",
                fail_fast_s=self._limits[0],
                deadline_s=self._limits[1],
            )
        )


def _obligation(argv: tuple[str, ...]) -> str:
    """What an opencode that a wrapper started owes, by its subcommand; global options may stand before it."""
    return next((OWES[word] for word in argv[1:] if word in OWES), "")
