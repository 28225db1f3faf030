"""Makes the moves of a schedule during a trial, each noted in the history like a scenario's own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Protocol

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.schedule import LOCK_DIRECTORY, START, Kind, Move, Schedule
from pytest_ocrepro.stage.faults import SignalAt, Trigger
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.registry import Registry

PULSES = 40  # of a starved process
AWAKE = 4  # times as long as it was suspended
WAIT_S = 30.0


class Stage(Protocol):
    """What a conductor needs of a trial."""

    history: History
    registry: Registry

    def at_milestone(self, process: Process, milestone: str) -> Trigger:
        """The moment when a process reaches a milestone."""

    def at_lock_directory(self, process: Process) -> Trigger:
        """The moment when a process has taken one of opencode's lock directories."""

    def watch(self, process: Process) -> object:
        """Block until it has ended, is called hung, or its deadline has passed."""


class AtOnce:
    """A trigger that has come already."""

    def describe(self) -> str:
        """For the history."""
        return "it starts"

    def wait(self, timeout_s: float) -> None:
        """Do not block."""


class Conductor:
    """``schedule`` None: no moves, and the scenario's starts are as it makes them."""

    def __init__(self, stage: Stage, schedule: Schedule | None) -> None:
        self._stage = stage
        self._schedule = schedule
        self._started: list[Process] = []
        self._over = threading.Event()
        self._faults: list[SignalAt] = []

    def begin(self) -> None:
        """Before anything starts."""
        if self._schedule is None:
            return
        words = "; ".join(map(str, self._schedule)) or "no moves"
        self._note(f"the starts are serial but for this schedule: {words}")
        for move in self._schedule:
            if move.kind is Kind.REGISTRY:
                self._stage.registry.stall(seconds=move.seconds)

    def before_start(self) -> None:
        """Blocks until the next program may start: when those before it have ended, or as a move says."""
        if self._schedule is None or not self._started:
            return
        number = len(self._started) + 1
        overlap = next((one for one in self._schedule if one.kind is Kind.OVERLAP and one.start == number), None)
        if overlap is None:
            for process in self._started:
                if process.alive:
                    self._stage.watch(process)
        else:
            since_s = (now_ns() - self._started[-1].started_ns) / 1e9
            self._over.wait(max(0.0, (overlap.seconds or 0.0) - since_s))

    def started(self, process: Process) -> None:
        """The next program has started: what is to happen to it is made ready."""
        if self._schedule is None:
            return
        self._started.append(process)
        for move in self._schedule:
            if move.start == len(self._started):
                self._make(move, process)

    def took_out(self, process: Process) -> bool:
        """A move has suspended it for good: nothing is to be waited for."""
        return any(fault.suspends_for_good(process) for fault in self._faults)

    def close(self) -> None:
        """Make no more moves; nothing is left suspended by one with an end. Safe to call again."""
        self._over.set()
        for fault in self._faults:
            fault.heal()

    def _make(self, move: Move, process: Process) -> None:
        if move.kind is Kind.STARVE:
            self._run(self._starve, move, process)
        elif move.kind in (Kind.KILL, Kind.SUSPEND):
            number = signal.SIGKILL if move.kind is Kind.KILL else signal.SIGSTOP
            fault = SignalAt(
                process,
                number,
                self._trigger(move, process),
                history=self._stage.history,
                resume_after_s=move.seconds,
            )
            self._faults.append(fault)
            fault.inject()
            self._run(self._report, move, fault)

    def _trigger(self, move: Move, process: Process) -> Trigger:
        if move.at == START:
            return AtOnce()
        if move.at == LOCK_DIRECTORY:
            return self._stage.at_lock_directory(process)
        return self._stage.at_milestone(process, move.at)

    def _report(self, move: Move, fault: SignalAt) -> None:
        """A move that never came to pass must not look as if it had."""
        try:
            fault.wait()
        except OcreproError as failure:
            if not self._over.is_set():
                self._note(f"the move {str(move)!r} was not made: {failure}")

    def _starve(self, move: Move, process: Process) -> None:
        """What a low priority does on a loaded machine: now and then, and for a bounded time, it gets no core."""
        pause_s = move.seconds or 0.0
        try:
            self._trigger(move, process).wait(WAIT_S)
        except OcreproError as failure:
            self._note(f"the move {str(move)!r} was not made: {failure}")
            return
        for _ in range(PULSES):
            if self._over.is_set() or not process.alive or not process.suspend():
                return
            self._over.wait(pause_s)
            process.resume()
            self._over.wait(AWAKE * pause_s)

    def _run(self, what: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=what, args=arguments, name="ocrepro-move", daemon=True).start()

    def _note(self, text: str) -> None:
        self._stage.history.append(Note(at_ns=now_ns(), text=text))
