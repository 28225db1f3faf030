"""A terminal for the interactive program: a pseudo-terminal that a small host holds, types into and can hang up.

The host is a process of its own, so that the terminal is emptied whatever we are doing; it is the program's parent,
and to end it is what closing a terminal's window does: the kernel sends SIGHUP to the session that leads it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.process import Process, until

ROWS, COLUMNS = 40, 120
ENTER, INTERRUPT = "\r", "\x03"
CLOSE_S = 10.0

# Reads what is to be typed from its standard input, and hangs up at its end; writes the screen's bytes to its output.
HOST = """
import fcntl, os, pty, select, struct, sys, termios
rows, columns, *argv = sys.argv[1:]
child, master = pty.fork()
if not child:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", int(rows), int(columns), 0, 0))
    os.execvp(argv[0], argv)
print("pid", child, flush=True)
while True:
    ready, _, _ = select.select([0, master], [], [])
    if master in ready:
        try:
            shown = os.read(master, 65536)
        except OSError:
            shown = b""
        if not shown:
            break
        os.write(1, shown)
    if 0 in ready:
        typed = os.read(0, 65536)
        if not typed:
            os.close(master)
            sys.exit(0)
        os.write(master, typed)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


class Keyboard:
    """The standard input of a host: a pipe that we write what is typed into."""

    name = "keyboard"

    def __init__(self) -> None:
        self._writer: int | None = None

    def open(self) -> int:
        """The read end."""
        self.close()
        reader, self._writer = os.pipe()
        return reader

    def type(self, keys: str) -> None:
        """Write to the pipe. Raises StageError when the host is gone."""
        if self._writer is None:
            raise StageError(f"cannot type {keys!r}: the terminal is hung up; type before that")
        try:
            os.write(self._writer, keys.encode())
        except OSError as error:
            raise StageError(f"cannot type {keys!r}: {error.strerror}; see what the terminal showed") from error

    def close(self) -> None:
        """The host sees the end of its input."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)


class Terminal:
    """One interactive program in a terminal of its own. Made by the harness.

    ``outer``: the pid outside of who has told its own.
    """

    def __init__(
        self,
        host: Process,
        keyboard: Keyboard,
        history: History,
        *,
        outer: Callable[[int], int | None] = lambda told: told,
    ) -> None:
        self.host = host
        self._outer = outer
        self._keyboard = keyboard
        self._history = history

    @property
    def screen(self) -> str:
        """All that was shown so far, with the terminal's own codes."""
        return self.host.output

    @property
    def program_pid(self) -> int | None:
        """The interactive program's pid; None: not started yet."""
        first = self.host.output.split("\n", 1)
        words = first[0].split()
        told = len(first) > 1 and words[:1] == ["pid"] and words[1].isdigit()
        return self._outer(int(words[1])) if told else None

    def type(self, keys: str) -> None:
        """Send keys; :data:`ENTER` and :data:`INTERRUPT` are two. Raises StageError."""
        self._note(f"typed into {self.host.role}: {keys!r}")
        self._keyboard.type(keys)

    def wait_for(self, shown: Callable[[str], bool], *, what: str, timeout_s: float = 30.0) -> None:
        """Block until the screen says so, or the program has ended. Raises NotReachedError."""
        until(lambda: shown(self.screen) or not self.host.alive, timeout_s=timeout_s, what=what)

    def hang_up(self) -> None:
        """Close the terminal, as closing its window does. Safe to call again."""
        self._note(f"the terminal of {self.host.role} is hung up")
        self._keyboard.close()
        self.host.wait(CLOSE_S)

    def _note(self, text: str) -> None:
        self._history.append(Note(at_ns=now_ns(), text=text))


def host_argv(argv: list[str]) -> list[str]:
    """The command line of a host for this program."""
    return [sys.executable, "-I", "-c", HOST, str(ROWS), str(COLUMNS), *argv]
