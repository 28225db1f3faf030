"""What do we call this process, and this trial: from the history alone.

Hung needs three things: an obligation that is outstanding, no progress since before two full snapshots, and a reason
to believe that it will not end (a cycle, a root that the scenario declared silent, a dead holder) or else the
deadline. Without an obligation nothing is ever called a hang.
"""

from __future__ import annotations

import re

from pytest_ocrepro.history import (
    Event,
    Expectation,
    History,
    HttpCall,
    LightSample,
    MilestoneReached,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessGone,
    ProcessStarted,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    SignalSent,
    SnapshotTaken,
    Swept,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.judge import waitgraph
from pytest_ocrepro.judge.judgement import (
    Edge,
    Finding,
    Grade,
    Graph,
    Judgement,
    Node,
    ProcessJudgement,
    Result,
    Verdict,
)
from pytest_ocrepro.judge.signature import signature_of
from pytest_ocrepro.readings import MILESTONES, ProcessReading, Snapshot

QUIET_S = 1.5  # no visible change for so long, and idle, before a snapshot can count against a process
APART_S = 0.5  # two snapshots of one wait lie at least so far apart
BUSY_SHARE = 0.5  # of one core: more is work or a spin, not a wait
STARVED_SHARE = 0.3  # of the time spent waiting for a core: the machine is slow, not the process
ERROR_WORDS = re.compile(r"\berror\b|not found|\bfailed\b|\bis locked\b|\bdenied\b", re.IGNORECASE)


def judge(history: History) -> Judgement:
    """The whole trial. Pure: the same history gives the same judgement."""
    processes = tuple(judge_process(history, event.id.pid) for event in owing(history) if event.obligation)
    result, reason = _result(history)
    main = _main_process(history, processes)
    findings = _findings(history, processes)
    started = history.of_type(TrialStarted)
    swept = history.of_type(Swept)
    graph = _last_graph(history, main)
    return Judgement(
        result=result,
        reason=reason,
        verdict=main.verdict if main else Verdict.INCONCLUSIVE,
        grade=main.grade if main else Grade.WEAK,
        seconds_to_verdict=_seconds_to_verdict(history, main, started),
        chain=main.chain if main else (),
        processes=processes,
        findings=findings,
        leaked=swept[-1].leaked if swept else (),
        signature=signature_of(main, tuple(finding.kind for finding in findings), result),
        graph=graph,
    )


def judge_process(history: History, pid: int) -> ProcessJudgement:
    """One process that owes something, at the end of this history (or just before we ended it ourselves).

    Raises KeyError when the history does not know the pid.
    """
    started = next((event for event in owing(history) if event.id.pid == pid), None)
    if started is None:
        raise KeyError(pid)
    gone = next((event for event in history.of_type(ProcessGone) if event.pid == pid), None)
    if gone is not None:
        return _gone(history, started, gone)
    exited = next((event for event in history.of_type(ProcessExited) if event.pid == pid), None)
    if exited is not None and not exited.ours:
        return _ended(history, started, exited)
    killed = next(
        (
            event
            for event in history.of_type(SignalSent)
            if event.pid == pid and event.signal in ("SIGKILL", "SIGTERM")
        ),
        None,
    )
    if exited is not None and killed is not None and killed.why == "scenario":
        return _judgement(
            history,
            started,
            exited,
            Verdict.ENDED_BY_US,
            Grade.PROVED,
            (f"the scenario sent {killed.signal}",),
            at_ns=exited.at_ns,
        )
    cut_ns = killed.at_ns if killed else (exited.at_ns if exited else _end_of(history))
    return _alive(history, started, cut_ns)


def owing(history: History) -> list[ProcessStarted]:
    """Every process that owes something, those that a wrapper started beneath us included."""
    found = [
        ProcessStarted(
            at_ns=event.at_ns,
            id=event.id,
            role=event.role,
            argv=event.argv,
            obligation=event.obligation,
            fail_fast_s=event.fail_fast_s,
            deadline_s=event.deadline_s,
            stdin="unknown",
        )
        for event in history.of_type(ProcessFound)
        if event.obligation
    ]
    return [*history.of_type(ProcessStarted), *found]


def _gone(history: History, started: ProcessStarted, gone: ProcessGone) -> ProcessJudgement:
    """A process whose exit status went to its own parent."""
    seconds = (gone.at_ns - started.at_ns) / 1e9
    if _answered(history, started):
        verdict, why = Verdict.COMPLETED, "gone, and the provider's answer was taken"
    else:
        verdict = Verdict.FAILED_FAST if seconds <= started.fail_fast_s else Verdict.FAILED_LATE
        why = f"gone after {seconds:.1f} s without an answer; its exit status went to its parent"
    return _judgement(history, started, None, verdict, Grade.WEAK, (why,), at_ns=gone.at_ns)


def _ended(history: History, started: ProcessStarted, exited: ProcessExited) -> ProcessJudgement:
    seconds = (exited.at_ns - started.at_ns) / 1e9
    said = _last_words(exited.output)
    if exited.code < 0:
        verdict, why = Verdict.CRASHED, f"ended by signal {-exited.code}, which we did not send"
    elif exited.code == 0 and _answered(history, started):
        verdict, why = Verdict.COMPLETED, "exit 0 and the provider's answer was taken"
    elif exited.code == 0 and started.obligation == "exit":
        verdict, why = Verdict.COMPLETED, "exit 0"
    elif exited.code == 0 and not ERROR_WORDS.search(exited.output):
        verdict, why = Verdict.SILENT, "exit 0, but the work was not done and no error was printed"
    elif seconds <= started.fail_fast_s:
        verdict, why = Verdict.FAILED_FAST, f"exit {exited.code} after {seconds:.1f} s"
    else:
        verdict, why = (
            Verdict.FAILED_LATE,
            f"exit {exited.code} after {seconds:.1f} s, limit {started.fail_fast_s:g} s",
        )
    because = (why, f"it said: {said}") if said else (why, "it said nothing")
    return _judgement(history, started, exited, verdict, Grade.PROVED, because, at_ns=exited.at_ns)


def _answered(history: History, started: ProcessStarted) -> bool:
    return any(
        event.what == "finished" and event.pid == started.id.pid and not event.turn.startswith("tool")
        for event in history.of_type(ProviderReply)
        if event.request not in _titles(history)
    )


def _titles(history: History) -> set[int]:
    return {event.request for event in history.of_type(ProviderRequest) if event.title}


def _serving(history: History, started: ProcessStarted, cut_ns: int) -> ProcessJudgement:
    """A server owes an answer to each call, and each call is an event of its own."""
    calls = [event for event in history.of_type(HttpCall) if event.role == started.role and event.at_ns <= cut_ns]
    answered = sum(event.status > 0 for event in calls)
    grade = Grade.PROVED if answered else Grade.WEAK
    why = f"it answered {answered} of {len(calls)} calls"
    return _judgement(history, started, None, Verdict.ALIVE, grade, (why,), at_ns=cut_ns)


def _alive(history: History, started: ProcessStarted, cut_ns: int) -> ProcessJudgement:
    """A process that had not ended when the scenario stopped looking."""
    if started.obligation == "serve":
        return _serving(history, started, cut_ns)
    last_ns, what = last_progress(history, started.id.pid, cut_ns)
    quiet_s = (cut_ns - last_ns) / 1e9
    late = cut_ns >= started.at_ns + int(started.deadline_s * 1e9)
    pair = _pair_of_snapshots(history, started.id.pid, last_ns, cut_ns)
    if pair is None:
        verdict = Verdict.OVERRAN if late else Verdict.ALIVE
        return _judgement(
            history, started, None, verdict, Grade.WEAK, (f"last change {quiet_s:.1f} s ago: {what}",), at_ns=cut_ns
        )
    return _quiet(history, started, pair, late=late, cut_ns=cut_ns, last=(last_ns, what))


def _quiet(
    history: History,
    started: ProcessStarted,
    pair: tuple[Snapshot, Snapshot],
    *,
    late: bool,
    cut_ns: int,
    last: tuple[int, str],
) -> ProcessJudgement:
    pid = started.id.pid
    before, after = _reading(pair[0], pid), _reading(pair[1], pid)
    if before is None or after is None:
        return _judgement(history, started, None, Verdict.INCONCLUSIVE, Grade.WEAK, ("unreadable",), at_ns=cut_ns)
    span_s = (pair[1].started_ns - pair[0].started_ns) / 1e9
    facts = _idle_facts(before, after, span_s)
    graph = waitgraph.build(history, pair[1])
    chain = waitgraph.chain_from(graph, pid)
    same = chain and [e.holder for e in chain] == [
        e.holder for e in waitgraph.chain_from(waitgraph.build(history, pair[0]), pid)
    ]
    verdict, grade, why = _name_the_wait(graph, chain, stable=bool(same), late=late, facts=facts)
    silence = f"no change for {(cut_ns - last[0]) / 1e9:.1f} s; the last one: {last[1]}"
    return _judgement(
        history,
        started,
        None,
        verdict,
        grade,
        (silence, *facts.words, why),
        at_ns=cut_ns,
        chain=waitgraph.in_words(graph, chain),
    )


class _Idle:
    """How the process spent the time between two snapshots."""

    def __init__(self, *, busy: bool, starved: bool, words: tuple[str, ...]) -> None:
        self.busy = busy
        self.starved = starved
        self.words = words


def _idle_facts(before: ProcessReading, after: ProcessReading, span_s: float) -> _Idle:
    cpu_s = (after.cpu_ns - before.cpu_ns) / 1e9
    waited_s = _sum_of_waits(after) - _sum_of_waits(before)
    woke = _main_wakeups(after) - _main_wakeups(before)
    main = next((thread for thread in after.threads if thread.tid == after.id.pid), None)
    sleeps = f", in {main.syscall or 'unknown'} ({main.wchan or 'wchan unknown'})" if main else ""
    words = f"{cpu_s:.2f} s of CPU in {span_s:.1f} s; the main thread woke {woke} times{sleeps}"
    return _Idle(
        busy=cpu_s > BUSY_SHARE * span_s,
        starved=waited_s > STARVED_SHARE * span_s and cpu_s > 0,
        words=(words,),
    )


def _name_the_wait(
    graph: Graph,
    chain: tuple[Edge, ...],
    *,
    stable: bool,
    late: bool,
    facts: _Idle,
) -> tuple[Verdict, Grade, str]:
    root = waitgraph.root_of(graph, chain)
    proved = all(edge.grade != "inferred" for edge in chain)
    grade = (Grade.PROVED if proved else Grade.STRONG) if stable else Grade.WEAK
    if facts.starved and not late:
        return Verdict.ALIVE, Grade.WEAK, "it waits for a core: the machine is slow"
    if facts.busy:
        return (
            (Verdict.LIVELOCK, Grade.STRONG, "busy without a visible change, at the deadline")
            if late
            else (Verdict.ALIVE, Grade.WEAK, "busy, no visible change yet")
        )
    if graph.cycle and chain and any(edge.holder in graph.cycle for edge in chain):
        return Verdict.DEADLOCK, grade, f"a cycle of {len(graph.cycle) - 1}"
    if root is not None and root.kind == "input":
        return Verdict.WAITING_FOR_INPUT, grade, root.label
    if root is not None and chain and stable and _will_not_end(graph, root, chain):
        return Verdict.BLOCKED, grade, f"everything waits for: {root.label}"
    if not late:
        return Verdict.ALIVE, Grade.WEAK, "nothing proves that it will not go on"
    if root is not None:
        return Verdict.BLOCKED, grade, f"at the deadline everything waits for: {root.label}"
    return Verdict.STALLED, Grade.STRONG, "at the deadline; no chain could be shown"


def _will_not_end(graph: Graph, root: Node, chain: tuple[Edge, ...]) -> bool:
    """The scenario itself keeps the root silent for good, and no link on the way gives up before the deadline.

    SQLite's busy handler does (busy_timeout 5 s in every build measured); a dead holder's lock directory is broken
    when it turns stale; the wait for a lock directory ends after 300 s only.
    """
    kinds = {node.key: node.kind for node in graph.nodes}
    if any(kinds[edge.holder] in ("sqlite-byte", "dead-holder") for edge in chain):
        return False
    return (
        root.kind == "fault" and chain[-1].grade == "declared" and "will answer" not in " ".join(chain[-1].evidence)
    )


def last_progress(history: History, pid: int, until_ns: int) -> tuple[int, str]:
    """When this process last did something that can be seen from outside, and what it was."""
    last = (0, "its start")
    for event in history:
        if event.at_ns > until_ns:
            break
        what = _progress_of(event, pid)
        if what:
            last = (event.at_ns, what)
    return last


def _progress_of(event: Event, pid: int) -> str:
    if getattr(event, "pid", None) != pid and not isinstance(event, ProcessStarted):
        return ""
    match event:
        case ProcessStarted(id=identity) if identity.pid == pid:
            return "its start"
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
        case _:
            return ""


def _pair_of_snapshots(history: History, pid: int, after_ns: int, until_ns: int) -> tuple[Snapshot, Snapshot] | None:
    """The last snapshot and the nearest one at least APART_S before it, both behind the last change."""
    taken = [
        event.snapshot
        for event in history.of_type(SnapshotTaken)
        if event.snapshot.full and after_ns <= event.snapshot.started_ns <= until_ns and _reading(event.snapshot, pid)
    ]
    if not taken:
        return None
    earlier = [one for one in taken if (taken[-1].started_ns - one.started_ns) / 1e9 >= APART_S]
    return (earlier[-1], taken[-1]) if earlier else None


def _reading(snapshot: Snapshot, pid: int) -> ProcessReading | None:
    return next((process for process in snapshot.processes if process.id.pid == pid), None)


def _sum_of_waits(reading: ProcessReading) -> float:
    return sum(thread.runqueue_wait_ns or 0 for thread in reading.threads) / 1e9


def _main_wakeups(reading: ProcessReading) -> int:
    main = next((thread for thread in reading.threads if thread.tid == reading.id.pid), None)
    return 0 if main is None else (main.voluntary_switches or 0) + (main.involuntary_switches or 0)


def _judgement(
    history: History,
    started: ProcessStarted,
    exited: ProcessExited | None,
    verdict: Verdict,
    grade: Grade,
    because: tuple[str, ...],
    *,
    at_ns: int,
    chain: tuple[str, ...] = (),
) -> ProcessJudgement:
    milestone = milestone_of(history, started.id.pid, at_ns)
    return ProcessJudgement(
        role=started.role,
        pid=started.id.pid,
        argv=started.argv,
        exit=exited.code if exited else None,
        verdict=verdict,
        grade=grade,
        milestone=milestone,
        next_milestone=next_milestone(milestone),
        seconds=round((at_ns - started.at_ns) / 1e9, 3),
        because=because,
        chain=chain,
        refuted_by=_refutation(verdict),
    )


def milestone_of(history: History, pid: int, until_ns: int) -> str:
    """The furthest milestone that this process has reached."""
    reached = [
        event.milestone
        for event in history.of_type(MilestoneReached)
        if event.pid == pid and event.at_ns <= until_ns and event.milestone in MILESTONES
    ]
    return max(reached, key=MILESTONES.index, default="started")


def next_milestone(milestone: str) -> str:
    """The first one not reached; empty behind the last."""
    following = MILESTONES[MILESTONES.index(milestone) + 1 :]
    return following[0] if following else ""


def _refutation(verdict: Verdict) -> str:
    if verdict in (Verdict.DEADLOCK, Verdict.BLOCKED):
        return "the process goes on while the holder that is named stays as it is"
    if verdict in (Verdict.STALLED, Verdict.LIVELOCK):
        return "any log line, output, request or exit of the process after the verdict"
    if verdict is Verdict.SILENT:
        return "an answer in the output or in the stored session"
    return ""


def _result(history: History) -> tuple[Result, str]:
    """Trouble of ours first, then the broken claims, then the ones that could not be told."""
    troubles = history.of_type(Trouble)
    claims = history.of_type(Expectation)
    swept = history.of_type(Swept)
    if troubles:
        return Result.INCONCLUSIVE, f"ours: {troubles[0].what}"
    if swept and swept[-1].leaked:
        return Result.INCONCLUSIVE, f"ours: still alive after the sweep: {', '.join(swept[-1].leaked)}"
    broken = [claim for claim in claims if claim.held is False]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return Result.REPRODUCED, f"{broken[0].claim}: {broken[0].because}{more}"
    unknown = [claim for claim in claims if claim.held is None]
    if unknown:
        return Result.INCONCLUSIVE, f"could not be told: {unknown[0].claim}: {unknown[0].because}"
    if not claims:
        return Result.INCONCLUSIVE, "the scenario demanded nothing of the subject"
    return Result.NOT_SEEN, f"{len(claims)} claim(s) held: {claims[0].claim}"


def _main_process(history: History, processes: tuple[ProcessJudgement, ...]) -> ProcessJudgement | None:
    """The process of the first broken claim, else the first hung one, else the last that owed something."""
    for claim in history.of_type(Expectation):
        for process in processes:
            if claim.held is False and claim.role == process.role:
                return process
    claimed = {claim.role for claim in history.of_type(Expectation)}
    asked = [process for process in processes if process.role in claimed]
    candidates = asked or list(processes)
    return candidates[-1] if candidates else None


def _findings(history: History, processes: tuple[ProcessJudgement, ...]) -> tuple[Finding, ...]:
    found = [
        Finding(kind=claim.finding, text=f"{claim.claim}: {claim.because}")
        for claim in history.of_type(Expectation)
        if claim.held is False and claim.finding
    ]
    found += [
        Finding(kind="silent-exit", text=f"{process.role}: {process.because[0]}")
        for process in processes
        if process.verdict is Verdict.SILENT
    ]
    destinations = sorted({event.destination for event in history.of_type(OffLoopback)})
    found += [Finding(kind="off-loopback", text=f"tried to reach {where}; refused") for where in destinations]
    for swept in history.of_type(Swept):
        found += [
            Finding(
                kind="stale-lock-directory",
                text=f"{lock.key or lock.path}: left by pid {lock.holder_pid}, which ended",
            )
            for lock in swept.lock_directories
        ]
        found += [Finding(kind="surviving-process", text=text) for text in swept.survivors]
    return tuple(found)


def _last_graph(history: History, main: ProcessJudgement | None) -> Graph:
    if main is None or not main.chain:
        return Graph()
    full = [
        event.snapshot
        for event in history.of_type(SnapshotTaken)
        if event.snapshot.full and _reading(event.snapshot, main.pid)
    ]
    return waitgraph.build(history, full[-1]) if full else Graph()


def _seconds_to_verdict(history: History, main: ProcessJudgement | None, started: list[TrialStarted]) -> float:
    """From the start of the process that the verdict is about to the claim about it (or to the end of the trial)."""
    if main is None:
        return round((_end_of(history) - started[0].at_ns) / 1e9, 3) if started else 0.0
    begun = next(event.at_ns for event in owing(history) if event.id.pid == main.pid)
    claims = [claim.at_ns for claim in history.of_type(Expectation) if claim.role == main.role]
    return round(((claims[0] if claims else _end_of(history)) - begun) / 1e9, 3)


def _end_of(history: History) -> int:
    return max((event.at_ns for event in history), default=0)


def _last_words(output: str) -> str:
    """The telling lines of what was printed; of a JSON error its message."""
    told = re.findall(r'"message": "([^"]+)"', output)
    if told:
        return " / ".join(told)[:300]
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines() if line.strip()]
    telling = [line for line in lines if ERROR_WORDS.search(line)] or lines[-1:]
    return " / ".join(telling[:3])[:300]


def cpu_share(history: History, pid: int, since_ns: int) -> float:
    """Share of one core that this process used since then, from the light samples; 1.0 when there are too few."""
    rows = [
        (event.at_ns, row[1])
        for event in history.of_type(LightSample)
        if event.at_ns >= since_ns
        for row in event.rows
        if row[0] == pid
    ]
    if len(rows) < 2 or rows[-1][0] == rows[0][0]:  # noqa: PLR2004  a share needs two readings
        return 1.0
    return (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])
