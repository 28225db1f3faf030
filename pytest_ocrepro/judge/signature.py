"""A short stable key for one kind of failure, to search for and to merge by."""

from __future__ import annotations

import hashlib
import re

from pytest_ocrepro.judge.judgement import ProcessJudgement, Result

LENGTH = 6
# What differs between two trials of the same failure: pids, sizes, seconds, ids, addresses, hashes
VOLATILE = re.compile(r"\b[0-9a-f]{16,}\b|\b(?:ses|msg|prt|que|err)_\w+|\d+(?:\.\d+)?|\$?SANDBOX\S*|/\S+")


def signature_of(process: ProcessJudgement | None, findings: tuple[str, ...], result: Result) -> str:
    """``oc-1a2b3c verdict|milestone|what it waits for|findings``; empty unless the failure was reproduced."""
    if result is not Result.REPRODUCED:
        return ""
    parts = [process.verdict.value, process.milestone] if process else []
    if process is not None:
        parts += [neutral(link.split(" [", 1)[0]) for link in process.chain[-2:]]
    parts += sorted({kind for kind in findings if kind != "off-loopback"})
    key = "|".join(parts)
    return f"oc-{hashlib.sha256(key.encode()).hexdigest()[:LENGTH]} {key}"


def neutral(text: str) -> str:
    """The text with everything that differs between two trials taken out."""
    return re.sub(r"\s+", " ", VOLATILE.sub("#", text)).strip()
