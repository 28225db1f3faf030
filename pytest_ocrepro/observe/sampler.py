"""Looks at the world again and again: cheap samples four times a second, full snapshots when asked."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, Protocol

from pytest_ocrepro.events import (
    Event,
    LightSample,
    MilestoneReached,
    ObservingCost,
    ProgressSeen,
    SnapshotTaken,
    Trouble,
)
from pytest_ocrepro.history import now_ns
from pytest_ocrepro.observe.deputy import Deputy, DeputyError
from pytest_ocrepro.observe.inner_pids import InnerPids
from pytest_ocrepro.observe.lock_history import LockHistory
from pytest_ocrepro.observe.locks import lock_directories, probe
from pytest_ocrepro.observe.logs import LogTailer
from pytest_ocrepro.observe.tables import look_at_tables
from pytest_ocrepro.observe.wal_index import HEADER_BYTES, parse_wal_index
from pytest_ocrepro.readings import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_ocrepro.history import History
    from pytest_ocrepro.observe.readers import ProcessReader
    from pytest_ocrepro.readings import FileLock, LogLine, ProcessId, ProcessReading, WalIndex

_FORK_TO_EXEC_S: Final = 1.0  # a child this young with its parent's command line has not begun its own program
_STOP_TIMEOUT_S: Final = 5.0
_HEADER_TRIES: Final = 3
_MOST_FDS: Final = 8192  # of all processes in one look: each costs 0.03 ms
_THOROUGH_EVERY: Final = 8  # light samples; the others look for young processes alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One process to look at; ``outputs``: the files that it prints into, and others perhaps too where ``shared``."""

    id: ProcessId
    role: str
    is_subject: bool = True
    outputs: tuple[Path, ...] = ()
    shared: bool = False


class World(Protocol):
    """What the sampler looks at; every method may be called from any thread, and often."""

    def processes(self) -> Sequence[Observed]:
        """All processes of the trial that we started or adopted; dead ones may stay in."""

    def log_dirs(self) -> Sequence[Path]:
        """Folders of opencode's ``*.log`` files."""

    def state_dirs(self) -> Sequence[Path]:
        """Values of XDG_STATE_HOME."""

    def databases(self) -> Sequence[Path]:
        """Paths of opencode.db; they need not exist."""

    def lock_keys(self) -> Sequence[str]:
        """Keys that a lock directory may be named for."""

    def marker(self) -> tuple[str, str]:
        """Name ("": none) and value (``*`` at its end: prefix) of the environment variable that marks the trial."""

    def adopt(self, process: ProcessId, argv: tuple[str, ...], parent_pid: int) -> None:
        """A process that carries the marker and is not among ``processes``; told once.

        It may be one that you have just started and not yet listed: take it for what it is.
        """

    def harness_pids(self) -> Sequence[int]:
        """Our own processes: never adopted, and a peer of the subject's sockets."""


def is_subject(argv: Sequence[str], exe: str | None = None) -> bool:
    """Whether a found process is an opencode, by the name it was called by or its executable's."""
    called = PurePath(argv[0]).name if argv else ""
    return called.startswith("opencode") or PurePath(exe or "").name.startswith("opencode")


class Sampler:
    """Reads the world into the history. ``light`` and ``snapshot`` may be called from any thread.

    No history or world method is called while the sampler's own lock is held, so both may lock as they like. Without
    a ``deputy`` nobody can be asked for the holders of a database's locks, and snapshots say so. ``inner``: where the
    processes have other pids for themselves than for us.
    """

    def __init__(
        self,
        world: World,
        history: History,
        reader: ProcessReader,
        *,
        deputy: Deputy | None = None,
        inner: InnerPids | None = None,
        period_s: float = 0.25,
    ) -> None:
        self._deputy = deputy
        self._world = world
        self._history = history
        self._reader = reader
        self._period_s = period_s
        self._tailer = LogTailer(reader, excerpt=history.excerpt)
        self._inner = inner or InnerPids(reader)
        self._holders = LockHistory(reader, self._inner)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._adopted: set[ProcessId] = set()
        self._sizes: dict[tuple[ProcessId, str], int] = {}
        self._written: dict[ProcessId, int | None] = {}
        self._milestones: dict[ProcessId, set[str]] = {}
        self._troubles: set[str] = set()
        self._looks = self._snapshots = 0
        self._cpu_ns = self._snapshots_cpu_ns = 0
        self._begun_ns: int | None = None

    def start(self) -> None:
        """Take a light sample every ``period_s`` from now on, in a thread of our own."""
        self._begun_ns = now_ns()
        self._thread = threading.Thread(target=self._run, name="ocrepro-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and tell what looking has cost; a sample that is being taken is waited for (5 s at most)."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._tell(f"the sampler did not end within {_STOP_TIMEOUT_S:.0f} s; a file of proc(5) may hang")
                return
        with self._lock:
            self._holders.close()
        self._tell_cost()

    def acquaint(self, observed: Sequence[Observed]) -> dict[ProcessId, tuple[LogLine, ...]]:
        """Take what these have logged and printed so far as known, so that it is not told as progress of now.

        Returns, of those whose log is known, the first line of each milestone and after these the last line.
        """
        log_dirs = self._world.log_dirs()
        told: dict[ProcessId, tuple[LogLine, ...]] = {}
        with self._lock:
            self._tailer.update(log_dirs, [one.id.pid for one in observed if one.is_subject])
            for one in observed:
                deque(self._changes(one), maxlen=0)
                last = self._tailer.last(one.id.pid) if one.is_subject else None
                if last is not None:
                    told[one.id] = (*self._tailer.reached(one.id.pid), last)
        return told

    def light(self) -> LightSample:
        """One cheap look: a LightSample, and an event for each change of progress, milestone or lock directory.

        Progress is more log, more output or a new milestone; CPU time is not.
        """
        begun_ns, cpu_ns = now_ns(), time.thread_time_ns()
        self._looks += 1
        self._discover(thorough=self._looks % _THOROUGH_EVERY == 1)
        observed, log_dirs = self._world.processes(), self._world.log_dirs()
        state_dirs, lock_keys = self._world.state_dirs(), self._world.lock_keys()
        with self._lock:
            self._tailer.update(log_dirs, [one.id.pid for one in observed if one.is_subject])
            rows = [row for one in observed if (row := self._row(one)) is not None]
            changes = [event for one in observed for event in self._changes(one)]
            changes += self._holders.look(state_dirs, lock_keys)
        sample = LightSample(at_ns=begun_ns, rows=tuple(rows), cost_ns=now_ns() - begun_ns)
        for event in (sample, *changes):
            self._history.append(event)
        self._spend(time.thread_time_ns() - cpu_ns)
        return sample

    def snapshot(self, *, full: bool = True) -> Snapshot:
        """All readings of one instant, appended as SnapshotTaken; ``full=False`` leaves out threads and fds.

        Its cost is ``ended_ns - started_ns``. What could not be read is in ``missing``, one line each.
        """
        cpu_ns = time.thread_time_ns()
        self._discover(thorough=True)
        places = _Places.of(self._world)
        with self._lock:
            self._snapshots += 1
            snapshot = self._look(self._snapshots, places, full=full)
            changes = [event for one in places.observed for event in self._changes(one)]
        for event in (SnapshotTaken(at_ns=snapshot.started_ns, snapshot=snapshot), *changes):
            self._history.append(event)
        self._spend(time.thread_time_ns() - cpu_ns, snapshot=True)
        return snapshot

    def cost(self) -> ObservingCost:
        """What looking has cost since ``start``; ``stop`` puts the last one into the history."""
        at_ns = now_ns()
        deputy_ns = self._deputy.cpu_ns if self._deputy else 0
        with self._lock:
            return ObservingCost(
                at_ns=at_ns,
                samples=self._looks,
                snapshots=self._snapshots,
                cpu_ns=self._cpu_ns + deputy_ns,
                deputy_cpu_ns=deputy_ns,
                snapshots_cpu_ns=self._snapshots_cpu_ns,
                seconds=round((at_ns - (self._begun_ns or at_ns)) / 1e9, 3),
            )

    # --- below: how

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.light()
            except Exception as error:  # noqa: BLE001 a sampler that dies unseen would make every process look hung
                self._tell(f"a light sample failed: {type(error).__name__}: {error}")

    def _tell(self, what: str) -> None:
        if what not in self._troubles:
            self._troubles.add(what)
            self._history.append(Trouble(at_ns=now_ns(), what=what))

    def _spend(self, cpu_ns: int, *, snapshot: bool = False) -> None:
        """Added up under the lock: snapshots are taken from several threads."""
        with self._lock:
            self._cpu_ns += cpu_ns
            self._snapshots_cpu_ns += cpu_ns if snapshot else 0

    def _tell_cost(self) -> None:
        if self._begun_ns is not None:
            self._history.append(self.cost())
            self._begun_ns = None

    def _discover(self, *, thorough: bool) -> None:
        name, value = self._world.marker()
        if not name:
            return
        known = {one.id for one in self._world.processes()}
        known_pids = set(self._world.harness_pids())
        marked = self._reader.marked(name, value, known=known) if thorough else self._reader.newly_marked(name, value)
        for process in marked:
            if process in known or process.pid in known_pids or self._listed(process):
                continue
            with self._lock:
                adoptable = process not in self._adopted and not self._before_exec(process)
                self._adopted.update([process] if adoptable else [])
            parent_pid, argv = self._reader.parent(process.pid), self._reader.argv(process.pid)
            if adoptable and parent_pid is not None:
                self._world.adopt(process, argv or (), parent_pid)

    def _listed(self, process: ProcessId) -> bool:
        """Asked again, since it may have been started and listed while we looked."""
        return process not in self._adopted and process in {one.id for one in self._world.processes()}

    def _before_exec(self, process: ProcessId) -> bool:
        parent_pid = self._reader.parent(process.pid)
        if parent_pid is None or self._reader.age_s(process) > _FORK_TO_EXEC_S:
            return False
        return self._reader.argv(process.pid) == self._reader.argv(parent_pid)

    def _read(self, one: Observed, missing: list[str], *, full: bool) -> ProcessReading | None:
        reading = self._reader.read_process(
            one.id.pid, role=one.role, is_subject=one.is_subject, full=full, missing=missing
        )
        recycled = reading is not None and reading.id.start_ticks != one.id.start_ticks
        return None if recycled or reading is None else self._inner.outward(reading)

    def _read_all(
        self, observed: Iterable[Observed], missing: list[str], *, full: bool
    ) -> Iterator[ProcessReading | None]:
        """All of them; in full only as long as they have not more descriptors together than a short look can read."""
        left, cursory = _MOST_FDS, 0
        for one in observed:
            cursory += full and left <= 0
            reading = self._read(one, missing, full=full and left > 0)
            left -= len(reading.fds) if reading is not None else 0
            yield reading
        if cursory:
            missing.append(f"{cursory} processes were not read in full: others have {_MOST_FDS - left} files open")

    def _row(self, one: Observed) -> tuple[int, int, int, int, int, str] | None:
        reading = self._read(one, [], full=False)
        if reading is None:
            return None
        wakeups = reading.threads[0].voluntary_switches or 0
        log_bytes = self._tailer.log_bytes(one.id.pid)
        return one.id.pid, reading.cpu_ns, wakeups, _size(one.outputs), log_bytes, reading.state

    def _changes(self, one: Observed) -> Iterable[Event]:
        sizes = {"output": _size(one.outputs)}
        if one.is_subject:
            sizes["log"] = self._tailer.log_bytes(one.id.pid)
        for what, size in sizes.items():
            grown = size - self._sizes.get((one.id, what), 0)
            self._sizes[one.id, what] = size
            if grown > 0 and (what != "output" or not one.shared or self._wrote(one.id, grown)):
                yield ProgressSeen(at_ns=now_ns(), pid=one.id.pid, role=one.role, what=f"{what} +{grown} bytes")
        if one.is_subject:
            yield from self._new_milestones(one)

    def _wrote(self, process: ProcessId, grown: int) -> bool:
        """Whether it has written as much itself since the output grew last; so it is held where that is not known."""
        before, now = self._written.get(process), self._reader.written_bytes(process.pid)
        self._written[process] = now
        return before is None or now is None or now - before >= grown

    def _new_milestones(self, one: Observed) -> Iterable[Event]:
        told = self._milestones.setdefault(one.id, set())
        for line in self._tailer.reached(one.id.pid):
            if line.milestone not in told:
                told.add(line.milestone)
                yield MilestoneReached(
                    at_ns=now_ns(),
                    pid=one.id.pid,
                    role=one.role,
                    milestone=line.milestone,
                    source="log",
                    line=line.text,
                )

    def _look(self, number: int, places: _Places, *, full: bool) -> Snapshot:
        started_ns = now_ns()
        boottime_ns = self._reader.boottime_ns()
        missing: list[str] = [self._holders.error] if self._holders.error else []
        readings = list(self._read_all(places.observed, missing, full=full))
        processes = tuple(reading for reading in readings if reading is not None)
        tables = look_at_tables(self._reader, processes, places.harness_pids, missing) if full else None
        return Snapshot(
            number=number,
            started_ns=started_ns,
            boottime_ns=boottime_ns,
            full=full,
            processes=processes,
            sockets=tables.sockets if tables else (),
            unix_sockets=tables.unix_sockets if tables else (),
            locks=self._locks(tables.locks, places.databases, missing) if tables else (),
            wal_indexes=self._wal_indexes(places.databases, missing) if full else (),
            lock_directories=lock_directories(
                places.state_dirs,
                key_candidates=places.lock_keys,
                reader=self._reader,
                now_wall=time.time(),
                inner=self._inner,
            ),
            logs=self._tailer.poll(places.log_dirs, [one.id.pid for one in places.observed if one.is_subject]),
            missing=tuple(missing),
            ended_ns=now_ns(),
        )

    def _locks(
        self, found: tuple[FileLock, ...], databases: Sequence[Path], missing: list[str]
    ) -> tuple[FileLock, ...]:
        seen = {(lock.path, lock.start, lock.end, lock.pid) for lock in found}
        asked = (lock for path in databases for lock in self._asked(path, missing))
        return (*found, *(one for one in asked if (one.path, one.start, one.end, one.pid) not in seen))

    def _wal_indexes(self, databases: Sequence[Path], missing: list[str]) -> tuple[WalIndex, ...]:
        found = (self._wal_index(path, missing) for path in databases)
        return tuple(index for index in found if index is not None)

    def _asked(self, database: Path, missing: list[str]) -> tuple[FileLock, ...]:
        """An answer that does not come in time is unknown, and told."""
        try:
            return probe(database, self._deputed().conflicts)
        except (OSError, DeputyError) as error:
            missing.append(f"{database}: F_GETLK: {_why(error)}")
            return ()

    def _wal_index(self, database: Path, missing: list[str]) -> WalIndex | None:
        """The header of its -shm; read again while it is being written."""
        index = None
        try:
            for _ in range(_HEADER_TRIES):
                index = parse_wal_index(self._deputed().head(Path(f"{database}-shm"), HEADER_BYTES), str(database))
                if index is None or not index.torn:
                    break
        except (FileNotFoundError, DeputyError):  # a silent deputy was told when it was asked for the locks
            return None
        except OSError as error:
            missing.append(f"{database}-shm: {_why(error)}")
        return index

    def _deputed(self) -> Deputy:
        if self._deputy is None:
            raise DeputyError("nobody to ask")
        return self._deputy


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """What the world says before the sampler takes its lock."""

    observed: Sequence[Observed]
    log_dirs: Sequence[Path]
    state_dirs: Sequence[Path]
    databases: Sequence[Path]
    lock_keys: Sequence[str]
    harness_pids: Sequence[int]

    @classmethod
    def of(cls, world: World) -> _Places:
        return cls(
            observed=world.processes(),
            log_dirs=world.log_dirs(),
            state_dirs=world.state_dirs(),
            databases=world.databases(),
            lock_keys=world.lock_keys(),
            harness_pids=world.harness_pids(),
        )


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
