"""Stand-in builds behind a stand-in npm, for tests that run whole trials."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
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
