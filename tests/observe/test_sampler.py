from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from pytest_ocrepro.events import (
    Event,
    LightSample,
    LockDirectoryChanged,
    MilestoneReached,
    ObservingCost,
    ProgressSeen,
    SnapshotTaken,
    Trouble,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.checkpoint import pins, told
from pytest_ocrepro.observe.deputy import Deputy
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.observe.sampler import Observed, Sampler, World, is_subject
from pytest_ocrepro.readings import ProcessId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

E = TypeVar("E", bound=Event)

STAND_IN = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print('ready', flush=True)
for line in sys.stdin:
    what, _, rest = line.strip().partition(' ')
    if what == 'log': os.write(log, rest.encode() + b'\\n')
    if what == 'burn': sum(range(5_000_000))
    if what == 'connect':
        import socket; client = socket.create_connection(('127.0.0.1', int(rest)))
    print('done', flush=True)
"""
SQLITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('PRAGMA journal_mode=WAL'); connection.execute('CREATE TABLE t(x)')
connection.execute('BEGIN IMMEDIATE')
print('ready', flush=True); sys.stdin.read()
"""


class Room:
    """A small world: what the harness would tell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.observed: list[Observed] = []
        self.adopted: list[tuple[ProcessId, tuple[str, ...], int]] = []
        self.ours: tuple[int, ...] = ()
        self.broken: Exception | None = None
        self.raised = 0
        self.mark = f"{root.name}-{os.getpid()}"
        self.logs = root / "data" / "opencode" / "log"
        self.logs.mkdir(parents=True)

    def processes(self) -> Sequence[Observed]:
        if self.broken:
            self.raised += 1
            raise self.broken
        return tuple(self.observed)

    def log_dirs(self) -> Sequence[Path]:
        return [self.logs]

    def state_dirs(self) -> Sequence[Path]:
        return [self.root / "state"]

    def databases(self) -> Sequence[Path]:
        return [self.root / "data" / "opencode" / "opencode.db"]

    def lock_keys(self) -> Sequence[str]:
        return ["npm-install:/p"]

    def marker(self) -> tuple[str, str]:
        return "OCREPRO_TEST", self.mark

    def adopt(self, process: ProcessId, argv: tuple[str, ...], parent_pid: int) -> None:
        self.adopted.append((process, argv, parent_pid))

    def harness_pids(self) -> Sequence[int]:
        return (os.getpid(), *self.ours)

    @contextmanager
    def start(self, code: str, *arguments: str | Path, role: str = "first", listed: bool = True) -> Iterator[Child]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "OCREPRO_TEST": self.mark},
        )
        try:
            child = Child(process)
            output = self.root / f"{role}.out"
            output.touch()
            identity = Reader().identify(process.pid)
            assert identity is not None
            if listed:
                self.observed.append(Observed(id=identity, role=role, outputs=(output,)))
            yield child
        finally:
            process.kill()
            process.communicate()


class Child:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"

    def settle(self) -> None:
        deadline = time.monotonic() + 10
        while Reader().state(self.pid) != "S":
            assert time.monotonic() < deadline, "the stand-in does not come to rest"
            time.sleep(0.001)

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def sampler_of(room: World, history: History, *, period_s: float = 0.25) -> Sampler:
    return Sampler(room, history, Reader(), period_s=period_s)


def kept(history: History, kind: type[E]) -> list[E]:
    return history.of_type(kind)


BOOT = "log timestamp=2026-11-21T00:43:14.128Z level=INFO run=aaaa message=bootstrapping directory=/p"
LOGGED = len(BOOT.removeprefix("log ")) + 1


def test_a_light_sample_has_one_row_a_process(room: Room) -> None:
    history = History()
    with room.start(STAND_IN, room.logs / "opencode.log") as child:
        (room.root / "first.out").write_text("12345")
        child.settle()  # it sleeps, and the next question wakes it
        child.ask(BOOT)
        child.ask("burn")  # CPU time is counted in ticks of 10 ms
        sample = sampler_of(room, history).light()
    ((pid, cpu_ns, wakeups, output_bytes, log_bytes, state),) = sample.rows
    assert (pid, output_bytes, log_bytes) == (child.pid, 5, LOGGED)
    assert state in ("R", "S")
    assert cpu_ns > 0
    assert wakeups > 0
    assert sample.cost_ns > 0
    assert kept(history, LightSample) == [sample]


def test_more_output_and_more_log_are_progress_and_work_is_not(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history)
    with room.start(STAND_IN, room.logs / "opencode.log") as child:
        sampler.light()
        child.ask("burn")
        first = sampler.light()
        assert kept(history, ProgressSeen) == []
        (room.root / "first.out").write_text("12345")
        sampler.light()
        assert [(event.role, event.what) for event in kept(history, ProgressSeen)] == [("first", "output +5 bytes")]
        child.ask(BOOT)
        sampler.light()
        sampler.light()
    assert [event.what for event in kept(history, ProgressSeen)][1:] == [f"log +{LOGGED} bytes"]
    assert [(event.milestone, event.source) for event in kept(history, MilestoneReached)] == [
        ("bootstrapping", "log")
    ]
    assert first.rows[0][1] > 0


def test_what_others_print_into_an_output_that_is_shared_is_no_progress(room: Room) -> None:
    """The log of a job, say: who hangs must not look alive because another one prints."""
    history, out = History(), room.root / "first.out"
    sampler = sampler_of(room, history)
    with room.start(STAND_IN, room.root / "elsewhere") as child:
        room.observed[:] = [dataclasses.replace(one, shared=True) for one in room.observed]
        out.write_text("before we came")
        sampler.acquaint(room.observed)
        with out.open("a") as others:
            others.write("x" * 100)
        sampler.light()
        assert kept(history, ProgressSeen) == []
        child.ask("log " + "y" * 50)  # it writes as much as the output grows
        with out.open("a") as own:
            own.write("y" * 50)
        sampler.light()
    assert [event.what for event in kept(history, ProgressSeen)] == ["output +50 bytes"]


def test_what_was_there_before_we_came_is_no_progress(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history)
    with room.start(STAND_IN, room.logs / "opencode.log") as child:
        (room.root / "first.out").write_text("said long ago")
        child.ask("log timestamp=2026-11-20T23:21:56.100Z level=INFO run=aaaa message=created id=ses_1")
        told = sampler.acquaint(room.observed)
        sampler.light()
        assert kept(history, ProgressSeen) == []
        assert kept(history, MilestoneReached) == []
        child.ask("log timestamp=2026-11-20T23:21:57.100Z level=INFO run=aaaa message=more")
        sampler.light()
        assert [event.what.split(" ")[0] for event in kept(history, ProgressSeen)] == ["log"]
    (lines,) = told.values()
    assert [line.milestone for line in lines[:-1]] == ["session-created"]
    assert lines[-1] == lines[0]


def test_without_a_marker_nobody_is_adopted(room: Room) -> None:
    sampler = sampler_of(room, History())
    with room.start(STAND_IN, room.logs / "opencode.log", listed=False) as child:
        room.marker = lambda: ("", "")  # type: ignore[method-assign]
        sampler.light()
        assert room.adopted == []
        del room.marker
        sampler.light()
        assert [process.pid for process, _, _ in room.adopted] == [child.pid]


def test_a_light_sample_tells_who_takes_and_leaves_a_lock_directory(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history)
    sampler.light()
    lock = room.root / "state" / "opencode" / "locks" / f"{hashlib.sha1(b'npm-install:/p').hexdigest()}.lock"  # noqa: S324
    lock.mkdir(parents=True)
    with room.start(STAND_IN, room.logs / "opencode.log") as child:
        (lock / "meta.json").write_text(f'{{"token": "t", "pid": {child.pid}}}')
        sampler.light()
        sampler.light()
    sampler.light()
    shutil.rmtree(lock)
    sampler.light()
    sampler.stop()
    told = [(event.key, event.how.value) for event in kept(history, LockDirectoryChanged)]
    assert told == [("npm-install:/p", how) for how in ("taken", "left-behind", "removed")]


def test_a_process_that_has_ended_or_was_recycled_has_no_row(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history)
    with room.start(STAND_IN, room.logs / "opencode.log") as child:
        listed = room.observed[0].id
        room.observed[0] = Observed(id=ProcessId(pid=child.pid, start_ticks=listed.start_ticks - 1), role="earlier")
        assert sampler.light().rows == ()
        assert sampler.snapshot().processes == ()
    room.observed[0] = Observed(id=listed, role="gone")
    assert sampler.light().rows == ()
    assert sampler.snapshot().processes == ()


def test_a_marked_process_is_adopted_once(room: Room) -> None:
    sampler = sampler_of(room, History())
    with room.start(STAND_IN, room.logs / "opencode.log", listed=False) as child:
        sampler.light()
        sampler.light()
        sampler.snapshot()
        ((process, argv, parent_pid),) = room.adopted
        assert (process.pid, argv[0], parent_pid) == (child.pid, sys.executable, os.getpid())


def test_our_own_marked_processes_are_never_adopted(room: Room) -> None:
    with room.start(STAND_IN, room.logs / "opencode.log", listed=False) as child:
        room.ours = (child.pid,)
        sampler_of(room, History()).light()
        assert room.adopted == []


def test_a_child_is_adopted_as_what_it_becomes(room: Room) -> None:
    """Between fork and exec a tool's child has the command line of opencode: that is not yet its name."""
    code = (
        "import os, sys, subprocess; r, w = os.pipe(); pid = os.fork()\n"
        "if pid == 0:\n    os.read(r, 1); os.execv('/bin/sleep', ['sleep', '300'])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline(); os.write(w, b'x'); print('done', flush=True)\n"
        "sys.stdin.readline(); os.kill(pid, 9); os.waitpid(pid, 0); print('done', flush=True)\n"
    )
    sampler = sampler_of(room, History())
    with room.start(code) as child:
        sampler.light()
        too_early = list(room.adopted)
        child.ask("exec")
        deadline = time.monotonic() + 10
        while not room.adopted and time.monotonic() < deadline:
            sampler.light()
        child.ask("kill")
    assert all(argv == ("sleep", "300") for _, argv, _ in room.adopted), too_early
    assert len(room.adopted) == 1


def test_a_full_snapshot_has_every_kind_of_reading(room: Room, deputy: Deputy) -> None:
    history = History()
    sampler = Sampler(room, history, Reader(), deputy=deputy)
    locks = room.root / "state" / "opencode" / "locks" / "0a.lock"
    locks.mkdir(parents=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as tarpit,
        room.start(STAND_IN, room.logs / "opencode.log") as child,
        room.start(SQLITE, room.databases()[0], role="outsider", listed=False) as holder,
    ):
        child.ask(BOOT)
        child.ask(f"connect {tarpit.getsockname()[1]}")
        snapshot = sampler.snapshot()
        light = sampler.snapshot(full=False)
    (process,) = snapshot.processes
    assert (process.id.pid, process.role, len(process.threads)) == (child.pid, "first", 1)
    assert {fd.kind.value for fd in process.fds} >= {"pipe", "log", "socket"}
    assert [one.peer_pid for one in snapshot.sockets if one.pid == child.pid] == [os.getpid()]
    assert [(one.name, one.pid, one.source) for one in snapshot.locks if one.access == "WRITE"] == [
        ("WRITE", holder.pid, "F_GETLK")
    ], "a holder that nobody observes is found by asking"
    assert [one.path for one in snapshot.lock_directories] == [str(locks)]
    assert [(tail.pid, tail.milestone) for tail in snapshot.logs] == [(child.pid, "bootstrapping")]
    assert snapshot.started_ns < snapshot.ended_ns
    assert (snapshot.number, light.number) == (1, 2)
    assert (len(light.processes), light.processes[0].fds, light.sockets, light.locks) == (1, (), (), ())
    assert [event.snapshot for event in kept(history, SnapshotTaken)] == [snapshot, light]


def test_a_look_at_very_many_descriptors_stays_short_and_says_so(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process alone has more than a look may read: the second is there, without what is open in it."""
    monkeypatch.setattr("pytest_ocrepro.observe.sampler._MOST_FDS", 2)
    sampler = Sampler(room, History(), Reader())
    with (
        room.start(STAND_IN, room.logs / "opencode.log"),
        room.start(STAND_IN, room.logs / "other.log", role="second") as second,
    ):
        snapshot = sampler.snapshot()
    one, other = snapshot.processes
    assert len(one.fds) > 2
    assert (other.id.pid, other.fds) == (second.pid, ())
    assert f"1 processes were not read in full: others have {len(one.fds)} files open" in snapshot.missing


PINS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('PRAGMA journal_mode=WAL'); connection.execute('PRAGMA wal_autocheckpoint=0')
for statement in sys.argv[2:]: connection.execute(statement).fetchall()
print('ready', flush=True); sys.stdin.read()
"""
INSERTS = ["INSERT INTO t VALUES (1)"] * 9


def test_who_pins_the_checkpoint_is_named(room: Room, deputy: Deputy) -> None:
    sampler = Sampler(room, History(), Reader(), deputy=deputy)
    (database,) = room.databases()
    with (
        room.start(PINS, database, "CREATE TABLE t(x)", role="idle"),
        room.start(PINS, database, "BEGIN", "SELECT * FROM t", role="reader") as reader,
    ):
        (before,) = sampler.snapshot().wal_indexes
        assert pins(before, ()) == ()
        with room.start(PINS, database, *INSERTS, "PRAGMA wal_checkpoint(PASSIVE)", role="writer"):
            snapshot = sampler.snapshot()
    (index,) = snapshot.wal_indexes
    assert (index.path, index.frames - before.frames, index.backfilled) == (str(database), 9, before.frames)
    (pin,) = pins(index, snapshot.locks)
    assert (pin.pid, pin.frame) == (reader.pid, before.frames)
    assert told(index, snapshot.locks).startswith(f"READ{pin.slot} held by pid {reader.pid} pins frame {pin.frame}; ")
    assert sampler.snapshot(full=False).wal_indexes == ()


def test_the_thread_samples_until_it_is_stopped(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history, period_s=0.005)
    sampler.start()
    try:
        deadline_ns = time.monotonic_ns() + 10_000_000_000
        assert history.wait_for(lambda log: len(log.of_type(LightSample)) >= 3, deadline_ns=deadline_ns)
    finally:
        sampler.stop()
    sampler.stop()
    assert not [event for event in history if isinstance(event, Trouble)]


def test_what_looking_has_cost_is_told_once_at_the_end(room: Room) -> None:
    history = History()
    sampler = sampler_of(room, history, period_s=0.005)
    before_ns = time.process_time_ns()
    sampler.start()
    with room.start(STAND_IN, room.logs / "opencode.log"):
        deadline_ns = time.monotonic_ns() + 10_000_000_000
        assert history.wait_for(lambda log: len(log.of_type(LightSample)) >= 9, deadline_ns=deadline_ns)
        sampler.snapshot()
    sampler.stop()
    sampler.stop()
    spent_ns = time.process_time_ns() - before_ns
    (cost,) = kept(history, ObservingCost)
    assert (cost.samples, cost.snapshots) == (len(kept(history, LightSample)), 1)
    assert cost.deputy_cpu_ns == 0, "nobody was asked"
    assert 0 < cost.snapshots_cpu_ns < cost.cpu_ns <= spent_ns, "no more than the whole process has used"
    assert cost.share == pytest.approx(cost.cpu_ns / 1e9 / cost.seconds)


def burn(cpu_ns: int) -> None:
    end_ns = time.thread_time_ns() + cpu_ns
    while time.thread_time_ns() < end_ns:
        pass


def test_the_cost_counts_work_and_not_waiting(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    sampler = sampler_of(room, history, period_s=60.0)
    work: list[Callable[[], object]] = [lambda: time.sleep(0.2)]
    processes = Room.processes

    def slow(self: Room) -> Sequence[Observed]:
        work[0]()
        return processes(self)

    monkeypatch.setattr(Room, "processes", slow)
    sampler.start()
    sampler.light()
    waited_ns = sampler._cpu_ns
    work[0] = lambda: burn(100_000_000)
    sampler.light()
    sampler.stop()
    assert sampler._cpu_ns - waited_ns >= 100_000_000, "work of the world counts"
    assert waited_ns < 200_000_000, "a sleep of 0.2 s does not"


def test_a_process_that_comes_later_is_found_between_two_thorough_looks(room: Room) -> None:
    sampler = sampler_of(room, History())
    sampler.light()
    with room.start(STAND_IN, room.logs / "opencode.log", listed=False) as child:
        sampler.light()
        sampler.light()
        assert [process.pid for process, *_ in room.adopted] == [child.pid]


def test_a_mark_that_comes_late_is_found_by_a_thorough_look(room: Room) -> None:
    """A settled process that begins another program is looked at again every eighth time."""
    code = (
        "import os, sys; print('ready', flush=True); sys.stdin.readline();"
        "os.execve(sys.executable, [sys.executable, '-c', 'input()'], {sys.argv[1]: sys.argv[2]})"
    )
    name, value = room.marker()
    room.mark = "another"
    with room.start(code, name, value, listed=False) as child:
        room.mark = value
        reader = Reader()
        identity = reader.identify(child.pid)
        assert identity is not None
        sampler = Sampler(room, History(), reader)
        deadline = time.monotonic() + 10
        while reader.age_s(identity) < 1.1:
            sampler.light()
            assert time.monotonic() < deadline
        sampler.light()
        assert room.adopted == []
        assert child.process.stdin is not None
        child.process.stdin.write("go\n")
        child.process.stdin.flush()
        while not reader.marked(name, value):
            assert time.monotonic() < deadline
        for _ in range(8):
            sampler.light()
        assert [process.pid for process, *_ in room.adopted] == [child.pid]


def test_trouble_is_told_once_and_does_not_end_the_sampling(room: Room) -> None:
    history = History()
    room.broken = ValueError("the world is broken")
    sampler = sampler_of(room, history, period_s=0.002)
    deadline_ns = time.monotonic_ns() + 10_000_000_000
    sampler.start()
    try:
        while room.raised < 3 and time.monotonic_ns() < deadline_ns:
            time.sleep(0.001)
        room.broken = None
        assert history.wait_for(lambda log: bool(log.of_type(LightSample)), deadline_ns=deadline_ns)
    finally:
        sampler.stop()
    assert room.raised >= 3
    assert [event.what for event in kept(history, Trouble)] == [
        "a light sample failed: ValueError: the world is broken"
    ]


def test_a_condition_on_the_history_may_itself_take_a_snapshot(room: Room) -> None:
    """The history is locked while it asks, and the sampler's thread appends: neither may wait for the other."""
    history = History()
    sampler = sampler_of(room, history, period_s=0.001)
    asked: list[int] = []

    def condition(log: History) -> bool:
        asked.append(sampler.snapshot().number)
        return len(asked) >= 20

    sampler.start()
    try:
        assert history.wait_for(condition, deadline_ns=time.monotonic_ns() + 20_000_000_000)
    finally:
        sampler.stop()
    assert asked == sorted(set(asked))


@pytest.mark.parametrize(
    ("argv", "exe", "expected"),
    [
        (("/b/opencode", "run"), None, True),
        (("opencode-1.18",), "/usr/bin/node", True),
        (("sh", "-c", "opencode run"), "/bin/dash", False),
        (("node",), "/cache/opencode", True),
        ((), None, False),
    ],
)
def test_what_is_an_opencode(argv: tuple[str, ...], exe: str | None, *, expected: bool) -> None:
    assert is_subject(argv, exe) is expected
