"""What is deliberately broken: a lock holder, a signal at a trigger. Each is injected, healed, and in the history."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from pytest_ocrepro.errors import LackingError, NotReachedError, OcreproError, UsageError
from pytest_ocrepro.events import (
    FaultHealed,
    FaultInjected,
    MilestoneReached,
    ProcessFound,
    ProviderRequest,
    RegistryRequest,
    Trouble,
)
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.observe.regular import open_regular
from pytest_ocrepro.stage.process import OpenPipe, Process, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

LOCK_MODES = ("IMMEDIATE", "EXCLUSIVE")
LET_GO_S = 10.0
JOIN_S = 5.0

# Runs in a process of its own: closing any descriptor of a database drops all POSIX locks that the process has on it.
HOLDER = """
import pathlib, sqlite3, sys
database, mode = sys.argv[1:]
existing = pathlib.Path(database).absolute().as_uri() + "?mode=rw"
connection = sqlite3.connect(existing, timeout=5, isolation_level=None, uri=True)
if mode == "EXCLUSIVE":
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN " + mode)
if mode == "EXCLUSIVE":
    connection.execute("CREATE TABLE IF NOT EXISTS ocrepro_lock (held INTEGER)")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


class Fault(Protocol):
    """Something to break and to mend; used as a context manager, so that it is mended whatever happens."""

    def inject(self) -> None:
        """Break it, and return when it is broken."""

    def heal(self) -> None:
        """Mend it."""

    def __enter__(self) -> Self:
        """Inject."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Heal."""


class Spawner(Protocol):
    """The harness' way to start a helper in the sandbox."""

    def __call__(self, role: str, argv: list[str], stdin: OpenPipe) -> Process:
        """Start a program that owes nothing and is no subject."""


class DatabaseLock:
    """Another process holds SQLite's write lock. ``mode`` is IMMEDIATE or EXCLUSIVE. Raises UsageError."""

    def __init__(self, database: Path, mode: str, *, spawn: Spawner, history: History) -> None:
        if mode not in LOCK_MODES:
            raise UsageError(f"no lock mode {mode!r}; use one of {', '.join(LOCK_MODES)}")
        self._database = database
        self._mode = mode
        self._spawn = spawn
        self._history = history
        self._stdin = OpenPipe()
        self.holder: Process | None = None
        self._held = False

    def inject(self) -> None:
        """Start the holder and wait until it has the lock. Raises NotReachedError, and then nothing is left of it."""
        if not self._database.exists():
            raise NotReachedError(f"no database {self._database} to lock; let a run make it first")
        argv = [sys.executable, "-I", "-c", HOLDER, str(self._database), self._mode]
        holder = self.holder = self._spawn("lock-holder", argv, self._stdin)
        try:
            self._wait_until_held(holder)
        except NotReachedError:
            self._let_go(holder)
            raise
        self._held = True
        self._history.append(
            FaultInjected(
                at_ns=now_ns(),
                fault="database-lock",
                detail=f"pid {holder.pid} holds {self._mode} on {self._database}",
                pid=holder.pid,
                silent_for_good=True,
            )
        )

    def _wait_until_held(self, holder: Process) -> None:
        until(lambda: "held" in holder.output or not holder.alive, timeout_s=15, what="the database lock")
        if not holder.alive:
            said = (holder.output.strip().splitlines() or ["nothing"])[-1]
            raise NotReachedError(f"the lock holder could not take {self._mode} on {self._database}: {said}")

    def heal(self) -> None:
        """Let go of the lock and wait for the holder's end. Safe to call again."""
        if self.holder is None or not self._held:
            return
        self._held = False
        if self.holder.ended_by_itself:
            what = f"the lock holder (pid {self.holder.pid}) ended before it was told to"
            self._history.append(Trouble(at_ns=now_ns(), what=f"{what}: the lock was let go too early; run again"))
        self._let_go(self.holder)
        self._history.append(FaultHealed(at_ns=now_ns(), fault="database-lock"))

    def _let_go(self, holder: Process) -> None:
        self._stdin.close()
        if not holder.wait(LET_GO_S):
            holder.kill()

    def __enter__(self) -> Self:
        """Inject."""
        self.inject()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Heal."""
        self.heal()


class Trigger(Protocol):
    """A moment to act, seen from outside."""

    def describe(self) -> str:
        """For the history."""

    def wait(self, timeout_s: float) -> None:
        """Block until it has come. Raises NotReachedError."""


class AtMilestone:
    """A process reaches a milestone."""

    def __init__(self, history: History, process: Process, milestone: str) -> None:
        self._history, self._process, self._milestone = history, process, milestone

    def describe(self) -> str:
        """For the history."""
        return f"{self._process.role} reaches {self._milestone}"

    def wait(self, timeout_s: float) -> None:
        """Block until it has come. Raises NotReachedError."""

        def reached(history: History) -> bool:
            return any(
                event.pid == self._process.pid and event.milestone == self._milestone
                for event in history.of_type(MilestoneReached)
            )

        if not self._history.wait_for(reached, deadline_ns=now_ns() + int(timeout_s * 1e9)):
            raise NotReachedError(f"{self.describe()}: not within {timeout_s:g} s")


class AtRequest:
    """The model is asked for the nth time (titles do not count)."""

    def __init__(self, history: History, count: int = 1) -> None:
        self._history, self._count = history, count

    def describe(self) -> str:
        """For the history."""
        return f"request {self._count} to the model"

    def wait(self, timeout_s: float) -> None:
        """Block until it has come. Raises NotReachedError."""

        def asked(history: History) -> bool:
            return sum(not event.title for event in history.of_type(ProviderRequest)) >= self._count

        if not self._history.wait_for(asked, deadline_ns=now_ns() + int(timeout_s * 1e9)):
            raise NotReachedError(f"{self.describe()}: not within {timeout_s:g} s")


class AtLockDirectory:
    """A process has taken one of opencode's lock directories.

    Builds up to 1.3.2 have none: a process of their own (``opencode install``) asks the registry, and nothing keeps
    another run from doing the same (measured on 1.2.15, 1.2.27, 1.3.0, 1.3.2).
    """

    def __init__(
        self,
        state: Path,
        process: Process,
        history: History,
        *,
        outer: Callable[[int], int | None] = lambda written: written,
    ) -> None:
        self._state, self._process, self._history, self._outer = state, process, history, outer

    def describe(self) -> str:
        """For the history."""
        return f"{self._process.role} takes a lock directory"

    def wait(self, timeout_s: float) -> None:
        """Block until it has come. Raises NotReachedError; LackingError where this build installs without a lock."""

        def taken() -> bool:
            written = map(_holder, self._state.glob("locks/*.lock/meta.json"))
            return any(pid is not None and self._outer(pid) == self._process.pid for pid in written)

        until(
            lambda: taken() or not self._process.alive or self._installs_beneath(),
            timeout_s=timeout_s,
            what=self.describe(),
            every_s=0.005,
        )
        if self._installs_beneath() and not taken():
            raise LackingError(f"this build takes no install lock: {self._process.role} installs in a child process")
        if not self._process.alive and not taken():
            raise NotReachedError(f"{self.describe()}: it ended with {self._process.exit_code} before")

    def _installs_beneath(self) -> bool:
        """A child of the process has asked the registry."""
        asked = {event.pid for event in self._history.of_type(RegistryRequest)}
        children = (one for one in self._history.of_type(ProcessFound) if one.parent_pid == self._process.pid)
        return any(one.id.pid in asked for one in children)


def _holder(meta: Path) -> int | None:
    """The pid in the ``meta.json`` of a lock directory; None: gone, or half written."""
    try:
        with open_regular(meta) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return pid if isinstance(pid, int) else None


class SignalAt:
    """Suspend or kill a process when a trigger comes, in a thread of its own.

    Heal resumes what was suspended, and calls off what has not been sent yet. ``resume_after_s``: it heals itself so
    long after a suspension; None: it does not.
    """

    def __init__(
        self,
        process: Process,
        number: signal.Signals,
        trigger: Trigger,
        *,
        history: History,
        timeout_s: float = 30.0,
        resume_after_s: float | None = None,
    ) -> None:
        self._process, self._number, self._trigger = process, number, trigger
        self._history = history
        self._timeout_s = timeout_s
        self._failure: OcreproError | None = None
        self._sent = False
        self._over = False
        self._healed = threading.Event()
        self._resume_after_s = resume_after_s
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ocrepro-trigger", daemon=True)

    def inject(self) -> None:
        """Start to watch for the trigger; :meth:`wait` tells when the signal was sent."""
        self._thread.start()

    def wait(self) -> None:
        """Block until the signal was sent. Raises NotReachedError when the trigger never came."""
        self._thread.join(self._timeout_s + JOIN_S)
        if self._failure is not None:
            raise self._failure
        if not self._sent:
            raise NotReachedError(f"{self._name} was not sent: {self._trigger.describe()} was not seen")

    def heal(self) -> None:
        """Resume what was suspended; safe to call again."""
        with self._lock:
            first, self._over = not self._over, True
        self._healed.set()
        if first and self._sent and self._number is signal.SIGSTOP:
            if self._process.alive:
                self._process.resume()
            self._history.append(FaultHealed(at_ns=now_ns(), fault=self._name))

    def suspends_for_good(self, process: Process) -> bool:
        """It has, and nothing but :meth:`heal` resumes it."""
        stopped = self._sent and self._number is signal.SIGSTOP and not self._over
        return stopped and process is self._process and self._resume_after_s is None

    @property
    def _name(self) -> str:
        return f"{self._number.name} to {self._process.role}"

    def _run(self) -> None:
        try:
            self._trigger.wait(self._timeout_s)
            with self._lock:  # so that nothing is suspended after it was healed
                if self._over:
                    return
                self._sent = self._process.suspend() if self._number is signal.SIGSTOP else self._process.kill()
        except OcreproError as failure:
            self._failure = failure
            return
        if not self._sent:
            self._failure = NotReachedError(f"{self._name}: it had ended when {self._trigger.describe()}")
            return
        self._history.append(
            FaultInjected(
                at_ns=now_ns(),
                fault=self._name,
                detail=f"when {self._trigger.describe()}",
                pid=self._process.pid,
                silent_for_good=self._resume_after_s is None,
            )
        )
        if self._resume_after_s is not None:
            self._healed.wait(self._resume_after_s)
            self.heal()

    def __enter__(self) -> Self:
        """Inject."""
        self.inject()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Heal."""
        self.heal()
