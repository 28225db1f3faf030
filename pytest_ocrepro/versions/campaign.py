"""What the command ``bisect`` does: the range, the plan, the journal, the builds, the trials, the certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import semver

from pytest_ocrepro import __version__
from pytest_ocrepro.catalogue import find_scenario
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.stage.tarball import Progress
from pytest_ocrepro.versions.batches import Fetch, Run, check_resume, plan_of, published, write_beside
from pytest_ocrepro.versions.certificate import Certificate, certify
from pytest_ocrepro.versions.checkout import Checkout
from pytest_ocrepro.versions.journal import Journal, Plan, Skipped, read_journal
from pytest_ocrepro.versions.releases import Releases
from pytest_ocrepro.versions.rendering import as_markdown, as_page
from pytest_ocrepro.versions.search import MOST_TRIALS, Search, Why, next_step, replay
from pytest_ocrepro.versions.state import fold
from pytest_ocrepro.versions.supply import Supply, fetch_ahead, here
from pytest_ocrepro.versions.trials import Trials

FEWEST = 2
SAME_QUESTION = (
    "kind",
    "scenarios",
    "commits",
    "control",
    "find_fix",
    "confidence",
    "monotone",
    "oracle_is_certain",
    "signature",
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked ``ocrepro bisect`` for. ``budget_s`` None: until there is an answer."""

    scenario: str
    good: str | None = None
    bad: str | None = None
    find_fix: bool = False
    confidence: float = 0.95
    journal: Path | None = None
    resume: bool = False
    budget_s: float | None = None
    most_trials: int = MOST_TRIALS
    skip: tuple[str, ...] = ()
    signature: str = ""
    monotone: bool = False
    oracle_is_certain: bool = False
    across_lines: bool = False
    workers: int = 1
    seed: int = 0
    reports: Path = Path("reports/bisect")
    offline: bool = False
    cache_limit_bytes: int | None = None
    prefetch: bool = False
    control: str = ""
    commits: bool = False
    build: str = ""
    binary: str = ""


class Line(Protocol):
    """Builds in an order: the releases of a registry, or the commits of a checkout."""

    def line(self, oldest: str | None, newest: str | None) -> tuple[str, ...]:
        """From one end to the other, both included, oldest first. Raises UsageError."""

    def here(self) -> frozenset[str]:
        """Those that can be run without a download or a build."""

    def source(self, *, keep: int) -> Fetch:
        """Gets one when a batch needs it; the last ``keep`` stay in use."""


class Published:
    """The releases that npm serves for this machine."""

    def __init__(self, released: Releases, wanted: Wanted, progress: Progress | None) -> None:
        self._released, self._wanted, self._progress = released, wanted, progress

    def line(self, oldest: str | None, newest: str | None) -> tuple[str, ...]:
        """See :func:`in_range`."""
        return in_range(self._released, oldest, newest, across_lines=self._wanted.across_lines)

    def here(self) -> frozenset[str]:
        """What is in the cache."""
        return here()

    def source(self, *, keep: int) -> Fetch:
        """From the cache, else from npm."""
        limit_bytes = self._wanted.cache_limit_bytes
        return Supply(keep=keep, progress=self._progress, offline=self._wanted.offline, limit_bytes=limit_bytes)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate and where it lies as Markdown and as a page."""

    certificate: Certificate
    markdown: Path
    page: Path


def bisect(
    wanted: Wanted,
    *,
    tell: Callable[[str], None],
    progress: Progress | None = None,
    secrets: Mapping[str, str] | None = None,
    run: Run | None = None,
) -> Outcome:
    """Begin, or go on where the journal stands; to the end, the budget or trouble. Raises OcreproError."""
    scenario = find_scenario(wanted.scenario)
    path = wanted.journal or journal_name(scenario.test, find_fix=wanted.find_fix)
    check_resume(path, resume=wanted.resume, or_else="look at it with --replay, ")
    line = _line(wanted, tell, progress)
    with Journal(path) as journal:
        _begin(journal, wanted, scenario.name, line)
        for warning in journal.read.warnings(str(path)):
            tell(warning)
        plan = plan_of(journal.records)
        if wanted.workers != plan.workers:
            tell(
                f"{plan.workers} trials at the same time, as the journal began; rates of {wanted.workers} may differ"
            )
        made = Trials(
            wanted.reports,
            find=lambda name: find_scenario(name).node,
            workers=plan.workers,
            binary=line.binary_of if isinstance(line, Checkout) else None,
        )
        tell(f"{plan.scenarios[0]} on {len(plan.versions)} builds, {plan.versions[0]} to {plan.versions[-1]}: {path}")
        search = Search(
            journal,
            run=run or made.run,
            fetch=line.source(keep=plan.workers),
            tell=tell,
            budget_s=wanted.budget_s,
            most_trials=wanted.most_trials,
            away=tuple(set(plan.versions) - line.here()) if wanted.offline else (),
            prefetch=fetch_ahead if wanted.prefetch and not wanted.offline and not wanted.commits else None,
        )
        _, why = search.to_the_end()
        told = certify(journal.records, why, edited=journal.read.edited)
    return _write(told, path, secrets or {})


def replay_journal(path: Path) -> tuple[Certificate, str]:
    """The certificate of a journal as it stands, and one line on whether its choices are what we would choose."""
    read = read_journal(path)
    if not read.records:
        raise UsageError(f"{path} is empty: nothing to replay")
    if plan_of(read.records).kind != "bisect":
        raise UsageError(f"{path} is the journal of a matrix: `ocrepro matrix --resume` shows it")
    batches, wrong = replay(read.records)
    why = next_step(fold(read.records)).ended or Why.BUDGET
    odd = f"; not ours: batch {', '.join(map(str, wrong[:10]))}" if wrong else ""
    line = f"{batches - len(wrong)} of {batches} choices follow from the trials before them{odd}"
    return certify(read.records, why, edited=read.edited), "; ".join([line, *read.warnings(path.name)])


def journal_name(test: str, *, find_fix: bool) -> Path:
    """``ocrepro-bisect-<test>.jsonl`` in the working directory."""
    word = "fix-" if find_fix else ""
    return Path(f"ocrepro-bisect-{word}{test.removeprefix('test_').replace('_', '-')}.jsonl")


def in_range(released: Releases, oldest: str | None, newest: str | None, *, across_lines: bool) -> tuple[str, ...]:
    """Releases from one to the other, both included; without an older end from the first of its major version.

    Pre-releases only where they are named. Raises UsageError: reversed, across major versions.
    """
    last = released.resolve(newest) if newest else released.latest
    if not last:
        raise UsageError(f"{released.package} has no release: `ocrepro versions` lists what there is")
    line = [one for one in released.versions if _major(one) == _major(last) and not _parsed(one).prerelease]
    first = released.resolve(oldest) if oldest else line[0]
    low, high = _parsed(first), _parsed(last)
    if low > high:
        raise UsageError(
            f"the range is reversed: {first} is newer than {last}; --good is the older end, with --find-fix the newer"
        )
    if _major(first) != _major(last) and not across_lines:
        raise UsageError(
            f"{first} and {last} are of different major versions, which are no single line of development: "
            "choose both ends in one, or insist with --across-lines"
        )
    return tuple(
        one
        for one in released.versions
        if low <= _parsed(one) <= high and (not _parsed(one).prerelease or one in (first, last))
    )


# --- below: how


def _parsed(version: str) -> semver.Version:
    return semver.Version.parse(version)


def _major(version: str) -> int:
    return _parsed(version).major


def _line(wanted: Wanted, tell: Callable[[str], None], progress: Progress | None) -> Line:
    if wanted.commits:
        return Checkout(Path.cwd(), build=wanted.build, binary=wanted.binary)
    if wanted.build or wanted.binary:
        raise UsageError("--build and --binary say how commits become builds: add --commits, or leave them out")
    released = published(offline=wanted.offline, tell=tell)
    return Published(released, wanted, progress)


def _begin(journal: Journal, wanted: Wanted, scenario: str, line: Line) -> None:
    old_end, new_end = (wanted.bad, wanted.good) if wanted.find_fix else (wanted.good, wanted.bad)
    old = journal.plan
    keep = old is not None and not old_end and not new_end
    versions = old.versions if keep and old else line.line(old_end, new_end)
    if len(versions) < FEWEST:
        raise UsageError(
            f"the range holds {len(versions)} build, {versions[0]}: a bisection needs two (see `ocrepro versions`)"
        )
    unknown = sorted(set(wanted.skip) - set(versions))
    if unknown:
        raise UsageError(f"--skip {', '.join(unknown)} is not in the range {versions[0]} to {versions[-1]}")
    plan = Plan(
        tool=__version__,
        kind="bisect",
        scenarios=(scenario,),
        versions=versions,
        cached=tuple(version for version in versions if version in line.here()),
        commits=wanted.commits,
        control=find_scenario(wanted.control).name if wanted.control else "",
        find_fix=wanted.find_fix,
        confidence=wanted.confidence,
        monotone=wanted.monotone,
        oracle_is_certain=wanted.oracle_is_certain,
        signature=wanted.signature,
        workers=wanted.workers,
        seed=wanted.seed,
    )
    if old is None:
        journal.append(plan)
    else:
        _check_same(old, plan, journal.path)
    known = {one.version for one in journal.records if isinstance(one, Skipped)}
    for version in wanted.skip:
        if version not in known:
            journal.append(Skipped(version=version, reason="skipped by hand", by_hand=True))


def _check_same(old: Plan, new: Plan, path: Path) -> None:
    """A journal goes on only with the same question."""
    for field in SAME_QUESTION:
        if getattr(old, field) != getattr(new, field):
            raise UsageError(
                f"{path} is the journal of another question ({field} {getattr(old, field)!r}, now "
                f"{getattr(new, field)!r}): ask that one, or name another --journal"
            )
    if old.versions != new.versions:
        raise UsageError(
            f"{path} is the journal of {_span(old)}, now {_span(new)}: leave the ends out, or name another --journal"
        )


def _span(plan: Plan) -> str:
    return f"{len(plan.versions)} builds, {plan.versions[0]} to {plan.versions[-1]}"


def _write(told: Certificate, journal: Path, secrets: Mapping[str, str]) -> Outcome:
    written = write_beside(journal, secrets, {".md": as_markdown(told), ".html": as_page(told)})
    return Outcome(certificate=told, markdown=written[".md"], page=written[".html"])
