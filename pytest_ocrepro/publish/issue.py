"""The issue text: what a maintainer needs of one case, in the headings of opencode's bug form, standing alone.

What does not fit is dropped in this order: log lines down to ten a process, all log lines, findings behind the tenth,
the environment's extras; the sentence, the chain and the script stay. What was dropped is said at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_ocrepro.history import History, SnapshotTaken, TrialStarted
from pytest_ocrepro.judge.judgement import Judgement, ProcessJudgement
from pytest_ocrepro.judge.rates import wilson
from pytest_ocrepro.publish.cases import Case
from pytest_ocrepro.publish.counting import Cell
from pytest_ocrepro.publish.markdown import escaped, fenced, table
from pytest_ocrepro.publish.records import Proof, RunInfo, StoredTrial
from pytest_ocrepro.publish.repro import Script
from pytest_ocrepro.publish.text import cut, flat
from pytest_ocrepro.readings import LogTail

USUAL, MOST = 12_000, 60_000  # characters; an issue's body may have 65,536
LINES, FEWER_LINES = 40, 10  # of each log
FINDINGS = 10
LINE = 400  # characters of a log line


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what may be dropped is told; each step of ``STEPS`` tells less than the one before."""

    lines: int = LINES
    findings: int | None = None
    extras: bool = True
    dropped: str = ""


STEPS = (
    Told(),
    Told(lines=FEWER_LINES, dropped="log lines but the last ten"),
    Told(lines=0, dropped="the logs"),
    Told(lines=0, findings=FINDINGS, dropped="the logs and findings behind the tenth"),
    Told(lines=0, findings=FINDINGS, extras=False, dropped="the logs, findings behind the tenth, the machine"),
)


def issue_text(
    run: RunInfo,
    trial: StoredTrial,
    *,
    case: Case | None = None,
    script: Script | None = None,
    proof: Proof | None = None,
    most: int = USUAL,
) -> str:
    """Markdown of at most ``most`` characters. ``case``: the counts of its scenario; None: one trial, or a dump."""
    for told in STEPS:
        text = "\n\n".join(_parts(run, trial, case, script, proof, told)) + "\n"
        if len(text) <= most:
            return text
    end = "\n\n(cut: the rest is in the report)\n"
    return text[: most - len(end)] + end


def _parts(
    run: RunInfo, trial: StoredTrial, case: Case | None, script: Script | None, proof: Proof | None, told: Told
) -> Iterator[str]:
    judgement = trial.judgement
    yield "### Description"
    yield from _description(trial, case)
    if judgement is not None:
        yield from _waits(judgement)
        yield from _findings(judgement, told.findings)
    yield "### Plugins"
    yield "None but what the steps below put there."
    yield "### OpenCode version"
    yield f"{escaped(trial.info.version or 'unknown')} (binary: sha256 {trial.info.binary_sha256 or 'unknown'})"
    yield "### Steps to reproduce"
    yield from _steps(trial, script, proof)
    yield from _logs(trial.history, told.lines)
    yield "### Screenshot and/or share link"
    yield "The whole evidence is one inert page (no request, opens offline), to be attached: `report.html`."
    yield "### Operating System"
    yield _system(trial.history) or "unknown"
    if told.extras:
        yield from (f"{escaped(fact.name)}: {escaped(fact.value)}" for fact in run.machine)
    yield "### Terminal"
    yield "None: run headless."
    dropped = f" Left out for length: {told.dropped}." if told.dropped else ""
    yield f"Made by pytest-ocrepro {escaped(run.plugin_version or '')} from run {escaped(run.run_id)}.{dropped}"


def _description(trial: StoredTrial, case: Case | None) -> Iterator[str]:
    judgement = trial.judgement
    if judgement is None:
        yield "The evidence was cut off before it was judged."
        return
    yield f"**{escaped(trial.info.title or trial.info.scenario)}**: {escaped(judgement.reason)}"
    yield f"Verdict: **{judgement.verdict}** ({judgement.grade}) after {judgement.seconds_to_verdict:.1f} s."
    if judgement.signature:
        yield f"Signature: `{flat(judgement.signature).replace('`', '')}`"
    if case is not None:
        yield table(["opencode", "reproduced", "95 % interval", "verdict"], _counts(case))
        yield from (
            f"Control, which must not fail: {escaped(row.title)}: {_controls(row.cells)}" for row in case.controls
        )


def _counts(case: Case) -> Iterator[list[str]]:
    for cell in case.row.cells:
        if cell is not None:
            band = wilson(cell.k, cell.n) if cell.n else None
            between = f"{100 * band.low:.0f}-{100 * band.high:.0f} %" if band else ""
            yield [escaped(cell.version), f"{cell.k} of {cell.n}", between, escaped(cell.verdict)]


def _controls(cells: tuple[Cell | None, ...]) -> str:
    return ", ".join(f"{cell.k} of {cell.n} on {escaped(cell.version)}" for cell in cells if cell is not None)


def _waits(judgement: Judgement) -> Iterator[str]:
    if judgement.chain:
        yield "Who waits for whom, the root last, each link with its evidence:"
        yield "\n".join(f"{at}. {escaped(link, 800)}" for at, link in enumerate(judgement.chain, start=1))
    rows = (_row(process) for process in judgement.processes)
    head = ["process", "exit", "verdict", "after", "last milestone", "first not reached", "because"]
    if judgement.processes:
        yield table(head, rows)
    refuted = [one.refuted_by for one in judgement.processes if one.refuted_by and one.chain == judgement.chain]
    yield from (f"What would refute it: {escaped(words)}." for words in refuted[:1])


def _row(process: ProcessJudgement) -> list[str]:
    return [
        escaped(f"{process.role}: {' '.join(process.argv)}", 120),
        "alive" if process.exit is None else str(process.exit),
        f"{process.verdict} ({process.grade})",
        f"{process.seconds:.1f} s",
        escaped(process.milestone),
        escaped(process.next_milestone) or "–",  # noqa: RUF001
        escaped("; ".join(process.because)),
    ]


def _findings(judgement: Judgement, most: int | None) -> Iterator[str]:
    if judgement.findings:
        yield "\n".join(f"- {escaped(one.kind)}: {escaped(one.text)}" for one in judgement.findings[:most])


def _steps(trial: StoredTrial, script: Script | None, proof: Proof | None) -> Iterator[str]:
    if script is not None and script.text:
        ends = "1 when the failure shows, 0 when it does not, 2 when that could not be told"
        yield f"This script needs bash, Python 3 and opencode only, works in a temporary HOME and ends with {ends}."
        yield fenced(script.text.rstrip("\n"))
        yield proof.in_words if proof else "The harness has not run this script."
    elif script is not None and script.why_not:
        yield f"There is no script without the harness: {escaped(script.why_not)}."
    if trial.info.replay:
        yield fenced(trial.info.replay)


def _logs(history: History, most: int) -> Iterator[str]:
    looks = [event.snapshot for event in history.of_type(SnapshotTaken) if event.snapshot.full]
    last: dict[str, LogTail] = {f"{tail.path} {tail.pid}": tail for look in looks for tail in look.logs}
    for tail in last.values() if most else ():
        lines = [cut(line.text, LINE) for line in tail.lines[-most:]]
        if lines:
            whose = f"pid {tail.pid}" if tail.pid is not None else "shared"
            yield f"The log of {whose} ends at `{flat(tail.milestone) or 'unknown'}`:"
            yield fenced("\n".join(lines))


def _system(history: History) -> str:
    for event in history.of_type(TrialStarted):
        return f"{escaped(event.kernel)}, {event.cpus} cores, load {event.load_average:.1f}"
    return ""
