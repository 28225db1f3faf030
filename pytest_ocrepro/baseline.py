"""The rates of this run against those of an earlier one: what got worse beyond chance, and what got better.

A scenario is compared on the same version where the baseline has it, else with the newest version that it has. Only a
worsening that Fisher's exact test, corrected for the number of scenarios by Holm's method, does not give to chance is
told as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.judge.rates import Rate, fisher, holm
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.counting import scenario_of, version_key
from pytest_ocrepro.publish.records import TrialResult
from pytest_ocrepro.publish.storage import read_lines

ALPHA = 0.05
SHOWN = 10  # lines of a kind


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario then and now. ``p``: of Fisher's test after Holm's correction; None: nothing to compare.

    ``could_tell``: trials enough that a failure in every one of them now would be told.
    """

    scenario: str
    then_version: str
    version: str
    then: Rate
    now: Rate
    p: float | None
    could_tell: bool
    new_signatures: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Beyond chance."""
        return self.p is not None and self.p < ALPHA and self._rise > 0

    @property
    def better(self) -> bool:
        """Beyond chance."""
        return self.p is not None and self.p < ALPHA and self._rise < 0

    @property
    def _rise(self) -> float:
        return (self.now.share or 0.0) - (self.then.share or 0.0)

    def __str__(self) -> str:
        then = self.then_version if self.then_version != self.version else "then"
        told = f"{self.scenario}: {then} {self.then}, {self.version} {self.now}"
        return told if self.p is None else f"{told} (p {self.p:.2g})"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """All pairs; ``missing``: scenarios of this run that the baseline does not have."""

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Something got worse beyond chance, or nothing at all could be compared: that is never a pass."""
        return any(pair.worse for pair in self.pairs) or all(pair.p is None for pair in self.pairs)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        worse, better = [pair for pair in self.pairs if pair.worse], [pair for pair in self.pairs if pair.better]
        compared = [pair for pair in self.pairs if pair.p is not None]
        yield (
            f"against the baseline: {len(worse)} worse, {len(better)} better, "
            f"{len(compared) - len(worse) - len(better)} not told apart"
        )
        yield from (f"worse: {pair}" for pair in worse)
        yield from (f"better: {pair}" for pair in better)
        yield from _few([f"no conclusive trial on one side: {pair}" for pair in self.pairs if pair.p is None])
        yield from _few([f"not in the baseline: {name}" for name in self.missing])
        for pair in self.pairs:
            yield from (f"new signature: {sign} in {pair.scenario}" for sign in pair.new_signatures)
        blind = sum(not pair.could_tell for pair in compared)
        if blind:
            yield (
                f"{blind} of {len(compared)} comparisons have too few trials to tell even a failure in all of them; "
                "raise --ocrepro-trials"
            )


def read_baseline(path: Path) -> tuple[TrialResult, ...]:
    """A results.jsonl, or a run directory or reports directory that holds one. Raises UsageError."""
    try:
        if path.is_dir():
            results = RunDir.read(path).results()
        else:
            results, _ = read_lines(path, msgspec.json.Decoder(TrialResult).decode)
    except BundleError as error:
        raise UsageError(f"the baseline {path} cannot be read: {error}") from None
    if not results:
        raise UsageError(f"the baseline {path} holds no results: give the results.jsonl of an earlier run")
    return results


def run_of(path: Path) -> Path | None:
    """The run directory that a baseline is from; None where it is a file on its own."""
    run = RunDir.read(path).path.resolve() if path.is_dir() else path.resolve().parent
    return run if (run / "run.json").is_file() else None


def compare(then: Sequence[TrialResult], now: Sequence[TrialResult]) -> Verdict:
    """Each scenario and version of this run with what the baseline has of it."""
    before, after = _by_place(then), _by_place(now)
    pairs, missing = [], []
    for (scenario, version), results in after.items():
        known = [other for name, other in before if name == scenario]
        if not known:
            missing.append(scenario)
            continue
        other = version if version in known else max(known, key=version_key)
        pairs.append(_pair(scenario, (other, before[scenario, other]), (version, results)))
    return Verdict(pairs=tuple(_corrected(pairs)), missing=tuple(dict.fromkeys(missing)))


# --- below: how

_Results = list[TrialResult]


def _by_place(results: Iterable[TrialResult]) -> dict[tuple[str, str], _Results]:
    found: dict[tuple[str, str], _Results] = defaultdict(list)
    for result in results:
        found[scenario_of(result), result.version].append(result)
    return dict(found)


def _rate(results: _Results) -> Rate:
    told = [result.result for result in results if result.result in (Result.REPRODUCED, Result.NOT_SEEN)]
    return Rate(k=told.count(Result.REPRODUCED), n=len(told))


def _pair(scenario: str, then: tuple[str, _Results], now: tuple[str, _Results]) -> Pair:
    first, second = _rate(then[1]), _rate(now[1])
    known = {result.signature for result in then[1]}
    new = dict.fromkeys(result.signature for result in now[1] if result.signature and result.signature not in known)
    return Pair(
        scenario=scenario,
        then_version=then[0],
        version=now[0],
        then=first,
        now=second,
        p=fisher(first.k, first.n, second.k, second.n) if first.n and second.n else None,
        could_tell=False,
        new_signatures=tuple(new),
    )


def _corrected(pairs: Sequence[Pair]) -> Iterator[Pair]:
    tested = [pair for pair in pairs if pair.p is not None]
    adjusted = iter(holm([pair.p for pair in tested if pair.p is not None]))
    for pair in pairs:
        if pair.p is None:
            yield pair
            continue
        lowest = fisher(pair.then.k, pair.then.n, pair.now.n, pair.now.n) * len(tested)
        could_tell = lowest < ALPHA or pair.then.k == pair.then.n  # what always failed cannot get worse
        yield msgspec.structs.replace(pair, p=next(adjusted), could_tell=could_tell)


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more like these"]
