"""What a reader takes away of the page: of every case the issue text and the repro script, ready to be copied."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.publish import cases
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.cases import Case
from pytest_ocrepro.publish.counting import Entry, clarity
from pytest_ocrepro.publish.issue import told
from pytest_ocrepro.publish.repro import Script

PAGE = "report.html"  # the page itself, whose hash it cannot hold
MOST_CASES = 60  # some 16 kB each


class Takeaway(msgspec.Struct, frozen=True, kw_only=True):
    """One case. ``script`` is "" where there can be none, then ``why_not`` says why; ``proof`` "": it was not run."""

    scenario: str
    title: str
    version: str
    rate: str
    issue: str
    script: str
    why_not: str
    proof: str


class Takeaways(msgspec.Struct, frozen=True, kw_only=True):
    """Those of a run, the clearest first. ``clearest``: its trial, None where nothing reproduced."""

    all: tuple[Takeaway, ...] = ()
    left_out: int = 0
    clearest: Entry | None = None
    problems: tuple[str, ...] = ()


def takeaways(run: RunDir, entries: Sequence[Entry]) -> Takeaways:
    """Read the clearest trial of each case; one that cannot be read is a problem, and the others are there."""
    found = sorted(cases.cases(entries), key=lambda case: clarity(case.entry))
    made: list[Takeaway] = []
    problems: list[str] = []
    clearest: Entry | None = None
    for case in found[:MOST_CASES]:
        try:
            made.append(_takeaway(run, case))
        except BundleError as error:
            problems.append(str(error))
            continue
        clearest = clearest or case.entry
    return Takeaways(all=tuple(made), left_out=len(found[MOST_CASES:]), clearest=clearest, problems=tuple(problems))


def _takeaway(run: RunDir, case: Case) -> Takeaway:
    found = told(run, case, page=PAGE)
    proof = cases.proof_of(run, case, Script(text=found.script)) if found.script else None
    return Takeaway(
        scenario=case.scenario,
        title=case.row.title,
        version=case.version,
        rate=case.rate.in_words(),
        issue=found.text,
        script=found.script,
        why_not=found.why_not,
        proof=proof.in_words if proof else "",
    )
