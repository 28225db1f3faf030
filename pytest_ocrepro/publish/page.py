"""The self-contained HTML page of a run, and the short table of it for a terminal.

The page is rebuilt from the bundles at any time. It carries no script and asks for nothing: its content security
policy forbids both. All text goes through ``pictures.visible`` and jinja2's escaping on its way in.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.history import (
    DatabaseRead,
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    History,
    HttpCall,
    LockDirectoryChanged,
    Note,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    SignalSent,
    SnapshotTaken,
    Swept,
    TrialStarted,
    Trouble,
)
from pytest_ocrepro.judge import checkpoint
from pytest_ocrepro.judge.judgement import Grade, Judgement, Result, Verdict
from pytest_ocrepro.judge.rates import excludes, wilson
from pytest_ocrepro.judge.threads import groups
from pytest_ocrepro.publish.bundle import RunDir, StoredTrial, TrialBundle, TrialInfo, TrialResult
from pytest_ocrepro.publish.pictures import Timeline, graph, swimlane, timeline, visible
from pytest_ocrepro.publish.redaction import Masked
from pytest_ocrepro.readings import FdKind, LogTail, ProcessReading, Snapshot, ThreadReading

DETAILED = 3  # trials of one (scenario, version, result) whose evidence is on the page; the others get a row
MAX_EVIDENCE_CHARACTERS = 14_000_000  # beyond it trials get a row too: the page is to open, and to be attached
TORN = "pytest ended before this trial was judged"
GLYPHS = {Result.REPRODUCED: "●", Result.NOT_SEEN: "○", Result.INCONCLUSIVE: "?"}
WORDS = {Result.REPRODUCED: "reproduced", Result.NOT_SEEN: "not seen", Result.INCONCLUSIVE: "inconclusive"}
_ORDER = (Result.REPRODUCED, Result.INCONCLUSIVE, Result.NOT_SEEN)


def write_report(run: RunDir) -> Path:
    """Render the run and store the page in it; returns the page's path. Raises BundleError where it cannot."""
    return run.write_page(render(run))


def render(run: RunDir) -> str:
    """The page, as one text. A bundle that cannot be read is named on it with its error; the others are there."""
    return _Page(run).render()


def summary_table(results: Sequence[TrialResult], *, width: int = 120) -> str:
    """Scenario by version for a terminal: k of n, verdict and the reason, in lines of at most ``width`` columns."""
    lines = [("scenario", "version", "rate", "verdict", "reason")]
    for row in _matrix([Entry(result=result) for result in results]):
        title = _cut(_flat(row.title), 40)
        for cell in filter(None, row.cells):
            rate = f"{cell.glyph} {cell.rate}" + (f" +{cell.inconclusive}?" if cell.inconclusive and cell.n else "")
            lines.append((title, _cut(_flat(cell.version), 16), rate, _flat(cell.verdict), _flat(cell.reason)))
            title = ""
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return "\n".join(_cut("  ".join(map(str.ljust, line, (*widths, 0))), width).rstrip() for line in lines)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One trial as it is counted. ``path``: its bundle, where there is one."""

    result: TrialResult
    info: TrialInfo | None = None
    path: Path | None = None

    @property
    def anchor(self) -> str:
        """The fragment that leads to its evidence."""
        return f"trial-{self.path.name}" if self.path else ""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one scenario on one version. ``n`` counts the conclusive ones."""

    version: str
    k: int
    n: int
    inconclusive: int
    verdict: str
    reason: str
    result: Result
    anchor: str
    expected: tuple[str, ...]

    @property
    def glyph(self) -> str:
        """The result in one character."""
        return GLYPHS[self.result]

    @property
    def word(self) -> str:
        """The result in words."""
        return WORDS[self.result]

    @property
    def rate(self) -> str:
        """k/n."""
        return f"{self.k}/{self.n}"

    @property
    def doubt(self) -> str:
        """What the count allows: an interval where something was seen, the excluded rate where nothing was."""
        if self.result is Result.INCONCLUSIVE:
            return ""
        if self.k == 0:
            return f"rules out > {100 * excludes(self.n):.0f} %"
        if self.n == 1:
            return ""  # one trial says that it can happen, and nothing about how often
        rate = wilson(self.k, self.n)
        return f"95 % CI {100 * rate.low:.0f}-{100 * rate.high:.0f} %"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario of the matrix; ``cells`` has None where it was not run on that version."""

    scenario: str
    title: str
    issue: tuple[str, ...]
    control: bool
    cells: tuple[Cell | None, ...]

    @property
    def result(self) -> Result:
        """What the scenario shows over all versions; inconclusive on one is never a pass of all."""
        results = {cell.result for cell in self.cells if cell}
        return next(result for result in _ORDER if result in results)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain. ``holder`` empty: a sentence that no edge of the graph could be found for."""

    waiter: str
    verb: str = ""
    holder: str = ""
    grade: str = ""
    evidence: tuple[str, ...] = ()


class ThreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of one process that look alike, between the last two full snapshots."""

    count: int
    tids: str
    name: str
    state: str | None
    wchan: str | None
    syscall: str | None
    waits: str
    voluntary: int | None
    involuntary: int | None
    cpu_ms: float | None


class ThreadTable(msgspec.Struct, frozen=True, kw_only=True):
    """The threads of one process; ``apart_s`` seconds lie between the two looks (None: there was one look)."""

    process: ProcessReading
    apart_s: float | None
    rows: tuple[ThreadRow, ...]


class FdGroup(msgspec.Struct, frozen=True, kw_only=True):
    """File descriptors of one kind in one process."""

    role: str
    pid: int
    kind: str
    count: int
    targets: tuple[str, ...]


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the harness did or met, in order."""

    at_s: float
    kind: str
    text: str


class TrialView(msgspec.Struct, frozen=True, kw_only=True):
    """All that one trial's part of the page shows."""

    entry: Entry
    stored: StoredTrial
    started: TrialStarted | None
    timeline: Timeline
    swimlane: Markup
    graph: Markup | None
    steps: tuple[Step, ...]
    processes: tuple[ProcessStarted | ProcessFound, ...]
    exits: tuple[ProcessExited, ...]
    expectations: tuple[Expectation, ...]
    calls: tuple[HttpCall, ...]
    databases: tuple[DatabaseRead, ...]
    threads: tuple[ThreadTable, ...]
    fds: tuple[FdGroup, ...]
    last: Snapshot | None
    snapshots: int
    logs: tuple[LogTail, ...]
    remarks: tuple[Remark, ...]
    missing: tuple[tuple[str, int], ...]


class _Page:
    """Gathers a run and renders it, one history in memory at a time."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._problems: list[str] = []
        self._masked: Counter[str] = Counter()
        self._views = 0
        self._entries = sorted(self._gather(), key=_place)

    def render(self) -> str:
        clearest = min((e for e in self._entries if _shows(e)), key=_clarity, default=None)
        shown = self._view(clearest) if clearest else None
        trials, rows = self._evidence(clearest)
        matrix = _matrix(self._entries)
        return (
            _templates()
            .get_template("report.html.j2")
            .render(
                run=self._run.info,
                headline=_headline(matrix),
                tally=_tally(matrix),
                controls=[row for row in matrix if row.control],
                versions=_versions(self._entries),
                matrix=matrix,
                clearest=shown,
                trials=trials,
                rows=rows,
                total=len(self._entries),
                problems=self._problems,
                masked=[Masked(kind=kind, count=count) for kind, count in sorted(self._masked.items())],
            )
        )

    def _gather(self) -> Iterator[Entry]:
        seen = set()
        for path in self._run.bundles():
            try:
                info, result, masked = TrialBundle.peek(path)
            except BundleError as error:
                self._problems.append(str(error))
                continue
            seen.add(path.name)
            self._masked.update({one.kind: one.count for one in masked})
            yield Entry(result=result or _unjudged(self._run.info.run_id, info, path), info=info, path=path)
        for result in self._stray_results(seen):
            yield Entry(result=result)

    def _stray_results(self, seen: set[str]) -> list[TrialResult]:
        try:
            return [r for r in self._run.results() if r.bundle.rpartition("/")[2] not in seen]
        except BundleError as error:
            self._problems.append(str(error))
            return []

    def _evidence(self, clearest: Entry | None) -> tuple[list[Markup], list[Entry]]:
        """The detailed trials as HTML, and those that only get a row."""
        trials: list[Markup] = []
        rows: list[Entry] = []
        taken: Counter[tuple[str, str, str]] = Counter()
        template = _templates().get_template("trial.html.j2")
        size = 0
        for entry in self._entries:
            group = (_scenario(entry.result), entry.result.version, entry.result.result)
            view = self._view(entry) if taken[group] < DETAILED and size < MAX_EVIDENCE_CHARACTERS else None
            if view is None:
                rows.append(entry)
                continue
            taken[group] += 1
            trials.append(Markup(template.render(trial=view, opened=entry is clearest)))  # noqa: S704 - autoescaped
            size += len(trials[-1])
        return trials, rows

    def _view(self, entry: Entry) -> TrialView | None:
        if entry.path is None:
            return None
        try:
            stored = TrialBundle.read(entry.path)
        except BundleError as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return None
        self._views += 1
        return _trial_view(entry, stored, uid=str(self._views))


def _trial_view(entry: Entry, stored: StoredTrial, *, uid: str) -> TrialView:
    history, judgement = stored.history, stored.judgement
    full = [event.snapshot for event in history.of_type(SnapshotTaken) if event.snapshot.full]
    line = timeline(history, judgement)
    wait_for = judgement.graph if judgement and judgement.graph.edges else None
    missing = Counter(reason for snapshot in full for reason in snapshot.missing)
    return TrialView(
        entry=entry,
        stored=stored,
        started=next(iter(history.of_type(TrialStarted)), None),
        timeline=line,
        swimlane=Markup(swimlane(line, uid=uid)),  # noqa: S704 - pictures escape what they draw
        graph=Markup(graph(wait_for, uid=uid)) if wait_for else None,  # noqa: S704
        steps=tuple(_steps(judgement)) if judgement else (),
        processes=tuple(e for e in history if isinstance(e, (ProcessStarted, ProcessFound))),
        exits=tuple(history.of_type(ProcessExited)),
        expectations=tuple(history.of_type(Expectation)),
        calls=tuple(history.of_type(HttpCall)),
        databases=tuple(history.of_type(DatabaseRead)),
        threads=tuple(_threads(full)),
        fds=tuple(_fds(full[-1])) if full else (),
        last=full[-1] if full else None,
        snapshots=len(full),
        logs=tuple({tail.path: tail for snapshot in full for tail in snapshot.logs}.values()),
        remarks=tuple(_remarks(history)),
        missing=tuple(sorted(missing.items())),
    )


def _unjudged(run_id: str, info: TrialInfo, path: Path) -> TrialResult:
    return TrialResult(
        run_id=run_id,
        scenario=info.scenario,
        title=info.title,
        issue=info.issue,
        version=info.version,
        binary_sha256=info.binary_sha256,
        trial=info.trial,
        seed=info.seed,
        result=Result.INCONCLUSIVE,
        reason=TORN,
        verdict=Verdict.INCONCLUSIVE,
        grade=Grade.WEAK,
        seconds_to_verdict=0.0,
        chain=(),
        processes=(),
        findings=(),
        leaked=(),
        signature="",
        bundle=f"trials/{path.name}",
    )


# --- counting ---------------------------------------------------------------------------------------------------


def _result(entry: Entry) -> Result:
    try:
        return Result(entry.result.result)
    except ValueError:
        return Result.INCONCLUSIVE


def _place(entry: Entry) -> tuple[int, str, tuple[tuple[int, int, str], ...], int]:
    result = entry.result
    return _ORDER.index(_result(entry)), result.scenario, _version_key(result.version), result.trial


def _shows(entry: Entry) -> bool:
    return _result(entry) is Result.REPRODUCED and entry.path is not None


def _clarity(entry: Entry) -> tuple[bool, bool, int, float]:
    """A hang with a chain says most; then the better grade, then the shorter story."""
    result = entry.result
    grades = [str(grade) for grade in Grade]
    grade = grades.index(result.grade) if result.grade in grades else len(grades)
    return result.known and not result.chain, not result.chain, grade, result.seconds_to_verdict


def _version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers as numbers, so that 1.9 is before 1.10."""
    parts = re.split(r"[.+-]", version)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _versions(entries: Iterable[Entry]) -> list[str]:
    return sorted({entry.result.version for entry in entries}, key=_version_key)


def _matrix(entries: Sequence[Entry]) -> list[Row]:
    versions = _versions(entries)
    found: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        found[_scenario(entry.result)][entry.result.version].append(entry)
    rows = [_row(scenario, by_version, versions) for scenario, by_version in found.items()]
    return sorted(rows, key=lambda row: (row.control, _ORDER.index(row.result), row.scenario))


def _scenario(result: TrialResult) -> str:
    """The node id without the version and the trial that pytest's parametrization put into its brackets."""
    head, bracket, inner = result.scenario.rstrip("]").partition("[")
    inner = re.sub(rf"(?:^|-)(?:{re.escape(result.version)}|(?:t|trial){result.trial})(?=-|$)", "", inner)
    return f"{head}[{inner.strip('-')}]" if bracket and inner.strip("-") else head


def _row(scenario: str, by_version: dict[str, list[Entry]], versions: Sequence[str]) -> Row:
    first = next(iter(by_version.values()))[0]
    return Row(
        scenario=scenario,
        title=first.result.title or scenario.rpartition("::")[2],
        issue=first.result.issue,
        control=bool(first.info and first.info.control),
        cells=tuple(_cell(version, by_version[version]) if version in by_version else None for version in versions),
    )


def _cell(version: str, entries: Sequence[Entry]) -> Cell:
    results = Counter(_result(entry) for entry in entries)
    k, n = results[Result.REPRODUCED], results[Result.REPRODUCED] + results[Result.NOT_SEEN]
    result = Result.REPRODUCED if k else Result.NOT_SEEN if n else Result.INCONCLUSIVE
    telling = [entry for entry in entries if _result(entry) is result]
    return Cell(
        version=version,
        k=k,
        n=n,
        inconclusive=results[Result.INCONCLUSIVE],
        verdict=Counter(_called(entry.result) for entry in telling).most_common(1)[0][0],
        reason=telling[0].result.reason,
        result=result,
        anchor=next((entry.anchor for entry in telling), ""),
        expected=tuple(sorted({entry.result.expected for entry in entries} - {""})),
    )


def _called(result: TrialResult) -> str:
    """The verdict; for a process that is well while its stored state is not, what was found there."""
    kinds = dict.fromkeys(finding.kind for finding in result.findings if finding.kind != "off-loopback")
    hung = result.verdict in {verdict.value for verdict in Verdict if verdict.hung}
    told = result.result == Result.REPRODUCED and kinds and not hung
    return ", ".join([*kinds][:2]) if told else result.verdict


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many scenarios (controls not counted) have one result."""

    result: Result
    glyph: str
    word: str
    count: int


def _tally(rows: Iterable[Row]) -> list[Tally]:
    counts = Counter(row.result for row in rows if not row.control)
    ordered = (Result.REPRODUCED, Result.NOT_SEEN, Result.INCONCLUSIVE)
    return [
        Tally(result=result, glyph=GLYPHS[result], word=WORDS[result], count=counts[result]) for result in ordered
    ]


def _headline(rows: Sequence[Row]) -> str:
    """The run in one sentence."""
    claims = [row for row in rows if not row.control] or list(rows)
    if not claims:
        return "Nothing was run"
    bad = [row for row in claims if row.result is Result.REPRODUCED]
    if not bad:
        versions = _listed({cell.version for row in claims for cell in row.cells if cell})
        doubt = any(row.result is Result.INCONCLUSIVE for row in claims)
        what = "Inconclusive" if doubt else "Not seen"
        return f"{what}: none of {_plural(len(claims), 'scenario')} reproduced on opencode {versions}"
    where = _listed({cell.version for row in bad for cell in row.cells if cell and cell.k})
    if len(claims) == 1:
        k = sum(cell.k for cell in bad[0].cells if cell)
        n = sum(cell.n for cell in bad[0].cells if cell)
        return f"Reproduced in {k} of {_plural(n, 'trial')} on opencode {where}: {bad[0].title}"
    return f"{len(bad)} of {_plural(len(claims), 'scenario')} reproduced on opencode {where}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(versions: Iterable[str]) -> str:
    ordered = sorted(versions, key=_version_key)
    if len(ordered) > 5:  # noqa: PLR2004 - a sentence, not a table
        return f"{ordered[0]} … {ordered[-1]} ({len(ordered)} versions)"
    return " and ".join([", ".join(ordered[:-1]), ordered[-1]] if len(ordered) > 1 else ordered) or "(unknown)"


# --- evidence ---------------------------------------------------------------------------------------------------


def _steps(judgement: Judgement) -> Iterator[Step]:
    labels = {node.key: node.label for node in judgement.graph.nodes}
    spoken = {
        f"{labels.get(edge.waiter, edge.waiter)} {edge.verb} {labels.get(edge.holder, edge.holder)}": edge
        for edge in judgement.graph.edges
    }
    for sentence in judgement.chain:
        found = max((head for head in spoken if sentence.startswith(head)), key=len, default=None)
        if found is None:
            yield Step(waiter=sentence)
            continue
        edge = spoken[found]
        yield Step(
            waiter=labels.get(edge.waiter, edge.waiter),
            verb=edge.verb,
            holder=labels.get(edge.holder, edge.holder),
            grade=edge.grade,
            evidence=edge.evidence,
        )


def _threads(snapshots: Sequence[Snapshot]) -> Iterator[ThreadTable]:
    looks: dict[tuple[int, int], list[tuple[int, ProcessReading]]] = defaultdict(list)
    for snapshot in snapshots:
        for process in snapshot.processes:
            looks[process.id.pid, process.id.start_ticks].append((snapshot.started_ns, process))
    for seen in looks.values():
        (before_ns, before), (after_ns, after) = seen[-2:] if len(seen) > 1 else (seen[0], seen[0])
        apart_s = (after_ns - before_ns) / 1e9 if len(seen) > 1 else None
        yield ThreadTable(process=after, apart_s=apart_s, rows=tuple(_thread_rows(before, after, apart_s)))


def _thread_rows(before: ProcessReading, after: ProcessReading, apart_s: float | None) -> Iterator[ThreadRow]:
    earlier = {thread.tid: thread for thread in before.threads} if apart_s is not None else {}
    alike: dict[ThreadRow, list[int]] = defaultdict(list)
    for group in groups(after):
        shared = f"; all at futex {group.wait.futex}" if group.wait.futex and len(group.threads) > 1 else ""
        for thread in group.threads:
            row = _thread_row(earlier.get(thread.tid), thread, f"{group.wait.words}{shared}")
            alike[row].append(thread.tid)
    for row, tids in alike.items():
        some = ", ".join(map(str, tids[:4])) + (" …" if len(tids) > 4 else "")  # noqa: PLR2004 - a hint, not a list
        yield msgspec.structs.replace(row, count=len(tids), tids=some)


def _thread_row(before: ThreadReading | None, after: ThreadReading, waits: str) -> ThreadRow:
    before = before or _NEVER_SEEN
    cpu_ns = _delta(before.cpu_ns, after.cpu_ns)
    return ThreadRow(
        count=1,
        tids="",
        name=after.name.rstrip("0123456789").rstrip() or after.name,  # the numbers of a pool tell nothing
        state=after.state,
        wchan=after.wchan,
        syscall=after.syscall,
        waits=waits,
        voluntary=_delta(before.voluntary_switches, after.voluntary_switches),
        involuntary=_delta(before.involuntary_switches, after.involuntary_switches),
        cpu_ms=None if cpu_ns is None else round(cpu_ns / 1e6, 1),
    )


_NEVER_SEEN = ThreadReading(tid=0, name="")


def _delta(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _fds(snapshot: Snapshot) -> Iterator[FdGroup]:
    telling = (FdKind.DATABASE, FdKind.WAL, FdKind.SHM, FdKind.LOG, FdKind.SOCKET, FdKind.PIPE, FdKind.FILE)
    for process in snapshot.processes:
        groups: dict[FdKind, list[str]] = defaultdict(list)
        for fd in process.fds:
            detail = f" ({fd.detail})" if fd.detail else ""
            groups[fd.kind].append(f"{fd.fd} → {fd.target}{detail}")
        for kind in sorted(groups, key=lambda kind: telling.index(kind) if kind in telling else len(telling)):
            yield FdGroup(
                role=process.role, pid=process.id.pid, kind=kind, count=len(groups[kind]), targets=tuple(groups[kind])
            )


def _remarks(history: History) -> Iterator[Remark]:
    events = list(history)
    origin_ns = events[0].at_ns if events else 0
    for event in events:
        told = _told(event)
        if told:
            yield Remark(at_s=(event.at_ns - origin_ns) / 1e9, kind=told[0], text=told[1])


def _told(event: Event) -> tuple[str, str] | None:
    match event:
        case FaultInjected():
            return "fault injected", ", ".join(filter(None, (event.fault, event.detail, event.address)))
        case FaultHealed():
            return "fault healed", event.fault
        case SignalSent():
            return (
                "signal",
                f"{event.signal} to {event.role} (pid {event.pid}){f': {event.why}' if event.why else ''}",
            )
        case LockDirectoryChanged():
            who = "" if event.holder_pid is None else f" by pid {event.holder_pid}"
            return "lock directory", f"{event.key or event.path}: {event.how}{who}; {event.because}"
        case OffLoopback():
            return "off loopback", f"pid {event.pid} was refused {event.destination}"
        case Note():
            return "note", event.text
        case Trouble():
            return "trouble", event.what
        case Swept():
            left = f"leaked: {', '.join(event.leaked)}" if event.leaked else "nothing leaked"
            tools = f"; outlived their opencode: {', '.join(event.survivors)}" if event.survivors else ""
            return "swept", f"{left}; ended by the sweep: {', '.join(event.ended) or 'nothing'}{tools}"
        case _:
            return None


# --- templates --------------------------------------------------------------------------------------------------

_ISSUE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]{0,38})/([A-Za-z0-9._-]{1,100})#([0-9]{1,9})")


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_ocrepro", "publish/templates"),
        autoescape=True,  # for every template, whatever it is called
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(checkpoint=checkpoint.told, clip=_clip, issue_url=_issue_url, size=_size)
    environment.globals.update(GLYPHS=dict(GLYPHS), WORDS=dict(WORDS))
    return environment


def _shown(value: Any) -> Any:
    """Every ``{{ ... }}`` of every template passes here before it is escaped."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash stands for "not known"
    if isinstance(value, Markup):
        return value
    return visible(value) if isinstance(value, str) else value


def _clip(text: str, most: int = 400) -> str:
    """Head and tail of a long text, with what was cut between them counted."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]} … {len(text) - most:,} characters cut … {text[head - most :]}"


def _issue_url(issue: str) -> str:
    """Where an issue like ``owner/name#12`` is; empty for anything else, which is then shown as text."""
    found = _ISSUE.fullmatch(issue)
    return "https://github.com/{}/{}/issues/{}".format(*found.groups()) if found else ""


def _size(size_bytes: int) -> str:
    return f"{size_bytes:,} B" if size_bytes < 100_000 else f"{size_bytes / 1e6:,.1f} MB"  # noqa: PLR2004


def _flat(text: str) -> str:
    return visible(" ".join(text.split()))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
