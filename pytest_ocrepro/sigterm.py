"""SIGTERM to pytest ends the session in order, as Ctrl-C does: what a CI system sends before it sends SIGKILL.

Only where nobody else has taken the signal, and given back at the end. The second one ends pytest at once.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class OrderlyEnd:
    """Of the process with the page: not of xdist's workers, which end with it."""

    def __init__(self) -> None:
        self._owner = 0

    def begin(self) -> None:
        """Take the signal, where it is free; from the main thread alone can it be taken."""
        free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if free and threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            signal.signal(signal.SIGTERM, self._interrupt)

    def end(self) -> None:
        """Give it back, if it is still ours."""
        if signal.getsignal(signal.SIGTERM) == self._interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self.end()
        if os.getpid() != self._owner:  # a fork of somebody's, which is to end as it would have
            signal.raise_signal(number)
        raise KeyboardInterrupt("SIGTERM")
