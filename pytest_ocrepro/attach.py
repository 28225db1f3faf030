"""From opencode processes that run already to a bundle: found, looked at several times, judged, published.

Read-only: nothing is signalled or traced, the database is only copied. :class:`Attachment` is to foreign processes
what harness' Trial is to a scenario's own; nothing is declared of them, so a verdict needs either a reason to believe
that it will not end (a cycle, a dead holder) or ``deadline_s`` without a visible step.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from pytest_ocrepro.events import (
    DatabaseRead,
    Expectation,
    MilestoneReached,
    ProgressSeen,
    SnapshotTaken,
    TrialStarted,
)
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.intrusion import intrude
from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement, Verdict
from pytest_ocrepro.judge.serving import OWES_NOTHING
from pytest_ocrepro.judge.verdict import judge, judge_process, last_progress
from pytest_ocrepro.observe.database import read_database
from pytest_ocrepro.observe.deputy import Deputy
from pytest_ocrepro.observe.logs import rank, written_at
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.sampler import Observed, Sampler
from pytest_ocrepro.publish.credentials import Gate
from pytest_ocrepro.publish.redaction import Rule
from pytest_ocrepro.readings import DatabaseReading, LogLine, Snapshot
from pytest_ocrepro.strangers import Stranger, Strangers

DEADLINE_S = 120.0  # twice what makes an unattended lock stale, and more than any silence of a healthy turn measured
LOOKS_S = (0.0, 0.75, 1.5, 2.25)  # pauses before each look
STILL_LOOKS_S = (2.5, 2.5, 2.5)  # more of them while connections wait in a backlog
COPY_LIMIT_BYTES = 512 << 20
SESSION = re.compile(r"\bses_\w+")
MOVES_S = 2.0  # a step so short a time ago says that it goes on


class Attachment:
    """Opencode processes of this machine, looked at until somebody is done with them. Use as a context manager.

    ``steps`` are last steps that an earlier look at the same processes saw, by (pid, start).
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        reader: Reader | None = None,
        deadline_s: float = DEADLINE_S,
        copy_limit_bytes: int = COPY_LIMIT_BYTES,
        steps: Mapping[tuple[int, int], tuple[int, str]] | None = None,
        version: str = "",
        rules: Sequence[Rule] = (),
    ) -> None:
        self.reader = reader or Reader()
        self.gate = Gate(rules)
        self.history = History(gate=self.gate)
        self.strangers = Strangers(self.reader, self.history, introduce=self.gate.introduce, deadline_s=deadline_s)
        self._deadline_s = deadline_s
        self._copy_limit_bytes = copy_limit_bytes
        self._steps = dict(steps or {})
        self._deputy_process: subprocess.Popen[bytes] | None = None
        self._deputy = Deputy(self._start_deputy)
        self.sampler = Sampler(self.strangers, self.history, self.reader, deputy=self._deputy)
        self._read: set[Path] = set()
        self._frame(pids, version)
        self.take_in(pids, wanted=True)

    def __enter__(self) -> Self:
        self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more: what is judged after this is judged by all that there is. May be called twice."""
        self.sampler.stop()
        self.history.pass_again()  # the sampler may have said something while the gate learned
        self._deputy.close()
        if self._deputy_process is not None:  # its input is closed: it ends by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._deputy_process.wait(2.0)

    # -- looking

    def take_in(self, pids: Iterable[int], *, wanted: bool = False) -> list[Stranger]:
        """Look at these from now on; what they have done so far is told at the instants when they did it."""
        found = [one for pid in pids if (one := self.strangers.take_in(pid, wanted=wanted)) is not None]
        told = self.sampler.acquaint([_observed(one) for one in found])
        for path in self.strangers.databases():
            self._read_database(path)
        for one in found:
            self._tell_the_past(one, told.get(one.id, ()))
        if found:
            self.history.pass_again()  # what was said before they were known may hold their secrets
        return found

    def look(self) -> Snapshot:
        """A full snapshot; whoever it shows to have to do with these is in the next one."""
        self.take_in(self.strangers.siblings())
        self.take_in(
            self.strangers.children()
        )  # before: one that is only noticed now would look like one that is new
        snapshot = self.sampler.snapshot()
        self.take_in(self.strangers.company(snapshot))
        self.strangers.note_the_gone()
        scope = self.reader.ptrace_scope()
        if scope and any(": syscall: " in line for line in snapshot.missing):
            why = (
                "lets only their ancestors read system calls"
                if scope == 1
                else "lets nobody but root read system calls"
            )
            self.strangers.note(f"Yama (kernel.yama.ptrace_scope is {scope}) {why}: run this as root to see them")
        return snapshot

    def look_for_a_while(self, *, stop: threading.Event) -> None:
        """Several looks a few seconds apart, more of them while a server accepts nobody."""
        for pause_s in LOOKS_S:
            if stop.wait(pause_s):
                return
            snapshot = self.look()
        for pause_s in STILL_LOOKS_S:
            if not self._somebody_queues(snapshot) or stop.wait(pause_s):
                return
            snapshot = self.look()

    def _somebody_queues(self, snapshot: Snapshot) -> bool:
        servers = {one.id.pid for one in self.owing() if one.obligation == "serve"}
        return any(one.pid in servers and one.state == "LISTEN" and one.rx_queue_bytes for one in snapshot.sockets)

    # -- judging

    def owing(self) -> list[Stranger]:
        """Those that owe something: the ones that were asked for, and the opencodes that have to do with them."""
        return [one for one in self.strangers.members if one.obligation]

    def judged(self) -> dict[Stranger, ProcessJudgement]:
        """What they are called now: who hangs first, of these who was asked for, then the longest chain."""
        found = {one: judge_process(self.history, one.id.pid) for one in self.owing()}
        ranked = sorted(found, key=lambda one: (not hangs(found[one]), not one.wanted, -len(found[one].chain)))
        return {one: found[one] for one in ranked}

    def demand(self) -> None:
        """Write down what is demanded of healthy ones: they go on, and no lock is left behind by a dead holder."""
        for one, process in self.judged().items():
            self.history.append(
                Expectation(
                    at_ns=now_ns(),
                    claim=f"{one.role} goes on",
                    held=self.goes_on(one, process),
                    because=f"{process.verdict} ({process.grade}): {'; '.join(process.because)}",
                    role=one.role,
                )
            )
        for event in self.history.of_type(SnapshotTaken)[-1:]:
            for lock in event.snapshot.lock_directories:
                if lock.holder_alive is False:
                    name, left_s = lock.key or lock.path, max(0.0, lock.stale_in_s or 0.0)
                    who = f"left by pid {lock.holder_pid}, which is gone"
                    self.history.append(
                        Expectation(
                            at_ns=now_ns(),
                            claim="no lock directory is left behind",
                            held=False,
                            because=f"{name}: {who}; the next waiter may break it in about {left_s:.0f} s",
                            finding="stale-lock-directory",
                        )
                    )

    def intrude(self, one: Stranger, core: Path | None) -> None:
        """The intrusive step on one of them; see intrusion."""
        intrude(self.history, one.id.pid, one.role, core=core)

    def judge(self) -> Judgement:
        """The whole, with the demands as they were written down."""
        return judge(self.history)

    def steps(self) -> dict[tuple[int, int], tuple[int, str]]:
        """The last visible step of each, for a later attachment."""
        now = now_ns()
        return {
            (one.id.pid, one.id.start_ticks): last_progress(self.history, one.id.pid, now)
            for one in self.strangers.members
        }

    def goes_on(self, one: Stranger, process: ProcessJudgement) -> bool | None:
        """Whether it is seen to; None: that cannot be told."""
        if hangs(process):
            return False
        if one.id in self.strangers.gone:
            return True
        if process.verdict is not Verdict.ALIVE:
            return None
        if one.obligation == "serve":
            return any(OWES_NOTHING in fact for fact in process.because) or None
        return now_ns() - last_progress(self.history, one.id.pid, now_ns())[0] < MOVES_S * 1e9 or None

    # -- the past

    def _frame(self, pids: Sequence[int], version: str) -> None:
        """Time zero is the start of the oldest of them."""
        ages = [self.reader.age_s(found) for pid in pids if (found := self.reader.identify(pid)) is not None]
        age_s = max(ages, default=0.0)
        self.history.append(
            TrialStarted(
                at_ns=max(0, now_ns() - round(age_s * 1e9)),
                scenario="dump",
                version=version,
                trial=1,
                seed=0,
                wall=(datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="milliseconds"),
                boot_id=self.reader.boot_id(),
                python=platform.python_version(),
                kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
                cpus=os.cpu_count() or 0,
                load_average=os.getloadavg()[0],
            )
        )

    def _tell_the_past(self, one: Stranger, lines: Sequence[LogLine]) -> None:
        if not one.is_subject:
            return
        begun_ns = max(0, now_ns() - round(self.reader.age_s(one.id) * 1e9))
        for line in lines[:-1]:
            self.history.append(
                MilestoneReached(
                    at_ns=self._instant(written_at(line.text), begun_ns),
                    pid=one.id.pid,
                    role=one.role,
                    milestone=line.milestone,
                    source="log",
                    line=line.text,
                )
            )
        at_ns, what = max(self._last_steps(one, lines, begun_ns))
        self.history.append(ProgressSeen(at_ns=at_ns, pid=one.id.pid, role=one.role, what=what))

    def _last_steps(self, one: Stranger, lines: Sequence[LogLine], begun_ns: int) -> list[tuple[int, str]]:
        """What is known of when it last did something; of one whose log is not known, only that we look now."""
        found = [known] if (known := self._steps.get((one.id.pid, one.id.start_ticks))) else []
        written = written_at(lines[-1].text) if lines else None
        if written is None:
            return [*found, (now_ns(), "our first look; what it did before is not known")]
        found.append((self._instant(written, begun_ns), "its last log line"))
        if any(rank(line.milestone) >= rank("session-created") for line in lines):
            found.append(self._stored_step(one, lines, begun_ns))
        return found

    def _stored_step(self, one: Stranger, lines: Sequence[LogLine], begun_ns: int) -> tuple[int, str]:
        """A turn moves in the database while its log is silent."""
        sessions = {session for line in lines for session in SESSION.findall(line.text)}
        paths = {self.gate(str(path)) for path in one.databases}
        readings = [event.reading for event in self.history.of_type(DatabaseRead) if event.reading.path in paths]
        touched = [touch for reading in readings if reading.readable for touch in reading.touched]
        if not touched:
            return now_ns(), "our first look; what it stored before is not known"
        mine = [at for session, at in touched if session in sessions]
        return self._instant(max(mine or [at for _, at in touched]), begun_ns), "its last stored part"

    def _instant(self, wall_s: float | None, begun_ns: int) -> int:
        """On our clock; never before the process began, nor in the future."""
        now = now_ns()
        return begun_ns if wall_s is None else min(now, max(begun_ns, now - round((time.time() - wall_s) * 1e9)))

    def _read_database(self, path: Path) -> None:
        if path in self._read:
            return
        self._read.add(path)
        why = self._too_large(path)
        if why:
            reading = DatabaseReading(path=str(path), size_bytes=0, wal_bytes=0, readable=False, error=why)
        else:
            with tempfile.TemporaryDirectory(prefix="ocrepro-dump-") as scratch:  # readable by us alone
                reading = read_database(path, Path(scratch), self.history.excerpt, copy=self._deputy.copy)
        self.history.append(DatabaseRead(at_ns=now_ns(), when="when we attached", reading=reading))
        if reading.error:
            self.strangers.note(f"{path}: {reading.error}")

    def _too_large(self, path: Path) -> str:
        """Why it is not copied; "" where it may be."""
        try:
            files = [
                found for suffix in ("", "-wal", "-shm", "-journal") if (found := Path(f"{path}{suffix}")).exists()
            ]
            if not all(file.is_file() for file in files):
                return "not copied: it is no file"
            size = sum(file.stat().st_size for file in files)
            free = os.statvfs(tempfile.gettempdir())
        except OSError as error:
            return f"not copied: {error.strerror or error}"
        if size > self._copy_limit_bytes:
            return f"not copied: {size} bytes, more than the limit of {self._copy_limit_bytes}"
        return (
            ""
            if size < free.f_bavail * free.f_frsize
            else f"not copied: {size} bytes do not fit the temporary directory"
        )

    def _start_deputy(self, argv: list[str], stdin: int, stdout: int) -> None:
        self._deputy_process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, env={}, start_new_session=True)


def _observed(one: Stranger) -> Observed:
    return Observed(id=one.id, role=one.role, is_subject=one.is_subject, outputs=one.outputs, shared=True)


def hangs(process: ProcessJudgement) -> bool:
    """It will not go on by itself: one of the four ways to hang, or it waits for input that nobody gives."""
    return process.verdict.hung or process.verdict is Verdict.WAITING_FOR_INPUT
