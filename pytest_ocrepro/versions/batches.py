"""The steps that a bisection and a matrix share: have the builds, write what was chosen, run it, write what came.

Everything that was decided is on disk before it is done, so that whoever goes on after a kill does the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_ocrepro import __version__
from pytest_ocrepro.errors import OcreproError, UnfitBuildError, UsageError
from pytest_ocrepro.publish.redaction import Redactor
from pytest_ocrepro.publish.storage import replace
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.journal import (
    AnyRecord,
    Chosen,
    Fetched,
    Journal,
    Opened,
    Plan,
    Skipped,
    Tried,
    trials_of,
)
from pytest_ocrepro.versions.releases import Releases

MOST_TROUBLE = 10  # inconclusive trials in a row, whatever the version: it is the machine, not a version


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """A build that can be run now."""

    version: str
    sha256: str


# Asked before each batch, for a cache may lose a build. Raises UnfitBuildError for good, OcreproError for now
Fetch = Callable[[str], Here]
Prefetch = Callable[[str], None]  # from another thread; raises what it likes
Run = Callable[[Chosen], Iterable[Tried]]  # in any order, each as soon as it is over
Tell = Callable[[str], None]


class Batches:
    """Works on an open journal that has its plan. ``away``: versions that cannot be had this time.

    ``budget_s`` counts from now; None: no end. ``prefetch`` is called for builds that may be wanted next.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        run: Run,
        fetch: Fetch,
        tell: Tell,
        away: Sequence[str] = (),
        budget_s: float | None = None,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._prefetch = prefetch
        self._prefetched_s: dict[str, float] = {}
        self._journal = journal
        self._run = run
        self._fetch = fetch
        self._tell = tell
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self._here: dict[str, str] = {one.version: one.sha256 for one in journal.records if isinstance(one, Fetched)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        journal.append(Opened(tool=__version__, wall=now, away=tuple(away)))

    def spent(self) -> bool:
        """The time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def choose(self, phase: str, trials: Sequence[tuple[str, str]]) -> Chosen | None:
        """Write down (scenario, version) trials that are to be run next, each with a seed of its own.

        None: a build had to be fetched first or cannot be had; decide again, so that a replay sees what we saw.
        Raises OcreproError where a build cannot be had for now; the journal then is good to go on with.
        """
        if not self._all_here([version for _, version in trials]):
            return None
        records = self._journal.records
        first = plan_of(records).seed + sum(len(one.trials) for one in records if isinstance(one, Chosen))
        seeded = tuple((scenario, version, first + at) for at, (scenario, version) in enumerate(trials))
        batch = 1 + sum(isinstance(one, Chosen) for one in records)
        chosen = Chosen(batch=batch, phase=phase, trials=seeded)
        self._journal.append(chosen)
        return chosen

    def run(self, chosen: Chosen, say: Callable[[Tried], None], *, likely: Sequence[str] = ()) -> None:
        """Run a batch, or what is left of one; ``say`` is called after each trial, when it is on disk.

        ``likely``: versions to fetch meanwhile, which is over when this returns.
        """
        if not self._all_here([version for _, version, _ in chosen.trials]):
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            for version in likely if self._prefetch else ():
                if version not in self._here:
                    pool.submit(self._fetch_ahead, version)
            for tried in self._run(chosen):
                placed = msgspec.structs.replace(tried, batch=chosen.batch, phase=chosen.phase)
                self._journal.append(placed)
                say(placed)

    def _fetch_ahead(self, version: str) -> None:
        """Whatever goes wrong is met again, and told, when the build is really wanted."""
        started = time.monotonic()
        if self._prefetch is not None:
            self._prefetch(version)
            self._prefetched_s[version] = time.monotonic() - started

    def _all_here(self, versions: Sequence[str]) -> bool:
        before = len(self._journal.records)
        for version in dict.fromkeys(versions):
            self._obtain(version)
        return len(self._journal.records) == before

    def _obtain(self, version: str) -> None:
        started = time.monotonic()
        try:
            here = self._fetch(version)
        except UnfitBuildError as error:
            self._tell(f"{version} cannot be tried: {error}")
            self._journal.append(Skipped(version=version, reason=str(error)))
            return
        except OcreproError as error:
            raise type(error)(f"{error}; the journal {self._journal.path} is kept, go on with --resume") from error
        if self._here.get(version) == here.sha256:
            return
        self._here[version] = here.sha256
        before = twins(self._journal.records)
        took = round(self._prefetched_s.get(version, time.monotonic() - started), 2)
        self._journal.append(Fetched(version=version, sha256=here.sha256, seconds=took))
        for later, first in twins(self._journal.records).items():
            if later not in before:
                self._tell(f"{later} has the same bytes as {first}: one build")


def check_resume(path: Path, *, resume: bool, or_else: str = "") -> None:
    """Who begins must find no journal there, who goes on must find one. Raises UsageError."""
    if path.exists() and path.stat().st_size and not resume:
        raise UsageError(f"{path} exists: go on with --resume, {or_else}or name another --journal")
    if resume and not path.exists():
        raise UsageError(f"there is no journal {path} to go on with: leave --resume out, or name one with --journal")


def published(*, offline: bool, tell: Tell) -> Releases:
    """What npm serves for this machine, or the last list of it. Raises BuildError."""
    released = releases.obtain(releases.platform_package(releases.this_machine()), offline=offline)
    if released.note:
        tell(released.note)
    return released


def write_beside(journal: Path, secrets: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, Path]:
    """Texts by suffix, each beside the journal: what the trials said has passed the gate, a path has not."""
    gate = Redactor(secrets, {str(Path.cwd()): "$PROJECT"})
    paths = {suffix: journal.with_suffix(suffix) for suffix in texts}
    for suffix, path in paths.items():
        replace(path, gate(texts[suffix]).encode())
    return paths


def plan_of(records: Sequence[AnyRecord]) -> Plan:
    """The first record, which the journal's reader has made sure of."""
    first = records[0]
    assert isinstance(first, Plan)  # noqa: S101
    return first


def twins(records: Sequence[AnyRecord]) -> dict[str, str]:
    """Versions that have the same bytes as the one before them: version -> the first of such a row."""
    here = {one.version: one.sha256 for one in records if isinstance(one, Fetched)}
    found: dict[str, str] = {}
    for before, version in itertools.pairwise(plan_of(records).versions):
        if version in here and here[version] == here.get(before):
            found[version] = found.get(before, before)
    return found


def away(records: Sequence[AnyRecord]) -> dict[str, str]:
    """Versions that could not be had when somebody last began or went on, and why."""
    last = next((one for one in reversed(records) if isinstance(one, Opened)), Opened())
    return dict.fromkeys(last.away, "not in the cache, and npm was not to be asked")


def pending(records: Sequence[AnyRecord], closed: dict[str, str]) -> Chosen | None:
    """What is left of the last batch."""
    last = next((one for one in reversed(records) if isinstance(one, Chosen)), None)
    if last is None:
        return None
    done = {one.seed for one in trials_of(records) if one.batch == last.batch}
    left = tuple(one for one in last.trials if one[2] not in done and one[1] not in closed)
    return msgspec.structs.replace(last, trials=left) if left else None


def trouble_in_a_row(records: Sequence[AnyRecord]) -> int:
    """Inconclusive trials at the end, since somebody went on."""
    number = 0
    for one in reversed(records):
        if isinstance(one, Opened) or (isinstance(one, Tried) and one.result != "inconclusive"):
            break
        number += isinstance(one, Tried)
    return number
