"""Whole runs of stand-ins in a Python that is told to be on macOS (tests/data/portable/elsewhere.py).

What only Linux has is taken away there; psutil itself still reads /proc, so this shows our own code, and not psutil's
answers on a Mac. By hand, with the real build: ``pytest tests/test_elsewhere.py -m fire -s``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.subject import PINNED, fetch
from tests.data.portable.elsewhere import BEGIN, VARIABLE

ROOT = Path(__file__).parents[1]
PYTEST = f"{BEGIN}; import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
OURS = ("-ppytest_ocrepro.plugin", "-ppytest_timeout", "-pno:cacheprovider", "--ocrepro", "--ocrepro-reports=reports")


class Mac:
    """A project in which pytest is started as on a Mac."""

    def __init__(self, place: Path, binary: Path) -> None:
        self.place = place
        self.binary = binary
        self.touched = place / "touched.txt"
        (place / "pytest.ini").write_text("[pytest]\n")
        (place / "tmp").mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OCREPRO_CACHE_DIR": str(place / "cache"),
            "TMPDIR": str(place / "tmp"),
            VARIABLE: str(self.touched),
        }

    def start(self, scenario: str) -> subprocess.Popen[str]:
        (self.place / "test_it.py").write_text(scenario)
        argv = [sys.executable, "-c", PYTEST, *OURS, f"--ocrepro-binary={self.binary}", "test_it.py"]
        return subprocess.Popen(
            argv,
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, scenario: str) -> str:
        """What it printed."""
        with self.start(scenario) as pytest_process:
            printed, _ = pytest_process.communicate(timeout=300)
        assert not self.touched.exists(), self.touched.read_text()
        return printed

    def results(self) -> list[dict[str, object]]:
        lines = (self.place / "reports/latest/results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def mac(tmp_path: Path, stand_in: Path) -> Mac:
    return Mac(tmp_path, stand_in)


TWO = """
from pytest_ocrepro import text

def test_asks(ocrepro):
    ocrepro.provider.script(text("forty two"))
    ocrepro.expect(ocrepro.run("hi", model="ask")).to_complete()

def test_hangs(ocrepro):
    ocrepro.expect(ocrepro.run("hi", model="hang", deadline_s=2.0)).to_finish()
"""


def test_a_run_from_start_to_page(mac: Mac) -> None:
    printed = mac.run(TWO)
    assert "ended by a supervisor without sub-reaper and pidfds" in printed
    assert "read through psutil; unknown here: system calls" in printed
    asks, hangs = mac.results()
    assert (asks["verdict"], asks["result"], asks["leaked"]) == ("completed", "not-seen", [])
    # idle and silent up to the deadline is all that is seen: nothing says what its threads are in
    assert (hangs["verdict"], hangs["grade"], hangs["result"]) == ("stalled", "weak", "reproduced")
    assert "what they are in is not told on this system" in str(hangs["reason"])
    page = (mac.place / "reports/latest/report.html").read_text()
    assert "read through psutil; unknown on this system: system calls" in page
    history = mac.place / "reports/latest" / str(asks["bundle"]) / "history.jsonl"
    events = [json.loads(line) for line in history.read_text().splitlines()]
    asker = next(event["pid"] for event in events if event["event"] == "provider-request")
    assert asker == next(event["id"]["pid"] for event in events if event["event"] == "process-started")
    assert living(mac.place) == []


# an opencode with a child that ignores SIGTERM, a daemon of another session, one that has wiped its environment, and
# one that has lost its parent besides; none of them has the same name as another process
FAMILY = """#!{python} -I
# stands in for opencode
import os, signal, subprocess, sys
if sys.argv[1:] == ["--version"]:
    print("9.9.9")
    raise SystemExit
def child(parent="", **more):
    wait = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    argv = [sys.executable, "-I", "-c", wait, {place!r}]
    code = f"import subprocess; subprocess.Popen({{argv!r}}, env={{{{}}}})"
    started = subprocess.Popen([sys.executable, "-I", "-c", code] if parent else argv, stdout=subprocess.PIPE, **more)
    started.stdout.readline()
    if parent:
        started.wait()
child()
child(start_new_session=True)
child(start_new_session=True, env={{}})
child("that ends")
print("all are there", flush=True)
signal.pause()
"""
ALL_ARE_THERE = """
def test_family(ocrepro):
    opencode = ocrepro.run("hi")
    ocrepro.wait_until(lambda: "all are there" in opencode.output, what="a family", timeout_s=100)
    print("all are there", flush=True)
    ocrepro.claim("all are there", held=True, because="it says so")
"""


@pytest.fixture
def family(tmp_path: Path) -> Mac:
    path = tmp_path / "opencode"
    path.write_text(FAMILY.format(python=sys.executable, place=str(tmp_path)))
    path.chmod(0o755)
    return Mac(tmp_path, path)


def living(place: Path) -> list[str]:
    """Who names the place in its arguments or environment, but for us."""
    reader = Reader()
    return [
        f"{pid} {reader.argv(pid)}"
        for pid in reader.pids()
        if pid != os.getpid()
        and reader.state(pid) not in ("Z", None)
        and (
            str(place) in " ".join(reader.argv(pid) or ())
            or (reader.environ(pid) or {}).get("TMPDIR", "").startswith(str(place))
        )
    ]


@pytest.mark.fire
def test_a_family_is_ended_at_the_end_of_its_trial(family: Mac) -> None:
    family.run(ALL_ARE_THERE)
    (line,) = family.results()
    assert (line["leaked"], line["result"]) == ([], "not-seen")
    assert living(family.place) == []


def test_nothing_outlives_a_pytest_that_is_killed(family: Mac) -> None:
    with family.start(ALL_ARE_THERE.replace("ocrepro.claim", "import signal; signal.pause(); ocrepro.claim")) as mac:
        until(lambda: len(living(family.place)) >= 7, timeout_s=50, what="a family of five below two of ours")
        os.kill(mac.pid, signal.SIGKILL)
        until(lambda: living(family.place) == [], timeout_s=60, what="the end of all of them")
        mac.communicate(timeout=60)
    assert not family.touched.exists(), family.touched.read_text()


def test_the_guard_hears_what_only_linux_has(mac: Mac) -> None:
    """Else no run above would show anything."""
    looks = {
        "procfs.Reader().boot_id()": "open /proc/sys/kernel/random/boot_id by ",
        "procfs.Reader().exe(1)": "os.readlink /proc/1/exe by ",
        "sys.platform = 'linux'; keeper._prctl()": "ctypes.dlsym prctl by ",
        "sys.platform = 'linux'; wire.pair()": "a SOCK_SEQPACKET socket by ",
    }
    ours = "import sys; from pytest_ocrepro.observe import procfs; from pytest_ocrepro.stage import keeper, wire"
    for look, heard in looks.items():
        argv = [sys.executable, "-c", f"{BEGIN}; {ours}; {look}"]
        done = subprocess.run(argv, env=mac.environment, capture_output=True, text=True, check=False, timeout=60)
        assert "AssertionError" in done.stderr
        assert mac.touched.read_text().splitlines()[-1].startswith(heard)


CONTROLLED = """
import os, subprocess, sys
from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.supervisor import Supervisor
controller = subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE)
supervisor = Supervisor(controller=reader_here().identify(controller.pid))
nothing = os.open(os.devnull, os.O_RDWR)
child = supervisor.spawn(
    [sys.executable, "-I", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"],
    environment={MARKER: supervisor.mark}, directory="/", stdio=(nothing, nothing, nothing),
    on_exit=lambda exited: print("ended", exited.code, exited.swept, flush=True),
)
controller.kill()
controller.wait()
supervisor._process.wait(60)
supervisor._listener.join(60)
print("gone", reader_here().identify(child.pid), flush=True)
supervisor.close()
"""


def test_the_supervisor_ends_with_a_controller_that_it_can_only_look_at(mac: Mac) -> None:
    argv = [sys.executable, "-c", f"{BEGIN}\n{CONTROLLED}"]
    done = subprocess.run(argv, env=mac.environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.stderr) == ("ended -9 True\ngone None\n", "")
    assert not mac.touched.exists()


REAL = """
from pytest_ocrepro import text

def test_answers(ocrepro):
    ocrepro.provider.script(text("forty two"))
    ocrepro.expect(ocrepro.run("hi")).to_complete()

def test_waits_for_an_install(ocrepro):
    ocrepro.registry.stall()
    ocrepro.project.add_plugin()
    first = ocrepro.run("hi", model="bogus/nope-1")
    ocrepro.wait_for(ocrepro.at_lock_directory(first))
    ocrepro.expect(ocrepro.run("hi", model="bogus/nope-2")).to_finish()
"""


@pytest.mark.fire
def test_a_real_build_is_judged_by_what_is_seen(tmp_path: Path) -> None:
    mac = Mac(tmp_path, Path(fetch(PINNED).path))
    print(mac.run(REAL))
    answers, waits = mac.results()
    assert (answers["verdict"], answers["result"]) == ("completed", "not-seen")
    assert (waits["result"], waits["grade"]) == ("reproduced", "weak")
    assert waits["verdict"] in ("blocked", "stalled")
    assert (answers["leaked"], waits["leaked"], living(tmp_path)) == ([], [], [])
