"""How often each scenario reproduced in our own trials: counted from runs, kept in a table beside the scenarios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.storage import replace

TRIALS = "trials.tsv"


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


def counted(results: Iterable[TrialResult]) -> tuple[Count, ...]:
    """Results of runs, by scenario and version."""
    cells: dict[tuple[str, str], list[TrialResult]] = {}
    for one in results:
        cells.setdefault((one.scenario, one.version), []).append(one)
    return tuple(_count(scenario, version, told) for (scenario, version), told in sorted(cells.items()))


def merged(before: Sequence[Count], after: Sequence[Count]) -> tuple[Count, ...]:
    """Both; of the same scenario on the same version the longer series is kept, the later one of two as long."""
    kept = {(one.scenario, one.version): one for one in before}
    for one in after:
        old = kept.get((one.scenario, one.version), one)
        longer = one if one.rate.n >= old.rate.n else old
        signature = one.signature or old.signature
        kept[one.scenario, one.version] = msgspec.structs.replace(longer, signature=signature)
    return tuple(kept[key] for key in sorted(kept))


def store(counts: Sequence[Count], folder: Path) -> None:
    """Take these counts of scenarios of the catalogue into the table in its folder. Raises UsageError."""
    file = folder / TRIALS
    ours = [one for one in counts if one.scenario.startswith("scenarios/")]
    write_counts(file, merged(read_counts(file), ours))


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
