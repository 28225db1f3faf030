"""The words of a judgement: what judge returns, publish stores and everybody reads."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""


class Verdict(StrEnum):
    """What we call a process (architecture: verdicts of a process)."""

    COMPLETED = "completed"
    FAILED_FAST = "failed-fast"
    FAILED_LATE = "failed-late"
    SILENT = "silent"
    CRASHED = "crashed"
    DEADLOCK = "deadlock"
    BLOCKED = "blocked"
    LIVELOCK = "livelock"
    STALLED = "stalled"
    WAITING_FOR_INPUT = "waiting-for-input"
    OVERRAN = "overran"
    ENDED_BY_US = "ended-by-us"
    ALIVE = "alive"
    INCONCLUSIVE = "inconclusive"

    @property
    def hung(self) -> bool:
        """Deadlock, blocked, livelock and stalled are the four ways to hang."""
        return self in (Verdict.DEADLOCK, Verdict.BLOCKED, Verdict.LIVELOCK, Verdict.STALLED)


class Grade(StrEnum):
    """How sure a verdict is."""

    PROVED = "proved"
    STRONG = "strong"
    WEAK = "weak"


class Result(StrEnum):
    """What a trial says about the reported failure. Inconclusive is never a pass."""

    REPRODUCED = "reproduced"
    NOT_SEEN = "not-seen"
    INCONCLUSIVE = "inconclusive"


class Node(Record, frozen=True, kw_only=True):
    """Something that waits or is waited for. ``key`` is unique in its graph, e.g. ``pid:812`` or ``lock:<path>``.

    ``for_good``: it stays as it is: a fault that the scenario declared so, or a process that is dead.
    """

    key: str
    # process, lock-directory, sqlite-byte, file-lock, outsider, provider, registry, input, dead-holder, fault,
    # session, tool
    kind: str
    label: str
    for_good: bool = False


class Edge(Record, frozen=True, kw_only=True):
    """``waiter`` waits for ``holder``. ``grade``: proved, inferred or declared; ``evidence`` one fact a line.

    ``binding``: as long as this stands the waiter cannot go on, as far as can be seen; only on such edges may a
    verdict before the deadline rest. ``ends_in_s``: it ends by itself in about so long; None: not known to end.
    """

    waiter: str
    holder: str
    grade: str
    verb: str  # "waits for", "is held by", "waits for an answer of"
    evidence: tuple[str, ...]
    binding: bool = False
    ends_in_s: float | None = None


class Graph(Record, frozen=True, kw_only=True):
    """Who waits for whom at one instant. ``cycle`` lists node keys, first one repeated; empty: none found."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    cycle: tuple[str, ...] = ()


class Finding(Record, frozen=True, kw_only=True):
    """What is wrong in stored state or left behind."""

    kind: str
    text: str


class ProcessJudgement(Record, frozen=True, kw_only=True):
    """One process. ``exit``: status, minus the signal, or None while it lives."""

    role: str
    pid: int
    argv: tuple[str, ...]
    exit: int | None
    verdict: Verdict
    grade: Grade
    milestone: str
    next_milestone: str
    seconds: float
    because: tuple[str, ...]
    chain: tuple[str, ...]
    refuted_by: str


class Judgement(Record, frozen=True, kw_only=True):
    """All that is said of one trial; a pure function of its history."""

    result: Result
    reason: str
    verdict: Verdict
    grade: Grade
    seconds_to_verdict: float
    chain: tuple[str, ...]
    processes: tuple[ProcessJudgement, ...]
    findings: tuple[Finding, ...]
    leaked: tuple[str, ...]
    signature: str
    graph: Graph
