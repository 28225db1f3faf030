"""What the commands ``bisect`` and ``matrix`` do: the range, the plan, the journal, the builds, the trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import semver

from pytest_ocrepro import __version__
from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.versions import releases, trials
from pytest_ocrepro.versions.certificate import Certificate, certify
from pytest_ocrepro.versions.journal import Journal, Plan, Skipped, read_lines
from pytest_ocrepro.versions.releases import Releases
from pytest_ocrepro.versions.search import Here, Run, Search, check_plan, fold, next_step, replay

OLDEST = "1.0.0"  # earlier builds have another command line
FEWEST = 2


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked ``ocrepro bisect`` for. ``budget_s`` None: until there is an answer."""

    scenario: str
    good: str | None = None
    bad: str | None = None
    find_fix: bool = False
    confidence: float = 0.95
    journal: Path | None = None
    budget_s: float | None = None
    skip: tuple[str, ...] = ()
    signature: str = ""
    monotone: bool = False
    oracle_is_certain: bool = False
    workers: int = 1
    reports: Path = Path("reports/bisect")
    offline: bool = False


def bisect(
    wanted: Wanted,
    *,
    tell: Callable[[str], None],
    progress: subject.Progress | None = None,
    run: Run | None = None,
) -> Certificate:
    """Go on where the journal stands, or begin; to the end, the budget or trouble. Raises OcreproError."""
    scenario = trials.find_scenario(wanted.scenario)
    published = _published(offline=wanted.offline)
    with Journal(wanted.journal or journal_name(scenario, find_fix=wanted.find_fix)) as journal:
        _begin(journal, wanted, trials.short_name(scenario), published)
        _tell_journal(journal, tell)
        for version in wanted.skip:
            if Skipped(version=version, reason="skipped by hand") not in journal.records:
                journal.append(Skipped(version=version, reason="skipped by hand"))
        runner = trials.Trials(reports=wanted.reports, workers=wanted.workers)
        search = Search(
            journal,
            run=run or (lambda _, batch: runner.run(scenario, batch)),
            fetch=lambda version: _fetch(version, progress, offline=wanted.offline),
            tell=tell,
            budget_s=wanted.budget_s,
        )
        _, why = search.to_the_end()
        return certify(journal.records, why, edited=journal.edited)


def replay_journal(path: Path) -> tuple[Certificate, str]:
    """The certificate of a journal as it stands, and one line on whether its choices are what we would choose."""
    if not path.is_file():
        raise UsageError(f"there is no journal {path}: name the file that a bisection wrote")
    read = read_lines(path.read_bytes(), str(path))
    if not read.records:
        raise UsageError(f"{path} is empty: nothing to replay")
    batches, wrong = replay(read.records)
    why = next_step(fold(read.records), budget_spent=False).ended
    found = certify(read.records, why or next_step(fold(read.records), budget_spent=True).ended, edited=read.edited)  # type: ignore[arg-type]
    odd = f"; not ours: batch {', '.join(map(str, wrong[:10]))}" if wrong else ""
    torn = "; half a last line was left out" if read.torn else ""
    return found, f"{batches - len(wrong)} of {batches} choices follow from the trials before them{odd}{torn}"


def journal_name(scenario: str, *, find_fix: bool) -> Path:
    """``ocrepro-bisect-<test>.jsonl`` in the working directory."""
    test = scenario.partition("::")[2].removeprefix("test_").replace("_", "-")
    return Path(f"ocrepro-bisect-{test}{'-fix' if find_fix else ''}.jsonl")


def in_range(published: Releases, oldest: str | None, newest: str | None) -> tuple[str, ...]:
    """Releases (no pre-releases but named ones) from one to the other, both included. Raises UsageError."""
    first = published.resolve(oldest) if oldest else OLDEST
    last = published.resolve(newest) if newest else published.latest
    low, high = semver.Version.parse(first), semver.Version.parse(last)
    if low > high:
        raise UsageError(f"the range is reversed: {first} comes after {last}; give the older version first")
    chosen = [
        version
        for version in published.versions
        if low <= (one := semver.Version.parse(version)) <= high and (not one.prerelease or version in (first, last))
    ]
    return tuple(chosen)


def parse_range(published: Releases, text: str | None) -> tuple[str, ...]:
    """``1.2.1..1.18.34``, ``1.15.0..``, ``..1.3.0``, or a list ``1.14.48,1.18.34``. Raises UsageError."""
    if text is None or ".." in text:
        oldest, _, newest = (text or "..").partition("..")
        return in_range(published, oldest or None, newest or None)
    return releases.in_order(published.resolve(one.strip()) for one in text.split(",") if one.strip())


def _published(*, offline: bool) -> Releases:
    return releases.obtain(releases.platform_package(releases.this_machine()), offline=offline)


def _begin(journal: Journal, wanted: Wanted, scenario: str, published: Releases) -> None:
    old_end, new_end = (wanted.bad, wanted.good) if wanted.find_fix else (wanted.good, wanted.bad)
    old = journal.plan
    versions = old.versions if old and not (old_end or new_end) else in_range(published, old_end, new_end)
    if len(versions) < FEWEST:
        raise UsageError(
            f"the range holds {len(versions)} version: a bisection needs two; `ocrepro versions` lists all"
        )
    plan = Plan(
        tool=__version__,
        kind="bisect",
        scenarios=(scenario,),
        versions=versions,
        cached=tuple(sorted({one.version for one in subject.stored()} & set(versions))),
        find_fix=wanted.find_fix,
        confidence=wanted.confidence,
        monotone=wanted.monotone,
        oracle_is_certain=wanted.oracle_is_certain,
        signature=wanted.signature,
        workers=wanted.workers,
    )
    unknown = set(wanted.skip) - set(versions)
    if unknown:
        raise UsageError(f"--skip {', '.join(sorted(unknown))}: not in the range {versions[0]}..{versions[-1]}")
    if old is None:
        journal.append(plan)
        return
    check_plan(old, plan, str(journal.path))
    if old.versions != versions:
        raise UsageError(
            f"{journal.path} is the journal of {old.versions[0]}..{old.versions[-1]}, {len(old.versions)} versions: "
            "give the same range or none, or name another journal"
        )


def _tell_journal(journal: Journal, tell: Callable[[str], None]) -> None:
    going_on = len(journal.records) > 1
    tell(f"journal: {journal.path}{f' (going on after {len(journal.records) - 1} records)' if going_on else ''}")
    if journal.torn:
        tell(f"{journal.path}: half a last line was left out")
    if journal.edited:
        tell(f"{journal.path}: edited by hand (lines {', '.join(map(str, journal.edited))}); its words count")


def _fetch(version: str, progress: subject.Progress | None, *, offline: bool) -> Here:
    build = subject.fetch(version, progress=progress, offline=offline)
    return Here(version=build.version, sha256=build.sha256)


def known_scenarios(names: Sequence[str]) -> tuple[str, ...]:
    """The named scenarios, or all of the catalogue, as pytest takes them."""
    return tuple(map(trials.find_scenario, names)) or tuple(trials.all_scenarios())
