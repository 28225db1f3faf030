"""Processes that we did not start, each in words for a terminal: who it is, what it waits for, what it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_ocrepro.events import Note, ProcessFound, SnapshotTaken
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement, Verdict
from pytest_ocrepro.judge.threads import groups
from pytest_ocrepro.publish.prose import chain_in_lines, findings_in_lines, paragraph
from pytest_ocrepro.publish.text import visible
from pytest_ocrepro.readings import FileLock, ProcessReading, Snapshot, ThreadReading

LOG_LINES = 5
LOG_WIDTH = 200
MINUTE_S = 60


def dump_in_words(history: History, judgement: Judgement) -> str:
    """Who they are, what they wait for, threads, locks, the end of the log, findings, what could not be read."""
    full = [event.snapshot for event in history.of_type(SnapshotTaken) if event.snapshot.full]
    found = [event for event in history.of_type(ProcessFound) if event.is_subject]
    judged = {(one.role, one.pid): one for one in judgement.processes}
    end_ns = max((event.at_ns for event in history), default=0)
    lines = paragraph(f"{judgement.result}: {judgement.reason}")
    for event in found:
        process = judged.get((event.role, event.id.pid))
        lines += ["", *_portrait(event, process, full, (end_ns - event.at_ns) / 1e9)]
    lines += ["", *findings_in_lines(judgement)] if judgement.findings else []
    lines += _unread(history, full)
    return "\n".join(visible(line) for line in lines).strip("\n")


def _portrait(
    event: ProcessFound, process: ProcessJudgement | None, full: Sequence[Snapshot], age_s: float
) -> Iterator[str]:
    yield f"{event.role} (pid {event.id.pid}), started {span(age_s)} ago by pid {event.parent_pid}"
    yield from paragraph(" ".join(event.argv), "  ")
    yield from [f"  in {event.cwd}"] if event.cwd else []
    if process is not None:
        after = f"; next: {process.next_milestone}" if process.next_milestone else ""
        yield f"  verdict: {process.verdict} ({process.grade}); reached: {process.milestone}{after}"
        for fact in process.because:
            yield from paragraph(fact, "    ")
        if process.verdict is Verdict.ALIVE and event.obligation == "answer":
            yield f"    silence alone is called a hang after {event.deadline_s:g} s of it (--deadline)"
        yield from (f"  {line}" for line in chain_in_lines(process.chain))
    looks = [one for snapshot in full for one in snapshot.processes if one.id == event.id]
    yield from _threads_in_lines(looks, full)
    if full:
        yield from _locks_in_lines(event.id.pid, full[-1])
        yield from _log_in_lines(event.id.pid, full[-1])


def _threads_in_lines(looks: Sequence[ProcessReading], full: Sequence[Snapshot]) -> Iterator[str]:
    """Threads that look alike on one line, with what they did between the first look and the last."""
    if not looks:
        yield "  threads: could not be read"
        return
    before = {thread.tid: thread for thread in looks[0].threads}
    apart_s = (full[-1].started_ns - full[0].started_ns) / 1e9
    yield f"  threads: {len(looks[-1].threads)}, looked at {len(looks)} times in {apart_s:.1f} s"
    for group in groups(looks[-1]):
        yield from paragraph(f"{group.words}; {_activity(before, group.threads)}", "    ")


def _activity(before: Mapping[int, ThreadReading], threads: Iterable[ThreadReading]) -> str:
    """What they did since the first look, together; unknown where one of the counters is."""
    pairs = [(before.get(thread.tid), thread) for thread in threads]
    woke = _total(_switches(was, now) for was, now in pairs)
    spent_ns = _total(None if was is None else _difference(was.cpu_ns, now.cpu_ns) for was, now in pairs)
    words = "woke an unknown number of times" if woke is None else f"woke {woke} times" if woke else "never woke"
    return f"{words}, {spent_ns / 1e6:.0f} ms of CPU" if spent_ns else words


def _switches(was: ThreadReading | None, now: ThreadReading) -> int | None:
    """The kernel counts each time that a thread went to sleep, or was taken off a core."""
    if was is None:
        return None
    return _total(
        (
            _difference(was.voluntary_switches, now.voluntary_switches),
            _difference(was.involuntary_switches, now.involuntary_switches),
        )
    )


def _difference(was: int | None, now: int | None) -> int | None:
    return None if was is None or now is None else now - was


def _total(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _locks_in_lines(pid: int, snapshot: Snapshot) -> Iterator[str]:
    held = [f"lock directory {one.key or one.path}" for one in snapshot.lock_directories if one.holder_pid == pid]
    held += [_lock_in_words(one) for one in snapshot.locks if one.pid == pid and not one.waiting]
    if held:
        yield "  has:"
    for words in dict.fromkeys(held):
        yield from paragraph(words, "    ")


def _lock_in_words(lock: FileLock) -> str:
    """Every connection in WAL mode has SHARED and DMS for reading: it says no more than that the file is open."""
    if lock.access == "READ" and lock.name in ("SHARED", "DMS"):
        return f"{lock.path.removesuffix('-shm')}, open"
    return f"{lock.access} on {lock.name or 'bytes'} of {lock.path}"


def _log_in_lines(pid: int, snapshot: Snapshot) -> Iterator[str]:
    tail = next((one for one in snapshot.logs if one.pid == pid), None)
    if tail is None:
        yield "  log: not known to be its own, or it could not be read"
        return
    yield f"  log: {tail.path}, ends:"
    for line in tail.lines[-LOG_LINES:]:
        yield f"    {line.text[:LOG_WIDTH]}"


def _unread(history: History, full: Sequence[Snapshot]) -> Iterator[str]:
    """Each once, however many looks it was missing at."""
    missing = dict.fromkeys(line for snapshot in full for line in snapshot.missing)
    told = [*dict.fromkeys(note.text for note in history.of_type(Note)), *missing]
    if told:
        yield ""
        yield "could not be read, or is not known:"
    for line in told:
        yield from paragraph(line, "  ")


def span(seconds: float) -> str:
    """A duration as people say it."""
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, seconds_left = divmod(whole, MINUTE_S)
    hours, minutes_left = divmod(minutes, MINUTE_S)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {seconds_left} s"
