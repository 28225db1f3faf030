"""What pytest makes of a result: passed, xfailed or failed, and the words for it. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pytest_ocrepro.judge.judgement import Judgement, Result
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.bundle import TrialInfo
from pytest_ocrepro.publish.github import inert
from pytest_ocrepro.settings import FEWEST, Mark

MOST_LINES = 25


class Outcome(StrEnum):
    """pytest's words."""

    PASSED = "passed"
    FAILED = "failed"
    XFAILED = "xfailed"
    SKIPPED = "skipped"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome, why, and whether the failure is listed as known on this version."""

    outcome: Outcome
    why: str
    known: bool


def decide(result: Result, *, expect: str, mark: Mark, version: str, own: Rate | None = None) -> Decision:
    """``expect`` is known, clean, reproduced or any. Inconclusive is never a pass.

    ``own``: what our trials saw of this very set of parameters; from five trials on it counts instead of the mark's,
    which is of all sets.
    """
    if own is not None and own.n >= FEWEST and version in mark.known:
        mark = msgspec.structs.replace(mark, known={**mark.known, version: str(own)})
    known = version in mark.known
    if result is Result.INCONCLUSIVE:
        outcome = Outcome.SKIPPED if expect == "any" else Outcome.FAILED
        return Decision(outcome=outcome, why="inconclusive, which is never a pass", known=known)
    if expect == "any":
        return Decision(outcome=Outcome.PASSED, why="nothing fails with --ocrepro-expect any", known=known)
    if result is Result.REPRODUCED:
        return _reproduced(expect, mark, version, known=known)
    return _not_seen(expect, mark, version, known=known)


def _reproduced(expect: str, mark: Mark, version: str, *, known: bool) -> Decision:
    if mark.control:
        return Decision(outcome=Outcome.FAILED, why="a control must never reproduce", known=known)
    if expect == "reproduced":
        return Decision(outcome=Outcome.PASSED, why="it was to be reproduced", known=known)
    if expect == "known" and known and mark.never_on(version):
        why = f"not known on {version} with these parameters ({mark.known[version]} in our runs)"
        return Decision(outcome=Outcome.FAILED, why=why, known=False)
    if expect == "known" and known:
        rate = f" ({mark.known[version]} in our runs)" if mark.known[version] else ""
        return Decision(outcome=Outcome.XFAILED, why=f"known on {version}{rate}", known=True)
    why = f"not listed as known on {version}" if expect == "known" else "nothing may be reproduced"
    return Decision(outcome=Outcome.FAILED, why=why, known=known)


def _not_seen(expect: str, mark: Mark, version: str, *, known: bool) -> Decision:
    if expect == "reproduced" and not mark.control:
        return Decision(outcome=Outcome.FAILED, why="it was to be reproduced", known=known)
    if expect == "known" and mark.deterministic_on(version):
        why = f"seems fixed on {version}: known there in {mark.known[version]} trials; check and edit the mark"
        return Decision(outcome=Outcome.FAILED, why=why, known=known)
    return Decision(outcome=Outcome.PASSED, why="not seen", known=known)


def section(judged: Judgement, decision: Decision, info: TrialInfo, page: str) -> str:
    """The test's "ocrepro" section, at most 25 lines."""
    lines = [
        f"{judged.result}: {judged.reason}",
        f"{decision.outcome}: {decision.why}",
        f"verdict: {judged.verdict} ({judged.grade}) after {judged.seconds_to_verdict:.1f} s on {info.version}",
    ]
    lines += [f"signature: {judged.signature}"] if judged.signature else []
    lines += ["chain:", *(f"  {link}" for link in judged.chain)] if judged.chain else []
    lines += ["findings:", *(f"  {finding.kind}: {finding.text}" for finding in judged.findings)]
    if not judged.findings:
        lines.pop()
    tail = [f"issue: {', '.join(info.issue)}", f"replay: {info.replay}", f"evidence: {page}"]
    return inert("\n".join([*lines[: MOST_LINES - len(tail)], *tail]))
