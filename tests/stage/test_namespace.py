from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage import namespace, rungs
from pytest_ocrepro.stage.namespace import DIRECT, MAPPED, Namespaces
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.rungs import CHOICE, WORDS, Rung, choose, in_words
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import READER, READY_S, ZOO, Child, living, needs, python

NEEDED = needs(Rung.NAMESPACE)
WAYS = [
    pytest.param(way, marks=pytest.mark.skipif(not namespace._allowed(way), reason="not allowed on this machine"))
    for way in (DIRECT, MAPPED)
]
LOOKS_AROUND = r"""
print(os.getpid(), os.getppid(), os.readlink("/proc/self"), os.getsid(0), os.getuid(), os.getcwd())
print(sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()))
print(signal.getsignal(signal.SIGTERM).name, signal.getsignal(signal.SIGCHLD).name, flush=True)
rest()
"""


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    monkeypatch.setenv(CHOICE, Rung.NAMESPACE)
    if hasattr(request, "param"):
        monkeypatch.setattr(rungs, "way_in", lambda: request.param)
    one = Supervisor()
    yield one
    one.close()


@pytest.fixture
def begin(inside: Supervisor) -> Iterator[Callable[..., Child]]:
    with contextlib.ExitStack() as opened:

        def start(argv: list[str], number: int = 1) -> Child:
            child = Child(inside, argv, f"{inside.mark}.{number}")
            opened.callback(child.stdout.close)
            return child

        yield start


def init_of(child: Child) -> int:
    """The one process of its namespace that is the first there."""
    mine = [pid for pid in READER.pids() if READER.namespace(pid, "pid") == child.namespace]
    (init,) = [pid for pid in mine if READER.inner_pids(pid)[1:] == (1,)]
    return init


@pytest.mark.parametrize("inside", WAYS, indirect=True)
def test_a_program_sees_a_whole_world_with_pids_of_its_own(inside: Supervisor, begin: Callable[..., Child]) -> None:
    child = begin(python(LOOKS_AROUND))
    pid, parent, own, session, user, place = child.stdout.readline().split()
    assert (pid, parent, own, session) == ("2", "0", "2", "2")
    assert (int(user), place) == (os.getuid(), "/")
    assert child.stdout.readline() == "[1, 2]\n"
    assert child.stdout.readline() == "SIG_DFL SIG_DFL\n"
    assert child.members() == [child.id]
    assert READER.inner_pids(child.id.pid) == (child.id.pid, 2)
    assert READER.parent(child.id.pid) == inside.pid
    assert (READER.environ(child.id.pid) or {})[MARKER] == f"{inside.mark}.1"
    init = init_of(child)
    assert (READER.parent(init), READER.environ(init)) == (inside.pid, {})


@pytest.mark.parametrize("inside", WAYS, indirect=True)
def test_signals_and_ends_are_those_of_the_pid_outside(inside: Supervisor, begin: Callable[..., Child]) -> None:
    child = begin(python("signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); rest()"))
    child.members()
    assert inside.signal(child.id, signal.SIGSTOP)
    until(lambda: READER.state(child.id.pid) == "T", timeout_s=READY_S, what="a suspended child")
    assert inside.signal(child.id, signal.SIGTERM)
    assert inside.signal(child.id, signal.SIGCONT)
    assert child.code() == 7
    assert (child.exits[0].pid, child.exits[0].swept) == (child.id.pid, False)
    assert [begin(["/bin/sh", "-c", f"exit {n}"]).code() for n in range(3)] == [0, 1, 2]
    with pytest.raises(StageError) as caught:
        begin(["/no/such/program"])
    assert str(caught.value).startswith("cannot start /no/such/program: No such file or directory (/no/such/program)")


@NEEDED
def test_trials_have_one_each_and_helpers_none(inside: Supervisor, begin: Callable[..., Child]) -> None:
    first, other = begin(python(ZOO["plain"])), begin(python(ZOO["plain"]), 2)
    here, there = os.pipe2(os.O_CLOEXEC)
    helper = inside.start_helper(["/bin/cat"], here, there)
    names = [READER.namespace(one.pid, "pid") for one in (first.id, other.id, helper)]
    assert (len(set(names)), names[2]) == (3, READER.namespace("self", "pid"))
    first.members()
    inits = [init_of(first), init_of(other)]
    assert inside.sweep(f"{inside.mark}.1", grace_s=0).leaked == []
    assert READER.alive(other.id)
    until(lambda: READER.state(inits[0]) is None, timeout_s=READY_S, what="the end of the first one's init")
    assert READER.state(inits[1]) == "S"
    inside.close()
    assert [READER.state(init) for init in inits] == [None, None]
    os.close(here)
    os.close(there)


@NEEDED
def test_orphans_are_reaped_by_its_init(begin: Callable[..., Child]) -> None:
    code = """
here, there = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        tell(os.getpid())
        os.write(1, b"ready\\n")
        os.close(there)
        os.read(here, 1)  # until the first of the three ends
        os._exit(0)
    os._exit(0)
os.wait()
signal.pause()
"""
    child = begin(python(code))
    (orphan,) = child.members()
    until(lambda: READER.parent(orphan.pid) == init_of(child), timeout_s=READY_S, what="an orphan of the init")
    os.kill(child.id.pid, signal.SIGKILL)
    until(lambda: READER.state(orphan.pid) is None, timeout_s=READY_S, what="the orphan reaped")


@NEEDED
def test_an_init_that_is_killed_takes_its_trial_with_it_and_no_other(begin: Callable[..., Child]) -> None:
    daemon, other = begin(python(ZOO["setsid daemon"])), begin(python(ZOO["plain"]), 2)
    mine = daemon.members()
    other.members()
    os.kill(init_of(other), signal.SIGKILL)
    assert other.code() == -signal.SIGKILL
    assert living(mine) == [one.pid for one in mine]


@NEEDED
def test_nobody_inside_can_end_or_suspend_the_init(begin: Callable[..., Child]) -> None:
    code = """
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    os.kill(1, number)
rest()
"""
    child = begin(python(code))
    child.members()
    assert READER.state(init_of(child)) == "S"


def test_a_namespace_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_way: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(namespace, "_divide", refuse)
    before = set(READER.fd_links(os.getpid()))
    with pytest.raises(Exception, match="preexec_fn"):
        Namespaces(READER, DIRECT).made("7-ab.1")
    assert set(READER.fd_links(os.getpid())) == before


def test_of_a_mark_or_of_all_that_begin_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def pids(self) -> set[int]:
            return {len(self.name)}

        def kill(self) -> None:
            ended.append(self.name)

        def remove(self) -> None:
            ended.append(f"-{self.name}")

    several = Namespaces(READER, DIRECT)
    monkeypatch.setattr(several, "_of", {name: Told(name) for name in ("1-a.1", "1-a.10", "1-a.2")})
    assert several.of("1-a.3").pids() == set()
    several.of("1-a.1").kill()
    rest = several.of("1-a*")
    assert rest.pids() == {5, 6}
    rest.remove()
    several.of("1-a*").kill()
    assert ended == ["1-a.1", "-1-a.10", "-1-a.2"]


# -- which rung


def test_a_rung_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Reader("/no/such/proc")
    monkeypatch.setattr(rungs, "way_in", lambda: "")
    monkeypatch.delenv(CHOICE, raising=False)
    assert in_words(nowhere) == "a supervisor"
    for rung in (Rung.CGROUP, Rung.NAMESPACE):
        monkeypatch.setenv(CHOICE, rung)
        with pytest.raises(StageError) as caught:
            choose("7-ab", nowhere)
        assert str(caught.value) == f"OCREPRO_ENDED_BY is '{rung}', which this machine does not allow us; unset it"
    monkeypatch.setattr(rungs, "way_in", lambda: MAPPED)
    assert (choose("7-ab", nowhere).way, in_words(nowhere)) == (MAPPED, WORDS[Rung.NAMESPACE])
    monkeypatch.delenv(CHOICE)
    assert choose("7-ab", nowhere).rung is Rung.NAMESPACE
    monkeypatch.setenv(CHOICE, "docker")
    with pytest.raises(StageError) as caught:
        choose("7-ab", nowhere)
    assert str(caught.value) == "OCREPRO_ENDED_BY is 'docker'; it must be one of cgroup, namespace, supervisor"


def test_what_is_not_allowed_is_found_out_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.way_in.cache_clear()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert namespace.way_in() == ""
    namespace.way_in.cache_clear()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert namespace.way_in() == ""
    namespace.way_in.cache_clear()
