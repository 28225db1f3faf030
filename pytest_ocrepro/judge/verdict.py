"""What do we call this process, and this trial: from the history alone.

Trouble of ours comes first, then broken demands, then those that could not be told. A process that a broken demand is
about is judged by what was known when the demand was made; if it was called hung before its deadline and then went on
by itself, the trial says so and is inconclusive: our judgement was wrong.
"""

from __future__ import annotations

import msgspec

from pytest_ocrepro.events import (
    Event,
    Expectation,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    ScenarioSkipped,
    SignalSent,
    SnapshotTaken,
    Swept,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge import waitgraph
from pytest_ocrepro.judge.ending import last_words, verdict_of_exit
from pytest_ocrepro.judge.findings import claimed_kinds, findings_of, not_so
from pytest_ocrepro.judge.judgement import (
    Grade,
    Graph,
    Judgement,
    ProcessJudgement,
    Record,
    Result,
    Verdict,
)
from pytest_ocrepro.judge.life import (
    Life,
    answered,
    is_legacy,
    life_of,
    lives,
    milestone_of,
    next_milestone,
    suspended_s,
)
from pytest_ocrepro.judge.living import Living, Named, living, went_on
from pytest_ocrepro.judge.progress import QUIET_S, cpu_share, last_progress, starved_s
from pytest_ocrepro.judge.serving import serving
from pytest_ocrepro.judge.signature import signature_of
from pytest_ocrepro.judge.waitgraph import in_one_sentence

__all__ = ["QUIET_S", "cpu_share", "judge", "judge_process", "last_progress", "seconds_starved"]

GRAPHS = 4  # that are tried for a page: the chain is told by one of the last two looks, which may not be comparable
REFUTED_BY = {
    Verdict.DEADLOCK: "the process goes on while the holder that is named stays as it is",
    Verdict.BLOCKED: "the process goes on while the holder that is named stays as it is",
    Verdict.STALLED: "any log line, output, request or exit of the process after the verdict",
    Verdict.LIVELOCK: "an answer, or a request that differs from the last ones",
    Verdict.SILENT: "an answer in the output or in the stored session",
    Verdict.WAITING_FOR_INPUT: "the process goes on although nothing was written to its input",
}


# What became of a process, for the first sentence; where it hangs its chain says it, if there is one
PLAIN = {
    Verdict.BLOCKED: "hangs",
    Verdict.DEADLOCK: "hangs in a deadlock",
    Verdict.STALLED: "hangs, and what it waits for could not be seen",
    Verdict.LIVELOCK: "is busy without getting anywhere",
    Verdict.WAITING_FOR_INPUT: "waits for input that nobody gives",
    Verdict.OVERRAN: "was not done at its deadline",
    Verdict.CRASHED: "crashed",
    Verdict.SILENT: "ended without an answer and without an error",
    Verdict.FAILED_LATE: "failed late",
}


class Judged(Record, frozen=True, kw_only=True):
    """One process, its life, and the history that it was judged by: all of it, or up to a broken demand."""

    life: Life
    process: ProcessJudgement
    history: tuple[Event, ...] = ()
    claim: Expectation | None = None


def judge(history: History) -> Judgement:
    """The whole trial. Pure: the same history gives the same judgement."""
    judged = tuple(_judge_one(history, life) for life in lives(history) if life.started.obligation)
    main = _main(history, judged)
    process = main.process if main else None
    result, reason = _result(history, main)
    findings = findings_of(history, [(one.life, one.process) for one in judged])
    swept = history.of_type(Swept)
    return Judgement(
        result=result,
        reason=reason,
        verdict=process.verdict if process else _nobody_owed(result),
        grade=process.grade if process else Grade.WEAK,
        seconds_to_verdict=_seconds_to_verdict(history, main),
        chain=process.chain if process else (),
        processes=tuple(one.process for one in judged),
        findings=findings,
        leaked=swept[-1].leaked if swept else (),
        signature=signature_of(process, tuple(claimed_kinds(history, process)), result),
        graph=_graph(history, main),
    )


def _nobody_owed(result: Result) -> Verdict:
    """A trial whose programs owed nothing (one in a terminal), and whose demands could be told all the same."""
    return Verdict.INCONCLUSIVE if result is Result.INCONCLUSIVE else Verdict.ALIVE


def judge_process(history: History, pid: int) -> ProcessJudgement:
    """The last process with this pid, at the end of this history (or just before we ended it ourselves).

    Raises KeyError when the history does not know the pid.
    """
    life = life_of(history, pid)
    if life is None:
        raise KeyError(pid)
    return judge_life(history, life)


def seconds_starved(history: History, pid: int) -> float:
    """By how much the deadline of the last process with this pid has moved because the machine is slow."""
    life = life_of(history, pid)
    return starved_s(history, life, _end_of(history)) if life else 0.0


def judge_life(history: History, life: Life) -> ProcessJudgement:
    """One process. An exit that follows a signal of ours is our doing, whatever its code."""
    signal = _end_signal(history, life)
    exited = life.exited
    if exited is not None and signal is not None and signal.why == "scenario":
        named = (Verdict.ENDED_BY_US, Grade.PROVED, f"the scenario sent {signal.signal}")
        return _judgement(history, life, Living(named=named), exited.at_ns, exited)
    if exited is not None and signal is None and not exited.ours:
        return _ended(history, life, exited)
    if life.gone is not None and exited is None and signal is None:
        return _judgement(history, life, Living(named=_gone(history, life, life.gone.at_ns)), life.gone.at_ns)
    end_ns = exited.at_ns if exited else _end_of(history)
    cut_ns = signal.at_ns if signal else end_ns
    judge_it = serving if life.started.obligation == "serve" else living
    return _judgement(history, life, judge_it(history, life, cut_ns), cut_ns)


def _end_signal(history: History, life: Life) -> SignalSent | None:
    """The first signal of ours that was to end it, sent before it ended."""
    end_ns = life.exited.at_ns if life.exited else life.to_ns
    sent = (event for event in history.of_type(SignalSent) if life.owns(event) and event.at_ns <= end_ns)
    return next((event for event in sent if event.signal in ("SIGKILL", "SIGTERM")), None)


def _ended(history: History, life: Life, exited: ProcessExited) -> ProcessJudgement:
    seconds = (exited.at_ns - life.started.at_ns) / 1e9 - suspended_s(history, life, exited.at_ns)
    starved = starved_s(history, life, exited.at_ns)
    verdict, grade, why = verdict_of_exit(
        life.started, exited, seconds=seconds, starved_s=starved, answered=answered(history, life)
    )
    said = last_words(exited.output)
    facts = (why, f"it said: {said}" if said else "it said nothing")
    return _judgement(history, life, Living(named=(verdict, grade, ""), facts=facts), exited.at_ns, exited)


def _gone(history: History, life: Life, at_ns: int) -> Named:
    """A process whose exit status went to its own parent: how it ended cannot be known."""
    if answered(history, life):
        return Verdict.COMPLETED, Grade.WEAK, "gone, and the provider's answer was taken"
    seconds = (at_ns - life.started.at_ns) / 1e9
    why = f"gone after {seconds:.1f} s without an answer; its exit status went to its parent"
    return Verdict.INCONCLUSIVE, Grade.WEAK, why


def _judgement(
    history: History, life: Life, seen: Living, at_ns: int, exited: ProcessExited | None = None
) -> ProcessJudgement:
    verdict, grade, why = seen.named
    milestone, following = _milestones(history, life, verdict, at_ns)
    return ProcessJudgement(
        role=life.started.role,
        pid=life.pid,
        argv=life.started.argv,
        exit=exited.code if exited else None,
        verdict=verdict,
        grade=grade,
        milestone=milestone,
        next_milestone=following,
        seconds=round((at_ns - life.started.at_ns) / 1e9, 3),
        because=tuple(fact for fact in (*seen.facts, why) if fact),
        chain=seen.chain,
        refuted_by=REFUTED_BY.get(verdict, ""),
    )


def _milestones(history: History, life: Life, verdict: Verdict, at_ns: int) -> tuple[str, str]:
    """Where it is, and the first milestone not reached: none for a server or a program without opencode's log."""
    if verdict is Verdict.COMPLETED:
        return "ended", ""
    milestone = milestone_of(history, life, at_ns)
    if life.started.obligation != "answer" or not life.started.is_subject:
        return milestone, ""
    return milestone, next_milestone(milestone, legacy=is_legacy(history, life))


def _judge_one(history: History, life: Life) -> Judged:
    """By what was known at the first broken demand on it, else by all."""
    events = tuple(history)
    for at, event in enumerate(events):
        if isinstance(event, Expectation) and event.held is False and event.role == life.started.role:
            known = History.of(events[:at])
            then = next((one for one in lives(known) if one.started.id == life.started.id), None)
            if then is not None:
                return Judged(life=life, process=judge_life(known, then), history=events[:at], claim=event)
    return Judged(life=life, process=_spared(history, life, judge_life(history, life)), history=events)


def _spared(history: History, life: Life, process: ProcessJudgement) -> ProcessJudgement:
    """A program of the scenario that nothing was demanded of may sleep as long as it likes: it holds a lock, say."""
    demanded = any(claim.role == process.role for claim in history.of_type(Expectation))
    if life.started.is_subject or demanded or process.verdict is not Verdict.STALLED:
        return process
    why = (*process.because[:-1], "it is no opencode, and nothing was demanded of it")
    return msgspec.structs.replace(process, verdict=Verdict.ALIVE, grade=Grade.WEAK, because=why, refuted_by="")


def _main(history: History, judged: tuple[Judged, ...]) -> Judged | None:
    """The process of the first broken demand, else the last one that was demanded something of, else the last."""
    demands = history.of_type(Expectation)
    for claim in demands:
        about = [one for one in judged if claim.held is False and one.claim == claim]
        if about:
            return about[-1]
    roles = {claim.role for claim in demands}
    asked = [one for one in judged if one.process.role in roles]
    candidates = asked or list(judged)
    return candidates[-1] if candidates else None


def _result(history: History, main: Judged | None) -> tuple[Result, str]:
    troubles = history.of_type(Trouble)
    claims = history.of_type(Expectation)
    leaked = [pid for swept in history.of_type(Swept)[-1:] for pid in swept.leaked]
    if troubles:
        return Result.INCONCLUSIVE, f"ours: {troubles[0].what}"
    if leaked:
        return Result.INCONCLUSIVE, f"ours: still alive after the sweep: {', '.join(leaked)}"
    broken = [claim for claim in claims if claim.held is False]
    skipped = history.of_type(ScenarioSkipped)
    if skipped:
        before = f"; before that {not_so(broken[0])}" if broken else ""
        return Result.INCONCLUSIVE, f"skipped: {skipped[0].why}{before}"
    refuted = _refuted(history, main)
    if refuted:
        return Result.INCONCLUSIVE, refuted
    if broken and not history.of_type(ProcessStarted) and not history.of_type(ProcessFound):
        return Result.INCONCLUSIVE, f"nothing was started, so this says nothing of opencode: {broken[0].claim}"
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        cause = _cause(broken[0], main)
        return Result.REPRODUCED, f"{cause}{not_so(broken[0])}{more}"
    unknown = [claim for claim in claims if claim.held is None]
    if unknown:
        return Result.INCONCLUSIVE, f"could not be told: {unknown[0].claim}: {unknown[0].because}"
    if not claims:
        return Result.INCONCLUSIVE, "the scenario demanded nothing of the subject"
    return Result.NOT_SEEN, f"{len(claims)} claim(s) held: {claims[0].claim}"


def _cause(claim: Expectation, main: Judged | None) -> str:
    """Why the claim is broken, in one plain sentence: what its process waits for, or how it ended."""
    if main is None or main.claim != claim:
        return ""
    process = main.process
    waits = process.verdict.hung or process.verdict is Verdict.WAITING_FOR_INPUT
    told = in_one_sentence(process.chain) if waits else ""
    ends = f"{process.role} (pid {process.pid}) {PLAIN[process.verdict]}" if process.verdict in PLAIN else ""
    return f"{told or ends}; so " if told or ends else ""


def _refuted(history: History, main: Judged | None) -> str:
    """It was called hung before its deadline, and then went on although nobody had touched anything."""
    if main is None or main.claim is None or not main.process.verdict.hung:
        return ""
    if main.process.seconds >= main.life.started.deadline_s or main.life.started.obligation == "serve":
        return ""  # a call that has timed out is judged at its own deadline
    what = went_on(history, main.life, main.claim.at_ns)
    name = f"{main.process.role} was called {main.process.verdict} after {main.process.seconds:.1f} s"
    return f"ours: {name}, but it went on by itself: {what}" if what else ""


def _graph(history: History, main: Judged | None) -> Graph:
    """The graph that the main process was judged by: that of the last look which tells its chain."""
    if main is None or not main.process.chain:
        return Graph()
    full = [
        event.snapshot
        for event in main.history
        if isinstance(event, SnapshotTaken) and event.snapshot.full and main.life.reading(event.snapshot)
    ]
    last = [waitgraph.build(history, look) for look in reversed(full[-GRAPHS:])]
    key = f"pid:{main.process.pid}"
    telling = (one for one in last if waitgraph.in_words(one, waitgraph.chain_from(one, key)) == main.process.chain)
    return next(telling, last[0] if last else Graph())


def _seconds_to_verdict(history: History, main: Judged | None) -> float:
    """From the start of the process that the verdict is about to the demand on it (or to the end of the trial)."""
    if main is None:
        started = history.of_type(TrialStarted)
        return round((_end_of(history) - started[0].at_ns) / 1e9, 3) if started else 0.0
    claims = [claim.at_ns for claim in history.of_type(Expectation) if claim.role == main.process.role]
    told_ns = main.claim.at_ns if main.claim else claims[0] if claims else _end_of(history)
    return round((told_ns - main.life.started.at_ns) / 1e9, 3)


def _end_of(history: History) -> int:
    return max((event.at_ns for event in history), default=0)
