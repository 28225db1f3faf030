"""What moves: the last visible step of a process, how it spent the time since, and when two looks may be compared.

On a live Bun process some threads always wake, so "nothing moved" is no test. What counts is what the process owes
to do: log lines, output, requests, children, lock directories, written pages; CPU time alone is no progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pytest_ocrepro.events import (
    Event,
    LightSample,
    LockDirectoryChanged,
    MilestoneReached,
    ProcessFound,
    ProcessGone,
    ProcessStarted,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    SignalSent,
    SnapshotTaken,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.foreign import last_talk
from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.judge.life import Life, beneath, life_of, tail_of
from pytest_ocrepro.judge.signs import is_its_own, name_of
from pytest_ocrepro.readings import FdKind, LockChange, ProcessReading, Snapshot

QUIET_S = 1.5  # no visible change for so long, and idle, before a snapshot can count against a process
APART_S = 0.5  # two snapshots of one wait lie at least so far apart
LOOK_S = 2.0  # a snapshot that took longer shows no one instant
SLEPT_S = 0.5  # the machine itself was suspended between two snapshots
IDLE_SHARE = 0.3  # of one core: less is a wait
BUSY_SHARE = 0.5  # of one core: more is work or a spin
STARVED_SHARE = 0.3  # of the time spent waiting for a core: the machine is slow, not the process
ORDINARY_WAIT_S = 1.0  # for a core, in the life of a healthy process on an idle machine
WROTE_BYTES = 4096  # one SQLite page; what a parked process writes to its own eventfds is under 100 bytes a second
STDOUT, STDERR = 1, 2


class Pair(Record, frozen=True, kw_only=True):
    """Two looks at one wait, ``span_s`` apart."""

    before: Snapshot
    after: Snapshot

    @property
    def span_s(self) -> float:
        """Seconds between them."""
        return (self.after.started_ns - self.before.started_ns) / 1e9


class Rest(Record, frozen=True, kw_only=True):
    """How a process spent the time between two looks."""

    cpu_share: float
    starved: bool
    runnable: bool  # the main thread at one of the looks, or any other at both, had or wanted a core
    words: str
    told: bool = True  # whether its threads were seen; without proc(5) a wait for a core does not show

    @property
    def idle(self) -> bool:
        """It waits; the machine lets it run whenever it wants to."""
        return self.cpu_share < IDLE_SHARE and not self.starved and not self.runnable


def last_progress(history: History, pid: int, until_ns: int) -> tuple[int, str]:
    """When the last process with this pid, or one beneath it, did something visible, and what it was."""
    life = life_of(history, pid)
    return progress_of(history, life, until_ns) if life else (0, "its start")


def progress_of(history: History, life: Life, until_ns: int) -> tuple[int, str]:
    """The same for one life. Events are not stored in the order of their instants."""
    family = (life, *beneath(history, life))
    steps = [
        (event.at_ns, what)
        for event in history
        if event.at_ns <= until_ns and (what := _step(event, family, life)) and event.at_ns >= life.from_ns
    ]
    steps += [step for one in family for step in _changes(history, one, until_ns)]
    return max(steps, key=lambda step: step[0], default=(0, "its start"))


def pair_of(history: History, life: Life, after_ns: int, until_ns: int) -> Pair | None:
    """The last full snapshot and the nearest comparable one before it, both behind the last step."""
    taken = [one for one in looks_of(history, life) if after_ns <= one.started_ns <= until_ns]
    if not taken:
        return None
    pairs = (Pair(before=one, after=taken[-1]) for one in reversed(taken))
    return next((pair for pair in pairs if pair.span_s >= APART_S and not _slept(pair)), None)


def rest_of(life: Life, pair: Pair) -> Rest | None:
    """How it spent the time between two looks; None when one of them did not see it."""
    before, after = life.reading(pair.before), life.reading(pair.after)
    if before is None or after is None:
        return None
    cpu_s = (after.cpu_ns - before.cpu_ns) / 1e9
    waited_s = _waited_s(after) - _waited_s(before)
    main = next((thread for thread in after.threads if thread.tid == after.id.pid), None)
    told = _tells_of_threads(before) and _tells_of_threads(after)
    asleep = f", in {main.syscall or 'unknown'} ({main.wchan or 'wchan unknown'})" if main else ""
    woke = f"the main thread woke {_woke(before, after)} times{asleep}"
    unseen = f"its threads woke {_woke(before, after)} times together, what they are in is not told on this system"
    words = f"{cpu_s:.2f} s of CPU in {pair.span_s:.1f} s; {woke if told else unseen}"
    return Rest(
        cpu_share=cpu_s / pair.span_s,
        starved=waited_s > STARVED_SHARE * pair.span_s,
        runnable=_runnable(before, after),
        words=words,
        told=told,
    )


def starved_s(history: History, life: Life, until_ns: int) -> float:
    """Seconds that it has waited for a core so far; they count against no deadline, short ones apart.

    Of several processes, it and those beneath it, the longest: a wrapper is as slow as the slowest that it waits for.
    At most as long as the deadline itself, so that an overloaded machine does not keep us for ever.
    """
    waited_s = max(_main_waited_s(history, one, until_ns) for one in (life, *beneath(history, life)))
    return min(max(0.0, waited_s - ORDINARY_WAIT_S), life.started.deadline_s)


def _main_waited_s(history: History, life: Life, until_ns: int) -> float:
    """How long its main thread has waited, as the last look shows."""
    looks = [one for one in looks_of(history, life) if one.started_ns <= until_ns]
    reading = life.reading(looks[-1]) if looks else None
    waited = [one.runqueue_wait_ns or 0 for one in reading.threads if one.tid == life.pid] if reading else []
    return sum(waited) / 1e9


def cpu_share(history: History, pid: int, since_ns: int) -> float:
    """Share of one core that this pid used since then, from the light samples; 1.0 when they cannot tell."""
    return share_between(history, pid, since_ns, max((event.at_ns for event in history), default=0))


def share_between(history: History, pid: int, since_ns: int, until_ns: int) -> float:
    """The same up to an instant. A pid that was recycled in between counts as busy."""
    rows = _cpu_rows(history, pid, since_ns, until_ns)
    if len(rows) < 2 or rows[-1][0] <= rows[0][0] or rows[-1][1] < rows[0][1]:  # noqa: PLR2004  two readings
        return 1.0
    return (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])


def spent_s(history: History, pid: int, since_ns: int, until_ns: int) -> float:
    """Seconds of CPU that a pid has had between two instants, as far as the light samples show."""
    rows = _cpu_rows(history, pid, since_ns, until_ns)
    return max(0, rows[-1][1] - rows[0][1]) / 1e9 if rows else 0.0


def _cpu_rows(history: History, pid: int, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
    return [
        (event.at_ns, row[1])
        for event in history.of_type(LightSample)
        if since_ns <= event.at_ns <= until_ns
        for row in event.rows
        if row[0] == pid
    ]


def _step(event: Event, family: tuple[Life, ...], life: Life) -> str:
    if isinstance(event, ProcessStarted):
        return "its start" if event.id == life.started.id else ""
    if isinstance(event, ProcessFound):
        found = any(event.id == one.started.id for one in family)
        return ("its start" if event.id == life.started.id else f"started {event.role}") if found else ""
    if isinstance(event, LockDirectoryChanged):
        return _lock_step(event, family)
    owner = next((one for one in family if one.owns(event)), None)
    return _what(event) if owner is not None else ""


def _lock_step(event: LockDirectoryChanged, family: tuple[Life, ...]) -> str:
    """What one of them did itself; what was done to it is no step."""
    pids = {one.pid for one in family if one.from_ns <= event.at_ns < one.to_ns}
    what = event.key or event.path
    if event.holder_pid in pids:
        return f"took the lock directory {what}"
    released = event.how is LockChange.RELEASED and event.previous_pid in pids
    return f"released the lock directory {what}" if released else ""


def _what(event: Event) -> str:
    match event:
        case ProgressSeen(what=what):
            return what
        case MilestoneReached(milestone=milestone):
            return f"milestone {milestone}"
        case ProviderRequest() | RegistryRequest():
            return f"asked for {event.path}"
        case ProviderReply(what=what):
            return f"answer {what}"
        case SignalSent(signal="SIGCONT"):
            return "resumed"
        case ProcessGone(role=role):
            return f"{role} ended"
        case _:
            return ""


def looks_of(history: History, life: Life) -> list[Snapshot]:
    """The full snapshots that saw it and that show one instant, in the order of their instants."""
    seen = (event.snapshot for event in history.of_type(SnapshotTaken))
    good = (one for one in seen if one.full and one.ended_ns - one.started_ns <= LOOK_S * 1e9 and life.reading(one))
    return sorted(good, key=lambda one: one.started_ns)


def _slept(pair: Pair) -> bool:
    """CLOCK_BOOTTIME counts a suspended machine, CLOCK_MONOTONIC does not (clock_gettime(2))."""
    gaps = [one.boottime_ns - one.started_ns for one in (pair.before, pair.after)]
    return abs(gaps[1] - gaps[0]) > SLEPT_S * 1e9


def _changes(history: History, life: Life, until_ns: int) -> Iterator[tuple[int, str]]:
    """Steps that only the snapshots show, each at the later of two looks."""
    looks = [one for one in looks_of(history, life) if one.started_ns <= until_ns]
    if life.started.foreign:  # of our own ones the servers tell it
        yield from (step for look in looks for step in (_talked(life, look), *_locked(life, look)) if step)
    for before, after in pairwise(looks):
        what = _change(life, before, after)
        if what:
            yield after.started_ns, what


def _talked(life: Life, look: Snapshot) -> tuple[int, str] | None:
    reading = life.reading(look)
    return last_talk(reading, look) if reading else None


def _locked(life: Life, look: Snapshot) -> Iterator[tuple[int, str]]:
    """When it took the lock directories that it has, which may have been before we came."""
    for lock in look.lock_directories:
        if lock.age_s is not None and is_its_own(lock, life.pid):
            yield look.started_ns - round(lock.age_s * 1e9), f"took the lock directory {name_of(lock)}"


def _change(life: Life, before: Snapshot, after: Snapshot) -> str:
    was, now = life.reading(before), life.reading(after)
    if was is None or now is None:
        return ""
    wrote = (now.written_bytes or 0) - (was.written_bytes or 0)
    if was.written_bytes is not None and wrote >= WROTE_BYTES:
        return f"wrote {wrote} bytes"
    if _printed(was, now, wrote):
        return "its log or output grew"
    if not _own_log_known(life, after, now) and _unclaimed_bytes(before) != _unclaimed_bytes(after):
        return "a log grew whose writer is not known"
    if _children(life, before) != _children(life, after):
        return "its children changed"
    return "its lock directories changed" if _held(life, before) != _held(life, after) else ""


def _printed(was: ProcessReading, now: ProcessReading, wrote: int) -> bool:
    """Whether a descriptor moved by what it wrote itself: one that it has inherited moves by others' writes, too."""
    old, new = _positions(was), _positions(now)
    moved = [new[key] - old[key] for key in old.keys() & new.keys() if new[key] != old[key]]
    known = was.written_bytes is not None and now.written_bytes is not None
    return any(not known or wrote >= by for by in moved)


def _positions(reading: ProcessReading) -> dict[tuple[int, str], int]:
    """How far it has written its log and its output; the offset moves with each write (proc_pid_fdinfo(5))."""
    return {
        (fd.fd, fd.target): fd.position_bytes
        for fd in reading.fds
        if fd.position_bytes is not None and (fd.kind is FdKind.LOG or fd.fd in (STDOUT, STDERR))
    }


def _own_log_known(life: Life, snapshot: Snapshot, reading: ProcessReading) -> bool:
    if tail_of(snapshot, life.pid) is not None or not reading.is_subject:
        return True
    logs = [fd for fd in reading.fds if fd.kind is FdKind.LOG]
    return bool(logs) and all(fd.position_bytes is not None for fd in logs)


def _unclaimed_bytes(snapshot: Snapshot) -> int:
    return sum(tail.size_bytes for tail in snapshot.logs if tail.pid is None)


def _children(life: Life, snapshot: Snapshot) -> set[tuple[int, int]]:
    return {(one.id.pid, one.id.start_ticks) for one in snapshot.processes if one.parent_pid == life.pid}


def _held(life: Life, snapshot: Snapshot) -> set[tuple[str, str]]:
    return {(lock.path, lock.token) for lock in snapshot.lock_directories if lock.holder_pid == life.pid}


def _runnable(before: ProcessReading, after: ProcessReading) -> bool:
    """Other threads wake ten times a second on a parked process too, so once is chance."""
    was, now = ({thread.tid for thread in one.threads if thread.state == "R"} for one in (before, after))
    return bool(was & now) or after.id.pid in was | now


def _waited_s(reading: ProcessReading) -> float:
    return sum(thread.runqueue_wait_ns or 0 for thread in reading.threads) / 1e9


def _tells_of_threads(reading: ProcessReading) -> bool:
    return not reading.threads or any(thread.state is not None for thread in reading.threads)


def _woke(before: ProcessReading, after: ProcessReading) -> int:
    counts = [
        (thread.voluntary_switches or 0) + (thread.involuntary_switches or 0)
        for one in (before, after)
        for thread in one.threads
        if thread.tid == one.id.pid
    ]
    return counts[1] - counts[0] if len(counts) == 2 else 0  # noqa: PLR2004  one in each look
