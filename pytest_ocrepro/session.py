"""What all trials of one pytest process share: supervisor, deputy, budget, and the run's directory."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.deputy import Deputy, DeputyError
from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.redaction import Rule
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.budget import (
    Budget,
    SessionBudget,
    Together,
    Used,
    blamed,
    bytes_below,
    check_session,
    overdrawn,
    summed,
)
from pytest_ocrepro.stage.ledger import Ledger
from pytest_ocrepro.stage.sandbox import remove_leftovers
from pytest_ocrepro.stage.supervisor import Supervisor
from pytest_ocrepro.sweeps import Sweeps

TOGETHER_S = 2.0  # between two looks at what all workers use: one takes some ms


class Session:
    """Begun before the first trial of a process, closed behind the last.

    ``ledger`` is a directory that tells the next session about this one; what a killed one left is swept at once.
    ``rules`` are the user's own for what is never stored. ``intrusive``: strace and gdb for what is called hung.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        ledger: Path | None = None,
        rules: Sequence[Rule] = (),
        controller: ProcessId | None = None,
        intrusive: bool = False,
        budget: Budget = Budget(),  # noqa: B008  frozen
        session_budget: SessionBudget = SessionBudget(),  # noqa: B008  frozen
    ) -> None:
        self.run_dir = run_dir
        self._session_budget = session_budget
        self._kept_bytes = 0
        self._looked = 0.0
        self._found_well = 0.0
        self.budget = budget
        self.intrusive = intrusive
        self.rules = tuple(rules)
        self.reader = reader_here()
        self._ledger = ledger
        self._controller = controller
        self.supervisor = Supervisor(ledger=ledger, controller=controller)
        self._marks = {self.supervisor.mark}
        self.deputy = Deputy(self._start_deputy)
        with contextlib.suppress(DeputyError):  # whoever asks it is told then
            self.deputy.begin()
        if ledger is not None:
            self._sweep_leftovers(Ledger(ledger))
        self._count = 0
        self._lock = threading.Lock()
        self.sweeps = Sweeps()

    def _sweep_leftovers(self, ledger: Ledger) -> None:
        for mark in ledger.leftovers(self.reader):
            if not self.supervisor.sweep(f"{mark}.*").leaked:
                remove_leftovers(mark, ledger.place_of(mark))
                ledger.strike(mark)

    def _start_deputy(self, argv: list[str], stdin: int, stdout: int) -> None:
        self.supervisor.start_helper(argv, stdin, stdout)  # whichever supervisor there is by then

    def admit(self) -> None:
        """Raise StageError where the session's budget lets no further trial begin."""
        check_session(self._kept_bytes, (self.run_dir.path, Path(tempfile.gettempdir())), self._session_budget)
        if time.monotonic() - self._found_well < TOGETHER_S:  # trials of some ms: a look reads every process
            return
        if why := overdrawn(self._together(), self._session_budget):
            raise StageError(f"{why}: no further trial begins; run with fewer workers")
        self._found_well = time.monotonic()

    def blames(self, used: Used) -> str:
        """Why a trial that uses this must end for what all workers use; "" for nothing. Looks now and then."""
        if time.monotonic() - self._looked < TOGETHER_S:
            return ""
        together, self._looked = self._together(), time.monotonic()
        self._found_well = 0.0 if overdrawn(together, self._session_budget) else self._looked
        return blamed(used, together, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), self._session_budget)

    def _together(self) -> Together:
        """Of all workers on this machine: their controller has begun them all."""
        here = self._controller is not None and self.reader.alive(self._controller)
        return summed(self.reader, self._controller.pid if self._controller and here else os.getpid())

    def count(self, bundle: Path) -> None:
        """A trial has put its evidence away."""
        self._kept_bytes += bytes_below(bundle)

    def next_mark(self) -> str:
        """A marker for one trial. A supervisor that somebody has ended is replaced: only its trial is lost."""
        with self._lock:
            try:
                self.supervisor.check()
            except StageError:
                self.supervisor.close()
                self.supervisor = Supervisor(ledger=self._ledger, controller=self._controller)
                self._marks.add(self.supervisor.mark)
            self._count += 1
            return f"{self.supervisor.mark}.{self._count}"

    def close(self) -> None:
        """End the supervisor and everything that it still has; no sandbox of this session is left."""
        self.deputy.close()
        self.supervisor.close()
        for mark in self._marks:
            remove_leftovers(mark)  # of a trial that Ctrl-C kept from its end, or from its very beginning
