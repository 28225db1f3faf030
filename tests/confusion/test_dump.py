"""The same for ``ocrepro dump``: stand-ins that nobody of ours has arranged, judged from outside while they live.

Once each in the default run. ``pytest tests/confusion/test_dump.py -m confusion -s`` runs each 20 times and prints
the confusion matrix; ``OCREPRO_CONFUSION_RUNS=2`` is a quick look.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_ocrepro.attach import Attachment
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.judge.verdict import judge_process
from pytest_ocrepro.observe.procfs import Reader

if TYPE_CHECKING:
    from tests.confusion import matrix
else:
    _spec = importlib.util.spec_from_file_location("matrix", Path(__file__).parent / "matrix.py")
    matrix = sys.modules["matrix"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(matrix)

PROGRAM = Path(__file__).parents[1] / "data/attach/stand_in_opencode.py"
RUNS = int(os.environ.get("OCREPRO_CONFUSION_RUNS", "20"))
AT_ONCE = 14
SOON_S, FAR_S = 3.0, 600.0  # the looks take more than the first and far less than the second
EVERY_S = 0.1
LONG_AGO = ("log", "message=bootstrapping", 60.0)
LISTENS, ASKS = ("accept", "PORT"), ("connect", "SILENT")
RUN, SERVE = ("run", "-m", "x/y", "hi"), ("serve", "--port", "0")


class Case(msgspec.Struct, frozen=True):
    """``plan``: SILENT and TALKING stand for ports of servers. ``asked``: a client sends it a request."""

    name: str
    plan: tuple[tuple[Any, ...], ...]
    expected: Verdict
    root: str = ""
    command: tuple[str, ...] = RUN
    deadline_s: float = SOON_S
    reads: bool = False
    asked: bool = False
    suspended: bool = False


CASES = (
    Case("logs", (LONG_AGO, ("beat",)), Verdict.ALIVE),
    Case("model sends a word now and then", (LONG_AGO, ("connect", "TALKING")), Verdict.ALIVE),
    Case("model silent, deadline far", (LONG_AGO, ASKS), Verdict.ALIVE, deadline_s=FAR_S),
    Case("input may come", (LONG_AGO,), Verdict.ALIVE, deadline_s=FAR_S, reads=True),
    Case("tool runs", (LONG_AGO, ("tool",)), Verdict.INCONCLUSIVE),
    Case("suspended", (LONG_AGO,), Verdict.INCONCLUSIVE, suspended=True),
    Case("interactive", (LONG_AGO,), Verdict.ALIVE, command=()),
    Case("idle server", (LONG_AGO, LISTENS), Verdict.ALIVE, command=SERVE),
    Case("suspended server", (LONG_AGO, LISTENS), Verdict.ALIVE, command=SERVE, asked=True, suspended=True),
    Case("its model silent", (LONG_AGO, LISTENS, ASKS), Verdict.BLOCKED, "is served by", SERVE, asked=True),
    Case("model silent", (LONG_AGO, ASKS), Verdict.BLOCKED, "is served by"),
    Case("input does not come", (LONG_AGO,), Verdict.WAITING_FOR_INPUT, "standard input", reads=True),
    Case("nothing to be seen", (LONG_AGO,), Verdict.STALLED),
)


@contextlib.contextmanager
def servers() -> Iterator[dict[str, int]]:
    """One that never answers and one that sends a byte now and then to everybody, by name their ports."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as talking:
        talking.settimeout(EVERY_S)
        clients: list[socket.socket] = []

        def talk() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    clients.append(talking.accept()[0])
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.send(b"w")

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield {"SILENT": silent.getsockname()[1], "TALKING": talking.getsockname()[1]}
        finally:
            ended.set()
            thread.join()
            for client in clients:
                client.close()


def played(case: Case, home: Path, ports: dict[str, int]) -> matrix.Score:
    """One stand-in, from its start to what is said of it."""
    home.mkdir(parents=True)
    port = home / "port"
    words = {**ports, "PORT": str(port)}
    plan = [[words.get(word, word) if isinstance(word, str) else word for word in step] for step in case.plan]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PLAN": json.dumps(plan)}
    process = subprocess.Popen(
        ["opencode", str(PROGRAM), *case.command],
        executable=sys.executable,
        stdin=subprocess.PIPE if case.reads else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=home,
        env={**environment, **({"READS_STDIN": "1"} if case.reads else {})},
    )
    with contextlib.ExitStack() as running:
        running.callback(process.communicate)
        running.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        if case.asked:
            client = running.enter_context(socket.create_connection(("127.0.0.1", int(port.read_text()))))
            client.sendall(b"POST / HTTP/1.1")
        if case.suspended:
            process.send_signal(signal.SIGSTOP)
        with Attachment([process.pid], deadline_s=case.deadline_s) as attachment:
            attachment.look_for_a_while(stop=threading.Event())
            judged = judge_process(attachment.history, process.pid)
        for child in Reader().children_of(process.pid):
            os.kill(child, signal.SIGKILL)  # a tool has a session of its own
    told = matrix.root_of(judged)
    return matrix.Score(
        case=case.name,
        role=judged.role.rpartition("-")[0],
        expected=case.expected,
        judged=judged.verdict,
        root=re.search(case.root, told) is not None,
        told=told,
        seconds=judged.seconds,
    )


def played_all(cases: list[Case], folder: Path) -> list[matrix.Score]:
    """Some at the same time."""
    with servers() as ports, ThreadPoolExecutor(AT_ONCE) as pool:
        homes = [folder / str(number) for number in range(len(cases))]
        return list(pool.map(lambda case, home: played(case, home, ports), cases, homes))


def test_each_once_and_a_judge_that_takes_the_silent_for_hung_fails(tmp_path: Path) -> None:
    """The last one is what such a judge would say of a healthy one: the table can tell."""
    hasty = next(case for case in CASES if case.name == "model silent, deadline far")
    *scores, mistaken = played_all([*CASES, msgspec.structs.replace(hasty, deadline_s=SOON_S)], tmp_path)
    print(f"\n{matrix.table(scores)}")
    wrong = "\n".join(matrix.describe(one) for one in scores if not one.right)
    assert not wrong, wrong
    assert mistaken.judged is Verdict.BLOCKED
    assert len(matrix.faults([mistaken])) == 2, "called hung, and too many of the healthy ones wrong"


@pytest.mark.confusion
@pytest.mark.timeout(1800)
def test_the_confusion_matrix(tmp_path: Path) -> None:
    scores = played_all([case for case in CASES for _ in range(RUNS)], tmp_path)
    healthy = [one for one in scores if not one.expected.hung]
    print(f"\n{matrix.table(scores)}")
    print(f"healthy ones called hung: {sum(one.judged.hung for one in healthy)} of {len(healthy)}")
    assert len(scores) == RUNS * len(CASES)
    assert matrix.faults(scores) == []
