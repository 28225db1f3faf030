from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.sessions import Sessions

READER = Reader()
# starts one that stays and tells its pid; ends when told to
LEADS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], env={})
print(child.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", LEADS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.stdout is not None
        process.stdout.read()  # until its child has ended too


def begun(leader: subprocess.Popen[str], mark: str) -> tuple[Sessions, ProcessId, int]:
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    sessions = Sessions(READER)
    process = READER.identify(leader.pid)
    assert process is not None
    sessions.begun(process, mark)
    return sessions, process, child


def end(leader: subprocess.Popen[str]) -> None:
    assert leader.stdin is not None
    leader.stdin.write("\n")
    leader.stdin.flush()
    leader.wait()


def test_an_orphan_is_found_by_its_session_and_by_no_other_mark(leader: subprocess.Popen[str]) -> None:
    sessions, _, child = begun(leader, "a.1")
    assert sessions.members("a.1") == {leader.pid, child}
    end(leader)
    sessions.left(leader.pid)
    assert READER.parent(child) != leader.pid
    assert sessions.members("a.1") == sessions.members("a.*") == {child}
    assert sessions.members("b.1") == set()


def test_a_session_that_nobody_is_in_any_more_is_forgotten(leader: subprocess.Popen[str]) -> None:
    sessions, process, child = begun(leader, "a.1")
    assert leader.stdin is not None
    leader.stdin.close()
    leader.wait()
    assert leader.stdout is not None
    leader.stdout.read()
    while READER.state(child) not in ("Z", None):
        pass
    sessions.left(process.pid)
    assert sessions._begun == {}


def test_a_pid_that_another_process_has_now_leads_no_session_of_ours(leader: subprocess.Popen[str]) -> None:
    sessions, process, _ = begun(leader, "a.1")
    sessions._begun = {ProcessId(pid=process.pid, start_ticks=1, boot_id=process.boot_id): "a.1"}
    assert sessions.members("a.1") == set()
