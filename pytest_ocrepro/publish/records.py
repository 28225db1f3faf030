"""The records of a stored run: what each file of a run directory and of a bundle says."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pytest_ocrepro.events import ProcessStarted, ScenarioSkipped, StepWaited
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Finding, Judgement, ProcessJudgement
from pytest_ocrepro.judge.offsets import Offset
from pytest_ocrepro.judge.passage import Passage, passages
from pytest_ocrepro.publish.redaction import Masked

SCHEMA = 1


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A name and a value for people: one fact of the machine, one option with its value and source."""

    name: str
    value: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One build that was run. ``package`` and ``integrity`` are npm's, "" for one that was not fetched."""

    version: str
    sha256: str
    source: str = ""  # path, PATH, npm, cache
    package: str = ""
    integrity: str = ""

    @property
    def provenance(self) -> str:
        """Where it is from, and what it was checked against, in words."""
        if not self.integrity:
            return self.source
        return f"{self.source} · {self.package} of npm, checked as announced and as packed: {self.integrity}"


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The frame of a run. ``started`` is UTC ISO 8601.

    Of a merged run: ``parts`` are the frames of the runs in it, ``left_out`` says what could not be taken over.
    """

    schema: int = SCHEMA
    run_id: str
    started: str = ""
    plugin_version: str = ""
    pytest_command: tuple[str, ...] = ()
    machine: tuple[Fact, ...] = ()
    subjects: tuple[Subject, ...] = ()
    options: tuple[Fact, ...] = ()
    parts: tuple[RunInfo, ...] = ()
    left_out: tuple[str, ...] = ()
    planned: int | None = None  # trials that were to be run; None: not known


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a trial. ``exit``: status, minus the signal, or None while it lived."""

    role: str
    pid: int
    argv: tuple[str, ...]
    exit: int | None
    verdict: str
    milestone: str
    seconds: float


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of results.jsonl. ``bundle`` is relative to the run directory.

    ``expected`` says what pytest made of it and why ("xfailed: known on 1.14.48"); ``known``: the scenario's
    mark lists the version.
    """

    schema: int = SCHEMA
    run_id: str
    scenario: str  # node id
    title: str
    issue: tuple[str, ...]
    version: str
    binary_sha256: str
    trial: int
    seed: int
    result: str  # reproduced, not-seen, inconclusive
    reason: str
    verdict: str
    grade: str
    seconds_to_verdict: float
    chain: tuple[str, ...]  # waiter first, root last
    processes: tuple[ProcessRow, ...]
    findings: tuple[Finding, ...]
    leaked: tuple[str, ...]  # must be empty
    signature: str
    bundle: str
    expected: str = ""
    known: bool = False
    passages: tuple[Passage, ...] = ()  # of the subjects; empty: stored before they were told
    offset: Offset | None = None  # of a scenario that sweeps one
    control: bool = False  # as TrialInfo has it, which may be unreadable
    skipped: str = ""  # why the scenario has ended itself; it then says nothing, and would again


class TrialInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a trial starts. ``started`` is UTC ISO 8601."""

    schema: int = SCHEMA
    scenario: str
    title: str
    issue: tuple[str, ...] = ()
    version: str = ""
    binary_sha256: str = ""
    trial: int = 1
    seed: int = 0
    docstring: str = ""
    replay: str = ""
    marker: str = ""  # the environment entry that all of the trial's processes carry
    started: str = ""
    control: bool = False  # meant never to fail: it shows that the scenario's ingredient is the cause


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bundle of a merged run is from: origin.json. The whole frame is in RunInfo.parts.

    ``bundle``: its directory's name there. ``copies``: digests of all the copies that were met; more than one says
    that they differed, and that the most complete one was kept.
    """

    run_id: str
    bundle: str
    started: str = ""
    plugin_version: str = ""
    system: str = ""
    copies: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """How often a repro script showed the failure: ``k`` of ``n`` runs; ``untold`` ended with neither answer."""

    schema: int = SCHEMA
    scenario: str
    version: str
    binary_sha256: str
    script_sha256: str
    k: int
    n: int
    untold: int = 0
    seconds: tuple[float, ...] = ()

    @property
    def in_words(self) -> str:
        """``reproduced 3 of 3 by this script``, and what could not tell."""
        more = f"; {self.untold} more could not tell" if self.untold else ""
        return f"reproduced {self.k} of {self.n} by this script{more}"


def result_of(run_id: str, info: TrialInfo, history: History, judged: Judgement, bundle: str) -> TrialResult:
    """The line of results.jsonl; ``expected`` and ``known`` are pytest's to add."""
    return TrialResult(
        run_id=run_id,
        scenario=info.scenario,
        title=info.title,
        issue=info.issue,
        version=info.version,
        binary_sha256=info.binary_sha256,
        trial=info.trial,
        seed=info.seed,
        result=judged.result.value,
        reason=judged.reason,
        verdict=judged.verdict.value,
        grade=judged.grade.value,
        seconds_to_verdict=judged.seconds_to_verdict,
        chain=judged.chain,
        processes=tuple(_row(process) for process in judged.processes),
        passages=passages(history),
        findings=judged.findings,
        leaked=judged.leaked,
        signature=judged.signature,
        bundle=bundle,
        offset=offset_of(history),
        control=info.control,
        skipped=next((event.why for event in history.of_type(ScenarioSkipped)), ""),
    )


def offset_of(history: History) -> Offset | None:
    """The offset that the trial swept, with when the next process really started; of several the last."""
    swept = [event for event in history.of_type(StepWaited) if event.offset is not None]
    if not swept or swept[-1].offset is None:
        return None
    chosen = swept[-1].offset
    starts = [event.at_ns for event in history.of_type(ProcessStarted) if event.at_ns >= swept[-1].at_ns]
    return Offset(
        asked_ms=round(chosen.asked_s * 1e3, 3),
        took_ms=round((min(starts) - chosen.since_ns) / 1e6, 3) if starts else None,
        low_ms=round(chosen.low_s * 1e3, 3),
        high_ms=round(chosen.high_s * 1e3, 3),
        after=swept[-1].what,
    )


def _row(process: ProcessJudgement) -> ProcessRow:
    return ProcessRow(
        role=process.role,
        pid=process.pid,
        argv=process.argv,
        exit=process.exit,
        verdict=process.verdict.value,
        milestone=process.milestone,
        seconds=process.seconds,
    )


class StoredTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle as read back. ``torn``: it ended before it was complete; ``problems`` says in which way."""

    path: Path
    info: TrialInfo
    history: History
    judgement: Judgement | None
    result: TrialResult | None
    masked: tuple[Masked, ...] = ()
    torn: bool
    problems: tuple[str, ...] = ()
    origin: Origin | None = None  # in a merged run


class Receipt(msgspec.Struct, frozen=True):
    """What was masked in one bundle."""

    masked: tuple[Masked, ...]
