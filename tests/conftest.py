"""What several rooms' tests share: stand-ins for the subject, alone or behind a stand-in npm; pytest's pytester."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """What our tests start must not write into the job summary of the job that runs them.

    By hand: ``pytest --hypothesis-profile=fuzz FILE``; a property that sets its own number of examples looks for the
    name. ``pytest --ocrepro`` reads this file too, where nobody has installed what the tests need.
    """
    os.environ.pop("GITHUB_STEP_SUMMARY", None)
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import settings  # noqa: PLC0415

        settings.register_profile("fuzz", max_examples=2_000, deadline=None)


# A stand-in for opencode, for tests of our own parts only. What it does is told by its model name.
STAND_IN = '''
"""stands in for opencode in tests of the harness"""
import os, pathlib, signal, subprocess, sys, time
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("9.9.9")
    sys.exit(0)
what = arguments[arguments.index("-m") + 1] if "-m" in arguments else "answer"
if what == "bogus/x":
    print("Error: Model not found", file=sys.stderr)
    sys.exit(1)
if what == "hang":
    signal.pause()
if what == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "daemon":
    subprocess.Popen([PYTHON, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True);"
                      "signal.pause()"], start_new_session=True)
    signal.pause()
if what == "silent":
    sys.exit(0)
if what == "ask":
    import json, urllib.request
    config = json.loads(pathlib.Path(os.environ["OPENCODE_CONFIG"]).read_text())
    url = config["provider"]["mock"]["options"]["baseURL"] + "/chat/completions"
    body = dict(model="m1", stream=True, tools=[dict()], messages=[dict(role="user", content="hi")])
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        print(answer.read().decode())
    sys.exit(0)
'''


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """An executable that calls itself opencode 9.9.9."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(f"PYTHON = {sys.executable!r}  # its own would be found by argv[0]\n{STAND_IN}")
    path = folder / "opencode"
    path.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
    path.chmod(0o755)
    return path


DATA = Path(__file__).parent / "data"
SCENARIO = '''
import os
import signal
from pathlib import Path

import pytest

from pytest_ocrepro import for_ever, text

FIFO = Path(__file__).with_name("fifo")


def test_answers(ocrepro):
    """A run must not die of its database."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.expect(ocrepro.run("hi")).not_to_die_of_the_database()


@pytest.mark.parametrize("broken", [False, True], ids=["fine", "broken"])
def test_has_two(ocrepro, broken):
    """One of the two sets of parameters shows the failure on every build."""
    ocrepro.provider.script(for_ever(text("done")))
    ocrepro.expect(ocrepro.run("hi")).not_to_die_of_the_database()
    ocrepro.claim("works", held=not broken, because="so it is told")


def test_breaks(ocrepro):
    """A scenario that never gets to its point."""
    raise RuntimeError("the scenario itself is broken")


def test_waits(ocrepro):
    """Says who it is and never ends."""
    FIFO.write_text(str(os.getpid()))
    signal.pause()


def test_hears(ocrepro):
    """Ends as soon as the other has said who it is."""
    FIFO.with_name("pid").write_text(FIFO.read_text())
    ocrepro.claim("heard", held=True, because="of the other")
'''

Serve = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """``serve(versions, first_bad)`` publishes stand-in builds; returns the registry. We stand beside a scenario."""
    registry, shim = tmp_path / "registry", tmp_path / "bin/npm"
    registry.mkdir()
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {DATA / "subject/stand_in_npm.py"} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_NPM", str(registry))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "test_stand_in.py").write_text(SCENARIO)
    os.mkfifo(work / "fifo")
    monkeypatch.chdir(work)

    def publish(versions: tuple[str, ...], first_bad: str) -> Path:
        for version in versions:
            _package(registry / f"{version}.tgz", version, first_bad)
        (registry / "plan.json").write_text(json.dumps({"latest": versions[-1]}))
        return registry

    return publish


def _package(path: Path, version: str, first_bad: str) -> None:
    program = DATA / "versions/stand_in_subject.py"
    words = f'exec -a opencode {sys.executable} -I -S {program} {version} {first_bad} "$@"'
    script = f"#!/bin/bash\n# opencode\n{words}\n".encode()
    info = tarfile.TarInfo("package/bin/opencode")
    info.size = len(script)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(script))
