"""A run in the Common Test Report Format (ctrf.io), which dashboards and chat plugins read; one test a trial.

What its statuses say of a trial, so that no dashboard shows green where a failure is there or nobody knows:

    not seen, or reproduced where that was demanded  passed
    what pytest failed                               failed
    skipped: the build lacks what it is about        skipped
    inconclusive, whatever pytest made of it         other
    reproduced and known, or nothing was to fail     other

``rawStatus`` has our result and pytest's outcome, ``extra`` verdict, grade and signature.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.counting import Entry, scenario_of, version_key
from pytest_ocrepro.publish.elsewhere import replayed
from pytest_ocrepro.publish.records import Fact, RunInfo
from pytest_ocrepro.publish.text import clip, visible
from pytest_ocrepro.publish.wholeness import shortfall

SPECIFICATION = "0.0.0"  # ctrf.io, root object: the current version of the specification
MOST_CHARACTERS = 4_000  # of one text; the bundle has all of it
STATUSES = ("passed", "failed", "skipped", "pending", "other")
_NAMESPACE = uuid.UUID("6f637265-7072-6f00-8000-000000000000")  # "ocrepro": the same trial has the same id for ever


def encode(frame: RunInfo, entries: Sequence[Entry]) -> bytes:
    """The report of a run as JSON; trials by scenario, version and number."""
    ordered = sorted(entries, key=_order)
    names = Counter(map(_name, ordered))
    tests = [_test(entry, unique=names[_name(entry)] == 1) for entry in ordered]
    report = {
        "reportFormat": "CTRF",
        "specVersion": SPECIFICATION,
        "reportId": str(uuid.uuid5(_NAMESPACE, frame.run_id)),
        "generatedBy": f"pytest-ocrepro {frame.plugin_version}".strip(),
        "results": {
            "tool": {"name": "pytest-ocrepro", "version": frame.plugin_version},
            "summary": _summary(frame, tests),
            "tests": tests,
            "environment": _environment(frame, entries),
        },
    }
    return msgspec.json.format(msgspec.json.encode(_through(report)), indent=1) + b"\n"


def status_of(entry: Entry) -> str:
    """The status of a trial; the table above."""
    outcome = entry.result.expected.partition(":")[0]
    if entry.result.skipped:
        return "skipped"
    if entry.says is Result.INCONCLUSIVE:
        return "other"
    if outcome == "failed":
        return "failed"
    if entry.says is Result.REPRODUCED:
        demanded = outcome == "passed" and entry.result.expected.endswith("it was to be reproduced")
        return "passed" if demanded else "other"
    return "passed"


def _name(entry: Entry) -> str:
    """As pytest calls the item: the same test has the same name in every run."""
    head, bracket, inner = scenario_of(entry.result).rstrip("]").partition("[")
    item = f"{entry.result.version}-t{entry.result.trial}"
    return f"{head}[{f'{inner}-' * bool(bracket)}{item}]"


def _test(entry: Entry, *, unique: bool) -> dict[str, Any]:
    result, info = entry.result, entry.info
    file, _, name = scenario_of(result).partition("::")
    milliseconds = round(result.seconds_to_verdict * 1000)
    started = _milliseconds(info.started) if info else None
    named = _name(entry) if unique else f"{_name(entry)} of {result.run_id}"
    test: dict[str, Any] = {
        "id": str(uuid.uuid5(_NAMESPACE, named)),
        "name": named,
        "status": status_of(entry),
        "duration": milliseconds,
        "suite": [file, name or file],
        "message": result.reason,
        "rawStatus": f"{entry.says} ({result.expected or 'not told'})",
        "type": "reproduction",
        "filePath": file,
        "parameters": {"version": result.version, "trial": result.trial, "seed": result.seed},
        "extra": {
            "title": result.title,
            "issue": list(result.issue),
            "result": entry.says,
            "verdict": result.verdict,
            "grade": result.grade,
            "signature": result.signature,
            "known": result.known,
            "control": entry.control,
            "chain": list(result.chain),
            "findings": [finding.kind for finding in result.findings],
            "replay": replayed(info.replay) if info else "",
            "run": result.run_id,
            "duration": "to the verdict",
        },
    }
    if started is not None:
        test |= {"start": started, "stop": started + milliseconds}
    return test


def _summary(frame: RunInfo, tests: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(test["status"] for test in tests)
    starts = [test["start"] for test in tests if "start" in test]
    start = min([*starts, *filter(None, [_milliseconds(frame.started)])], default=0)
    stop = max((test["stop"] for test in tests if "stop" in test), default=start)
    return {
        "tests": len(tests),
        **{status: counts[status] for status in STATUSES},
        "start": start,
        "stop": max(start, stop),
    }


def _environment(frame: RunInfo, entries: Sequence[Entry]) -> dict[str, Any]:
    machine: tuple[Fact, ...] = frame.machine
    versions = sorted({entry.result.version for entry in entries}, key=version_key)
    return {
        "reportName": frame.run_id,
        "appName": "opencode",
        "appVersion": ", ".join(versions),
        "extra": {
            **{fact.name: fact.value for fact in machine},
            "left out": list(frame.left_out),
            "cut short": shortfall(frame, entries),
        },
    }


def _milliseconds(wall: str) -> int | None:
    try:
        return round(datetime.fromisoformat(wall).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _order(entry: Entry) -> tuple[str, tuple[tuple[int, int, str], ...], int, str]:
    result = entry.result
    return scenario_of(result), version_key(result.version), result.trial, result.run_id


def _through(value: Any) -> Any:
    """Every text visible, and none of a length that a dashboard would choke on."""
    if isinstance(value, str):
        return clip(visible(value), MOST_CHARACTERS)
    if isinstance(value, list):
        return [_through(item) for item in value]
    if isinstance(value, dict):
        return {visible(name): _through(item) for name, item in value.items()}
    return value
