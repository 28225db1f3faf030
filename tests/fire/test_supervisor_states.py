"""The supervisor as a state machine: whatever is started, killed and swept in any order, who must live does.

A few walks in the default run; many by hand: ``pytest tests/fire/test_supervisor_states.py -m fire``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.ledger import Ledger
from pytest_ocrepro.stage.orders import MARKER, Exited
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.supervisor import Supervisor

READER = Reader()
READY_S = 60.0
KINDS = {  # each writes the pids that must be ended, then "ready"
    "plain": "echo $$; echo ready; exec sleep 1000",
    "traps TERM": 'trap "" TERM; echo $$; echo ready; while :; do sleep 1000; done',
    "daemon": "setsid sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & wait",
    "ends": "echo ready",
}
TRIALS = st.integers(1, 3)


class Sessions(RuleBasedStateMachine):
    """One supervisor after the other, with trials 1 to 3 each; the model knows who has to live."""

    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._ledger = Path(self._folder.name)
        self._marks: list[str] = []
        self._replace()

    def _replace(self) -> None:
        self.supervisor = Supervisor(ledger=self._ledger)
        self._marks.append(self.supervisor.mark)
        self.dead = False
        self.living: dict[int, list[ProcessId]] = {1: [], 2: [], 3: []}
        self.told: list[int] = []  # pids whose end was told
        self.direct: list[int] = []  # pids that the supervisor started itself

    @rule(trial=TRIALS, kind=st.sampled_from(sorted(KINDS)))
    def spawn(self, trial: int, kind: str) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        environment = {MARKER: f"{self.supervisor.mark}.{trial}", "PATH": "/usr/bin:/bin"}
        with os.fdopen(reader) as said:
            try:
                started = self.supervisor.spawn(
                    ["/bin/sh", "-c", KINDS[kind]],
                    environment=environment,
                    directory="/",
                    stdio=(nothing, writer, nothing),
                    on_exit=self._note,
                )
            except StageError:
                assert self.dead
                return
            finally:
                os.close(writer)
                os.close(nothing)
            assert not self.dead
            self.direct.append(started.pid)
            pids = [int(line) for line in iter(said.readline, "ready\n")]
        found = [one for one in map(READER.identify, pids) if one is not None]
        assert len(found) == (kind != "ends")
        self.living[trial] += found

    def _note(self, exited: Exited) -> None:
        self.told.append(exited.pid)

    @rule(trial=TRIALS, data=st.data(), ours=st.booleans())
    def kill_one(self, trial: int, data: st.DataObject, *, ours: bool) -> None:
        if not self.living[trial]:
            return
        victim = data.draw(st.sampled_from(self.living[trial]))
        if ours and not self.dead:
            assert self.supervisor.signal(victim, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
        self.living[trial].remove(victim)
        until(lambda: not READER.alive(victim), timeout_s=READY_S, what="its end")

    @rule(trial=TRIALS)
    def sweep(self, trial: int) -> None:
        swept = self.supervisor.sweep(f"{self.supervisor.mark}.{trial}", grace_s=0.02)
        assert swept.leaked == []
        assert not [one for one in self.living[trial] if READER.alive(one)]
        if not self.dead:
            assert {one.pid for one in self.living[trial]} <= set(swept.ended)
        self.living[trial] = []

    @precondition(lambda self: not self.dead)
    @rule()
    def kill_the_supervisor(self) -> None:
        os.kill(self.supervisor.pid, signal.SIGKILL)
        until(
            lambda: READER.state(self.supervisor.pid) in ("Z", None), timeout_s=READY_S, what="the supervisor's end"
        )
        self.dead = True
        with pytest.raises(StageError, match="has ended"):
            self.supervisor.check()

    @precondition(lambda self: self.dead)
    @rule()
    def go_on_with_another(self) -> None:
        self.supervisor.close()
        assert READER.marked(MARKER, f"{self.supervisor.mark}*") == []
        self._replace()

    @invariant()
    def who_must_live_does(self) -> None:
        if not self.dead:  # with it die its children, and its control group
            assert all(READER.alive(one) for ones in self.living.values() for one in ones)

    @invariant()
    def no_end_is_told_twice_or_of_a_stranger(self) -> None:
        assert len(self.told) == len(set(self.told))
        assert set(self.told) <= set(self.direct)

    def teardown(self) -> None:
        self.supervisor.close()
        self.supervisor.close()
        for mark in self._marks:
            assert READER.marked(MARKER, f"{mark}*") == []
        assert not [one for ones in self.living.values() for one in ones if READER.alive(one)]
        assert sorted(self.told) == sorted(self.direct), "each end is told once"
        assert Ledger(self._ledger).leftovers(READER) == {}
        assert list(self._ledger.iterdir()) == []
        self._folder.cleanup()


def walks(number: int, steps: int) -> type:
    case = Sessions.TestCase
    case.settings = settings(
        max_examples=number,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=number < 10,
        suppress_health_check=list(HealthCheck),
    )
    return case


def test_a_few_walks() -> None:
    walks(2, 6)("runTest").runTest()


@pytest.mark.fire
def test_many_walks() -> None:
    walks(25, 20)("runTest").runTest()


def test_a_walk_finds_a_supervisor_that_leaves_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle can fail: a sweep that only says that it has ended everybody."""
    machine = Sessions()
    machine.begin()
    machine.spawn(trial=1, kind="traps TERM")
    honest = machine.supervisor.sweep
    everybody = [one.pid for one in machine.living[1]]
    idle = honest(f"{machine.supervisor.mark}.3", grace_s=0)
    monkeypatch.setattr(
        machine.supervisor, "sweep", lambda *_, **__: type(idle)(number=0, ended=everybody, leaked=[])
    )
    with pytest.raises(AssertionError):
        machine.sweep(trial=1)
    assert sys.exc_info() == (None, None, None)
    machine.teardown()
