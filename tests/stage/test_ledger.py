from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.readings import ProcessId
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.ledger import FIRST_NAMESPACE, KEPT_S, Ledger
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.rungs import Rung
from pytest_ocrepro.stage.sandbox import PREFIX
from pytest_ocrepro.stage.supervisor import Supervisor
from tests.data.stage.zoo import READER, ZOO, harness, living, python, told, until_gone

DEAD, OTHER = "4711-0123456789ab", "4712-0123456789ab"


SESSION = """
import sys
from pathlib import Path
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.session import Session
ledger = Path(sys.argv[1])
Session(RunDir.create(ledger / "reports"), ledger=ledger).close()
print("began and ended")
"""


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


@pytest.mark.parametrize("elsewhere", [{"host": "another", "boot": "another"}, {"namespace": None}])
def test_who_lives_elsewhere_is_not_called_dead(tmp_path: Path, elsewhere: dict[str, str | None]) -> None:
    """On another machine, or in a PID namespace in which somebody is."""
    now = ourselves()
    Ledger(tmp_path).enter(DEAD, ProcessId(pid=now.pid, start_ticks=now.start_ticks - 1, boot_id=now.boot_id))
    assert Ledger(tmp_path).leftovers(READER) == {DEAD: []}
    with inside_another_namespace() as namespace:
        path = tmp_path / f"{DEAD}.json"
        line = json.loads(path.read_text())
        line["supervisor"]["boot_id"] = elsewhere.get("boot") or now.boot_id
        line["host"] = elsewhere.get("host") or line["host"]
        line["namespace"] = namespace if "namespace" in elsewhere else line["namespace"]
        path.write_text(json.dumps(line))
        assert Ledger(tmp_path).leftovers(READER) == {}
        assert path.exists()
        long_ago = path.stat().st_mtime - KEPT_S - 60
        os.utime(path, (long_ago, long_ago))
        assert Ledger(tmp_path).leftovers(READER) == {DEAD: []}, "lines of killed containers would gather for ever"


def test_a_container_that_is_gone_is_dead_for_who_could_see_it(tmp_path: Path) -> None:
    now = ourselves()
    Ledger(tmp_path).enter(DEAD, now)
    path = tmp_path / f"{DEAD}.json"
    line = json.loads(path.read_text())
    assert line["namespace"] == READER.namespace(os.getpid(), "pid")
    path.write_text(json.dumps(line | {"namespace": "pid:[4711]"}))
    sees_all = line["namespace"] == FIRST_NAMESPACE
    assert Ledger(tmp_path).leftovers(READER) == ({DEAD: []} if sees_all else {})


def test_the_sandboxes_of_a_killed_session_go_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run may have another temporary directory: each job of a CI has its own."""
    now = ourselves()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "one"))
    Ledger(tmp_path / "ledger").enter(DEAD, ProcessId(pid=now.pid, start_ticks=1, boot_id=now.boot_id))
    (tmp_path / "one" / f"{PREFIX}{DEAD}.1-x/deep").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "two"))
    Session(RunDir.create(tmp_path / "reports"), ledger=tmp_path / "ledger").close()
    assert list((tmp_path / "one").iterdir()) == []
    assert list((tmp_path / "ledger").iterdir()) == []


@contextlib.contextmanager
def inside_another_namespace() -> Iterator[str]:
    """Somebody waits in a PID namespace of his own; its name."""
    unshared = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-pf", "cat"]
    with subprocess.Popen(unshared, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"there\n")
            process.stdin.flush()
            if not process.stdout.readline():
                pytest.skip("no PID namespace may be made here")
            (inside,) = READER.children_of(process.pid)
            yield READER.namespace(inside, "pid") or ""
        finally:
            process.communicate()


def test_a_container_does_not_touch_what_another_one_runs(tmp_path: Path) -> None:
    with harness(f"begin({python(ZOO['plain'])!r})", tmp_path, rung=Rung.SUPERVISOR) as process:
        told(process)
        (line,) = tmp_path.glob("*.json")
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{line.stem}.1-") as sandbox:
            unshared = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-pf", "--mount-proc"]
            begun = [*unshared, sys.executable, "-c", SESSION, str(tmp_path)]
            done = subprocess.run(begun, capture_output=True, text=True, check=False)
            if done.stderr.startswith("unshare:"):
                pytest.skip(done.stderr.strip())
            assert done.stdout == "began and ended\n", done.stderr
            assert Path(sandbox).is_dir(), "the sandbox of a session that lives outside is deleted"
        assert line.exists()


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
    os.mkfifo(tmp_path / "h.json")
    with (tmp_path / "i.json").open("wb") as endless:
        endless.truncate(1 << 40)
    (tmp_path / "g.json").symlink_to(tmp_path / "nowhere")
    assert Ledger(tmp_path).leftovers(READER) == {}


def test_a_place_that_cannot_be_written_costs_only_the_next_start_s_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file/ledger")
    ledger.enter(DEAD, ourselves())
    ledger.strike(DEAD)
    assert ledger.leftovers(READER) == {}


def test_next_start_finds_what_a_killed_harness_and_supervisor_left(tmp_path: Path) -> None:
    action = f"begin({python(ZOO['setsid daemon'])!r})"
    with harness(action, tmp_path, rung=Rung.SUPERVISOR) as process:
        boss, *daemon = told(process)
        assert Ledger(tmp_path).leftovers(READER) == {}, "its supervisor lives: nothing is left over"
        process.send_signal(signal.SIGSTOP)  # or its own close would clean up
        os.kill(boss.pid, signal.SIGKILL)
        process.kill()
        until_gone([boss])
        assert living(daemon) != []
        supervisor = Supervisor(ledger=tmp_path)
        left = Ledger(tmp_path).leftovers(READER)
        assert list(left.values()) == [daemon]
        for mark in left:
            assert supervisor.sweep(f"{mark}.*", grace_s=0.1).ended == [daemon[0].pid]
            assert Ledger(tmp_path).leftovers(READER) == {mark: []}
            Ledger(tmp_path).strike(mark)
        assert Ledger(tmp_path).leftovers(READER) == {}
        supervisor.close()
    assert list(tmp_path.iterdir()) == []


def test_ledger_survives_a_broken_line_and_a_missing_directory(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").leftovers(READER) == {}
    (tmp_path / "broken.json").write_text("{")
    gone = ProcessId(pid=os.getpid(), start_ticks=1, boot_id=READER.boot_id())
    Ledger(tmp_path).enter("recycled", gone)
    assert Ledger(tmp_path).leftovers(READER) == {"recycled": []}
    Ledger(tmp_path).strike("recycled")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]
    (tmp_path / "file").touch()
    Ledger(tmp_path / "file").enter("x", gone)  # a place that cannot be written is not an error
