from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ocrepro.errors import BuildError, UsageError
from pytest_ocrepro.stage import cache, subject
from pytest_ocrepro.versions.releases import cache_root

STAND_IN = Path(__file__).parents[1] / "data/subject/stand_in_npm.py"
SIZE = 1_000_000
HOLDER = """
import signal, sys
from pytest_ocrepro.stage import subject
subject.fetch(sys.argv[1])
print("holds", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in npm with five builds of a megabyte each; what this process held is let go at the end."""
    folder, shim = tmp_path / "registry", tmp_path / "bin/npm"
    folder.mkdir()
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_NPM", str(folder))
    monkeypatch.setenv("OCREPRO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("OCREPRO_CACHE_LIMIT", raising=False)
    for number in range(5):
        script = f"#!/bin/sh\n# opencode\necho 1.0.{number}\n".encode()
        info = tarfile.TarInfo("package/bin/opencode")
        info.size = SIZE
        with tarfile.open(folder / f"1.0.{number}.tgz", "w:gz") as archive:
            archive.addfile(info, io.BytesIO(script.ljust(SIZE, b"#")))
    (folder / "plan.json").write_text(json.dumps({"latest": "1.0.4"}))
    yield folder
    for path in list(cache._held):
        os.close(cache._held.pop(path))


def used(version: str, at: float, **more: object) -> None:
    """Fetched, used at that time, and let go."""
    build = subject.fetch(version, **more)  # type: ignore[arg-type]
    subject.release(build)
    lock = cache_root() / "locks" / f"{build.package}-{build.version}.use"
    os.utime(lock, (at, at))


def here() -> list[str]:
    return [record.version for record in subject.stored()]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1500", 1500), ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9), ("1.5MB", 1_500_000), ("3G", 3 * 10**9)],
)
def test_sizes(text: str, size: int) -> None:
    assert cache.parse_size(text, "--x") == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1PB", "GB", "1,5GB"])
def test_what_is_no_size_names_its_source(text: str) -> None:
    with pytest.raises(UsageError, match=r"OCREPRO_CACHE_LIMIT is .* it must be a size such as 500MB or 2GB"):
        cache.parse_size(text, "OCREPRO_CACHE_LIMIT")


def test_what_was_used_longest_ago_goes_first() -> None:
    used("1.0.0", at=300.0)
    used("1.0.1", at=100.0)
    used("1.0.2", at=200.0)
    subject.fetch("1.0.3", limit_bytes=3 * SIZE)
    assert here() == ["1.0.0", "1.0.2", "1.0.3"]
    subject.fetch("1.0.0", limit_bytes=2 * SIZE)
    assert here() == ["1.0.0", "1.0.3"]
    assert not list((cache_root() / "tmp").glob("*"))


def test_where_there_are_no_locks_nothing_stays_open_or_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    used("1.0.0", 1.0)

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refused)
        cache.hold(cache_root(), "opencode-x", "1.0.0")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    monkeypatch.setattr(Path, "rename", refused)
    entry = next(cache_root().glob("builds/*/1.0.0/*"))
    assert cache.make_room(cache_root(), [(entry, SIZE)], 1) == []
    assert list((cache_root() / "tmp").glob("evicted-*")) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_a_limit_nothing_goes_and_within_it_neither() -> None:
    for number in range(3):
        used(f"1.0.{number}", at=number)
    assert len(here()) == 3
    subject.fetch("1.0.3", limit_bytes=4 * SIZE)
    assert len(here()) == 4


def test_the_environment_may_set_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    used("1.0.0", at=1.0)
    monkeypatch.setenv("OCREPRO_CACHE_LIMIT", "1MB")
    subject.fetch("1.0.1")
    assert here() == ["1.0.1"]
    monkeypatch.setenv("OCREPRO_CACHE_LIMIT", "some")
    with pytest.raises(UsageError, match="OCREPRO_CACHE_LIMIT is 'some'"):
        subject.fetch("1.0.2")


def test_a_build_in_use_never_goes_whoever_uses_it() -> None:
    mine = subject.fetch("1.0.0")
    command = [sys.executable, "-c", HOLDER, "1.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        for version in ("1.0.0", "1.0.1"):
            lock = cache_root() / "locks" / f"{mine.package}-{version}.use"
            os.utime(lock, (1, 1))
        used("1.0.2", at=2.0)
        subject.fetch("1.0.3", limit_bytes=0)
        assert here() == ["1.0.0", "1.0.1", "1.0.3"]
        os.kill(other.pid, signal.SIGKILL)
    subject.release(mine)
    subject.fetch("1.0.4", limit_bytes=0)
    assert here() == ["1.0.3", "1.0.4"], "1.0.3 is still ours; a killed process holds nothing"


def test_one_that_went_is_fetched_again(registry: Path) -> None:
    used("1.0.0", at=1.0)
    subject.fetch("1.0.1", limit_bytes=SIZE)
    assert here() == ["1.0.1"]
    again = subject.fetch("1.0.0")
    assert Path(again.path).is_file()
    assert (registry / "asked").read_text().count("pack ") == 3


def test_a_build_that_goes_between_finding_and_holding_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    used("1.0.0", at=1.0)
    hold = cache.hold
    taken: list[str] = []

    def late(root: Path, package: str, version: str) -> None:
        if not taken:
            taken.append(version)
            (entry,) = (root / "builds" / package / version).iterdir()
            entry.rename(root / "gone")
        hold(root, package, version)

    monkeypatch.setattr(cache, "hold", late)
    build = subject.fetch("1.0.0")
    assert taken == ["1.0.0"]
    assert Path(build.path).is_file()
    monkeypatch.setattr(cache, "hold", _always_gone)
    with pytest.raises(BuildError, match=r"goes from .* as fast as it comes: raise the cache's limit"):
        subject.fetch("1.0.0")


def _always_gone(root: Path, package: str, version: str) -> None:
    for entry in (root / "builds" / package / version).iterdir():
        entry.rename(root / f"gone-{len(list(root.iterdir()))}")


def test_a_cache_that_is_only_readable_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used("1.0.0", at=1.0)
    really = os.open

    def only_to_read(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(13, "Permission denied")
        return really(path, flags, *rest)

    monkeypatch.setattr(os, "open", only_to_read)
    assert Path(subject.fetch("1.0.0", limit_bytes=0).path).is_file()
    assert here() == ["1.0.0"]
