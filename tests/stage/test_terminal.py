from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import Process, until
from pytest_ocrepro.stage.supervisor import Supervisor
from pytest_ocrepro.stage.terminal import COLUMNS, ENTER, INTERRUPT, ROWS, Keyboard, Terminal, host_argv

WAIT_S = 20.0
READER = Reader()
ECHO = """
import os, signal, sys
print("tty", sys.stdin.isatty(), os.get_terminal_size(), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
if sys.argv[1:] == ["stubborn"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    print("ready", flush=True)
    signal.pause()
print("ready", flush=True)
for line in sys.stdin:
    print("got", line.strip(), flush=True)
    if line.strip() == "end":
        sys.exit(3)
"""
Open = Callable[..., Terminal]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def opened(history: History, tmp_path: Path) -> Iterator[Open]:
    supervisor = Supervisor()
    mark = f"{supervisor.mark}.1"

    def start(*arguments: str) -> Terminal:
        keyboard = Keyboard()
        argv = host_argv([sys.executable, "-I", "-c", ECHO, *arguments])
        host = Process("terminal", argv, supervisor=supervisor, history=history, output=tmp_path, stdin=keyboard)
        host.start({MARKER: mark, "PATH": os.defpath}, str(tmp_path))
        terminal = Terminal(host, keyboard, history)
        terminal.wait_for(lambda shown: "ready" in shown, what="the program", timeout_s=WAIT_S)
        return terminal

    yield start
    assert supervisor.sweep(mark, grace_s=0.1).leaked == []
    supervisor.close()


def alive(terminal: Terminal) -> bool:
    pid = terminal.program_pid
    assert pid is not None
    found = READER.identify(pid)
    return found is not None and READER.alive(found)


def test_program_has_a_terminal_of_its_own_and_gets_what_is_typed(opened: Open, history: History) -> None:
    terminal = opened()
    assert f"tty True os.terminal_size(columns={COLUMNS}, lines={ROWS}) True" in terminal.screen
    terminal.type(f"hello{ENTER}")
    terminal.wait_for(lambda shown: "got hello" in shown, what="the echo", timeout_s=WAIT_S)
    terminal.type(f"end{ENTER}")
    assert terminal.host.wait_for_end(WAIT_S) == 3, "the host's exit code is the program's"
    assert [note.text for note in history.of_type(Note)] == [
        "typed into terminal: 'hello\\r'",
        "typed into terminal: 'end\\r'",
    ]


def test_interrupt_reaches_the_program(opened: Open) -> None:
    terminal = opened()
    terminal.type(INTERRUPT)
    terminal.host.wait_for_end(WAIT_S)
    assert "KeyboardInterrupt" in terminal.screen


def test_hanging_up_ends_a_program_that_behaves(opened: Open) -> None:
    terminal = opened()
    terminal.hang_up()
    until(lambda: not alive(terminal), timeout_s=WAIT_S, what="the end of the program")
    terminal.hang_up()


def test_program_that_ignores_the_hang_up_lives_on_until_the_sweep(opened: Open) -> None:
    terminal = opened("stubborn")
    terminal.hang_up()
    assert not terminal.host.alive
    assert alive(terminal)


def test_typing_into_a_terminal_that_is_hung_up_is_told(opened: Open) -> None:
    terminal = opened()
    terminal.hang_up()
    with pytest.raises(StageError, match="the terminal is hung up"):
        terminal.type("more")
