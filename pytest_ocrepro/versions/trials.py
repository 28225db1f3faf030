"""Trials of scenarios on chosen builds: ``pytest --ocrepro`` in a process of its own, and what its results say.

One process model for everything: the supervisor of that pytest ends what a trial started, also when we are killed;
and pytest itself ends when the pipe breaks that ties it to us.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.judge.signature import neutral
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.versions import parameters, programs
from pytest_ocrepro.versions.journal import SKIPPED, Chosen, Tried

TRIAL_TIMEOUT_S = 900.0  # a scenario's own deadlines end long before
SIGN_LENGTH = 160
NOT_FOR_TRIALS = ("baseline", "ctrf")  # what a user sets for whole runs
_NOT_THEIRS = frozenset(f"OCREPRO_{name.upper()}" for name in NOT_FOR_TRIALS)
_USAGE_EXITS = (4, 5)  # pytest: usage error, nothing collected
# pytest whose standard input breaks when we are gone; its own capture takes descriptor 0, so we watch a copy
_TIED_PYTEST = """
import os, sys, threading
import pytest
copy = os.dup(0)
threading.Thread(target=lambda: (os.read(copy, 1), os._exit(70)), daemon=True).start()
sys.exit(pytest.console_main())
"""


class Trials:
    """Runs trials below ``reports``, at most ``workers`` at a time; builds must be in the cache already.

    ``find`` turns a scenario's name into what pytest takes; ``options`` are further options of that pytest.
    ``binary`` says which program is run for a version, where it is not a published one.
    """

    def __init__(
        self,
        reports: Path,
        *,
        find: Callable[[str], str],
        workers: int = 1,
        options: Sequence[str] = (),
        binary: Callable[[str], Path] | None = None,
        timeout_s: float = TRIAL_TIMEOUT_S,
    ) -> None:
        self._reports = reports
        self._find = find
        self._workers = workers
        self._options = tuple(options)
        self._binary = binary
        self._timeout_s = timeout_s
        self._given_up = threading.Event()

    def run(self, chosen: Chosen) -> Generator[Tried, None, None]:
        """The trials of a batch, each as soon as it is over. Raises UsageError when pytest finds no such scenario.

        Whoever stops asking, or is interrupted, ends those that still run.
        """
        with ThreadPoolExecutor(max_workers=max(1, min(self._workers, len(chosen.trials)))) as pool:
            futures = [pool.submit(self.one, *trial) for trial in chosen.trials]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                self._given_up.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def one(self, scenario: str, version: str, seed: int) -> Tried:
        """One trial; what went wrong with us makes it inconclusive."""
        reports = self._reports / f"{seed:05}-{version}".rstrip("-")
        started = datetime.now(UTC)
        done = programs.run_bounded(
            self._command(scenario, version, seed, reports),
            timeout_s=self._timeout_s,
            env={name: value for name, value in os.environ.items() if name not in _NOT_THEIRS},
            tick=self._tick,
            tied=True,
        )
        seconds = (datetime.now(UTC) - started).total_seconds()
        found = results_of(reports)
        if done.code in _USAGE_EXITS and not found:
            raise UsageError(f"{scenario} cannot be run on {version}: {_last_words(done)}")
        told = tried_of(found[0]) if found else _no_result(version, seed, done)
        return msgspec.structs.replace(
            told,
            scenario=scenario,
            version=version or told.version,
            seconds=round(seconds, 2),
            load=round(os.getloadavg()[0], 2),
            bundle=str(reports / found[0].run_id / found[0].bundle) if found else "",
            wall=started.isoformat(timespec="seconds"),
        )

    def _tick(self) -> None:
        if self._given_up.is_set():
            raise KeyboardInterrupt

    def _command(self, scenario: str, version: str, seed: int, reports: Path) -> list[str]:
        which = {"binary": str(self._binary(version))} if self._binary else {"version": version}
        ours = {**which, "expect": "any", "trials": "1", "seed": str(seed), "reports": str(reports)}
        options = [f"--ocrepro-{name}={value}" for name, value in ours.items()]
        quiet = [
            "--ocrepro-offline",
            "--ocrepro-profile=soak",
            "--ocrepro-github=off",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        quiet += [word for name in NOT_FOR_TRIALS for word in ("-o", f"ocrepro_{name}=")]
        node = self._find(scenario)
        quiet += ["-p", parameters.__name__, f"{parameters.OPTION}={_set_of(scenario)}"]
        return [sys.executable, "-c", _TIED_PYTEST, "--ocrepro", *options, *quiet, *self._options, node]


def _set_of(scenario: str) -> str:
    return scenario.partition("[")[2].removesuffix("]")


def results_of(reports: Path) -> tuple[TrialResult, ...]:
    """All results of the newest run below ``reports``; none where there is no run, or it cannot be read."""
    try:
        return RunDir.read(reports).results()
    except (UsageError, BundleError):
        return ()


def tried_of(result: TrialResult) -> Tried:
    """A trial's result as a record of the journal; batch and phase are for the search to set."""
    return Tried(
        batch=0,
        phase="",
        scenario=result.scenario,
        version=result.version,
        seed=result.seed,
        result=SKIPPED if result.skipped else result.result,
        signs=signs_of(result),
        verdict=result.verdict,
        reason=(result.skipped or result.reason)[:300],
        sha256=result.binary_sha256,
    )


def signs_of(result: TrialResult) -> tuple[str, ...]:
    """The signature, then ``kind: words`` of each finding without what differs between two trials.

    A trial has one signature but may show several findings, so that one scenario tells of several failures.
    """
    if result.result != "reproduced":
        return ()
    found = {f"{one.kind}: {_words(one.text)}"[:SIGN_LENGTH] for one in result.findings}
    return (result.signature, *sorted(found))


def _words(text: str) -> str:
    """Of a finding's text (claim: because) what was seen; how long it took is not part of it."""
    because = text.partition(": ")[2] or text
    return neutral(because.partition(" s: ")[2] or because)


def _no_result(version: str, seed: int, done: programs.Finished) -> Tried:
    reason = f"pytest left no result: {done.cut or _last_words(done)}"[:300]
    return Tried(batch=0, phase="", scenario="", version=version, seed=seed, result="inconclusive", reason=reason)


def _last_words(done: programs.Finished) -> str:
    lines = [line for line in (done.err.strip() or done.out.strip()).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return told[-1].removeprefix("ERROR: ").strip() if told else f"pytest ended with {done.code}"
