"""Two run sets compared, scenario by scenario: rates, verdicts, signatures and times.

A difference is told only where Fisher's exact test, corrected for the number of rows by Holm's method, says that
chance alone would make one like it less than once in twenty comparisons. Its size is given with Newcombe's interval,
which is of one row alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from statistics import median

import msgspec

from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.rates import Interval, Rate, fisher, holm, newcombe, percent
from pytest_ocrepro.publish.counting import Entry, called, plural, scenario_of, version_key
from pytest_ocrepro.publish.intake import Contents, entries_of, read_contents, runs_at
from pytest_ocrepro.publish.merge import union
from pytest_ocrepro.publish.records import RunInfo

ALPHA = 0.05


class Direction(StrEnum):
    """What became of a scenario from the first set to the second."""

    WORSE = "worse"
    BETTER = "better"
    NOT_TOLD_APART = "not told apart"
    ONLY_FIRST = "only in the first"
    ONLY_SECOND = "only in the second"
    INCONCLUSIVE = "inconclusive"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict or a signature, and in how many trials of one side it was met."""

    name: str
    count: int


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one scenario on one version in one set. ``k`` of ``n`` conclusive ones reproduced.

    ``builds``: the hashes of what was run; ``seconds``: the median time to the verdict of the conclusive ones.
    """

    version: str
    builds: tuple[str, ...]
    k: int
    n: int
    inconclusive: int
    verdicts: tuple[Kind, ...]
    signatures: tuple[Kind, ...]
    seconds: float | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One row. ``difference`` is the second rate minus the first, ``interval`` its 95 % interval.

    ``p`` is Fisher's, ``adjusted`` the same after Holm's correction; None where one side has no conclusive trial.
    ``could_tell``: there are trials enough that none on one side and all on the other would be told.
    """

    scenario: str
    title: str
    issue: tuple[str, ...]
    control: bool
    first: Side | None
    second: Side | None
    direction: Direction
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    adjusted: float | None = None
    could_tell: bool = False

    @property
    def version(self) -> str:
        """The version, or the two that are compared."""
        versions = dict.fromkeys(side.version for side in (self.first, self.second) if side)
        return " → ".join(versions)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Both rates, the difference, p and what is told of it, in words."""
        return _cells(self)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else changed, in words."""
        return tuple(_remarks(self))


class RunSet(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison: where its trials are from."""

    label: str
    runs: tuple[RunInfo, ...]
    trials: int
    left_out: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two run sets; ``across``: each scenario on different versions. ``shared``: trials that are in both sets."""

    first: RunSet
    second: RunSet
    across: bool
    shared: int
    alpha: float
    changes: tuple[Change, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """What got worse beyond chance."""
        return tuple(change for change in self.changes if change.direction is Direction.WORSE)

    @property
    def headline(self) -> str:
        """The comparison in one sentence."""
        counts = Counter(change.direction for change in self.changes)
        tested = sum(change.p is not None for change in self.changes)
        if not tested:
            return "Nothing to compare: no scenario has conclusive trials on both sides"
        told = [f"{counts[way]} {way}" for way in (Direction.WORSE, Direction.BETTER, Direction.NOT_TOLD_APART)]
        how = f"Fisher's exact test with Holm's correction, {percent(self.alpha)} in all"
        blind = sum(change.p is not None and not change.could_tell for change in self.changes)
        few = f"; {blind} of them with too few trials to tell even none from all" if blind else ""
        return f"Of {plural(tested, 'pair')} of rates {', '.join(told)}{few} ({how})"


def compare_paths(first: Sequence[Path], second: Sequence[Path], *, across: bool = False) -> Comparison:
    """The runs at two sets of places. Raises UsageError where there is none."""
    one, two = (union(*(read_contents(run, evidence=False) for path in paths for run in runs_at(path)))
                for paths in (first, second))  # fmt: skip
    return compare(one, two, across=across)


def compare(first: Contents, second: Contents, *, across: bool = False) -> Comparison:
    """Two run sets that were read. A trial that is in both counts on both sides, which makes them look more alike."""
    one, two = entries_of(first), entries_of(second)
    changes = [_change(*pair) for pair in _pairs(one, two, across=across)]
    return Comparison(
        first=_run_set("A", first, one),
        second=_run_set("B", second, two),
        across=across,
        shared=len({*first.copies, *first.lines} & {*second.copies, *second.lines}),
        alpha=ALPHA,
        changes=tuple(sorted(_corrected(changes), key=_order)),
    )


# --- below: how

_Place = tuple[str, str]  # scenario, version


def _pairs(one: Sequence[Entry], two: Sequence[Entry], *, across: bool) -> Iterator[tuple[list[Entry], list[Entry]]]:
    first, second = _placed(one), _placed(two)
    if not across:
        for place in first | second:
            yield first.get(place, []), second.get(place, [])
        return
    for scenario in dict.fromkeys(scenario for scenario, _ in first | second):
        before, after = ([version for name, version in placed if name == scenario] for placed in (first, second))
        for old, new in product(before, after):
            back = new in before and old in after and version_key(new) < version_key(old)
            if old != new and not back:  # of two directions the one from the older version to the newer
                yield first[scenario, old], second[scenario, new]


def _placed(entries: Iterable[Entry]) -> dict[_Place, list[Entry]]:
    found: dict[_Place, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[scenario_of(entry.result), entry.result.version].append(entry)
    return dict(found)


def _change(one: Sequence[Entry], two: Sequence[Entry]) -> Change:
    shown = [*two, *one][0]
    first, second = (_side(entries) for entries in (one, two))
    change = Change(
        scenario=scenario_of(shown.result),
        title=shown.result.title or scenario_of(shown.result).rpartition("::")[2],
        issue=shown.result.issue,
        control=any(entry.control for entry in (*one, *two)),
        first=first,
        second=second,
        direction=Direction.ONLY_FIRST if second is None else Direction.ONLY_SECOND,
    )
    if first is None or second is None:
        return change
    if not first.n or not second.n:
        return msgspec.structs.replace(change, direction=Direction.INCONCLUSIVE)
    return msgspec.structs.replace(
        change,
        direction=Direction.NOT_TOLD_APART,
        difference=second.k / second.n - first.k / first.n,
        interval=newcombe(second.k, second.n, first.k, first.n),
        p=fisher(first.k, first.n, second.k, second.n),
    )


def _side(entries: Sequence[Entry]) -> Side | None:
    if not entries:
        return None
    results = Counter(entry.says for entry in entries)
    conclusive = [entry.result for entry in entries if entry.says is not Result.INCONCLUSIVE]
    return Side(
        version=entries[0].result.version,
        builds=tuple(sorted({entry.result.binary_sha256 for entry in entries})),
        k=results[Result.REPRODUCED],
        n=len(conclusive),
        inconclusive=results[Result.INCONCLUSIVE],
        verdicts=_kinds(map(called, conclusive)),
        signatures=_kinds(result.signature for result in conclusive if result.signature),
        seconds=median(result.seconds_to_verdict for result in conclusive) if conclusive else None,
    )


def _kinds(names: Iterable[str]) -> tuple[Kind, ...]:
    counted = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return tuple(Kind(name=name, count=count) for name, count in counted)


def _corrected(changes: Sequence[Change]) -> Iterator[Change]:
    adjusted = holm([change.p for change in changes if change.p is not None])
    each = iter(adjusted)
    for change in changes:
        yield change if change.p is None else _decided(change, next(each), len(adjusted))


def _decided(change: Change, adjusted: float, rows: int) -> Change:
    direction = change.direction
    first, second = (side.n if side else 0 for side in (change.first, change.second))
    if adjusted < ALPHA and change.difference:
        direction = Direction.WORSE if change.difference > 0 else Direction.BETTER
    could_tell = fisher(0, first, second, second) * rows < ALPHA
    return msgspec.structs.replace(change, adjusted=adjusted, direction=direction, could_tell=could_tell)


def _order(change: Change) -> tuple[int, bool, str, tuple[tuple[int, int, str], ...]]:
    return list(Direction).index(change.direction), change.control, change.scenario, version_key(change.version)


def _run_set(label: str, contents: Contents, entries: Sequence[Entry]) -> RunSet:
    runs = sorted(contents.frames.values(), key=lambda run: (run.started, run.run_id))
    return RunSet(label=label, runs=tuple(runs), trials=len(entries), left_out=tuple(sorted(contents.left_out)))


def _cells(change: Change) -> tuple[str, str, str, str, str]:
    return _rate(change.first), _rate(change.second), _difference(change), _p(change), change.direction


def _rate(side: Side | None) -> str:
    if side is None:
        return "not run"
    return str(Rate(k=side.k, n=side.n)) + (f" +{side.inconclusive}?" if side.inconclusive else "")


def _difference(change: Change) -> str:
    if change.difference is None or change.interval is None:
        return ""
    low, high = (f"{100 * end:+.0f}" for end in (change.interval.low, change.interval.high))
    return f"{100 * change.difference:+.0f} ({low} to {high}) points"


def _p(change: Change) -> str:
    if change.p is None or change.adjusted is None:
        return ""
    shown = "<0.001" if change.p < 0.001 else f"{change.p:.3f}"  # noqa: PLR2004 - three digits are shown
    return shown if change.adjusted == change.p else f"{shown} ({_short(change.adjusted)} in all)"


def _short(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.2g}"  # noqa: PLR2004


def _remarks(change: Change) -> Iterator[str]:
    if change.first is None or change.second is None:
        return
    if change.first.version == change.second.version and change.first.builds != change.second.builds:
        hashes = (", ".join(build[:12] for build in side.builds) for side in (change.first, change.second))
        yield f"another build of the same version: {' → '.join(hashes)}"
    for what, one, two in (
        ("verdict", change.first.verdicts, change.second.verdicts),
        ("signature", change.first.signatures, change.second.signatures),
    ):
        before, after = {kind.name for kind in one}, {kind.name for kind in two}
        for verb, kinds, known in (("gone", one, after), ("new", two, before)):
            names = [f"{kind.name} ({kind.count})" for kind in kinds if kind.name not in known]
            if names:
                yield f"{what} {verb}: {', '.join(names)}"
    seconds = [f"{side.seconds:.1f} s" for side in (change.first, change.second) if side.seconds is not None]
    if len(set(seconds)) > 1:
        yield f"median time to the verdict: {' → '.join(seconds)}"
