"""pytest-timeout's time for one scenario, kept so that a report is left: our own waits end first."""

from __future__ import annotations

import signal
import threading

import pytest

from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.harness import Trial

TRIAL: pytest.StashKey[Trial] = pytest.StashKey()
SOFT_SHARE = 0.8  # of pytest-timeout's time: our own waits end there, so that a report is left


class Guard:
    """pytest-timeout's time for one scenario: at 80 % our waits end, at 100 % the scenario's own code."""

    def __init__(self, item: pytest.Item, timeout_s: float) -> None:
        self._item = item
        self._timer = threading.Timer(timeout_s * SOFT_SHARE, self._expire)
        self._timer.daemon = True
        self._timer.start()
        self._alarm = threading.current_thread() is threading.main_thread()
        if self._alarm:
            self._before = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, timeout_s)

    def cancel(self) -> None:
        """The item is over in time."""
        self._timer.cancel()
        if self._alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            self._alarm = False

    def _expire(self) -> None:
        trial = self._item.stash.get(TRIAL, None)
        if trial is not None:
            trial.expire()

    def _interrupt(self, *_: object) -> None:
        trial = self._item.stash.get(TRIAL, None)
        if trial is None or not trial.judging:
            raise NotReachedError("pytest-timeout's time is up; raise --timeout or shorten the scenario")


GUARD: pytest.StashKey[Guard] = pytest.StashKey()
