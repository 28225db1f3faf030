"""The machine lets us down: a full disk at any write, a clock set back, a cache that goes, a pid that vanishes.

Injected into pytest's own process, at the first, second, third... call of a run, so that no write is left out. By
hand: ``pytest tests/fire/test_misfortune.py -m fire -s`` (some 20 minutes; ``-k "full and 0"`` is one portion).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.observe.procfiles import ProcFiles
from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.publish.bundle import RunDir, TrialBundle, TrialInfo
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.session import Session
from pytest_ocrepro.stage.orders import MARKER
from pytest_ocrepro.stage.subject import Build

LONGEST_S = 120.0
PORTIONS = 5
READER = Reader()

# MISFORTUNE=KIND:N:ERRNO; every write into PLACES is counted, and fails from the Nth on, or only the Nth
PLUGIN = '''
import datetime, os, pathlib, sys, time
KIND, NTH, ERRNO = os.environ["MISFORTUNE"].split(":")
NTH, ERRNO = int(NTH), int(ERRNO)
PLACES = tuple(os.environ["MISFORTUNE_PLACES"].split(":"))
COUNTED = os.open(os.environ["MISFORTUNE_COUNT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
count = 0
write = os.write

def due(path, what):
    """A write into one of our places: counted, and whether it is to fail."""
    global count
    path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if not path.startswith(PLACES) or path == os.environ["TMPDIR"]:  # there pytest keeps what it captures
        return False
    count += 1
    write(COUNTED, f"{what} {path}\\n".encode())
    return count == NTH if KIND == "once" else count >= NTH

def fail(path):
    raise OSError(ERRNO, os.strerror(ERRNO), os.fsdecode(path))

def hook(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = arguments[0]
    elif event in ("os.mkdir", "os.symlink", "os.rename"):
        path = arguments[-1 if event == "os.mkdir" else 1] if event != "os.mkdir" else arguments[0]
    else:
        return
    if due(path, event):
        fail(path)

def failing_write(fd, content):
    path = os.readlink(f"/proc/self/fd/{fd}")
    if due(path, "os.write"):
        write(fd, bytes(content)[: len(content) // 2])  # a disk fills up in the middle of a write
        fail(path)
    return write(fd, content)

def half(real, mode):
    def written(self, content, *more, **named):
        if str(self).startswith(PLACES):
            with open(self, mode, encoding=None if "b" in mode else "utf-8") as file:
                if due(self, "content"):
                    file.write(content[: len(content) // 2])
                    fail(self)
        return real(self, content, *more, **named)
    return written

if KIND in ("from", "once"):
    os.write = failing_write
    pathlib.Path.write_bytes = half(pathlib.Path.write_bytes, "wb")
    pathlib.Path.write_text = half(pathlib.Path.write_text, "w")
    sys.addaudithook(hook)
if KIND == "clock":
    back, looks, real_time = 86400.0, 0, time.time
    def shift():
        global looks
        looks += 1
        write(COUNTED, b"look\\n")
        return back if looks >= NTH else 0.0
    time.time = lambda: real_time() - shift()
    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - datetime.timedelta(seconds=shift())
    datetime.datetime = Earlier
'''
STAND_IN = """
import os, sys
if sys.argv[1:] == ["--version"]:
    print("9.9.9")
    raise SystemExit
os.makedirs(os.path.join(os.environ["XDG_DATA_HOME"], "opencode/log"))
print("Error: Model not found", file=sys.stderr)
raise SystemExit(1)
"""
SCENARIO = """
def test_fails_fast(ocrepro):
    ocrepro.project.write("a.txt", "a")
    ocrepro.expect(ocrepro.run("hi")).to_finish()
"""


@dataclass
class Place:
    """A project on a machine that lets it down."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("tmp", "cache", "reports"):
            (self.root / name).mkdir()
        (self.root / "program.py").write_text(STAND_IN)
        (self.root / "misfortune.py").write_text(PLUGIN)
        (self.root / "opencode").write_text(
            f'#!/bin/bash\nexec -a opencode {sys.executable} {self.root / "program.py"} "$@"\n'
        )
        (self.root / "opencode").chmod(0o755)
        (self.root / "test_it.py").write_text(SCENARIO)
        (self.root / "pytest.ini").write_text("[pytest]\n")

    def run(self, kind: str, nth: int, number: int = 0, *more: str) -> subprocess.CompletedProcess[str]:
        places = (self.root / "reports", self.root / "tmp", self.root / "cache")
        argv = [sys.executable, "-m", "pytest", "--ocrepro", "-pmisfortune", "-pno:cacheprovider", "-q"]
        argv += [f"--ocrepro-binary={self.root / 'opencode'}", f"--ocrepro-reports={places[0]}", *more]
        (self.root / "count").unlink(missing_ok=True)
        own = {
            "PYTHONPATH": str(self.root),
            "TMPDIR": str(places[1]),
            "OCREPRO_CACHE_DIR": str(places[2]),
            "MISFORTUNE": f"{kind}:{nth}:{number}",
            "MISFORTUNE_PLACES": ":".join(map(str, places)),
            "MISFORTUNE_COUNT": str(self.root / "count"),
        }
        with subprocess.Popen(
            [*argv, f"--rootdir={self.root}", f"-c{self.root / 'pytest.ini'}", str(self.root / "test_it.py")],
            cwd=self.root,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            said, _ = process.communicate(timeout=LONGEST_S)
        assert READER.marked(MARKER, f"{process.pid}-*") == [], "somebody is left"
        return subprocess.CompletedProcess(argv, process.returncode, said)

    def counted(self) -> list[str]:
        return (self.root / "count").read_text().splitlines()

    def check_evidence(self) -> None:
        """What is stored can be read, and a page be made of it; nothing is called reproduced."""
        for path in (self.root / "reports").glob("2*-*"):
            if not (path / "run.json").exists():
                continue
            run = RunDir.read(path)
            assert {one.result for one in run.results()} <= {Result.NOT_SEEN, Result.INCONCLUSIVE}
            for bundle in run.bundles():
                if (bundle / "trial.json").exists():
                    TrialBundle.read(bundle)
            assert write_report(run).stat().st_size > 1_000
        assert list((self.root / "tmp").glob("ocrepro-*")) == [], "a sandbox is left"

    def clear(self) -> None:
        for name in ("reports", "tmp", "cache"):
            subprocess.run(["rm", "-rf", str(self.root / name)], check=True)
            (self.root / name).mkdir()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def check_output(done: subprocess.CompletedProcess[str], what: str) -> None:
    assert "Traceback" not in done.stdout, f"{what}: {done.stdout}"
    assert "INTERNALERROR" not in done.stdout, f"{what}: {done.stdout}"


@pytest.mark.fire
@pytest.mark.parametrize("portion", range(PORTIONS))
@pytest.mark.parametrize(
    ("kind", "number"),
    [("from", errno.ENOSPC), ("once", errno.ENOSPC), ("from", errno.EROFS)],
    ids=["full", "full for a moment", "read-only"],
)
def test_a_disk_that_fails_at_every_write_of_a_run(place: Place, kind: str, number: int, portion: int) -> None:
    """No traceback, nobody left, no sandbox left, evidence that can be read, and never a verdict on the subject."""
    done = place.run(kind, 1 << 30)
    assert done.returncode == 0, done.stdout
    calls = place.counted()
    assert len(calls) > 30, "the run's writes are seen"
    place.clear()
    told = 0
    for nth in range(1 + portion, len(calls) + 1, PORTIONS):
        done = place.run(kind, nth, number)
        what = f"{kind} {nth} of {len(calls)} ({calls[nth - 1]})"
        check_output(done, what)
        said = os.strerror(number) in done.stdout
        told += said
        struck = len(place.counted()) >= nth  # the number of writes differs by one or two
        if struck and kind == "from" and "/cache/" not in place.counted()[nth - 1]:
            assert done.returncode != 0 or said, f"{what}: nobody was told\n{done.stdout}"
        place.check_evidence()
        place.clear()
    assert place.run("none", 0).returncode == 0
    print(f"\n{kind} {errno.errorcode[number]}, portion {portion}: {len(calls)} writes, {told} told why")


@pytest.mark.fire
def test_a_small_disk(place: Place) -> None:
    """A real one: a file system in memory, 4 KiB larger each time, for reports, sandboxes and cache."""
    roomy = "import pytest_ocrepro.stage.budget as budget\nbudget._free = lambda _: 1 << 62\n"
    (place.root / "roomy.py").write_text(roomy)  # or no trial would begin
    script = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'
    sizes = [4096 * pages for pages in (1, 2, 3, 5, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 512)]
    codes = []
    for size in sizes:
        disk = place.root / "disk"
        disk.mkdir(exist_ok=True)
        project = f"--rootdir={place.root} -c {place.root}/pytest.ini {place.root}/test_it.py"
        command = (
            f"mkdir -p {disk}/tmp {disk}/cache {disk}/reports; TMPDIR={disk}/tmp OCREPRO_CACHE_DIR={disk}/cache "
            f"PYTHONPATH={place.root} {sys.executable} -m pytest --ocrepro -q -proomy -pno:cacheprovider "
            f"--ocrepro-binary={place.root}/opencode --ocrepro-reports={disk}/reports {project}"
            f'; code=$?; echo "left: $(ls -A {disk}/tmp)"; exit $code'
        )
        argv = ["unshare", "-m", "sh", "-c", script, "sh", str(size), str(disk), "sh", "-c", command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LONGEST_S)
        check_output(subprocess.CompletedProcess(argv, done.returncode, done.stdout + done.stderr), f"{size} bytes")
        assert done.stdout.splitlines()[-1] == "left: ", "a sandbox is left"
        assert done.returncode != 0 or "was not written" not in done.stdout, "a run without its page is a success"
        assert done.returncode == 0 or "No space left" in done.stdout + done.stderr, done.stdout + done.stderr
        codes.append(done.returncode)
    print(f"\nexit codes by size: {dict(zip(sizes, codes, strict=True))}")
    assert codes[0] != 0
    assert codes[-1] == 0


@pytest.mark.fire
def test_a_clock_that_is_set_back_by_a_day_at_every_look(place: Place) -> None:
    """Durations are of the monotonic clock; the newest run is the one that began last, whatever its name says."""
    assert place.run("clock", 1 << 30).returncode == 0
    looks = len(place.counted())
    assert looks > 3
    for nth in range(1, looks + 1):
        done = place.run("clock", nth)
        check_output(done, f"look {nth} of {looks}")
        assert done.returncode == 0, done.stdout
        (result,) = RunDir.read(place.root / "reports").results()
        assert result.result == Result.NOT_SEEN
        assert 0 <= result.seconds_to_verdict < LONGEST_S
        assert f"/{RunDir.read(place.root / 'reports').path.name}/report.html" in done.stdout
    place.check_evidence()
    print(f"\n{looks} looks at the clock, at each of them set back once")


GOES = """
import os, shutil
def test_goes(ocrepro):
    first = ocrepro.run("hi")
    shutil.rmtree(os.environ["OCREPRO_CACHE_DIR"])
    os.unlink({binary!r})
    ocrepro.expect(first).to_finish()
"""


def test_a_cache_and_a_build_that_are_deleted_under_a_running_session(place: Place) -> None:
    """The trial that had begun goes on; the next cannot begin, which is nobody's hang, and says so in one line."""
    (place.root / "test_it.py").write_text(GOES.format(binary=str(place.root / "opencode")))
    done = place.run("none", 0, 0, "--ocrepro-trials=2")
    check_output(done, "a cache that goes")
    first, second = RunDir.read(place.root / "reports").results()
    assert first.result == Result.NOT_SEEN
    assert second.result == Result.INCONCLUSIVE
    assert "cannot start opencode: No such file or directory" in second.reason
    place.check_evidence()


# -- /proc


class Fickle:
    """The reads of /proc of other processes, counted; from the nth on that read's process is gone, or only then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.nth = 0
        self.for_good = True
        self.gone = ""
        self._own = str(os.getpid())
        for name, nothing in (("content", None), ("text", None), ("entries", []), ("link", None)):
            monkeypatch.setattr(ProcFiles, name, self._wrapped(getattr(ProcFiles, name), nothing))

    def begin(self, nth: int, *, for_good: bool) -> None:
        self.count, self.nth, self.for_good, self.gone = 0, nth, for_good, ""

    def _wrapped(self, real: Callable[..., object], nothing: object) -> Callable[..., object]:
        def read(files: ProcFiles, path: str, missing: list[str] | None = None) -> object:
            pid = path.partition("/")[0]
            if not pid.isdecimal() or pid == self._own:
                return real(files, path, missing)
            self.count += 1
            if self.count == self.nth:
                self.gone = pid
                return nothing
            if self.for_good and pid == self.gone:
                return nothing
            return real(files, path, missing)

        return read


@pytest.fixture
def fickle(monkeypatch: pytest.MonkeyPatch) -> Fickle:
    return Fickle(monkeypatch)


HANGS = """
import os, signal, subprocess, sys
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[[], Result]]:
    program = tmp_path / "program.py"
    program.write_text(HANGS)
    binary = tmp_path / "opencode"
    binary.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
    binary.chmod(0o755)
    session = Session(RunDir.create(tmp_path / "reports"))
    build = Build(version="9.9.9", path=str(binary), sha256="", source="binary")

    def go() -> Result:
        trial = Trial(session, build, TrialInfo(scenario="s", title="t", version="9.9.9"), "s")
        trial.expect(trial.run("hi", deadline_s=1.0, fail_fast_s=1.0)).to_finish()
        judgement, _ = trial.finish()
        assert TrialBundle.read(session.run_dir.bundles()[-1]).judgement is not None
        assert not trial.sandbox.root.exists()
        left = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True, check=False)
        assert left.stdout == "", "somebody is left"
        return judgement.result

    yield go
    session.close()


@pytest.mark.fire
@pytest.mark.parametrize("portion", range(2))
@pytest.mark.parametrize("for_good", [True, False], ids=["for good", "once"])
def test_proc_of_a_process_goes_at_any_read(
    play: Callable[[], Result], fickle: Fickle, portion: int, *, for_good: bool
) -> None:
    """The judgement of a hang is a hang or unknown, nothing raises, and everybody is ended all the same."""
    fickle.begin(0, for_good=for_good)
    assert play() is Result.REPRODUCED
    reads = fickle.count
    assert reads > 100
    tried = sorted({1 + round((reads - 1) * (part + portion / 2) / 25) for part in range(25)})
    results = []
    for nth in tried:
        fickle.begin(nth, for_good=for_good)
        results.append(play())
        assert results[-1] in (Result.REPRODUCED, Result.INCONCLUSIVE), f"read {nth} of {reads}"
    found = {one.value: results.count(one) for one in set(results)}
    print(f"\ngone {'for good' if for_good else 'once'}: {len(tried)} of about {reads} reads tried: {found}")
