"""How often each scenario reproduced in our own trials: counted from runs, kept in a table beside the scenarios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.storage import replace

TRIALS = "trials.tsv"
RUNS = "runs.txt"  # the run ids that are in the table: no run counts twice


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Trials of one scenario on one version; those that told nothing are not among ``n``."""

    scenario: str
    version: str
    rate: Rate
    inconclusive: int = 0
    signature: str = ""


def read_counts(file: Path) -> tuple[Count, ...]:
    """The table of our trials. Raises UsageError."""
    return tuple(
        Count(
            scenario=scenario,
            version=version,
            rate=Rate(k=int(k), n=int(n)),
            inconclusive=int(unknown),
            signature=signature,
        )
        for scenario, version, k, n, unknown, signature in cells_of(file, 6)
    )


@cache
def own_rates(folder: Path) -> Mapping[tuple[str, str], Rate]:
    """What our trials saw of each set of parameters, by scenario and version; nothing where there is no table."""
    try:
        return {(one.scenario, one.version): one.rate for one in read_counts(folder / TRIALS)}
    except UsageError:
        return {}


def counted(results: Iterable[TrialResult]) -> tuple[Count, ...]:
    """Results of runs, by scenario and version."""
    cells: dict[tuple[str, str], list[TrialResult]] = {}
    for one in results:
        cells.setdefault((one.scenario, one.version), []).append(one)
    return tuple(_count(scenario, version, told) for (scenario, version), told in sorted(cells.items()))


def with_runs(folder: Path, results: Iterable[TrialResult]) -> tuple[tuple[Count, ...], tuple[str, ...]]:
    """The table in this folder with the trials of further runs added, and the ids of those runs.

    Runs that the table has already are left out. Raises UsageError.
    """
    known = set(_run_ids(folder))
    new = [one for one in results if one.run_id not in known]
    return added(read_counts(folder / TRIALS), counted(new)), tuple(dict.fromkeys(one.run_id for one in new))


def added(before: Sequence[Count], after: Sequence[Count]) -> tuple[Count, ...]:
    """Both series of each scenario on each version, one behind the other: no trial is lost for its result."""
    cells = {(one.scenario, one.version): one for one in before}
    for one in after:
        old = cells.get((one.scenario, one.version))
        cells[one.scenario, one.version] = one if old is None else _sum(old, one)
    return tuple(cells[key] for key in sorted(cells))


def store(results: Iterable[TrialResult], folder: Path) -> None:
    """Add these trials of scenarios of the catalogue to the table in its folder. Raises UsageError."""
    counts, runs = with_runs(folder, [one for one in results if one.scenario.startswith("scenarios/")])
    write_counts(folder / TRIALS, counts)
    replace(folder / RUNS, "".join(f"{run}\n" for run in (*_run_ids(folder), *runs)).encode())


def write_counts(file: Path, counts: Sequence[Count]) -> None:
    """The table of our trials, a line a cell."""
    head = "scenario\tversion\treproduced\ttrials\tinconclusive\tsignature\n"
    lines = [
        f"{one.scenario}\t{one.version}\t{one.rate.k}\t{one.rate.n}\t{one.inconclusive}\t{one.signature}\n"
        for one in counts
    ]
    replace(file, (head + "".join(lines)).encode())


def results_of(runs: Iterable[Path]) -> Iterator[TrialResult]:
    """Of run directories. Raises BundleError where one is none."""
    for run in runs:
        yield from RunDir.read(run).results()


def cells_of(file: Path, width: int) -> Iterator[list[str]]:
    """The cells of a table, its head left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{file} cannot be read ({error}): it comes with the catalogue, install it again") from None
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != width:
            raise UsageError(f"{file}:{number} has {len(cells)} cells and not {width}: mend the line")
        yield cells


def _run_ids(folder: Path) -> list[str]:
    try:
        return (folder / RUNS).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{folder / RUNS} cannot be read ({error}): it comes with the catalogue, install it again"
        ) from None


def _sum(old: Count, new: Count) -> Count:
    return msgspec.structs.replace(
        old,
        rate=Rate(k=old.rate.k + new.rate.k, n=old.rate.n + new.rate.n),
        inconclusive=old.inconclusive + new.inconclusive,
        signature=new.signature or old.signature,
    )


def _count(scenario: str, version: str, every: Sequence[TrialResult]) -> Count:
    told = [one for one in every if not one.skipped]
    clear = [one for one in told if one.result != "inconclusive"]
    seen = [one for one in clear if one.result == "reproduced"]
    signatures = Counter(one.signature for one in seen if one.signature)
    return Count(
        scenario=scenario,
        version=version,
        rate=Rate(k=len(seen), n=len(clear)),
        inconclusive=len(told) - len(clear),
        signature=signatures.most_common(1)[0][0] if signatures else "",
    )
