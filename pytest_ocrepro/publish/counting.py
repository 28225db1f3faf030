"""Trials counted: k of n by scenario and version, and the run in one sentence."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.judge.judgement import Grade, Result, Verdict
from pytest_ocrepro.judge.rates import excludes, wilson
from pytest_ocrepro.publish.records import TrialInfo, TrialResult

TORN = "pytest ended before this trial was judged"
DUMP = "dump"  # the scenario of what `ocrepro dump` has seen
SKIPPED = "skipped"
GLYPHS = {Result.REPRODUCED: "●", Result.NOT_SEEN: "○", Result.INCONCLUSIVE: "?", SKIPPED: "-"}
WORDS = {kind: str(kind).replace("-", " ") for kind in GLYPHS}
FEW = 3  # versions that a sentence tells one by one
_ORDER = (Result.REPRODUCED, Result.INCONCLUSIVE, Result.NOT_SEEN)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One trial as it is counted. ``path``: its bundle, where there is one."""

    result: TrialResult
    info: TrialInfo | None = None
    path: Path | None = None

    @property
    def anchor(self) -> str:
        """The fragment that leads to its evidence."""
        return f"trial-{self.path.name}" if self.path else ""

    @property
    def control(self) -> bool:
        """Whether it is a control; its result tells where the rest cannot be read."""
        return self.result.control or bool(self.info and self.info.control)

    @property
    def seconds(self) -> float | None:
        """To its verdict; None where nobody lived to judge."""
        return None if self.torn else self.result.seconds_to_verdict

    @property
    def torn(self) -> bool:
        """Whether pytest ended before it was judged."""
        return self.result.reason == TORN

    @property
    def kind(self) -> str:
        """Its result as people are told it: of one that has ended itself ``skipped``."""
        return SKIPPED if self.result.skipped else self.says

    @property
    def says(self) -> Result:
        """Its result; one that a later version of ours stored and we do not know is inconclusive."""
        try:
            return Result(self.result.result)
        except ValueError:
            return Result.INCONCLUSIVE


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one scenario on one version. ``n`` counts the conclusive ones.

    ``skipped``: in each of them the scenario has ended itself, as the version lacks what it is about.
    """

    version: str
    k: int
    n: int
    inconclusive: int
    verdict: str
    reason: str
    result: Result
    anchor: str
    expected: tuple[str, ...]
    skipped: bool = False

    @property
    def glyph(self) -> str:
        """The result in one character."""
        return GLYPHS[SKIPPED if self.skipped else self.result]

    @property
    def word(self) -> str:
        """The result in words."""
        return WORDS[SKIPPED if self.skipped else self.result]

    @property
    def rate(self) -> str:
        """k/n."""
        return "n/a" if self.skipped else f"{self.k}/{self.n}"

    @property
    def doubt(self) -> str:
        """What the count allows: an interval where something was seen, the excluded rate where nothing was."""
        if self.result is Result.INCONCLUSIVE:
            return ""
        if self.n == 1:
            return ""  # one trial says nothing about how often
        if self.k == 0:
            return f"rules out > {100 * excludes(self.n):.0f} %"
        rate = wilson(self.k, self.n)
        return f"95 % CI {100 * rate.low:.0f}-{100 * rate.high:.0f} %"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario of the matrix; ``cells`` has None where it was not run on that version."""

    scenario: str
    title: str
    issue: tuple[str, ...]
    control: bool
    cells: tuple[Cell | None, ...]

    @property
    def result(self) -> Result:
        """What the scenario shows over all versions; inconclusive on one is never a pass of all."""
        results = {cell.result for cell in self.cells if cell}
        return next(result for result in _ORDER if result in results)

    @property
    def skipped(self) -> bool:
        """On every version: it says nothing, and there is no doubt about that."""
        return all(cell.skipped for cell in self.cells if cell)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many scenarios (controls not counted) have one result."""

    result: Result
    glyph: str
    word: str
    count: int


def unjudged(run_id: str, info: TrialInfo, path: Path) -> TrialResult:
    """The result of a trial that nobody lived to judge."""
    return TrialResult(
        run_id=run_id,
        scenario=info.scenario,
        title=info.title,
        issue=info.issue,
        version=info.version,
        binary_sha256=info.binary_sha256,
        trial=info.trial,
        seed=info.seed,
        result=Result.INCONCLUSIVE,
        reason=TORN,
        verdict=Verdict.INCONCLUSIVE,
        grade=Grade.WEAK,
        seconds_to_verdict=0.0,
        chain=(),
        processes=(),
        findings=(),
        leaked=(),
        signature="",
        bundle=f"trials/{path.name}",
        control=info.control,
    )


def place(entry: Entry) -> tuple[int, str, tuple[tuple[int, int, str], ...], int]:
    """Sorting key: reproduced first, then by scenario, version and trial."""
    result = entry.result
    return _ORDER.index(entry.says), result.scenario, version_key(result.version), result.trial


def shows(entry: Entry) -> bool:
    """It reproduced, and its evidence is there."""
    return entry.says is Result.REPRODUCED and entry.path is not None


def clarity(entry: Entry) -> tuple[bool, bool, bool, int, float]:
    """A hang with a chain says most, a wait for an answer less; then the better grade, then the shorter story."""
    result = entry.result
    grades = [str(grade) for grade in Grade]
    grade = grades.index(result.grade) if result.grade in grades else len(grades)
    hung = result.verdict in {verdict.value for verdict in Verdict if verdict.hung}
    return result.known and not result.chain, not hung, not result.chain, grade, result.seconds_to_verdict


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers as numbers, so that 1.9 is before 1.10."""
    parts = re.split(r"[.+-]", version)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def versions_of(entries: Iterable[Entry]) -> list[str]:
    """All versions, oldest first."""
    return sorted({entry.result.version for entry in entries}, key=version_key)


def matrix(entries: Sequence[Entry], drawn: frozenset[str] | None = None) -> list[Row]:
    """A row a scenario, controls last; within both what reproduced comes first. ``drawn``: where a cell may lead."""
    versions = versions_of(entries)
    found: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        found[scenario_of(entry.result)][entry.result.version].append(entry)
    rows = [_row(scenario, by_version, versions, drawn) for scenario, by_version in found.items()]
    return sorted(rows, key=lambda row: (row.control, _ORDER.index(row.result), row.scenario))


def scenario_of(result: TrialResult | TrialInfo) -> str:
    """The node id without the version and the trial that pytest's parametrization put into its brackets."""
    head, bracket, inner = result.scenario.rstrip("]").partition("[")
    inner = f"-{inner}-"
    for part in (result.version, f"t{result.trial}", f"trial{result.trial}"):
        while part and f"-{part}-" in inner:
            inner = inner.replace(f"-{part}-", "-", 1)
    return f"{head}[{inner.strip('-')}]" if bracket and inner.strip("-") else head


def _row(
    scenario: str, by_version: dict[str, list[Entry]], versions: Sequence[str], drawn: frozenset[str] | None
) -> Row:
    first = next(iter(by_version.values()))[0]
    return Row(
        scenario=scenario,
        title=first.result.title or scenario.rpartition("::")[2],
        issue=first.result.issue,
        control=any(entry.control for entry in itertools.chain(*by_version.values())),
        cells=tuple(_cell(v, by_version[v], drawn) if v in by_version else None for v in versions),
    )


def _cell(version: str, entries: Sequence[Entry], drawn: frozenset[str] | None) -> Cell:
    results = Counter(entry.says for entry in entries)
    k, n = results[Result.REPRODUCED], results[Result.REPRODUCED] + results[Result.NOT_SEEN]
    result = Result.REPRODUCED if k else Result.NOT_SEEN if n else Result.INCONCLUSIVE
    telling = [entry for entry in entries if entry.says is result]
    return Cell(
        version=version,
        k=k,
        n=n,
        inconclusive=results[Result.INCONCLUSIVE] - sum(bool(entry.result.skipped) for entry in entries),
        skipped=all(entry.result.skipped for entry in entries),
        verdict=Counter(called(entry.result) for entry in telling).most_common(1)[0][0],
        reason=telling[0].result.reason,
        result=result,
        anchor=next((entry.anchor for entry in telling if drawn is None or entry.anchor in drawn), ""),
        expected=tuple(sorted({entry.result.expected for entry in entries} - {""})),
    )


def called(result: TrialResult) -> str:
    """The verdict; for a process that is well while its stored state is not, what was found there."""
    kinds = dict.fromkeys(finding.kind for finding in result.findings if finding.kind != "off-loopback")
    hung = result.verdict in {verdict.value for verdict in Verdict if verdict.hung}
    told = result.result == Result.REPRODUCED and kinds and not hung
    return ", ".join([*kinds][:2]) if told else result.verdict


def tally(rows: Iterable[Row]) -> list[Tally]:
    """How many scenarios have which result."""
    counts = Counter(row.result for row in rows if not row.control and not row.skipped)
    ordered = (Result.REPRODUCED, Result.NOT_SEEN, Result.INCONCLUSIVE)
    return [
        Tally(result=result, glyph=GLYPHS[result], word=WORDS[result], count=counts[result]) for result in ordered
    ]


def headline(rows: Sequence[Row]) -> str:
    """The run in one sentence; a rate stands beside the version that it was counted on."""
    if not rows:
        return "Nothing was run"
    claims = [row for row in rows if not row.control]
    if not claims:
        return _of_controls(rows)
    if all(row.skipped for row in claims):
        versions = _where(cell for row in claims for cell in row.cells if cell)
        return f"Skipped: opencode {versions} lacks what the {plural(len(claims), 'scenario')} would need"
    claims = [row for row in claims if not row.skipped]
    if len(claims) == 1 and claims[0].scenario == DUMP:
        return _dumped(claims[0])
    if len(claims) == 1:
        return f"{_of_one(claims[0])}: {claims[0].title}"
    bad = [row for row in claims if row.result is Result.REPRODUCED]
    if not bad:
        doubt = any(row.result is Result.INCONCLUSIVE for row in claims)
        what = "Inconclusive" if doubt else "Not seen"
        versions = listed({cell.version for row in claims for cell in row.cells if cell})
        return f"{what}: none of {plural(len(claims), 'scenario')} reproduced on opencode {versions}"
    where = listed({cell.version for row in bad for cell in row.cells if cell and cell.k})
    return f"{len(bad)} of {plural(len(claims), 'scenario')} reproduced on opencode {where}"


def _dumped(row: Row) -> str:
    """One look at processes that ran already is no trial."""
    where = f"{row.title} ({listed({cell.version for cell in row.cells if cell})})"
    verdicts = sorted({cell.verdict for cell in row.cells if cell and cell.k})
    said = {Result.NOT_SEEN: "nothing is seen to hang", Result.INCONCLUSIVE: "whether they hang could not be told"}
    return f"{where}: {said.get(row.result) or ', '.join(verdicts)}"


def _of_one(row: Row) -> str:
    """Where it was seen and how often there, then where it was not, then where nobody could tell."""
    cells = [cell for cell in row.cells if cell and not cell.skipped]
    seen, unseen, untold = (
        [cell for cell in cells if cell.result is result] for result in WORDS if result != SKIPPED
    )
    parts = [_rate_on(*some) for some in ([[cell] for cell in seen] if len(seen) <= FEW else [seen])]
    if unseen:
        n = sum(cell.n for cell in unseen)
        parts.append(f"in {f'none of {n}' if seen else plural(n, 'trial')} on {_where(unseen)}")
    if untold and len(untold) == len(cells):
        return f"Inconclusive on opencode {_where(untold)}"
    if untold:
        parts.append(f"inconclusive on {_where(untold)}")
    words = ", ".join(parts).replace(" on ", " on opencode ", 1)
    return f"{'Reproduced' if seen else 'Not seen'} {words}"


def _rate_on(*cells: Cell) -> str:
    k, n = sum(cell.k for cell in cells), sum(cell.n for cell in cells)
    return f"in {k} of {plural(n, 'trial')} on {_where(cells)}"


def _where(cells: Iterable[Cell]) -> str:
    return listed({cell.version for cell in cells})


def _of_controls(rows: Sequence[Row]) -> str:
    """Of a run without any claim."""
    failed = [row for row in rows if row.result is Result.REPRODUCED]
    untold = [row for row in rows if row.result is Result.INCONCLUSIVE]
    where = _where(cell for row in failed or rows for cell in row.cells if cell)
    if len(rows) == 1:
        said = "it failed" if failed else "it could not tell" if untold else "it did not fail"
        return f"Only one control was run, and {said} on opencode {where}"
    more = f", {len(untold)} inconclusive" if untold else ""
    return f"Only controls were run: {len(failed) or 'none'} of {len(rows)} failed{more} on opencode {where}"


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(versions: Iterable[str]) -> str:
    """Versions as a sentence has them; of many the first and the last."""
    ordered = sorted(versions, key=version_key)
    if len(ordered) > 5:  # noqa: PLR2004 - a sentence, not a table
        return f"{ordered[0]} … {ordered[-1]} ({len(ordered)} versions)"
    return " and ".join([", ".join(ordered[:-1]), ordered[-1]] if len(ordered) > 1 else ordered) or "(unknown)"
