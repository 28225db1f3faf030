"""What the command ``matrix`` does: scenarios, range, journal, trials, the table in three forms, the known lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro import __version__
from pytest_ocrepro.catalogue import Scenario, all_scenarios, find_scenario
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.stage.tarball import Progress
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.batches import Run, check_resume, plan_of, published, write_beside
from pytest_ocrepro.versions.campaign import in_range
from pytest_ocrepro.versions.journal import Journal, Plan
from pytest_ocrepro.versions.known import write_known
from pytest_ocrepro.versions.matrix import Filling, Grid
from pytest_ocrepro.versions.parameters import one_by_one
from pytest_ocrepro.versions.releases import Releases
from pytest_ocrepro.versions.supply import Supply, here
from pytest_ocrepro.versions.tables import as_json, as_markdown, as_page
from pytest_ocrepro.versions.taking import taken
from pytest_ocrepro.versions.trials import Trials

JOURNAL = Path("ocrepro-matrix.jsonl")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked ``ocrepro matrix`` for. No scenario: the whole catalogue. ``budget_s`` None: no end.

    ``runs``: of ``pytest --ocrepro``, whose trials count too.
    """

    scenarios: tuple[str, ...] = ()
    versions: str = ""
    trials: int = 5
    journal: Path = JOURNAL
    resume: bool = False
    budget_s: float | None = None
    workers: int = 1
    seed: int = 0
    write_known: bool = False
    reports: Path = Path("reports/matrix")
    offline: bool = False
    cache_limit_bytes: int | None = None
    runs: tuple[Path, ...] = ()


class Surveyed(msgspec.Struct, frozen=True, kw_only=True):
    """``why``: it ended early, "" for complete; the three files; scenario files that were changed; notes on them."""

    grid: Grid
    why: str
    markdown: Path
    page: Path
    json: Path
    changed: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def survey(
    asked: Asked,
    *,
    tell: Callable[[str], None],
    progress: Progress | None = None,
    secrets: Mapping[str, str] | None = None,
    run: Run | None = None,
) -> Surveyed:
    """Begin, or go on where the journal stands; to the end or the budget. Raises OcreproError."""
    named = [find_scenario(name) for name in asked.scenarios]
    check_resume(asked.journal, resume=asked.resume)
    released = published(offline=asked.offline, tell=tell)
    there = here()
    with Journal(asked.journal) as journal:
        whole = bool(asked.scenarios) or journal.plan is None
        _begin(journal, asked, one_by_one(named or all_scenarios()) if whole else (), released)
        for line in journal.read.warnings(str(asked.journal)):
            tell(line)
        plan = plan_of(journal.records)
        _take(journal, asked.runs, tell)
        scenarios = [find_scenario(name) for name in plan.scenarios]
        made = Trials(asked.reports, find=lambda name: find_scenario(name).node, workers=plan.workers)
        tell(f"{len(plan.scenarios)} scenarios x {len(plan.versions)} versions: {asked.journal}")
        filling = Filling(
            journal,
            run=run or made.run,
            fetch=Supply(
                keep=plan.workers, progress=progress, offline=asked.offline, limit_bytes=asked.cache_limit_bytes
            ),
            tell=tell,
            per_cell=asked.trials,
            controls=frozenset(one.name for one in scenarios if one.control),
            budget_s=asked.budget_s,
            absent=tuple(version for version in plan.versions if version not in there) if asked.offline else (),
        )
        grid, why = filling.to_the_end()
    done = _write(grid, why, asked.journal, secrets or {})
    return _with_known(done, scenarios) if asked.write_known else done


def parse_versions(released: Releases, text: str) -> tuple[str, ...]:
    """``1.2.1..1.18.34``, ``1.15.0..``, ``..1.3.0``, or a list ``1.14.48,latest``; "": all of the newest line.

    Raises UsageError, BuildError.
    """
    if not text or ".." in text:
        oldest, _, newest = text.partition("..")
        return in_range(released, oldest or None, newest or None, across_lines=True)
    return releases.in_order(released.resolve(one.strip()) for one in text.split(",") if one.strip())


# --- below: how


def _begin(journal: Journal, asked: Asked, scenarios: Sequence[Scenario], released: Releases) -> None:
    old = journal.plan
    if old is not None and old.kind != "matrix":
        raise UsageError(f"{journal.path} is the journal of a bisection: name another --journal")
    names = old.scenarios if old and not asked.scenarios else tuple(one.name for one in scenarios)
    versions = old.versions if old and not asked.versions else parse_versions(released, asked.versions)
    if not versions:
        raise UsageError("no version is named: give a range 1.15.0.. or a list 1.14.48,latest")
    if old is None:
        there = here()
        journal.append(
            Plan(
                tool=__version__,
                kind="matrix",
                scenarios=names,
                versions=versions,
                cached=tuple(version for version in versions if version in there),
                workers=asked.workers,
                seed=asked.seed,
            )
        )
    elif (old.scenarios, old.versions) != (names, versions):
        raise UsageError(
            f"{journal.path} is the journal of {len(old.scenarios)} scenarios and {len(old.versions)} versions, "
            "others than these: leave scenarios and --versions out, or name another --journal"
        )


def _take(journal: Journal, runs: Sequence[Path], tell: Callable[[str], None]) -> None:
    found = list(taken(runs, plan_of(journal.records), journal.records))
    for one in found:
        journal.append(one)
    if runs:
        tell(f"{len(found)} trials of {len(runs)} runs taken over")


def _write(grid: Grid, why: str, journal: Path, secrets: Mapping[str, str]) -> Surveyed:
    texts = {".md": as_markdown(grid, why), ".html": as_page(grid, why), ".json": as_json(grid).decode()}
    written = write_beside(journal, secrets, texts)
    return Surveyed(grid=grid, why=why, markdown=written[".md"], page=written[".html"], json=written[".json"])


def _with_known(done: Surveyed, scenarios: list[Scenario]) -> Surveyed:
    """Controls are left alone: what they show is a defect, not something known."""
    seen: dict[Path, dict[str, dict[str, Rate]]] = {}
    for scenario in scenarios:
        row = next(row for row in done.grid.rows if row.scenario == scenario.name)
        if not scenario.control and not scenario.parameters:
            rates = {cell.version: cell.rate for cell in row.cells}
            rates |= {later: rates[first] for later, first in done.grid.same.items()}
            seen.setdefault(scenario.file, {})[scenario.test] = rates
    told = {file: write_known(file, tests) for file, tests in seen.items()}
    return msgspec.structs.replace(
        done,
        changed=tuple(file for file, (changed, _) in told.items() if changed),
        notes=tuple(note for _, notes in told.values() for note in notes),
    )
