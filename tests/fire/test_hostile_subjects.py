"""Subjects that do their worst: the trial ends with the right verdict, in time, inside its budget, nobody left."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.events import Swept
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Judgement, Result, Verdict
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle, TrialInfo
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.budget import MEBIBYTE, Budget
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.subject import Build

DEADLINE_S = 4.0
HEAD = """
import itertools, os, pathlib, resource, shutil, signal, sys
def fail():
    print("Error: it went wrong", file=sys.stderr, flush=True)
    os._exit(1)
"""
FAILING = {
    "forks 200 children": """
for number in range(200):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: signal.pause()
fail()
""",
    "prints 100 MB without a newline": """
for _ in range(100): os.write(1, b"x" * (1 << 20))
fail()
""",
    "replaces its own binary": """
program = shutil.which("opencode")
os.unlink(program)
pathlib.Path(program).write_text("#!/bin/sh\\nexit 0\\n")
fail()
""",
    "deletes its home": """
for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"):
    shutil.rmtree(os.environ[name], ignore_errors=True)
fail()
""",
}
HANGING = {
    "ignores every signal": """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: signal.pause()
""",
    "opens 10,000 descriptors": """
most = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 50)
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(most)]
while True: signal.pause()
""",
}
# in full size: by hand, ``pytest tests/fire/test_hostile_subjects.py -m fire`` (a minute, 1 GB of disk)
LARGE = {
    "writes a log of 1 GB": """
log = pathlib.Path(os.environ["XDG_DATA_HOME"], "opencode/log/a.log")
log.parent.mkdir(parents=True)
line = b"INFO  2026-11-21T00:00:00 +0ms service=x a line that says nothing at all\\n"
with log.open("wb") as file:
    for number in range(1000): file.write(line * (1_000_000 // len(line)))
fail()
""",
    "prints 900 MB without a newline": """
for _ in range(900): os.write(1, b"x" * 1_000_000)
fail()
""",
    "does it all at once": """
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10_000)]
for _ in range(200):
    if os.fork() == 0:
        os.closerange(3, 11_000)
        os.setsid()
        for one in range(1, 65):
            try: signal.signal(one, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: signal.pause()
for _ in range(100): os.write(1, b"x" * (1 << 20))
program = shutil.which("opencode")
os.unlink(program)
for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"):
    shutil.rmtree(os.environ[name], ignore_errors=True)
fail()
""",
}
GREEDY = {
    "writes a log without end": (
        """
log = pathlib.Path(os.environ["XDG_DATA_HOME"], "opencode/log/a.log")
log.parent.mkdir(parents=True)
with log.open("w") as file:
    for number in itertools.count():
        file.write(f"INFO  2026-11-21T00:00:00 +0ms service=x line {number}\\n" * 1000)
        file.flush()
        if file.tell() > 2 << 30: os._exit(3)
""",
        Budget(files_bytes=64 * MEBIBYTE),
        "its files have",
    ),
    "writes where nobody looks": (
        """
place = pathlib.Path(os.environ["XDG_CACHE_HOME"], "a/b/c/d")
place.mkdir(parents=True)
(place / "full").write_bytes(os.urandom(1 << 20) * 100)
while True: signal.pause()
""",
        Budget(files_bytes=64 * MEBIBYTE),
        "its files have 1",
    ),
    "deletes what it still writes": (
        """
file = pathlib.Path(os.environ["XDG_CACHE_HOME"], "full").open("wb", buffering=0)
os.unlink(file.name)
file.write(os.urandom(1 << 20) * 100)
while True: signal.pause()
""",
        Budget(files_bytes=64 * MEBIBYTE),
        "its files have 1",
    ),
    "nests its directories": (
        """
os.chdir(os.environ["XDG_CACHE_HOME"])
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
while True: signal.pause()
""",
        Budget(),
        "its directories are nested 200 levels deep or more",
    ),
    "eats memory": (
        """
held = []
while len(held) < 200: held.append(bytearray(os.urandom(1 << 12)) * (1 << 10))
while True: signal.pause()
""",
        Budget(memory_bytes=300 * MEBIBYTE),
        "its processes have",
    ),
    "forks without end": (
        """
for _ in range(400):
    if os.fork() == 0: signal.pause()
while True: signal.pause()
""",
        Budget(processes=150),
        "processes, the budget is 150",
    ),
}


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Judgement]]:
    sessions: list[Session] = []

    def go(code: str, budget: Budget, deadline_s: float = DEADLINE_S) -> Judgement:
        program = tmp_path / "program.py"
        program.write_text(HEAD + code)
        (tmp_path / "opencode").write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
        (tmp_path / "opencode").chmod(0o755)
        session = Session(RunDir.create(tmp_path / "reports"), budget=budget)
        sessions.append(session)
        build = Build(version="9.9.9", path=str(tmp_path / "opencode"), sha256="", source="binary")
        trial = Trial(session, build, TrialInfo(scenario="s", title="t", version=build.version), "s")
        trial.expect(trial.run("hi", deadline_s=deadline_s, fail_fast_s=deadline_s)).to_finish()
        judgement, result = trial.finish()
        (swept,) = trial.history.of_type(Swept)
        assert (swept.leaked, result.leaked) == ((), ())
        assert Reader().marked(MARKER, trial.mark) == []
        assert not trial.sandbox.root.exists()
        (bundle,) = session.run_dir.bundles()
        stored = TrialBundle.read(bundle)
        assert stored.judgement == judgement
        assert (bundle / "history.jsonl").stat().st_size < 8 * MEBIBYTE
        return judgement

    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield go
    for session in sessions:
        session.close()
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 200_000, "what a subject writes must not all be in our memory"


@pytest.mark.parametrize("kind", list(FAILING))
def test_one_that_fails_is_said_to_have_failed_whatever_else_it_did(
    play: Callable[..., Judgement], kind: str
) -> None:
    judged = play(FAILING[kind], Budget())
    assert judged.processes[0].verdict in (Verdict.FAILED_FAST, Verdict.FAILED_LATE)
    assert judged.result is Result.NOT_SEEN


@pytest.mark.fire
@pytest.mark.parametrize("kind", list(LARGE))
def test_one_in_full_size_is_said_to_have_failed(play: Callable[..., Judgement], kind: str) -> None:
    judged = play(LARGE[kind], Budget(), 100.0)
    assert judged.processes[0].verdict in (Verdict.FAILED_FAST, Verdict.FAILED_LATE)
    assert judged.result is Result.NOT_SEEN
    print(f"\n{kind}: {judged.processes[0].verdict}")


@pytest.mark.parametrize("kind", list(HANGING))
def test_one_that_hangs_is_said_to_hang(play: Callable[..., Judgement], kind: str) -> None:
    judged = play(HANGING[kind], Budget())
    assert judged.processes[0].verdict.hung
    assert judged.result is Result.REPRODUCED


@pytest.mark.parametrize("kind", list(GREEDY))
def test_one_that_uses_too_much_is_cut_off_and_the_evidence_says_so(
    play: Callable[..., Judgement], kind: str
) -> None:
    code, budget, why = GREEDY[kind]
    judged = play(code, budget, 60.0)  # it is not the deadline that ends it
    assert judged.result is Result.INCONCLUSIVE
    assert "cut off: " in judged.reason
    assert why in judged.reason
