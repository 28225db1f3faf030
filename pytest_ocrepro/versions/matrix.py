"""Scenarios x versions: which cell to try next, and what the trials so far say of each row. Driven from a journal.

A row has no known direction: the failure may come, go, or do both. Its histories are those of a bisection in both
directions, with a build beside each end that nobody can try, so that "came and went again" is among them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.batches import (
    MOST_TROUBLE,
    Batches,
    Fetch,
    Run,
    Tell,
    away,
    pending,
    plan_of,
    trouble_in_a_row,
    twins,
)
from pytest_ocrepro.versions.journal import (
    SKIPPED,
    UNTOLD,
    AnyRecord,
    Chosen,
    Fetched,
    Journal,
    Skipped,
    Tried,
    trials_of,
)
from pytest_ocrepro.versions.posterior import Counts, Question, posterior

TRIAL_S = 10.0  # until one was measured
DOWNLOAD_S = 30.0
GIVEN_UP_AFTER = 3  # inconclusive trials of a cell that has no other
WORTH_OF_A_RATE = 0.25  # bits about a cell's own rate, beside those about where its row changes
WORTH_OF_A_CONTROL = 0.25
SURELY = 0.9


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario (of a parametrized test: one set of its parameters) on one version; a trial is one test item.

    ``rate``: k reproductions in n conclusive trials. ``skipped``: what the version lacks, in the scenario's words.
    ``signatures``: of its reproductions, most frequent first.
    """

    scenario: str
    version: str
    rate: Rate
    inconclusive: int = 0
    skipped: str = ""
    signatures: tuple[str, ...] = ()
    bundle: str = ""  # of the last reproduction


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Between two versions that were tried the row changes; ``appears``: the later one shows the failure."""

    before: str
    after: str
    appears: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario. ``present[v]``: P(the failure is in it); ``gain[v]``: bits of one trial about the history."""

    scenario: str
    cells: tuple[Cell, ...]
    present: tuple[float, ...]
    gain: tuple[float, ...]
    changes: tuple[Change, ...]


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of a journal; versions in release order. ``same``: versions that are the file of another one."""

    versions: tuple[str, ...]
    rows: tuple[Row, ...]
    closed: dict[str, str]
    same: dict[str, str]
    here: frozenset[str]
    trial_s: dict[str, float]
    download_s: float
    trials: int
    trouble_in_a_row: int
    pending: Chosen | None

    def cell(self, scenario: str, version: str) -> Cell:
        """By name; KeyError where there is none."""
        found = {(cell.scenario, cell.version): cell for row in self.rows for cell in row.cells}
        return found[scenario, self.same.get(version, version)]


def fold_grid(records: Sequence[AnyRecord]) -> Grid:
    """What a journal says."""
    plan, same = plan_of(records), twins(records)
    versions = tuple(version for version in plan.versions if version not in same)
    tried = [msgspec.structs.replace(one, version=same.get(one.version, one.version)) for one in trials_of(records)]
    closed = away(records) | {one.version: one.reason for one in records if isinstance(one, Skipped)}
    fetched = [one for one in records if isinstance(one, Fetched)]
    slow = [one.seconds for one in fetched if one.version not in plan.cached]
    return Grid(
        versions=versions,
        rows=tuple(_row(scenario, versions, tried, closed) for scenario in plan.scenarios),
        closed=closed,
        same=same,
        here=frozenset(plan.cached) | {one.version for one in fetched},
        trial_s={scenario: _mean([one.seconds for one in tried if one.scenario == scenario], TRIAL_S)
                 for scenario in plan.scenarios},
        download_s=_mean(slow, DOWNLOAD_S),
        trials=len(tried),
        trouble_in_a_row=trouble_in_a_row(records),
        pending=pending(records, closed),
    )  # fmt: skip


def next_cells(
    grid: Grid, *, per_cell: int, how_many: int = 1, controls: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """(scenario, version) of the cells whose next trial tells most for its time; empty: all have their share.

    A download is paid for by all scenarios that wait for that version.
    """
    waiting: Counter[str] = Counter()
    told: list[tuple[float, int, int]] = []
    for at, row in enumerate(grid.rows):
        for v, cell in enumerate(row.cells):
            if _wanted(cell, grid, per_cell):
                waiting[cell.version] += 1
                worth = WORTH_OF_A_CONTROL if row.scenario in controls else 1.0
                told.append((worth * (row.gain[v] + WORTH_OF_A_RATE * _bits_of_rate(cell)), at, v))
    best = sorted(told, key=lambda one: (-_a_second(grid, one, waiting), one[1], one[2]))
    return tuple((grid.rows[at].scenario, grid.versions[v]) for _, at, v in best[:how_many])


class Filling:
    """Fills a grid over an open journal until each cell has ``per_cell`` trials or the time is up."""

    def __init__(
        self,
        journal: Journal,
        *,
        run: Run,
        fetch: Fetch,
        tell: Tell,
        per_cell: int,
        controls: Collection[str] = (),
        budget_s: float | None = None,
        absent: Sequence[str] = (),
    ) -> None:
        self._journal = journal
        self._tell = tell
        self._per_cell = per_cell
        self._controls = controls
        self._batches = Batches(journal, run=run, fetch=fetch, tell=tell, away=absent, budget_s=budget_s)

    def to_the_end(self) -> tuple[Grid, str]:
        """The grid, and why it ended: "" for complete. Raises OcreproError, with a journal to go on with."""
        workers = plan_of(self._journal.records).workers
        while True:
            grid = fold_grid(self._journal.records)
            chosen = grid.pending
            if chosen is None:
                cells = next_cells(grid, per_cell=self._per_cell, how_many=workers, controls=self._controls)
                if grid.trouble_in_a_row >= MOST_TROUBLE:
                    return grid, f"the last {MOST_TROUBLE} trials were inconclusive"
                if not cells or self._batches.spent():
                    return grid, "the time is up" if cells else ""
                chosen = self._batches.choose("fill", cells)
            if chosen is not None:
                self._batches.run(chosen, self._say)

    def _say(self, tried: Tried) -> None:
        name = Path(tried.scenario.partition("::")[2].removeprefix("test_")).name
        self._tell(f"{tried.seed + 1:5} {tried.version:10} {tried.result:12} {tried.seconds:3.0f} s  {name}")


# --- below: how


def _row(scenario: str, versions: tuple[str, ...], tried: Sequence[Tried], closed: dict[str, str]) -> Row:
    cells = tuple(
        _cell(scenario, version, [one for one in tried if (one.scenario, one.version) == (scenario, version)])
        for version in versions
    )
    counts = Counts(hits=tuple(cell.rate.k for cell in cells), trials=tuple(cell.rate.n for cell in cells))
    present, gain = both_directions(tuple(version not in closed for version in versions), counts)
    return Row(scenario=scenario, cells=cells, present=present, gain=gain, changes=_changes(cells, present))


def _cell(scenario: str, version: str, tried: Sequence[Tried]) -> Cell:
    hits = [one for one in tried if one.result == "reproduced"]
    conclusive = sum(one.result not in UNTOLD for one in tried)
    signatures = Counter(one.signs[0] for one in hits if one.signs)
    return Cell(
        scenario=scenario,
        version=version,
        rate=Rate(k=len(hits), n=conclusive),
        inconclusive=sum(one.result == "inconclusive" for one in tried),
        skipped=next((one.reason for one in tried if one.result == SKIPPED), ""),
        signatures=tuple(sign for sign, _ in signatures.most_common()),
        bundle=hits[-1].bundle if hits else "",
    )


@functools.lru_cache(maxsize=512)
def both_directions(open_to_trial: tuple[bool, ...], counts: Counts) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(P(present), bits of one trial) of each build, when it is not known at which end the failure is."""
    question = Question(open_to_trial=(*open_to_trial, False))
    mirrored = Question(open_to_trial=(*open_to_trial[::-1], False))
    one = posterior(question, Counts(hits=(*counts.hits, 0), trials=(*counts.trials, 0)))
    other = posterior(mirrored, Counts(hits=(*counts.hits[::-1], 0), trials=(*counts.trials[::-1], 0)))
    share = 1 / (1 + math.exp(max(-700.0, min(700.0, other.log_evidence - one.log_evidence))))

    def mixed(forward: tuple[float, ...], backward: tuple[float, ...]) -> tuple[float, ...]:
        pairs = zip(forward[:-1], backward[:-1][::-1], strict=True)
        return tuple(share * a + (1 - share) * b for a, b in pairs)

    return mixed(one.present, other.present), mixed(one.gain, other.gain)


def _changes(cells: Sequence[Cell], present: Sequence[float]) -> tuple[Change, ...]:
    """Where a build that surely has it stands beside one that surely has not, both tried."""
    sure = [
        (cell.version, share > SURELY)
        for cell, share in zip(cells, present, strict=True)
        if cell.rate.n and not 1 - SURELY <= share <= SURELY
    ]
    return tuple(
        Change(before=before, after=after, appears=there)
        for (before, was_there), (after, there) in itertools.pairwise(sure)
        if was_there != there
    )


def _wanted(cell: Cell, grid: Grid, per_cell: int) -> bool:
    given_up = cell.skipped or (cell.inconclusive >= GIVEN_UP_AFTER and not cell.rate.n)
    done = cell.rate.n >= per_cell or cell.inconclusive >= per_cell + GIVEN_UP_AFTER
    return not (cell.version in grid.closed or given_up or done)


def _bits_of_rate(cell: Cell) -> float:
    """How much narrower the next trial makes the cell's own rate."""
    return 0.5 * math.log2((cell.rate.n + 2) / (cell.rate.n + 1))


def _a_second(grid: Grid, told: tuple[float, int, int], waiting: Counter[str]) -> float:
    bits, row, v = told
    version = grid.versions[v]
    download_s = 0.0 if version in grid.here else grid.download_s / max(1, waiting[version])
    return bits / (max(grid.trial_s[grid.rows[row].scenario], 0.1) + download_s)


def _mean(values: Sequence[float], otherwise: float) -> float:
    positive = [value for value in values if value > 0]
    return sum(positive) / len(positive) if positive else otherwise
