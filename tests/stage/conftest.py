from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from pytest_ocrepro.stage.rungs import CHOICE
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import READER, Child


@pytest.fixture
def supervisor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """On the rung that the test asks for; without one on the best that there is."""
    monkeypatch.setenv(CHOICE, getattr(request, "param", ""))
    one = Supervisor()
    yield one
    one.close()
    assert READER.state(one.pid) is None


@pytest.fixture
def start(supervisor: Supervisor) -> Iterator[Callable[..., Child]]:
    with contextlib.ExitStack() as opened:

        def begin(argv: list[str], number: int = 1, **environment: str) -> Child:
            child = Child(supervisor, argv, f"{supervisor.mark}.{number}", **environment)
            opened.callback(child.stdout.close)
            return child

        yield begin
