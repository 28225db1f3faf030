"""SIGTERM to pytest ends the session in order, as Ctrl-C does: what a CI system sends before it sends SIGKILL.

Only where nobody else has taken the signal, and given back at the end. The second one ends pytest at once. While the
session is ended and its page written, the first of either is put off.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

PUT_OFF = "ocrepro: what was run is being put away, with its page; once more to give that up"


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


class PutOff:
    """A context in which the first SIGINT or SIGTERM is only noted and told of; the second one interrupts.

    A signal that is ignored, or that ends the process at once, stays so; so do all outside of the main thread.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.came = False
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self.came = True
        self._tell(PUT_OFF)
