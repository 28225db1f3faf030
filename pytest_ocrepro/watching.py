"""When to look closely: full snapshots while somebody owes something and nothing is seen to move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_ocrepro.events import ProcessStarted
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.judge.judgement import ProcessJudgement, Verdict
from pytest_ocrepro.judge.verdict import QUIET_S, cpu_share, judge_process, last_progress, seconds_starved
from pytest_ocrepro.observe.sampler import Sampler
from pytest_ocrepro.roster import Roster
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.server import Server

IDLE_SHARE = 0.3  # of one core
ANCHOR_S = 0.4  # after a visible step: what only a snapshot shows is dated by it, and not by the first that counts
FIRST_LOOK_S, LAST_LOOK_S = 0.6, 8.0
LOOKS_FURTHER_APART = 1.25  # three more within 4 s: on a busy machine not every pair is comparable
STEP_S = 0.1


class Watcher:
    """Looks on while a process or a call owes its end.

    ``time_left`` raises when the trial's own time is up; ``read_database(when)`` stores what the database says.
    ``intrude``: the last step on a process that is called hung, where the user has asked for it.
    """

    def __init__(
        self,
        history: History,
        roster: Roster,
        sampler: Sampler,
        *,
        expired: threading.Event,
        check_time: Callable[[], None],
        read_database: Callable[[str], object],
        intrude: Callable[[Process], None] | None = None,
    ) -> None:
        self._history = history
        self._roster = roster
        self._sampler = sampler
        self._expired = expired
        self._check_time = check_time
        self._read_database = read_database
        self._intrude = intrude

    def process(self, process: Process) -> ProcessJudgement:
        """Block until it has ended, a verdict about its wait is stable, or its deadline has passed."""
        started = next(e for e in self._history.of_type(ProcessStarted) if e.id.pid == process.pid)
        deadline_ns = self._deadline_ns(started)
        look_s, next_look_ns = FIRST_LOOK_S, 0
        anchored_ns = 0
        while process.alive:
            self._check_time()
            self._roster.note_the_gone()
            now = now_ns()
            stepped_ns, _ = last_progress(self._history, process.pid, now)
            if now >= deadline_ns:
                self._look_twice()
                deadline_ns = self._deadline_ns(started)  # who was starved has longer: known by these two looks
                if now >= deadline_ns:
                    break
            elif now >= next_look_ns and self._quiet(process.pid, stepped_ns, now):
                self._sampler.snapshot()
                look_s, next_look_ns = min(look_s * LOOKS_FURTHER_APART, LAST_LOOK_S), now + int(look_s * 1e9)
                verdict = judge_process(self._history, process.pid).verdict
                if verdict.hung or verdict is Verdict.WAITING_FOR_INPUT:
                    break
            elif anchored_ns < stepped_ns < now - int(ANCHOR_S * 1e9):
                self._sampler.snapshot()
                anchored_ns = now_ns()  # later than what this look itself shows
            process.wait(STEP_S)
        judged = judge_process(self._history, process.pid)
        if self._intrude is None or not judged.verdict.hung or not process.alive:
            return judged
        self._intrude(process)
        return judge_process(self._history, process.pid)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a call to a server waits for its answer: snapshots from the moment on when it is late."""
        answered = threading.Event()
        looker = threading.Thread(target=self._look_until, args=(answered,), name="ocrepro-look", daemon=True)
        looker.start()
        try:
            yield
        finally:
            answered.set()
            looker.join()

    def unanswered(self, server: Server) -> None:
        """A call has timed out: whether the server answers anybody, and what it has stored."""
        with self.asking():
            server.probe()
        self._read_database(f"while {server.role} owes an answer")

    def _look_until(self, answered: threading.Event) -> None:
        pause_s = QUIET_S
        while not answered.wait(pause_s) and not self._expired.is_set():
            self._sampler.snapshot()
            pause_s = FIRST_LOOK_S if pause_s == QUIET_S else min(pause_s * LOOKS_FURTHER_APART, LAST_LOOK_S)

    def _deadline_ns(self, started: ProcessStarted) -> int:
        seconds = started.deadline_s + seconds_starved(self._history, started.id.pid)
        return started.at_ns + int(seconds * 1e9)

    def _quiet(self, pid: int, stepped_ns: int, now: int) -> bool:
        """No visible change of the process, or of those beneath it, for a while, and it is idle."""
        since = now - int(QUIET_S * 1e9)
        return stepped_ns < since and cpu_share(self._history, pid, since) < IDLE_SHARE

    def _look_twice(self) -> None:
        self._sampler.snapshot()
        self._expired.wait(FIRST_LOOK_S)
        self._sampler.snapshot()
