"""One process from its start to its end: which of the history's events are its own.

A pid is recycled, so everything that is said of a process is said of a :class:`Life`: the start of the process, the
events of its pid up to the next process that has the same pid, and the readings with its start time.
"""

from __future__ import annotations

from pytest_ocrepro.events import (
    DatabaseRead,
    Event,
    HttpCall,
    MilestoneReached,
    ProcessExited,
    ProcessFound,
    ProcessGone,
    ProcessStarted,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    SignalSent,
    SnapshotTaken,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.readings import MILESTONES, LogTail, ProcessId, ProcessReading, Snapshot

End = ProcessExited | ProcessGone
FOR_EVER_NS = 2**63
OK, REDIRECT = 200, 300
# What 1.17 and later do not log (measured on 1.18.34); what both dialects log is all that an unknown one is held to
LEGACY_ONLY = frozenset({"started", "database-opened", "plugins-loading"})
MODERN_BEGIN = "timestamp="


class Life(Record, frozen=True, kw_only=True):
    """``from_ns`` to ``to_ns``: when its pid was its own. ``alone``: no other process of the trial had this pid."""

    started: ProcessStarted
    from_ns: int = 0
    to_ns: int = FOR_EVER_NS
    alone: bool = True
    exited: ProcessExited | None = None
    gone: ProcessGone | None = None

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.started.id.pid

    def owns(self, event: Event) -> bool:
        """Whether an event that has a pid is about this process."""
        if getattr(event, "pid", None) != self.pid or not self.from_ns <= event.at_ns < self.to_ns:
            return False
        told_late = isinstance(event, ProgressSeen | MilestoneReached) and not self.alone
        return not told_late or event.role == self.started.role  # type: ignore[attr-defined]

    def reading(self, snapshot: Snapshot) -> ProcessReading | None:
        """What the snapshot saw of it."""
        return next((one for one in snapshot.processes if self.is_of(one.id)), None)

    def is_of(self, process: ProcessId) -> bool:
        """The same pid and start time."""
        return (process.pid, process.start_ticks) == (self.pid, self.started.id.start_ticks)


def lives(history: History) -> tuple[Life, ...]:
    """Every process that we started or found, in the order of their starts; each once."""
    begun = _beginnings(history)
    ends: dict[int, list[End]] = {}
    for event in history:
        if isinstance(event, ProcessExited | ProcessGone):
            ends.setdefault(event.pid, []).append(event)
    return tuple(_life(start, [one for one in begun if one.id.pid == start.id.pid], ends) for start in begun)


def life_of(history: History, pid: int) -> Life | None:
    """The last process that had this pid."""
    return next((life for life in reversed(lives(history)) if life.pid == pid), None)


def beneath(history: History, life: Life) -> tuple[Life, ...]:
    """The processes that this one started, and those that they started."""
    parents = {event.id: event.parent_pid for event in history.of_type(ProcessFound)}
    found = [one for one in lives(history) if one.started.id in parents]
    family = {life.pid}
    while more := {one.pid for one in found if parents[one.started.id] in family} - family:
        family |= more
    return tuple(one for one in found if one.pid in family and one.started.id != life.started.id)


def suspended_s(history: History, life: Life, until_ns: int) -> float:
    """Seconds that we kept it suspended; they count against no limit."""
    total_ns, since_ns = 0, 0
    for event in history.of_type(SignalSent):
        if not life.owns(event) or event.at_ns > until_ns:
            continue
        if event.signal == "SIGSTOP" and not since_ns:
            since_ns = event.at_ns
        elif event.signal == "SIGCONT" and since_ns:
            total_ns, since_ns = total_ns + event.at_ns - since_ns, 0
    return (total_ns + (until_ns - since_ns if since_ns else 0)) / 1e9


def stopped_by_us(history: History, life: Life, until_ns: int) -> bool:
    """The last of our two job-control signals to it was SIGSTOP."""
    sent = [
        event.signal
        for event in history.of_type(SignalSent)
        if life.owns(event) and event.at_ns <= until_ns and event.signal in ("SIGSTOP", "SIGCONT")
    ]
    return bool(sent) and sent[-1] == "SIGSTOP"


def asked(history: History, life: Life, until_ns: int = FOR_EVER_NS) -> list[ProviderRequest]:
    """Its requests to the model, titles left out."""
    return [
        event
        for event in history.of_type(ProviderRequest)
        if not event.title and event.at_ns <= until_ns and life.owns(event)
    ]


def answered(history: History, life: Life) -> bool | None:
    """The model's last word to it was an answer and no tool call; None: nobody knows whom an answer went to."""
    titles = {event.request for event in history.of_type(ProviderRequest) if event.title}
    unnamed = False
    for event in history.of_type(ProviderReply):
        if event.what != "finished" or event.request in titles or event.turn.startswith("tool"):
            continue
        if life.owns(event):
            return True
        unnamed = unnamed or (event.pid is None and life.started.at_ns <= event.at_ns < life.to_ns)
    return None if unnamed else False


def milestone_of(history: History, life: Life, until_ns: int) -> str:
    """The furthest milestone that it has reached; log lines of one that has ended are read after its end."""
    ended = life.exited is not None or life.gone is not None
    told = [
        event.milestone
        for event in history.of_type(MilestoneReached)
        if life.owns(event) and (ended or event.at_ns <= until_ns) and event.milestone in MILESTONES
    ]
    requests = {event.request for event in asked(history, life, until_ns)}
    told += ["model-asked"] if requests else []
    told += [
        "model-answered"
        for event in history.of_type(ProviderReply)
        if event.request in requests and event.what == "finished" and event.at_ns <= until_ns
    ]
    told += ["session-created"] if _made_a_session(history, life, until_ns) else []
    return max(told, key=MILESTONES.index, default="started")


def _made_a_session(history: History, life: Life, until_ns: int) -> bool:
    """Told by its HTTP answer, or, of the only opencode there is, by the database."""
    for event in history:
        if not life.from_ns <= event.at_ns <= until_ns:
            continue
        if isinstance(event, HttpCall) and (event.role, event.method, event.path) == (
            life.started.role,
            "POST",
            "/session",
        ):
            if OK <= event.status < REDIRECT:
                return True
        elif isinstance(event, DatabaseRead) and event.reading.sessions and life.started.obligation:
            return sum(one.started.is_subject for one in lives(history)) == 1
    return False


def next_milestone(milestone: str, *, legacy: bool) -> str:
    """The first one not reached that this dialect of the log can tell; empty behind the last."""
    following = MILESTONES[MILESTONES.index(milestone) + 1 :]
    return next((name for name in following if legacy or name not in LEGACY_ONLY), "")


def is_legacy(history: History, life: Life) -> bool:
    """Whether its log is of the dialect up to 1.15: seen from its lines. Unknown counts as modern."""
    lines = [event.line for event in history.of_type(MilestoneReached) if life.owns(event) and event.line]
    for event in history.of_type(SnapshotTaken):
        tail = tail_of(event.snapshot, life.pid)
        lines += [line.text for line in tail.lines[-1:]] if tail else []
    return bool(lines) and not any(line.startswith(MODERN_BEGIN) for line in lines)


def tail_of(snapshot: Snapshot, pid: int) -> LogTail | None:
    """The end of its log; None while no log is known to be its own."""
    return next((tail for tail in snapshot.logs if tail.pid == pid), None)


def _beginnings(history: History) -> list[ProcessStarted]:
    """Our own starts win over findings of the same process: the sampler may have seen it first."""
    ours = history.of_type(ProcessStarted)
    known = {event.id for event in ours}
    found: dict[ProcessId, ProcessStarted] = {}
    for event in history.of_type(ProcessFound):
        if event.id not in known:
            found.setdefault(event.id, _as_started(event))
    once: dict[ProcessId, ProcessStarted] = {}
    for start in sorted((*ours, *found.values()), key=lambda start: start.at_ns):
        once.setdefault(start.id, start)
    return list(once.values())


def _as_started(event: ProcessFound) -> ProcessStarted:
    return ProcessStarted(
        at_ns=event.at_ns,
        id=event.id,
        role=event.role,
        argv=event.argv,
        obligation=event.obligation,
        fail_fast_s=event.fail_fast_s,
        deadline_s=event.deadline_s,
        stdin="unknown",
        is_subject=event.is_subject,
        foreign=event.foreign,
    )


def _life(start: ProcessStarted, same: list[ProcessStarted], ends: dict[int, list[End]]) -> Life:
    """``same``: the starts of all processes with this pid, its own among them."""
    at = same.index(start)
    following = same[at + 1] if at + 1 < len(same) else None
    own = _ends_of(start, following.at_ns if following else FOR_EVER_NS, ends)
    before = [end.at_ns for end in _ends_of(same[at - 1], start.at_ns, ends)] if at else []
    return Life(
        started=start,
        from_ns=min(before, default=start.at_ns) if at else 0,
        to_ns=min((end.at_ns + 1 for end in own), default=following.at_ns) if following else FOR_EVER_NS,
        alone=len(same) == 1,
        exited=next((end for end in own if isinstance(end, ProcessExited)), None),
        gone=next((end for end in own if isinstance(end, ProcessGone)), None),
    )


def _ends_of(start: ProcessStarted, until_ns: int, ends: dict[int, list[End]]) -> list[End]:
    return [end for end in ends.get(start.id.pid, ()) if start.at_ns <= end.at_ns <= until_ns]
