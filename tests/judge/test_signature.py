from __future__ import annotations

from typing import Any

import pytest

from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Result, Verdict
from pytest_ocrepro.judge.signature import neutral, signature_of

CHAIN = (
    "second (pid 20) waits for lock directory npm-install:$SANDBOX/project/.opencode [inferred: x]",
    "lock directory npm-install:$SANDBOX/project/.opencode is held by first (pid 10) [proved: y]",
    "first (pid 10) waits for an answer of the npm registry at 127.0.0.1:4873 [proved: fd 20]",
    "the npm registry at 127.0.0.1:4873 is silent [declared: z]",
)


def process(verdict: Verdict = Verdict.BLOCKED, milestone: str = "config-loading", **more: Any) -> ProcessJudgement:
    values: dict[str, Any] = {
        "role": "second",
        "pid": 20,
        "argv": (),
        "exit": None,
        "grade": Grade.STRONG,
        "next_milestone": "",
        "seconds": 3.0,
        "because": (),
        "chain": CHAIN,
        "refuted_by": "",
    }
    return ProcessJudgement(verdict=verdict, milestone=milestone, **{**values, **more})


def test_only_what_was_reproduced_has_one() -> None:
    assert signature_of(process(), (), Result.NOT_SEEN) == ""
    assert signature_of(process(), (), Result.INCONCLUSIVE) == ""
    told = signature_of(process(), (), Result.REPRODUCED)
    assert told.startswith("oc-")
    assert "blocked|config-loading|a process waits for an answer of the npm registry at #|" in told


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 21, "seconds": 9.0, "grade": Grade.PROVED},
        {"milestone": "plugins-loading"},  # what a build up to 1.15 logs where 1.17 and later log config-loading
        {"chain": tuple(link.replace("4873", "40001").replace("pid 10", "pid 7") for link in CHAIN)},
        {"chain": tuple(link.replace("first (", "opencode-812 (") for link in CHAIN)},
    ],
)
def test_same_failure_same_signature(change: dict[str, Any]) -> None:
    assert signature_of(process(**change), ("a",), Result.REPRODUCED) == signature_of(
        process(), ("a",), Result.REPRODUCED
    )


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict.STALLED},
        {"milestone": "session-created"},
        {"chain": (*CHAIN[:2], "first (pid 10) is suspended by the scenario (SIGSTOP) [declared: state T]")},
    ],
)
def test_other_failure_other_signature(change: dict[str, Any]) -> None:
    assert signature_of(process(**change), (), Result.REPRODUCED) != signature_of(process(), (), Result.REPRODUCED)


def test_how_far_it_came_before_its_end_is_left_out() -> None:
    late, early = (process(Verdict.FAILED_LATE, name, chain=()) for name in ("turn-started", "model-asked"))
    assert signature_of(late, (), Result.REPRODUCED) == signature_of(early, (), Result.REPRODUCED)


def test_findings_count_once_in_order() -> None:
    assert signature_of(None, ("b", "a", "b"), Result.REPRODUCED).endswith(" a|b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first (pid 10) waits for /tmp/x/y.db", "a process waits for #"),
        ("a process that is not ours (pid 3) is", "a process is"),
        ("ses_e045bedb0ffe is busy", "# is busy"),
        ("WRITE byte of $SANDBOX/data/opencode.db-shm", "WRITE byte of #"),
        ("model m1 at 10.0.0.1:80", "model m1 at #"),
        ("after  8.5 s", "after # s"),
    ],
)
def test_neutral(text: str, expected: str) -> None:
    assert neutral(text) == expected
