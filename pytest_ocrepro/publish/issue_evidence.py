"""The evidence in an issue text, part by part, as Markdown; each part is bounded, however much there is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_ocrepro.events import (
    HEALTH_PROBE,
    Expectation,
    HttpCall,
    MilestoneReached,
    ProcessExited,
    SnapshotTaken,
    TrialStarted,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import ProcessJudgement, Verdict
from pytest_ocrepro.publish.counting import DUMP
from pytest_ocrepro.publish.elsewhere import command
from pytest_ocrepro.publish.markdown import cell, fenced, folded, prose, table
from pytest_ocrepro.publish.moments import Moment, moments, origin_of
from pytest_ocrepro.publish.plan import LOCK_HOLDER
from pytest_ocrepro.publish.records import RunInfo, StoredTrial
from pytest_ocrepro.publish.text import cut, flat

LINKS, PROCESSES, FINDINGS, CALLS, LOGS = 8, 6, 10, 15, 2
FIRST_MOMENTS, LAST_MOMENTS = 18, 12
DEMAND = 3  # words; fewer are a title, and no sentence of what is expected
LINE = 300  # characters of one line of log or output
COLOURS = re.compile("\x1b\\[[0-9;]*m")
STAGES = 5  # of the milestones that a process has reached, the last
UNTOLD = ("snapshot", "observing cost", "note", "swept", "found", "waited")  # of the moments


def demand(trial: StoredTrial) -> Iterator[str]:
    """What the scenario demands of a healthy opencode: the first paragraph of its words, where that is a sentence."""
    first = trial.info.docstring.partition("\n\n")[0]
    if len(first.split()) >= DEMAND and trial.info.scenario != DUMP:
        yield f"Expected: {prose(first, 500)}"


def chain(trial: StoredTrial, *, in_full: bool) -> Iterator[str]:
    """Who waits for whom, waiter first; ``in_full``: with the graded evidence of each link."""
    links = trial.judgement.chain if trial.judgement else ()
    lines = []
    for number, link in enumerate(links[:LINKS], start=1):
        what, _, about = link.partition(" [")
        grade, _, facts = about.removesuffix("]").partition(": ")
        lines.append(f"{number}. {prose(what, 250)}{f' (**{prose(grade, 20)}**)' if grade else ''}")
        if facts and in_full:
            lines.append(f"   - {prose(facts, 500)}")
    if lines:
        yield "Who waits for whom, and how that is known:" if in_full else "Who waits for whom:"
        yield "\n".join(lines)
    if len(links) > LINKS:
        yield f"{len(links) - LINKS} more links are left out."


def processes(trial: StoredTrial) -> Iterator[str]:
    """Each process, its verdict, the last milestones that it reached and the first that it did not."""
    judged = trial.judgement.processes if trial.judgement else ()
    if not judged:
        return
    head = ["process", "command", "verdict", "milestones reached", "first not reached", "exit"]
    shown = sorted(judged, key=_did_well)[:PROCESSES]
    yield table(head, [_process(one, trial.history) for one in shown])
    if len(judged) > PROCESSES:
        yield f"{len(judged) - PROCESSES} more processes are left out."


def findings(trial: StoredTrial) -> Iterator[str]:
    """What is wrong in stored state and was not demanded already."""
    told = [f"{one.claim}: {one.because}" for one in trial.history.of_type(Expectation) if one.held is False]
    found = [one for one in trial.judgement.findings if one.text not in told] if trial.judgement else []
    lines = [f"- {prose(one.kind, 60)}: {prose(one.text)}" for one in found[:FINDINGS]]
    if len(found) > FINDINGS:
        lines.append(f"- and {len(found) - FINDINGS} more")
    if lines:
        yield "Also found:"
        yield "\n".join(lines)


def calls(made: Iterable[HttpCall]) -> Iterator[str]:
    """What was asked of a server and what came back, the refused ones first."""
    told = [call for call in made if call.purpose != HEALTH_PROBE]
    shown = sorted(told, key=lambda call: 0 < call.status < 400)[:CALLS]  # noqa: PLR2004 - where HTTP's errors begin
    if shown:
        more = f"{len(told) - len(shown)} more are left out." if len(told) > len(shown) else ""
        rows = table(["for", "call", "answer", "body"], [_call(call) for call in shown])
        yield folded("Calls to the server", *filter(None, (rows, more)))


def logs(trial: StoredTrial, *, lines: int) -> Iterator[str]:
    """The end of the logs of waiter and holder, and of what they printed."""
    told = list(_logs(trial, lines))
    if told:
        yield folded("Logs", *told)


def timeline(trial: StoredTrial) -> Iterator[str]:
    """The trial in 30 lines of text, on one clock."""
    told = [f"{one.at_s:8.2f} s  {flat(one.text)}" for one in _story(trial.history)]
    if not told:
        return
    gone = len(told) - FIRST_MOMENTS - LAST_MOMENTS
    if gone > 0:
        told = [*told[:FIRST_MOMENTS], f"           ... {gone} lines ...", *told[-LAST_MOMENTS:]]
    yield folded("Timeline", fenced("\n".join(cut(one, 160) for one in told)))


def machine(run: RunInfo, trial: StoredTrial) -> Iterator[str]:
    """The machine, the load and the command."""
    facts = [(fact.name, fact.value) for fact in run.machine[:12]]
    facts += [
        ("load when the trial began", f"{one.load_average:.2f} on {one.cpus} cores")
        for one in trial.history.of_type(TrialStarted)[:1]
    ]
    if run.pytest_command:
        facts.append(("command", command(run.pytest_command)))
    if facts:
        yield folded(
            "Machine", table(["what", "value"], [[prose(name, 60), cell(value, 200)] for name, value in facts])
        )


def shortened(text: str, most: int) -> str:
    """Each line, and the whole, within bounds; for a fence."""
    return cut("\n".join(cut(line, LINE) for line in text.split("\n")), most)


def _process(one: ProcessJudgement, history: History) -> list[str]:
    reached = [event.milestone for event in history.of_type(MilestoneReached) if event.pid == one.pid]
    stages = list(dict.fromkeys([*reached, *([one.milestone] if one.milestone else [])]))
    ending = "alive" if one.exit is None else str(one.exit)
    return [
        cell(one.role, 40),
        cell(" ".join(one.argv), 120),
        f"{prose(one.verdict)} ({prose(one.grade)})",
        f"{'… → ' if len(stages) > STAGES else ''}{' → '.join(prose(name, 40) for name in stages[-STAGES:])}",
        prose(one.next_milestone, 40) if one.exit is None else "",
        ending,
    ]


def _call(call: HttpCall) -> list[str]:
    answer = str(call.status) if call.status else prose(call.error or "no answer", 80)
    return [prose(call.purpose, 60), cell(f"{call.method} {call.path}", 120), answer, cell(call.body, 120)]


def _story(history: History) -> list[Moment]:
    """What we did and met, and the milestones between; without what only shows that we were looking."""
    origin_ns = origin_of(history)
    stages = (
        Moment(at_s=(one.at_ns - origin_ns) / 1e9, kind="milestone", text=f"milestone of {one.role}: {one.milestone}")
        for one in history.of_type(MilestoneReached)
    )
    done = (
        Moment(at_s=one.at_s, kind=one.kind, text=f"{one.kind}: {one.text}")
        for one in moments(history)
        if one.kind not in UNTOLD and not one.text.startswith(LOCK_HOLDER)
    )
    return sorted([*stages, *done], key=lambda one: one.at_s)


def _logs(trial: StoredTrial, lines: int) -> Iterator[str]:
    # Of all looks, not of the last alone: one long line can fill all that a look reads of a log.
    tails: dict[int | None, dict[str, None]] = {}
    for taken in trial.history.of_type(SnapshotTaken):
        for tail in taken.snapshot.logs:
            tails.setdefault(tail.pid, {}).update(dict.fromkeys(line.text for line in tail.lines))
    tails = {pid: told for pid, told in tails.items() if told}
    printed = {event.pid: event.output for event in trial.history.of_type(ProcessExited) if event.output.strip()}
    for one in _telling(trial)[:LOGS]:
        if one.pid in tails:
            yield f"The end of the log of {cell(one.role, 40)} (pid {one.pid}):"
            yield fenced(_tail(list(tails[one.pid]), lines))
        if one.pid in printed:
            yield f"What {cell(one.role, 40)} (pid {one.pid}) printed:"
            yield fenced(_both_ends(printed[one.pid].strip().splitlines(), lines))
    if None in tails:
        yield "The end of the log that all processes share:"
        yield fenced(_tail(list(tails[None]), lines))


def _telling(trial: StoredTrial) -> list[ProcessJudgement]:
    """The waiter, then those that it waits for; without a chain those that did not do what they owed."""
    judged = trial.judgement
    if judged is None:
        return []
    words = " ".join(judged.chain)
    order = {one.pid: words.find(f"(pid {one.pid})") for one in judged.processes}
    named = [one for one in judged.processes if order[one.pid] >= 0]
    if named:
        return sorted(named, key=lambda one: order[one.pid])
    return sorted(judged.processes, key=_did_well)


def _did_well(one: ProcessJudgement) -> bool:
    return one.verdict in (Verdict.COMPLETED, Verdict.ENDED_BY_US)


def _both_ends(lines: Sequence[str], most: int) -> str:
    """What a program says first is often what went wrong."""
    if len(lines) <= most:
        return _tail(lines, most)
    head = most // 2
    return f"{_tail(lines[:head], head)}\n{_tail(lines[head:], most - head)}"


def _tail(lines: Sequence[str], most: int) -> str:
    kept = [cut(COLOURS.sub("", line), LINE) for line in lines[-most:]]
    gone = len(lines) - len(kept)
    return "\n".join([f"... {gone} more lines ..."] * (gone > 0) + kept)
