"""What is wrong in stored state or left behind: found beside the verdict, and never a verdict by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_ocrepro.events import DatabaseRead, Expectation, LockDirectoryChanged, OffLoopback, Swept
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Finding, ProcessJudgement, Verdict
from pytest_ocrepro.judge.life import Life
from pytest_ocrepro.judge.serving import calls, owing
from pytest_ocrepro.judge.sessions import lost_prompts, nobody_left
from pytest_ocrepro.readings import LockChange

SILENT_EXIT = "silent-exit"
UNANSWERED = "call-unanswered"
MOST_CALLS = 20  # of one server; what more of them say is the same
Judged = Sequence[tuple[Life, ProcessJudgement]]


def findings_of(history: History, judged: Judged) -> tuple[Finding, ...]:
    """Each once, the demands' own first. ``judged``: every process that owed something, and what it is called."""
    return tuple(dict.fromkeys(_found(history, judged)))


def claimed_kinds(history: History, main: ProcessJudgement | None) -> Iterator[str]:
    """The findings that the signature is made of."""
    for claim in history.of_type(Expectation):
        if claim.held is False and claim.finding:
            yield claim.finding
    if main is not None and main.verdict is Verdict.SILENT:
        yield SILENT_EXIT


def not_so(claim: Expectation) -> str:
    """A claim that did not hold, so that it cannot be read as if it did."""
    return f'"{claim.claim}" does not hold: {claim.because}'


def _found(history: History, judged: Judged) -> Iterator[Finding]:
    for claim in history.of_type(Expectation):
        if claim.held is False and claim.finding not in ("", UNANSWERED):  # those come with their cause, below
            yield Finding(kind=claim.finding, text=not_so(claim))
    for _, process in judged:
        if process.verdict is Verdict.SILENT:
            yield Finding(kind=SILENT_EXIT, text=f"{process.role}: {process.because[0]}")
    for where in sorted({event.destination for event in history.of_type(OffLoopback)}):
        yield Finding(kind="off-loopback", text=f"tried to reach {where}; refused")
    for swept in history.of_type(Swept):
        for lock in swept.lock_directories:
            name = lock.key or lock.path
            yield Finding(kind="stale-lock-directory", text=f"{name}: left by pid {lock.holder_pid}, which ended")
        for text in swept.survivors:
            yield Finding(kind="surviving-process", text=text)
    yield from _two_holders(history)
    yield from _unanswered(history, judged)
    yield from lost_prompts(history)
    yield from nobody_left(history)
    yield from _stored(history, judged)


def _unanswered(history: History, judged: Judged) -> Iterator[Finding]:
    """Each call that timed out, with what it waited for then."""
    for life in (life for life, _ in judged if life.started.obligation == "serve"):
        for call in [call for call in calls(history, life) if call.timed_out][:MOST_CALLS]:
            verdict, _, why = owing(history, life, call, call.end_ns or call.begun_ns).named
            text = f"{call.words}: no answer within {call.timeout_s:g} s ({verdict}: {why})"
            yield Finding(kind=UNANSWERED, text=text)


def _two_holders(history: History) -> Iterator[Finding]:
    """Locks that somebody else took while the holder lived: both think that they have it."""
    for event in history.of_type(LockDirectoryChanged):
        stale = event.how is LockChange.BROKEN_AS_STALE
        if event.how is LockChange.TAKEN_FROM_LIVE_HOLDER or (stale and event.previous_alive):
            now = f"pid {event.holder_pid} has it now" if event.holder_pid is not None else "nobody is named now"
            text = f"{event.key or event.path}: {event.because}; {now}"
            yield Finding(kind="lock-taken-from-live-holder", text=text)


def _stored(history: History, judged: Judged) -> Iterator[Finding]:
    """What the last reading of the database shows although every process had ended by itself."""
    last = history.of_type(DatabaseRead)[-1:]
    claimed = {claim.finding for claim in history.of_type(Expectation)}
    for reading in (event.reading for event in last if event.reading.readable):
        if reading.integrity not in ("", "ok"):
            yield Finding(kind="corrupt-database", text=f"{reading.path}: {reading.integrity[:200]}")
        if not judged or any(process.exit is None or life.exited is None for life, process in judged):
            continue
        for part in reading.unfinished_parts if "orphaned-part" not in claimed else ():
            yield Finding(kind="orphaned-part", text=f"{part.tool} part {part.part} is {part.status}, all have ended")
        for message in reading.unfinished_messages if "orphaned-message" not in claimed else ():
            yield Finding(kind="orphaned-message", text=f"{message.message} is unfinished, all have ended")
