"""A machine that is busy: processes that burn CPU or write to the disk.

They are held by the supervisor. Each ends when we let go of its standard input, and after :data:`MOST_S` in any case.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_ocrepro.errors import NotReachedError, UsageError
from pytest_ocrepro.events import FaultHealed, FaultInjected, Trouble
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.process import OpenPipe, Process, until

if TYPE_CHECKING:
    from typing import Self

    from pytest_ocrepro.stage.faults import Spawner

MOST_S = 300.0
MOST_PROCESSES = 16
FILE_BYTES = 32 << 20  # then its writer begins anew
LET_GO_S = 10.0

BURNER = """
import select, sys, time
until = time.monotonic() + float(sys.argv[1])
print("up", flush=True)
while time.monotonic() < until and not select.select([0], [], [], 0)[0]:
    for _ in range(200_000):
        pass
"""
WRITER = """
import os, select, sys, time
until, most, place = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
block = os.urandom(1 << 20)
print("up", flush=True)
with open(place, "wb", buffering=0) as file:
    while time.monotonic() < until and not select.select([0], [], [], 0)[0]:
        if file.tell() >= most:
            file.seek(0)
        file.write(block)
        os.fsync(file.fileno())
"""


class Pressure:
    """So many burners and writers. ``scratch``: the folder that the writers fill. Raises UsageError."""

    def __init__(self, burners: int, writers: int, *, scratch: Path, spawn: Spawner, history: History) -> None:
        if not 0 < burners + writers <= MOST_PROCESSES or min(burners, writers) < 0:
            raise UsageError(f"{burners} burners and {writers} writers: give 1 to {MOST_PROCESSES} in all")
        self._kinds = ["burner"] * burners + ["writer"] * writers
        self._scratch = scratch
        self._spawn = spawn
        self._history = history
        self._held: list[tuple[Process, OpenPipe]] = []

    def inject(self) -> None:
        """Start them, and return when all of them are at it. Raises NotReachedError, and then nothing is left."""
        self._scratch.mkdir(exist_ok=True)
        try:
            for number, kind in enumerate(self._kinds):
                pipe = OpenPipe()
                self._held.append((self._spawn(kind, self._argv(kind, number), pipe), pipe))
            until(self._all_up, timeout_s=30, what="the pressure on the machine")
            self._check_alive()
        except NotReachedError:
            self._let_go()
            raise
        detail = f"{self._kinds.count('burner')} burn CPU, {self._kinds.count('writer')} write and sync"
        self._history.append(FaultInjected(at_ns=now_ns(), fault="pressure", detail=detail))

    def heal(self) -> None:
        """End them. Safe to call again."""
        if not self._held:
            return
        gone = [process for process, _ in self._held if not process.alive]
        if gone:
            what = f"{gone[0].role} (pid {gone[0].pid}) ended before it was told to"
            self._history.append(Trouble(at_ns=now_ns(), what=f"{what}: the pressure was less than asked; run again"))
        self._let_go()
        self._history.append(FaultHealed(at_ns=now_ns(), fault="pressure"))

    def _argv(self, kind: str, number: int) -> list[str]:
        if kind == "burner":
            return [sys.executable, "-I", "-c", BURNER, str(MOST_S)]
        place = self._scratch / f"{number}.bin"
        return [sys.executable, "-I", "-c", WRITER, str(MOST_S), str(FILE_BYTES), str(place)]

    def _all_up(self) -> bool:
        return all("up" in process.output or not process.alive for process, _ in self._held)

    def _check_alive(self) -> None:
        for process, _ in self._held:
            if not process.alive:
                said = (process.output.strip().splitlines() or ["nothing"])[-1]
                raise NotReachedError(f"{process.role} (pid {process.pid}) has ended at once: {said}")

    def _let_go(self) -> None:
        held, self._held = self._held, []
        for _, pipe in held:
            pipe.close()
        for process, _ in held:
            if not process.wait(LET_GO_S):
                process.kill()

    def __enter__(self) -> Self:
        """Inject."""
        self.inject()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Heal."""
        self.heal()
