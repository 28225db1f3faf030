from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.stage.ledger import Ledger
from pytest_ocrepro.stage.orders import MARKER

READER = Reader()
DEAD, OTHER = "4711-0123456789ab", "4712-0123456789ab"


def ourselves() -> ProcessId:
    found = READER.identify(os.getpid())
    assert found is not None
    return found


def test_only_what_a_dead_supervisor_left_is_left_over(tmp_path: Path) -> None:
    ledger, alive = Ledger(tmp_path / "new"), ourselves()
    ledger.enter(OTHER, alive)
    ledger.enter(DEAD, ProcessId(pid=alive.pid, start_ticks=alive.start_ticks - 1, boot_id=alive.boot_id))
    argv = [sys.executable, "-I", "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={MARKER: f"{DEAD}.3"}) as left:
        assert left.stdout is not None
        left.stdout.readline()
        assert {mark: [one.pid for one in ones] for mark, ones in ledger.leftovers(READER).items()} == {
            DEAD: [left.pid]
        }
        left.kill()
    assert ledger.leftovers(READER) == {DEAD: []}
    ledger.strike(DEAD)
    ledger.strike(DEAD)
    assert ledger.leftovers(READER) == {}
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{OTHER}.json"]


def test_one_of_an_earlier_boot_is_dead_whoever_has_its_pid_now(tmp_path: Path) -> None:
    now = ourselves()
    Ledger(tmp_path).enter(DEAD, ProcessId(pid=now.pid, start_ticks=now.start_ticks, boot_id="another"))
    assert Ledger(tmp_path).leftovers(READER) == {DEAD: []}


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    for name, content in (
        ("a.json", b""),
        ("b.json", b"{"),
        ("c.json", b'{"pid":"x"}'),
        ("d.json", b"\xff"),
        ("e", b""),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.json").mkdir()
    (tmp_path / "g.json").symlink_to(tmp_path / "nowhere")
    assert Ledger(tmp_path).leftovers(READER) == {}


def test_a_place_that_cannot_be_written_costs_only_the_next_start_s_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file/ledger")
    ledger.enter(DEAD, ourselves())
    ledger.strike(DEAD)
    assert ledger.leftovers(READER) == {}
