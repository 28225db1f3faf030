"""All that the page shows of one trial: what was claimed, who waits for whom, what happened, what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_ocrepro.events import DatabaseRead, Expectation, HttpCall, ProcessExited, ProcessStarted, TrialStarted
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Graph, Judgement
from pytest_ocrepro.publish import state_blocks
from pytest_ocrepro.publish.claim_blocks import claim, expectations, findings, joined
from pytest_ocrepro.publish.counting import GLYPHS, WORDS, plural
from pytest_ocrepro.publish.document import (
    Block,
    Chain,
    Heading,
    Paragraph,
    Part,
    Picture,
    Text,
    Trial,
    Verbatim,
    Words,
    lines_of,
    mono,
    said,
    seconds,
    sheet,
    soft,
)
from pytest_ocrepro.publish.elsewhere import replayed
from pytest_ocrepro.publish.intrusion_blocks import intrusions
from pytest_ocrepro.publish.logbook import logbook
from pytest_ocrepro.publish.moments import OURS, moments, origin_of
from pytest_ocrepro.publish.pictures.swimlane import swimlane
from pytest_ocrepro.publish.pictures.timeline import Timeline
from pytest_ocrepro.publish.pictures.waitfor import graph
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.publish.trial_view import View, labels_of, seconds_told

SIGNS = {  # by the kind of mark or span that it explains
    "milestone": "◆ milestone",
    "waits": "red hatching: no progress until the verdict",
    "holds": "thin blue bar: holds a lock",
    "queues": "hollow red bar: waits for a lock",
    "left": "dashed bar: a lock left by a process that has ended",
    "fault": "yellow: fault active",
    "request": "blue tick: request",
    "reply": "grey tick: reply",
    "signal": "red T: signal sent by us",
}


def first_look(view: View, *, uid: str) -> tuple[Block, ...]:
    """What the first screen shows of a trial: the chain, and the swimlane, whose table is in the trial's own part."""
    title = f"Swimlane of {view.entry.result.title}, trial {view.entry.result.trial}"
    lane = Picture(svg=swimlane(view.timeline, uid=uid, title=title), title=title, caption=_caption(view.timeline))
    return (*_chain(view), lane)


def _caption(line: Timeline) -> str:
    drawn = {mark.kind for mark in line.marks} | {span.kind for span in line.spans}
    return " · ".join(["One lane a process", *(words for kind, words in SIGNS.items() if kind in drawn)]) + "."


def document(view: View, *, uid: str) -> Trial:
    """The trial as blocks; ``uid`` keeps the marks of its pictures apart from those of others on the same page."""
    result, info = view.entry.result, view.stored.info
    note = f"{WORDS[view.entry.kind]} · opencode {result.version or '(unknown)'} · trial {result.trial}"
    if view.judgement:
        note += f" · {result.verdict} ({result.grade}) after {seconds(seconds_told(view), 1)} s"
    return Trial(
        anchor=view.entry.anchor,
        result=view.entry.says,
        glyph=GLYPHS[view.entry.kind],
        title=clip(result.title, 200),
        note=note + (" · control" if info.control else ""),
        blocks=tuple(_blocks(view, uid)),
    )


def _blocks(view: View, uid: str) -> Iterator[Block]:
    yield from claim(view)
    yield from _chain(view)
    yield from findings(view)
    yield from _swimlane(view, uid)
    yield from expectations(view.history.of_type(Expectation))
    yield from _calls(view.history.of_type(HttpCall))
    if view.judgement and view.judgement.graph.edges:
        yield from _graph(view.judgement.graph, uid, view.entry.anchor)
    if view.judgement:
        yield _processes(view.judgement)
    yield from state_blocks.threads(view.full, origin_of(view.history), view.entry.anchor)
    yield from state_blocks.kernel(view.full)
    yield from intrusions(view.history)
    yield from logbook(view.history, view.full, view.entry.anchor)
    yield from _outputs(view.history.of_type(ProcessExited))
    yield from state_blocks.databases(view.history.of_type(DatabaseRead))
    yield from _remarks(view.history)
    yield _commands(view)
    yield from state_blocks.missing(view.full)


def _chain(view: View) -> Iterator[Block]:
    if view.links:
        yield Chain(links=view.links)


# --- what happened ----------------------------------------------------------------------------------------------


def _swimlane(view: View, uid: str) -> Iterator[Block]:
    line = view.timeline
    if not line.lanes:
        return
    yield Heading(text="What happened when")
    yield Picture(svg=swimlane(line, uid=uid), title="Swimlane of the trial", caption=_caption(line))
    if line.more:
        yield Paragraph(
            text=said(f"{line.more} more processes are not drawn; they are in the table of processes."),
            css="small soft",
        )
    lanes = [said(lane.label) for lane in line.lanes]
    rows = [
        (said(lane.label), said(f"pid {lane.pid}, " if lane.pid is not None else "", lane.ending),
         said(seconds(lane.start_s)), said(seconds(lane.end_s)))
        for lane in line.lanes
    ]  # fmt: skip
    rows += [
        (said("all") if span.lane is None else lanes[span.lane],
         said("fault " if span.kind == "fault" else "", clip(span.label)),
         said(seconds(span.start_s)), said(seconds(span.end_s)))
        for span in line.spans
    ]  # fmt: skip
    moments = [
        (said(seconds(mark.at_s)), said("all") if mark.lane is None else lanes[mark.lane],
         said(mark.kind), said(clip(mark.label)))
        for mark in sorted(line.marks, key=lambda mark: mark.at_s)
        if mark.kind != "sample"
    ]  # fmt: skip
    samples = sum(mark.kind == "sample" for mark in line.marks)
    yield Part(
        title="Timeline as a table",
        note=f"the same facts, in order; {samples} light samples are not listed",
        id=f"{view.entry.anchor}-timeline",
        blocks=(
            sheet("Lanes and spans", ["lane", "what", "#from s", "#to s"], rows),
            sheet("Moments", ["#at s", "lane", "kind", "what"], moments),
        ),
    )


def _calls(calls: Iterable[HttpCall]) -> Iterator[Block]:
    rows = [
        (
            said(call.purpose),
            said(mono(f"{call.method} {call.path}", 160)),
            said(_answer(call)),
            said(seconds(call.seconds), "" if call.status else f" of {call.timeout_s:.0f}"),
            said(mono(call.body, 280)),
        )
        for call in calls
    ]
    if rows:
        yield Heading(text="Calls to the server")
        title = (
            "What was tried and what came back: for a pending question or a stuck session, which ways out there are"
        )
        yield sheet(title, ["purpose", "call", "answer", "#seconds", "body"], rows)


def _answer(call: HttpCall) -> Words:
    if not call.status:
        return Words(f"✕ {clip(call.error, 120) or 'no answer'}", "no")
    good = call.status < 400  # noqa: PLR2004 - the errors of HTTP begin there
    return Words(f"✓ {call.status}", "ok") if good else Words(f"✕ {call.status}", "no")


def _graph(wait_for: Graph, uid: str, anchor: str) -> Iterator[Block]:
    labels = labels_of(wait_for)
    rows = [
        (
            said(clip(labels[edge.waiter], 200)),
            said(edge.verb),
            said(clip(labels[edge.holder], 200)),
            said(Words(edge.grade or "–", f"badge {edge.grade}")),  # noqa: RUF001 - a dash
            lines_of(edge.evidence),
        )
        for edge in wait_for.edges
    ]
    cycle = "red: the cycle" if wait_for.cycle else "no cycle found"
    yield Part(
        title="Who waits for whom",
        note=f"{plural(len(rows), 'edge')}, {cycle}",
        id=f"{anchor}-graph",
        opened=True,
        blocks=(
            Picture(
                svg=graph(wait_for, uid=uid),
                title=f"Wait-for graph, {cycle}",
                caption=f"Solid: proved · dashed: inferred · dotted: declared by the scenario · {cycle}.",
            ),
            sheet("All edges, and what shows each of them", ["waiter", "", "holder", "grade", "evidence"], rows),
        ),
    )


def _processes(judgement: Judgement) -> Part:
    rows = [
        (
            said(Words(one.role, "strong"), "\n", mono(" ".join(one.argv), 200)),
            said(one.pid),
            said("alive" if one.exit is None else one.exit),
            said(one.verdict, soft(f"\n{one.grade}")),
            said(one.milestone or None, soft(f"\nnext: {one.next_milestone}") if one.next_milestone else ""),
            said(seconds(one.seconds)),
            (
                *lines_of(one.because),
                *said(soft(f"\nrefuted by: {clip(one.refuted_by, 200)}") if one.refuted_by else ""),
            ),
        )
        for one in judgement.processes
    ]
    heads = ["role", "#pid", "exit", "verdict", "last milestone", "#seconds", "because"]
    table = sheet("Each process, its verdict and why", heads, rows)
    return Part(title="Processes", note=f"{len(rows)} judged", opened=True, blocks=(table,))


def _refuted_by(what: str) -> Text:
    return said(soft(f"\nrefuted by: {clip(what, 200)}")) if what else ()


def _outputs(exits: Iterable[ProcessExited]) -> Iterator[Block]:
    blocks: list[Block] = []
    for gone in exits:
        how = f"ended by signal {-gone.code}" if gone.code < 0 else f"exit {gone.code}"
        how += (", sent by us" if gone.ours else "") + (", answered" if gone.answered else "")
        blocks.append(Paragraph(text=said(Words(gone.role, "strong"), f" (pid {gone.pid}): {how}"), css="small"))
        blocks.append(
            Verbatim(text=clip(gone.output, 4000))
            if gone.output
            else Paragraph(text=said("It printed nothing."), css="small soft")
        )
    if blocks:
        yield Part(title="Output of the processes", blocks=tuple(blocks))


def _remarks(history: History) -> Iterator[Block]:
    rows = [
        (said(seconds(moment.at_s)), said(moment.kind), said(clip(moment.text)))
        for moment in moments(history)
        if moment.kind in OURS
    ]
    if rows:
        table = sheet("Faults, signals, notes, troubles, the sweep", ["#at s", "kind", "what"], rows)
        yield Part(title="What the harness did and met", blocks=(table,))


def _commands(view: View) -> Part:
    info = view.stored.info
    blocks: list[Block] = []
    for process in view.history.of_type(ProcessStarted):
        owes = process.obligation or "nothing"
        limits = f"fail-fast limit {process.fail_fast_s:g} s, deadline {process.deadline_s:g} s"
        told = said(Words(process.role, "strong"), f" · stdin {process.stdin} · owes: {owes} · {limits}")
        blocks += [Paragraph(text=told, css="small"), Verbatim(text=clip(" ".join(process.argv), 1000))]
        if process.environment:
            entries = clip("\n".join(process.environment), 6000)
            blocks.append(Verbatim(text=entries, folded=f"environment, {len(process.environment)} entries"))
    if info.replay:
        blocks += [Paragraph(text=said(Words("Replay", "strong")), css="small"), Verbatim(text=replayed(info.replay))]
    started = next(iter(view.history.of_type(TrialStarted)), None)
    facts = [
        said("binary sha256 ", mono(info.binary_sha256 or None)),
        said("marker ", mono(info.marker or None)),
        said(f"started {info.started or '–'}"),  # noqa: RUF001 - a dash
    ]
    if started:
        machine = f"{started.cpus} CPUs, load {started.load_average:g}, kernel {started.kernel or '–'}"  # noqa: RUF001
        facts.append(said(machine))
    facts.append(said("bundle ", mono(view.entry.result.bundle)))
    blocks.append(Paragraph(text=joined(facts), css="small soft"))
    return Part(title="Commands, environment, replay", blocks=tuple(blocks))
