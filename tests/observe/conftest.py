"""A deputy for the tests of this room, started without a supervisor."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from pytest_ocrepro.observe.deputy import Deputy


class Starter:
    """Starts deputies as anybody may, and sees that none is left."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def __call__(self, argv: list[str], stdin: int, stdout: int) -> None:
        self.started.append(subprocess.Popen(argv, stdin=stdin, stdout=stdout))

    @property
    def last(self) -> subprocess.Popen[bytes]:
        return self.started[-1]


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    for process in made.started:
        try:
            assert process.wait(10.0) in (0, -signal.SIGKILL), "a closed deputy ends by itself"
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def deputy(starter: Starter) -> Iterator[Deputy]:
    with closing(Deputy(starter, answer_s=20.0)) as made:
        yield made
