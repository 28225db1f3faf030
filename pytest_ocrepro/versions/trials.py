"""Trials of a scenario on chosen builds: ``pytest --ocrepro`` in a process of its own, and what its results say.

One process model for everything: the supervisor of that pytest ends what a trial started, also when we are killed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.journal import Tried

TRIAL_TIMEOUT_S = 600.0  # a scenario's own deadlines end long before
_USAGE_EXITS = (4, 5)  # pytest: usage error, nothing collected
_CATALOGUE = "scenarios"


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """Runs trials below ``reports``, at most ``workers`` at a time; builds must be in the cache already.

    ``options`` are further options of that pytest.
    """

    reports: Path
    workers: int = 1
    options: tuple[str, ...] = ()
    timeout_s: float = TRIAL_TIMEOUT_S

    def run(self, scenario: str, batch: Sequence[tuple[str, int]]) -> list[Tried]:
        """One trial for each (version, seed). Raises UsageError when pytest finds no such scenario."""
        with ThreadPoolExecutor(max_workers=max(1, min(self.workers, len(batch)))) as pool:
            return list(pool.map(lambda one: self.one(scenario, *one), batch))

    def one(self, scenario: str, version: str, seed: int) -> Tried:
        """One trial; what went wrong with us makes it inconclusive."""
        reports = self.reports / f"{seed:05}-{version}"
        started = datetime.now(UTC)
        done = releases.run_bounded(self._command(scenario, version, seed, reports), timeout_s=self.timeout_s)
        seconds = (datetime.now(UTC) - started).total_seconds()
        found = results_of(reports)
        if done.code in _USAGE_EXITS and not found:
            raise UsageError(f"{scenario}: {_last_words(done)}")
        names = sorted({one.scenario for one in found})
        if len(names) > 1:
            raise UsageError(f"{scenario} is more than one scenario: name one of {', '.join(names)}")
        # a parametrized scenario has several results: one that shows the failure speaks for all
        ordered = sorted(found, key=lambda one: ("reproduced", "inconclusive", "not-seen").index(one.result))
        told = tried_of(ordered[0], reports) if found else _no_result(scenario, version, seed, done)
        return msgspec.structs.replace(
            told,
            scenario=scenario,
            seconds=round(seconds, 2),
            load=round(os.getloadavg()[0], 2),
            wall=started.isoformat(timespec="seconds"),
        )

    def _command(self, scenario: str, version: str, seed: int, reports: Path) -> list[str]:
        ours = {"version": version, "expect": "any", "trials": "1", "seed": str(seed), "reports": str(reports)}
        options = [f"--ocrepro-{name}={value}" for name, value in ours.items()]
        quiet = ["--ocrepro-offline", "-q", "-p", "no:cacheprovider"]
        return [sys.executable, "-m", "pytest", "--ocrepro", *options, *quiet, *self.options, scenario]


def results_of(reports: Path) -> tuple[TrialResult, ...]:
    """All results of the newest run below ``reports``; none where there is no run, or it cannot be read."""
    try:
        return RunDir.read(reports).results()
    except (UsageError, BundleError):
        return ()


def tried_of(result: TrialResult, reports: Path) -> Tried:
    """A trial's result as a record of the journal; batch and phase are for the caller to set."""
    return Tried(
        batch=0,
        phase="",
        scenario=result.scenario,
        version=result.version,
        seed=result.seed,
        result=result.result,
        signature=result.signature,
        verdict=result.verdict,
        reason=result.reason[:300],
        sha256=result.binary_sha256,
        bundle=str(reports / result.run_id / result.bundle),
    )


def find_scenario(name: str) -> str:
    """A scenario as pytest takes it: a path here, or one of the installed catalogue. Raises UsageError.

    ``file.py::test``, ``scenarios/file.py::test``, or the name of a test of the catalogue, with or without "test_".
    """
    file, _, test = name.partition("::")
    places = (Path(file), catalogue() / file.removeprefix(f"{_CATALOGUE}/"))
    found = next((place for place in places if place.is_file()), None)
    if found is not None and test:
        return f"{found}::{test}"
    if found is not None:
        tests = [f"{found}::{one}" for one in _tests_in(found)]
        if len(tests) == 1:
            return tests[0]
        raise UsageError(f"{name} holds {len(tests)} scenarios: name one of {', '.join(tests) or 'another file'}")
    return _by_test_name(name)


def all_scenarios() -> list[str]:
    """Every scenario of the installed catalogue."""
    return [f"{file}::{test}" for file in sorted(catalogue().glob("test_*.py")) for test in _tests_in(file)]


def short_name(scenario: str) -> str:
    """``scenarios/file.py::test`` wherever the catalogue lies; other paths as they are."""
    file, _, test = scenario.partition("::")
    inside = Path(file).is_absolute() and Path(file).is_relative_to(catalogue())
    return f"{_CATALOGUE}/{Path(file).name}::{test}" if inside else scenario


def catalogue() -> Path:
    """Where the shipped scenarios are: in the wheel beneath the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    inside = package / _CATALOGUE
    return inside if inside.is_dir() else package.parent / _CATALOGUE


def _by_test_name(name: str) -> str:
    wanted = {name, f"test_{name}"}
    found = [one for one in all_scenarios() if one.partition("::")[2] in wanted]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(one.partition("::")[2].removeprefix("test_") for one in all_scenarios()))
    raise UsageError(f"there is no scenario {name}: give FILE::TEST, or one of the catalogue: {known}")


def _tests_in(file: Path) -> list[str]:
    """Names of the tests in a file, without importing it."""
    return re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _no_result(scenario: str, version: str, seed: int, done: releases.Finished) -> Tried:
    reason = f"pytest left no result: {done.cut or _last_words(done)}"[:300]
    return Tried(
        batch=0, phase="", scenario=scenario, version=version, seed=seed, result="inconclusive", reason=reason
    )


def _last_words(done: releases.Finished) -> str:
    lines = [line for line in (done.err.strip() or done.out.strip()).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return told[-1].removeprefix("ERROR: ").strip() if told else f"pytest ended with {done.code}"
