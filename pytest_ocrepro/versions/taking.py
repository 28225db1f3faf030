"""Trials that pytest has run already, as records of a matrix' journal: nobody pays for them twice."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.versions.journal import AnyRecord, Plan, Tried, trials_of
from pytest_ocrepro.versions.trials import tried_of

PHASE = "taken"
FETCHED = ("npm", "cache")


def taken(runs: Sequence[Path], plan: Plan, records: Sequence[AnyRecord]) -> Iterator[Tried]:
    """Of runs of ``pytest --ocrepro``: their trials of this plan that the journal has not, oldest run first.

    A trial is known by its bundle's place; a run named twice counts once. Of a build that was not fetched (a user's
    own file) no trial is taken: that it says a version does not make it that release. Raises UsageError, BundleError
    where a run cannot be read.
    """
    known = {one.bundle for one in trials_of(records)}
    found = {run.path.resolve(): run for run in map(RunDir.read, runs)}
    for run in sorted(found.values(), key=lambda run: run.info.run_id):
        yield from _of_one(run, plan, known)


def _of_one(run: RunDir, plan: Plan, known: Collection[str]) -> Iterator[Tried]:
    parts = (run.info, *run.info.parts)
    fetched = {one.sha256 for part in parts for one in part.subjects if one.source in FETCHED}
    for result in run.results():
        if result.binary_sha256 not in fetched:
            continue
        bundle = str((run.path / result.bundle).resolve())
        if result.scenario in plan.scenarios and result.version in plan.versions and bundle not in known:
            yield msgspec.structs.replace(tried_of(result), phase=PHASE, bundle=bundle)
