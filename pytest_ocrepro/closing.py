"""What the controller does behind the last trial: the comparison with a baseline, the page, the last lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_ocrepro.baseline import Verdict, compare, read_baseline, run_of
from pytest_ocrepro.proof import prove_all
from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.publish.comparison_section import compared
from pytest_ocrepro.publish.danger_window import danger_windows, in_lines
from pytest_ocrepro.publish.document import Block
from pytest_ocrepro.publish.github import inert
from pytest_ocrepro.publish.handout import hand_out
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.publish.prose import summary_table
from pytest_ocrepro.settings import Settings
from pytest_ocrepro.sharing import Share
from pytest_ocrepro.versions.releases import cache_root

ATTACHABLE_BYTES = 24_000_000


class Closing:
    """Of one run. ``lost``: lines on what did not arrive or was never run."""

    def __init__(self, settings: Settings) -> None:
        """Reads the baseline, so that one that cannot be read is told before the first trial. Raises UsageError."""
        self.lost: list[str] = []
        self.no_page = ""  # why there is none
        self._settings = settings
        self._page: Path | None = None
        self._against: Verdict | None = None
        self._proved: tuple[str, ...] = ()
        self._baseline = read_baseline(Path(settings.baseline)) if settings.baseline else ()
        self._baseline_run = run_of(Path(settings.baseline)) if settings.baseline else None

    def all_is_well(self, results: Sequence[TrialResult], never_run: int) -> bool:
        """Whether nothing got worse than the baseline, and everything was run that was to be."""
        if never_run > 0:
            self.lost.append(f"{never_run} tests were never run: nobody was left who could")
        if self._baseline:
            self._against = compare(self._baseline, results)
        return never_run <= 0 and not (self._against and self._against.failed)

    def write(self, run: RunDir, share: Share, terminal: Any) -> None:
        """The proofs of the repro scripts where they are asked for, then the page. Raises nothing."""
        if self._settings.verify_repro:
            self._proved = tuple(self._prove(run, share, terminal))
        try:
            self._page = write_report(run, self._compared(run))
        except Exception as error:  # noqa: BLE001  a page that fails must not take the results with it
            self.no_page = f"{type(error).__name__}: {error}"

    def lines(self, run: RunDir, results: Sequence[TrialResult], gone: Sequence[str]) -> Iterator[str]:
        """For the terminal: the table, what got better or worse, what was lost, and where the page is."""
        if results:
            yield inert(summary_table(results))
        windows = (line for window in danger_windows(results) for line in in_lines(window))
        told = (*windows, *(self._against.lines() if self._against else ()), *self._proved, *gone, *self.lost)
        yield from map(inert, told)
        if self._page is not None:
            size = self._page.stat().st_size
            fits = "attachable" if size <= ATTACHABLE_BYTES else "too large to attach"
            yield f"report: {self._page.as_uri()} ({size / 1e6:.1f} MB, {fits})"
        if self.no_page:
            yield f"the page was not written: {self.no_page}; try: ocrepro report {run.path}"
        yield from hand_out(run, github=self._settings.github, ctrf=self._settings.ctrf, environment=os.environ)

    def _compared(self, run: RunDir) -> tuple[Block, ...]:
        return compared(self._baseline_run, run) if self._baseline_run else ()

    def _prove(self, run: RunDir, share: Share, terminal: Any) -> Iterator[str]:
        tell = (lambda line: terminal.write_line(f"\n{inert(line)}")) if terminal is not None else print
        times, ledger = self._settings.verify_repro, cache_root() / "supervisors"
        return prove_all(run, share.builds, times=times, ledger=ledger, tell=tell)
