from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.executable import sha256_of
from pytest_ocrepro.versions import programs, releases
from tests.data.subject.packages import build, executable, member, script, tarball

STAND_IN = Path(__file__).parents[1] / "data/subject/stand_in_npm.py"
PACKAGE = releases.platform_package(releases.this_machine())


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in npm first on PATH; returns the directory that it serves."""
    folder = tmp_path / "registry"
    folder.mkdir()
    shim = tmp_path / "bin/npm"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("STAND_IN_NPM", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    for version in ("1.0.0", "1.2.0", "1.10.0"):
        (folder / f"{version}.tgz").write_bytes(build(version))
    plan(folder, latest="1.10.0")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plan(registry: Path, **what: str) -> None:
    (registry / "plan.json").write_text(json.dumps(what))


def downloads(registry: Path) -> int:
    return (registry / "asked").read_text().count("pack ")


def nothing_half_done(cache: Path) -> bool:
    """No entry, no temporary file; the lock file stays, as filelock wants it."""
    left = [path for name in ("builds", "tmp") for path in (cache / name).rglob("*") if path.is_file()]
    return not left and not list((cache / "tmp").glob("*"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"not seen in 20 s: {what}"
        time.sleep(0.01)


# --- fetching


def test_a_build_is_fetched_verified_and_stored_once(registry: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    first = subject.fetch("1.2.0", progress=lambda *step: seen.append(step))
    assert (first.version, first.source, first.package, first.label) == ("1.2.0", "cache", PACKAGE, "1.2.0")
    assert first.integrity.startswith("sha512-")
    assert subprocess.run([first.path], capture_output=True, check=True).stdout == b"1.2.0\n"
    assert sha256_of(Path(first.path)) == first.sha256
    assert subject.fetch("v1.2.0") == first
    assert downloads(registry) == 1
    assert [what for _, _, what in seen if what.startswith("downloading")]
    last = [step for step in seen if step[2] == "unpacking"][-1]
    assert last[:2] == ((registry / "1.2.0.tgz").stat().st_size,) * 2
    assert not list((tmp_path / "cache/tmp").glob("*"))
    assert [(record.version, record.sha256) for record in subject.stored()] == [("1.2.0", first.sha256)]


def test_the_growing_download_is_shown(registry: Path) -> None:
    os.mkfifo(registry / "gate")
    seen: list[int] = []

    def progress(done_bytes: int, _: int, what: str) -> None:
        if what == "downloading opencode 1.2.0" and done_bytes:
            seen.append(done_bytes)
            if len(seen) == 1:
                (registry / "gate").write_bytes(b"")

    subject.fetch("1.2.0", progress=progress)
    assert seen[0] == (registry / "1.2.0.tgz").stat().st_size


def test_latest_is_asked_for_and_both_names_are_one_build(registry: Path) -> None:
    builds = subject.resolve(None, ["latest", "1.10.0", "1.0.0"])
    assert [build.version for build in builds] == ["1.10.0", "1.0.0"]
    assert downloads(registry) == 2


def test_offline_serves_what_is_cached_and_names_it_otherwise(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = subject.fetch("latest")
    assert subject.fetch("1.10.0", offline=True) == fetched
    assert subject.fetch("latest", offline=True) == fetched
    assert "opencode latest is 1.10.0 by an old list" in caplog.text
    with pytest.raises(
        BuildError, match=r"opencode 1\.0\.0 is not in the cache and we are offline; cached: 1\.10\.0"
    ):
        subject.fetch("1.0.0", offline=True)
    plan(registry, view="ENOTFOUND", pack="ENOTFOUND")
    assert subject.fetch("1.10.0") == fetched


def test_an_unknown_version_downloads_nothing(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"opencode 1\.1\.0 is not published .*: 1\.0\.0, 1\.2\.0, 1\.10\.0$"):
        subject.fetch("1.1.0")
    assert downloads(registry) == 0
    assert nothing_half_done(tmp_path / "cache")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"cut": "yes"}, r"is not what the registry announced .* cut or altered on its way, fetch it again"),
        ({"told": "sha512-" + "A" * 86 + "=="}, "is not what the registry announced"),
        ({"packed": "sha512-" + "A" * 86 + "=="}, "is not what the registry announced"),
        ({"packed": "sha512-%%%"}, "is not what the registry announced"),
        ({"told": "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="}, "the registry gives no sha512 for"),
        ({"pack": "ECONNREFUSED"}, r"the npm registry does not answer \(ECONNREFUSED\)"),
        ({"pack": "ETIMEDOUT"}, r"the npm registry does not answer \(ETIMEDOUT\)"),
        ({"pack": "ECONNRESET"}, r"the download broke off .* try again"),
        ({"pack": "ENOSPC"}, "no space left for the download"),
        ({"pack": "noise"}, "printed something unexpected"),
        ({"view": "ENOTFOUND"}, r"the npm registry does not answer \(ENOTFOUND\)"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    registry: Path, tmp_path: Path, trouble: dict[str, str], words: str
) -> None:
    plan(registry, **trouble)
    with pytest.raises(BuildError, match=words) as caught:
        subject.fetch("1.2.0")
    assert "\n" not in str(caught.value)
    assert nothing_half_done(tmp_path / "cache")
    plan(registry)
    assert subject.fetch("1.2.0").version == "1.2.0"


def test_a_download_that_hangs_is_ended(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(registry, pack="hang")
    monkeypatch.setattr(releases, "PACK_TIMEOUT_S", 0.5)
    with pytest.raises(BuildError, match=r"npm pack was ended \(no end within 0\.5 s\): check the network"):
        subject.fetch("1.2.0")
    assert nothing_half_done(tmp_path / "cache")
    pid = int((registry / "asked").read_text().split()[-1])
    assert not psutil.pid_exists(pid)


def test_a_full_disk_is_named_and_left_as_it_was(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match=r"no space left in the cache .*: free some, or set OCREPRO_CACHE_DIR"):
        subject.fetch("1.2.0")
    assert nothing_half_done(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BuildError, match=r"the cache .* cannot be written \(Not a directory\): set OCREPRO_CACHE_DIR"
    ):
        subject.fetch("1.2.0", cache_dir=tmp_path / "file/cache")
    assert not (registry / "asked").exists(), "npm is not even asked"


def test_a_build_that_does_not_run_here_is_not_stored(registry: Path, tmp_path: Path) -> None:
    broken = tarball(member("package/bin/opencode", b"#!/bin/sh\n# opencode\necho no AVX2 here >&2; exit 132\n"))
    (registry / "1.2.0.tgz").write_bytes(broken)
    with pytest.raises(BuildError, match="--version ended with 132 and printed 'no AVX2 here'"):
        subject.fetch("1.2.0")
    assert nothing_half_done(tmp_path / "cache")


FETCH = """
import sys
from pytest_ocrepro.stage import subject
from pytest_ocrepro.stage.executable import sha256_of
told = set()
def progress(done_bytes, total_bytes, what):
    if what not in told:
        told.add(what)
        print(what, flush=True)
print(subject.fetch("1.2.0", progress=progress).path, flush=True)
"""


@contextlib.contextmanager
def fetching() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FETCH],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(subject.__file__).parents[2])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_at_once_do_one_download(registry: Path) -> None:
    gate = registry / "gate"
    os.mkfifo(gate)
    with fetching() as first, fetching() as second:
        waiting = "waiting for another process that fetches opencode 1.2.0"
        assert {said(first), said(second)} == {"downloading opencode 1.2.0", waiting}
        gate.write_bytes(b"")
        paths = {process.communicate(timeout=30)[0].split()[-1] for process in (first, second)}
    assert paths == {subject.fetch("1.2.0").path}
    assert downloads(registry) == 1


def test_a_fetch_that_was_killed_does_not_stand_in_the_way(registry: Path, tmp_path: Path) -> None:
    gate = registry / "gate"
    os.mkfifo(gate)
    with fetching() as killed:
        assert said(killed) == "downloading opencode 1.2.0"
        wait_until(lambda: (registry / "asked").exists() and downloads(registry) == 1, "npm pack was called")
        orphan = psutil.Process(int((registry / "asked").read_text().split()[-1]))
        killed.send_signal(signal.SIGKILL)
    assert list((tmp_path / "cache/tmp").glob("*/*"))
    gate.rename(registry / "old-gate")
    assert subject.fetch("1.2.0").version == "1.2.0"
    (registry / "old-gate").write_bytes(b"")
    wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the orphaned npm ended")
    assert not list((tmp_path / "cache/tmp").glob("*"))


def truncated(file: Path) -> None:
    os.truncate(file, 10)


def altered(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(0, 0))


def altered_with_its_times(file: Path) -> None:
    """As a subject could do it to its own executable."""
    times = file.stat()
    file.chmod(0o755)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    file.chmod(0o555)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def not_executable(file: Path) -> None:
    file.chmod(0o644)


def removed(file: Path) -> None:
    file.unlink()


def without_record(file: Path) -> None:
    (file.parents[2] / "build.json").write_bytes(b'{"package": ')


def with_a_pipe_for_record(file: Path) -> None:
    (file.parents[2] / "build.json").unlink()
    os.mkfifo(file.parents[2] / "build.json")


def with_a_record_without_end(file: Path) -> None:
    os.truncate(file.parents[2] / "build.json", 1 << 40)  # sparse


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o555)


def without_end(file: Path) -> None:
    file.chmod(0o755)
    os.truncate(file, 1 << 40)


DAMAGES = [truncated, altered, altered_with_its_times, not_executable, removed, without_record]
TRAPS = [with_a_pipe_for_record, with_a_record_without_end, a_pipe, without_end]


@pytest.mark.timeout(120)  # what reads a trap has no end
@pytest.mark.parametrize("damage", [*DAMAGES, *TRAPS])
def test_a_damaged_entry_is_fetched_anew(registry: Path, damage: Callable[[Path], None]) -> None:
    first = subject.fetch("1.2.0")
    damage(Path(first.path))
    with pytest.raises(BuildError, match="not in the cache"):
        subject.fetch("1.2.0", offline=True)
    again = subject.fetch("1.2.0")
    assert (again, downloads(registry)) == (first, 2)
    assert sha256_of(Path(again.path)) == first.sha256
    assert len(list(Path(first.path).parents[3].iterdir())) == 1


def test_a_touched_entry_is_read_once_and_believed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = subject.fetch("1.2.0")
    os.utime(first.path, ns=(5, 5))
    assert subject.fetch("1.2.0") == first
    assert [record.mtime_ns for record in subject.stored()] == [5]
    monkeypatch.setattr(subject, "sha256_of", lambda file: pytest.fail("read again"))
    assert subject.fetch("1.2.0") == first
    assert downloads(registry) == 1


def test_a_cache_is_made_for_us_alone_whatever_the_umask(registry: Path, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        first = subject.fetch("1.2.0")
    finally:
        os.umask(umask)
    root = tmp_path / "cache"
    entry = Path(first.path).parents[2]
    ours = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_relative_to(entry))]
    ours = [path for path in ours if not path.is_relative_to(root / "npm/_cacache")]  # npm's
    assert {path.name for path in ours} >= {"cache", "builds", "locks", "npm", "releases", "tmp", "1.2.0"}
    assert {path.name: path.stat().st_mode & 0o777 for path in ours} == {path.name: 0o700 for path in ours}
    assert Path(first.path).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])  # the last: a directory like /tmp
@pytest.mark.parametrize("place", ["", "builds", "identities", "commits"])
def test_a_cache_to_which_others_may_write_is_refused(cache: Path, tmp_path: Path, place: str, mode: int) -> None:
    given = executable(tmp_path / "opencode", script("1.2.3"))
    shared = cache / place
    shared.mkdir(mode=0o700, parents=True)
    shared.chmod(mode)
    for ask in (partial(subject.fetch, "1.2.0", offline=True), partial(subject.from_binary, given)):
        with pytest.raises(BuildError, match=rf"^others may write to the cache {shared}: chmod go-w {shared},"):
            ask()
    shared.chmod(mode & ~0o022)
    assert subject.from_binary(given).version == "1.2.3"


def test_a_cache_of_somebody_else_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    os.chown(cache, 4712 if os.geteuid() == 0 else os.geteuid(), -1)
    with pytest.raises(BuildError, match=r"belongs to user \d+: set OCREPRO_CACHE_DIR"):
        subject.fetch("1.2.0", offline=True)


def test_a_republished_version_is_another_entry(registry: Path) -> None:
    first = subject.fetch("1.2.0")
    Path(first.path).unlink()
    (registry / "1.2.0.tgz").write_bytes(tarball(member("package/bin/opencode", script("1.2.0"))))
    second = subject.fetch("1.2.0")
    assert second.path != first.path
    assert second.integrity != first.integrity


# --- hostile packages


def test_a_hostile_package_leaves_nothing_in_the_cache(registry: Path, tmp_path: Path) -> None:
    link = member("package/bin/link", kind=tarfile.SYMTYPE, link="/")
    (registry / "1.2.0.tgz").write_bytes(tarball(member("package/bin/opencode", b"#!/bin/sh\n"), link))
    with pytest.raises(BuildError, match="is refused: 'package/bin/link' is a link"):
        subject.fetch("1.2.0")
    assert nothing_half_done(tmp_path / "cache")


# --- which build


def test_the_order_is_binary_versions_path_pinned(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = executable(tmp_path / "mine/opencode-dev", script("1.5.0"))
    [pinned] = subject.resolve(None, [], pinned="1.0.0")
    assert (pinned.version, pinned.source) == ("1.0.0", "cache")
    on_path = executable(tmp_path / "bin/opencode", script("1.6.0"))
    [found] = subject.resolve(None, [], pinned="1.0.0")
    assert (found.version, found.source, found.path) == ("1.6.0", "path", str(on_path))
    assert [build.version for build in subject.resolve(None, ["1.2.0"], pinned="1.0.0")] == ["1.2.0"]
    assert [build.version for build in subject.resolve(str(mine), ["1.2.0"], pinned="1.0.0")] == ["1.5.0"]
    with pytest.raises(BuildError, match="there is no"):
        subject.resolve(str(tmp_path / "gone"), ["1.2.0"], pinned="1.0.0")


def test_builds_survive_a_round_through_json(cache: Path, tmp_path: Path) -> None:
    found = subject.from_binary(executable(tmp_path / "opencode", script("1.4.2")))
    assert msgspec.json.decode(msgspec.json.encode(found), type=subject.Build) == found


@pytest.mark.real
def test_the_pinned_build_is_fetched_from_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    steps: list[tuple[int, int, str]] = []
    fetched = subject.fetch(subject.PINNED, progress=lambda *step: steps.append(step))
    assert {what for _, _, what in steps} == {f"downloading opencode {subject.PINNED}", "unpacking"}
    own = subject.from_binary(fetched.path)
    assert (own.version, own.sha256) == (subject.PINNED, fetched.sha256)
    monkeypatch.setattr(programs, "run_bounded", lambda *_, **__: pytest.fail("something was started"))
    assert subject.from_binary(fetched.path) == own
    assert subject.fetch(subject.PINNED) == fetched
    assert not (tmp_path / "home").exists()
    assert not list((tmp_path / "cache/tmp").glob("*"))
