from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage import ladder
from pytest_ocrepro.stage.ladder import Ladder
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import Rung
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import ON_EACH_RUNG, READER, READY_S, ZOO, Child, living, python


@ON_EACH_RUNG
@pytest.mark.parametrize("kind", list(ZOO))
def test_sweep_ends_everything_of_its_mark_and_nothing_else(
    supervisor: Supervisor, start: Callable[..., Child], kind: str
) -> None:
    mine = start(python(ZOO[kind])).members()
    other = start(python(ZOO["plain"]), 2).members()
    assert len(mine) == (50 if kind == "fork bomb" else len(mine))
    assert not supervisor.sweep(f"{supervisor.mark}.10", grace_s=0.1).ended
    assert living(mine) == [one.pid for one in mine], "a sweep of another mark has touched it"

    swept = supervisor.sweep(f"{supervisor.mark}.1", grace_s=0.1)

    assert living(mine) == []
    assert {one.pid for one in mine} <= set(swept.ended)
    assert swept.leaked == []
    assert living(other) == [one.pid for one in other]


def test_sweep_gives_a_chance_to_end_politely(supervisor: Supervisor, start: Callable[..., Child]) -> None:
    polite = start(python("signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); rest()"))
    suspended = start(python("signal.signal(signal.SIGTERM, lambda *_: os._exit(8)); rest()"))
    polite.members()
    suspended.members()
    supervisor.signal(suspended.id, signal.SIGSTOP)
    supervisor.sweep(f"{supervisor.mark}.1", grace_s=READY_S)
    assert (polite.code(), suspended.code()) == (7, 8)


def test_sweep_says_what_would_not_end(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Child]) -> None:
    monkeypatch.setattr(ladder, "KILL_DEADLINE_S", 0.05)
    monkeypatch.setattr(ladder, "send_signal", lambda *_: True)
    child = start(python(ZOO["plain"]))
    child.members()
    ended, leaked = Ladder(READER, READER.environ(child.id.pid)[MARKER]).run(0.01)  # type: ignore[index]
    assert (ended, leaked) == ([], [child.id.pid])


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_process_in_the_middle_of_an_execve_is_not_missed(start: Callable[..., Child], hidden: int) -> None:
    """Its environment is empty for a moment: one look that finds nobody proves nothing."""

    class Blinking(Reader):
        looks = 0

        def marked(self, name: str, value: str, **more: Any) -> list[ProcessId]:
            self.looks += 1
            return [] if self.looks <= hidden else super().marked(name, value, **more)

    child = start(python(ZOO["plain"]))
    child.members()
    ended, leaked = Ladder(Blinking(), READER.environ(child.id.pid)[MARKER]).run(0)  # type: ignore[index]
    assert (ended, leaked) == ([child.id.pid], [])


@ON_EACH_RUNG
def test_orphan_without_marker_and_parent_ends_with_the_session(supervisor: Supervisor) -> None:
    """A group or a namespace has it at once; without one it is known as the supervisor's own child at the end."""
    grouped = supervisor.rung is not Rung.SUPERVISOR
    code = """
if os.fork() == 0:
    os.setsid()
    tell(os.getpid())
    os.write(1, b"ready\\n")
    os.execve(sys.executable, [sys.executable, "-I", "-c", "import signal; signal.pause()"], {})
"""
    child = Child(supervisor, python(code), f"{supervisor.mark}.1")
    with child.stdout:
        orphan = child.members()
        assert child.code() == 0
        until(lambda: not READER.environ(orphan[0].pid), timeout_s=READY_S, what="a wiped environment")
        ended = supervisor.sweep(f"{supervisor.mark}.1", grace_s=0).ended
        assert ended == ([orphan[0].pid] if grouped else [])
        assert living(orphan) == ([] if grouped else [orphan[0].pid])
        supervisor.close()
        assert living(orphan) == []
