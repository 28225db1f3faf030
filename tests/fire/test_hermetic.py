"""Hermetic, proven from outside: no host but this one is ever asked for, and no file beyond the sandbox is touched.

Each oracle here is tried against a stand-in that does the forbidden thing. The catalogue on the real build by hand,
``pytest tests/fire/test_hermetic.py -m fire -s`` (some 12 minutes; ``-k overlapping`` is one file of it).
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_ocrepro.publish.bundle import RunDir, TrialResult
from pytest_ocrepro.stage.subject import PINNED, resolve

ROOT = Path(__file__).parents[2]
LONGEST_S = 280.0
MOST_ROUNDS = 3  # a loaded machine may say "failed late" once; what a network makes of a trial says so each time
NOWHERE = "192.0.2.1"  # RFC 5737: documentation, routed by nobody
CANARY = "canary-of-the-user-7f3a91"
SMOKE = (
    "cold_start_stampede",
    "crash_in_bash_tool",
    "endless_stdin",
    "headless_permission",
    "held_database_lock",
    "overlap_during_plugin_install",
    "overlapping_runs",
    "question_lockout",
)
BY_CHANCE = "not on_an_empty_data_directory"  # 14 of 20 on the pinned build: no difference can be told in one trial

ONLY_LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:  # netdevice(7): SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))
assert [name for _, name in socket.if_nameindex() if name == "lo"]
os.execv(sys.argv[1], sys.argv[1:])
"""
# what is written on the machine's own file system is kept aside; /dev/shm is another, the place is ours
KEPT_ASIDE = """
set -e
place=$1 aside=$1/aside; shift
mkdir -p "$aside"; mount -t tmpfs none "$aside"; mkdir "$aside"/up "$aside"/work "$aside"/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$aside/up,workdir=$aside/work" "$aside/root"
for one in /proc /dev /sys; do mount --rbind "$one" "$aside/root$one"; done
mount -t tmpfs none "$aside/root/dev/shm"; mount --bind "$place" "$aside/root$place"
code=0; chroot "$aside/root" "$@" || code=$?
cd "$aside/up"; find . ! -type d -printf '/%P\\n' >"$place/changed"
cd "$aside/root/dev/shm"; find . ! -type d -printf '/dev/shm/%P\\n' >>"$place/changed"
exit "$code"
"""
HEAD = "import os, socket, sys\nif sys.argv[1:] == ['--version']: sys.exit(print('9.9.9'))\n"
SCENARIO = """
def test_runs(ocrepro):
    ocrepro.expect(ocrepro.run("hi")).to_finish()
"""


def works(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


needs_namespace = pytest.mark.skipif(not works("unshare", "-n", "true"), reason="no network namespace may be made")
needs_aside = pytest.mark.skipif(not works("unshare", "-m", "true"), reason="no mount namespace may be made")
needs_strace = pytest.mark.skipif(not works("strace", "-f", "true"), reason="strace is missing, or may not trace")
ALONE = ("unshare", "-n", sys.executable, "-I", "-c", ONLY_LOOPBACK)


@dataclass
class Place:
    """Where runs take place: temporary files, cache, reports, and a home full of what must not change."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("tmp", "home"):
            (self.root / name).mkdir()
        (self.root / "test_runs.py").write_text(SCENARIO)
        (self.root / "pytest.ini").write_text("[pytest]\n")
        for name in (
            ".local/share/opencode/auth.json",
            ".local/share/opencode/opencode.db",
            ".local/state/opencode/locks/x.lock/meta.json",
            ".config/opencode/opencode.json",
            ".cache/opencode/version",
            ".opencode/plugin/mine.js",
            ".npmrc",
            ".gitconfig",
            ".bashrc",
            "project/opencode.json",
        ):
            file = self.root / "home" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'"{CANARY}"\n')

    @property
    def home(self) -> Path:
        return self.root / "home"

    def stand_in(self, code: str) -> Path:
        program = self.root / "program.py"
        program.write_text(
            f"import os, socket, sys\nif sys.argv[1:] == ['--version']: sys.exit(print('9.9.9'))\n{code}"
        )
        path = self.root / "opencode"
        path.write_text(f'#!/bin/bash\nexec -a opencode {sys.executable} {program} "$@"\n')
        path.chmod(0o755)
        return path

    def run(self, binary: Path, *scenarios: str, prefix: tuple[str, ...] = (), name: str = "reports") -> Outcomes:
        places = [f"--rootdir={ROOT if scenarios else self.root}", f"-c{self.root / 'pytest.ini'}"]
        options = [f"--ocrepro-binary={binary}", f"--ocrepro-reports={self.root / name}", "--ocrepro-expect=any"]
        what = scenarios or (str(self.root / "test_runs.py"),)
        argv = [sys.executable, "-m", "pytest", "--ocrepro", "-q", "-pno:cacheprovider", *options, *places, *what]
        own = {
            "HOME": str(self.home),
            "TMPDIR": str(self.root / "tmp"),
            "OCREPRO_CACHE_DIR": str(self.root / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "GITHUB_", "OCREPRO_"))
        }
        done = subprocess.run(
            [*prefix, *argv],
            cwd=self.root,
            env={**kept, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LONGEST_S,
        )
        assert done.returncode == 0, done.stdout
        return {(one.scenario, one.trial): told(one) for one in RunDir.read(self.root / name).results()}

    def conclude(self, *what: Any, **how: Any) -> Outcomes:
        """The same, again where a loaded machine kept a trial from its point: that says nothing either way."""
        for _ in range(3):
            outcomes = self.run(*what, **how)
            if all(one[0] != "inconclusive" for one in outcomes.values()):
                return outcomes
        pytest.fail(f"three runs were not conclusive: {outcomes}")

    def changed(self) -> list[str]:
        """What was written beyond this place, of a run with KEPT_ASIDE."""
        return (self.root / "changed").read_text().splitlines()

    def canaries(self) -> dict[str, tuple[object, ...]]:
        """Every entry of the home with what would change if it were touched, or looked at with its name changed."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted([self.home, *self.home.rglob("*")]):
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)
        return found

    def aside(self) -> tuple[str, ...]:
        return ("unshare", "-m", "bash", "-c", KEPT_ASIDE, "bash", str(self.root))

    def traced(self) -> tuple[str, ...]:
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        return (
            "strace",
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            calls,
            "-e",
            "signal=none",
            "-o",
            str(self.root / "calls"),
        )

    def addressed(self) -> list[str]:
        """Every address that a process of the run wrote into a call, of a run that was traced."""
        return addresses((self.root / "calls").read_text(errors="replace"))


Outcomes = dict[tuple[str, int], tuple[str, ...]]


def told(result: TrialResult) -> tuple[str, ...]:
    """Without the texts of the findings: pids, ids of sessions and times in them are never the same twice."""
    return (str(result.result), str(result.verdict), *sorted({str(one.kind) for one in result.findings}))


def apart(outside: list[Outcomes], inside: list[Outcomes]) -> list[tuple[str, int]]:
    """Trials that came out in no way outside as inside; which lock a run leaves behind is chance in both."""
    trials = {trial for outcomes in (*outside, *inside) for trial in outcomes}
    return sorted(
        one for one in trials if not {run.get(one) for run in outside} & {run.get(one) for run in inside} - {None}
    )


def addresses(trace: str) -> list[str]:
    v4 = re.findall(r'sin_addr=inet_addr\("([^"]+)"\)', trace)
    v6 = re.findall(r'inet_pton\(AF_INET6, "([^"]+)"', trace)
    return v4 + v6


def beyond(found: list[str]) -> set[str]:
    return {one for one in found if not one.startswith("127.") and one not in ("::1", "::ffff:127.0.0.1")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path)
    assert list((tmp_path / "tmp").glob("ocrepro-*")) == [], "a sandbox is left"


@pytest.fixture
def real() -> Path:
    return Path(resolve(None, [PINNED])[0].path)


HONEST = "print('done')"
# sees whether there is a way out; nothing is sent: connect(2) of a datagram socket only asks for a route
LOOKS_FOR_A_WAY = f"""
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    try: one.connect(("{NOWHERE}", 9))
    except OSError: sys.exit("Error: no network")
print("done")
"""


# -- the oracles, with stand-ins: two runs of pytest each, so by hand too


def has_a_way_out() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.connect_ex((NOWHERE, 9)) == 0


@pytest.mark.fire
@needs_namespace
@pytest.mark.skipif(not has_a_way_out(), reason="there is no network here that could make a difference")
def test_one_that_looks_for_a_way_out_makes_a_difference_without_a_network(place: Place) -> None:
    binary = place.stand_in(LOOKS_FOR_A_WAY)
    outside, inside = (
        [place.run(binary, prefix=prefix, name=name) for _ in range(2)]
        for prefix, name in (((), "reports"), (ALONE, "alone"))
    )
    assert apart(outside, outside) == []
    assert len(apart(outside, inside)) == 1


@pytest.mark.fire
@needs_strace
@pytest.mark.parametrize(
    ("code", "caught"),
    [
        (HONEST, set()),
        (LOOKS_FOR_A_WAY, {NOWHERE}),
        (
            f"""
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    try: one.sendto(b"x", 0, ("::ffff:{NOWHERE}", 9))
    except OSError: pass
""",
            {f"::ffff:{NOWHERE}"},
        ),
    ],
    ids=["honest", "connects", "sends"],
)
def test_a_call_that_names_another_host_is_found(place: Place, code: str, caught: set[str]) -> None:
    """A datagram to an address of no one's; on an honest run only loopback is named, and that it is."""
    place.run(place.stand_in(code), prefix=place.traced())
    assert beyond(place.addressed()) == caught


def test_what_a_trace_says_is_read() -> None:
    """As strace 6.1 prints it."""
    trace = """
31 connect(5, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("104.16.2.35")}, 16) = -1 EINPROGRESS
31 connect(6, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
32 sendto(7, "x", 1, 0, {sa_family=AF_INET6, sin6_port=htons(9), sin6_flowinfo=htonl(0), \
inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = 1
33 connect(8, {sa_family=AF_UNIX, sun_path="/tmp/x"}, 110) = 0
"""
    assert addresses(trace) == ["104.16.2.35", "127.0.0.1", "2001:db8::1"]
    assert beyond(addresses(trace)) == {"104.16.2.35", "2001:db8::1"}


@pytest.mark.fire
@pytest.mark.parametrize("kind", ["honest", "touches", "reads and tells"])
def test_a_home_that_was_touched_is_found(place: Place, kind: str) -> None:
    code = {
        "honest": HONEST,
        "touches": f"os.utime({str(place.home / '.bashrc')!r})",
        "reads and tells": f"print(open({str(place.home / '.npmrc')!r}).read())",
    }[kind]
    before = place.canaries()
    place.run(place.stand_in(code))
    assert (place.canaries() == before) == (kind != "touches")
    assert (told_canaries(place) != []) == (kind == "reads and tells")


def told_canaries(place: Place) -> list[Path]:
    """Files of the reports that hold what only the user's home holds."""
    files = (one for one in (place.root / "reports").rglob("*") if one.is_file() and not one.is_symlink())
    return [one for one in files if CANARY.encode() in one.read_bytes()]


@pytest.mark.fire
@needs_aside
@pytest.mark.parametrize("kind", ["honest", "writes", "deletes"])
def test_a_file_beyond_the_sandbox_that_was_changed_is_found(place: Place, kind: str) -> None:
    """Nothing of it gets through to the machine's own files: what is written is kept aside."""
    code = {
        "honest": HONEST,
        "writes": "open('/var/tmp/of-a-stand-in', 'w').write('x')",
        "deletes": "os.unlink('/etc/hostname')",
    }[kind]
    expected = {"honest": [], "writes": ["/var/tmp/of-a-stand-in"], "deletes": ["/etc/hostname"]}[kind]
    if kind == "deletes" and not Path("/etc/hostname").exists():
        pytest.skip("there is no /etc/hostname here")
    place.run(place.stand_in(code), prefix=place.aside())
    assert place.changed() == expected
    assert not Path("/var/tmp/of-a-stand-in").exists()
    assert kind != "deletes" or Path("/etc/hostname").exists()


# -- the catalogue, on the real build


@pytest.mark.fire
@needs_namespace
@needs_aside
@pytest.mark.parametrize("file", SMOKE)
def test_the_catalogue_is_the_same_without_a_network_and_changes_no_file(place: Place, real: Path, file: str) -> None:
    """In a network namespace with nothing but loopback, with all that is written on the machine kept aside."""
    scenarios = (f"{ROOT}/scenarios/test_{file}.py", "-k", BY_CHANCE)
    before = place.canaries()
    outside: list[Outcomes] = []
    inside: list[Outcomes] = []
    while not inside or (apart(outside, inside) and len(inside) < MOST_ROUNDS):
        outside.append(place.conclude(real, *scenarios))
        inside.append(place.conclude(real, *scenarios, prefix=(*place.aside(), *ALONE), name="alone"))
        assert place.changed() == []
    assert apart(outside, inside) == [], (outside, inside)
    assert inside[-1]
    assert place.canaries() == before
    assert told_canaries(place) == []
    told_inside = sorted(inside[-1].values())
    print(f"\n{file}: {len(inside[-1])} trials, {len(inside)} times, the same inside and outside", *told_inside)


@pytest.mark.fire
@needs_strace
@pytest.mark.parametrize("file", SMOKE)
def test_the_catalogue_names_no_other_host(place: Place, real: Path, file: str) -> None:
    outcomes = place.run(real, f"{ROOT}/scenarios/test_{file}.py", prefix=place.traced())
    named = place.addressed()
    assert beyond(named) == set()
    assert named, "opencode asks its model on loopback, which must be seen"
    print(f"\n{file}: {len(named)} calls with an address in {len(outcomes)} trials, all on loopback")
