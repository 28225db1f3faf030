from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.stage import timing
from pytest_ocrepro.stage.timing import turn

ROOT = Path(timing.__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from pytest_ocrepro.stage.timing import turn
with turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_turn_at_a_time_and_the_next_when_its_holder_is_killed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StageError, match=r"has run on this machine for 0.1 s \(.*timing.lock\); run again"):
            turn(tmp_path, most_s=0.1).__enter__()
        holder.kill()
        with turn(tmp_path, most_s=60):
            assert holder.wait(60) != 0


def test_who_waits_is_told_how_long(tmp_path: Path) -> None:
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        with turn(tmp_path):
            inside.set()
            go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(60)
    threading.Timer(0.2, go.set).start()
    with turn(tmp_path, most_s=60) as waited_s:
        assert waited_s > 0.1
    holder.join()
    with turn(tmp_path) as waited_s:
        assert waited_s < 10


def test_who_takes_the_first_turn_makes_the_cache_for_us_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        with turn(tmp_path / "cache"):
            assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(umask)


def test_turns_are_those_of_one_cache_as_the_readme_says(tmp_path: Path) -> None:
    with turn(tmp_path / "mine"), turn(tmp_path / "theirs", most_s=60) as waited_s:
        assert waited_s < 10
    with turn(tmp_path / "mine"), pytest.raises(StageError, match="run again when it is over"):
        turn(tmp_path / "mine", most_s=0.1).__enter__()
    told = " ".join((ROOT / "README.md").read_text().split())
    assert "take turns with those of every pytest that shares the cache; one with a cache of its own" in told


def test_a_cache_that_cannot_be_made_gives_no_turns(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with turn(tmp_path / "file/cache") as waited_s:
        assert waited_s == 0
