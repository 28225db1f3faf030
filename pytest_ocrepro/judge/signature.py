"""A short stable key for one kind of failure, to search for and to merge by.

What is in it is the same for the same failure in every trial and on every build: pids, roles, ports, paths and times
are taken out. The milestone is named only where a process waits, and coarsely: builds from 1.17 log neither
``plugins-loading`` nor what comes before ``instance-created``, so a wait in the middle of loading plugins counts as
``config-loading`` on all. How far a process came before it ended depends on when its log was last read, and is left
out. Findings that no demand is about (a lock directory that a run left by the way) are left out too.
"""

from __future__ import annotations

import hashlib
import re

from pytest_ocrepro.judge.judgement import ProcessJudgement, Result, Verdict

LENGTH = 6
# What differs between two trials of the same failure: pids, sizes, seconds, ids, addresses, hashes
VOLATILE = re.compile(
    r"\b\d+\.\d+\.\d+\.\d+:\d+\b|\b[0-9a-f]{16,}\b|\b(?:ses|msg|prt|que|err)_\w+|\$SANDBOX\S*|(?<![\w.-])/\S+"
    r"|\b\d+(?:\.\d+)?\b"
)
PROCESS = re.compile(r"(?:\S+|a process that is not ours) \(pid \d+\)")
SAME_ON_ALL = {"database-opened": "started", "plugins-loading": "config-loading"}
WAITS = frozenset(
    {
        Verdict.DEADLOCK,
        Verdict.BLOCKED,
        Verdict.LIVELOCK,
        Verdict.STALLED,
        Verdict.WAITING_FOR_INPUT,
        Verdict.OVERRAN,
    }
)


def signature_of(process: ProcessJudgement | None, findings: tuple[str, ...], result: Result) -> str:
    """``oc-1a2b3c verdict|milestone|what it waits for|findings``; empty unless the failure was reproduced.

    ``findings``: the kinds of those that broken demands are about.
    """
    if result is not Result.REPRODUCED:
        return ""
    parts = [process.verdict.value] if process else []
    if process is not None and process.verdict in WAITS:
        parts.append(SAME_ON_ALL.get(process.milestone, process.milestone))
        parts += [neutral(link.split(" [", 1)[0]) for link in process.chain[-2:]]
    parts += sorted(set(findings))
    key = "|".join(parts)
    return f"oc-{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:LENGTH]} {key}"


def neutral(text: str) -> str:
    """The text with everything that differs between two trials taken out."""
    return re.sub(r"\s+", " ", VOLATILE.sub("#", PROCESS.sub("a process", text))).strip()
