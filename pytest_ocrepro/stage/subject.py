"""Which opencode build: resolve what was asked for, fetch it from npm, verify it, store it once.

In the cache an entry is ``builds/<package>/<version>/<integrity>/``, with ``package/bin/opencode`` and
``build.json`` in it. It appears by one rename when it is whole: readers need no lock, writers take one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import filelock
import msgspec
import semver

from pytest_ocrepro.errors import BuildError
from pytest_ocrepro.observe.regular import read_small
from pytest_ocrepro.stage import cache, download, executable
from pytest_ocrepro.stage.executable import sha256_of
from pytest_ocrepro.stage.tarball import EXECUTABLE, Progress, check_integrity, no_progress, unpack
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.releases import cache_root, make_private, platform_package, this_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

PINNED: Final = "1.18.34"
LOCK_TIMEOUT_S = 900.0
TRIES: Final = 3
_RECORD_BYTES: Final = 1 << 16  # one of ours has 500
_log = logging.getLogger("pytest_ocrepro")


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One installable opencode that runs here.

    ``source``: "binary" (named by the user), "path" (found on PATH) or "cache" (fetched). ``package`` and
    ``integrity`` are npm's, "" for other sources. ``label`` is unique among builds and fit for a file name.
    """

    version: str
    path: str
    sha256: str
    source: str
    package: str = ""
    integrity: str = ""
    label: str = ""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """``build.json`` of one entry of the cache; size and times are the executable's.

    A subject may overwrite its own executable and set the time back; ctime (inode(7)) it cannot set. 0: not stored.
    """

    package: str
    version: str
    integrity: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    fetched_at: str
    ctime_ns: int = 0


def resolve(
    binary: str | None,
    versions: Sequence[str],
    *,
    pinned: str = PINNED,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    limit_bytes: int | None = None,
) -> list[Build]:
    """The named binary, else these versions (each once), else ``opencode`` on PATH, else the pinned release.

    Raises BuildError.
    """
    if binary:
        return [from_binary(binary, cache_dir=cache_dir)]
    on_path = None if versions else shutil.which("opencode")
    if on_path:
        return [from_binary(on_path, source="path", cache_dir=cache_dir)]
    builds = (
        fetch(version, cache_dir=cache_dir, progress=progress, offline=offline, limit_bytes=limit_bytes)
        for version in versions or (pinned,)
    )
    return list({build.label: build for build in builds}.values())


def fetch(
    version: str,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    offline: bool = False,
    limit_bytes: int | None = None,
) -> Build:
    """The published build of a version or tag, from the cache or else from npm, shared by parallel processes.

    ``progress(done_bytes, total_bytes, what)`` is called often; a total of 0 is unknown. It is in use from then on,
    until :func:`release` or our end; with ``limit_bytes`` (or OCREPRO_CACHE_LIMIT) others that nobody uses go when
    the cache has become larger. Raises BuildError.
    """
    root = cache_root(cache_dir)
    cache.check_owner(root)
    if limit_bytes is None and os.environ.get("OCREPRO_CACHE_LIMIT"):
        limit_bytes = cache.parse_size(os.environ["OCREPRO_CACHE_LIMIT"], "OCREPRO_CACHE_LIMIT")
    for _ in range(TRIES):
        build = _found_or_fetched(version, root, progress=progress, offline=offline)
        cache.hold(root, build.package, build.version)
        if Path(build.path).exists():  # nobody evicted it between the two
            break
        cache.release(root, build.package, build.version)
    else:
        raise BuildError(f"opencode {version} goes from {root} as fast as it comes: raise the cache's limit")
    if limit_bytes is not None:
        entries = [(entry, record.size_bytes) for entry in _entries(root) if (record := _record(entry)) is not None]
        for gone in cache.make_room(root, entries, limit_bytes):
            _log.info("opencode %s went from the cache, whose limit is %d bytes", gone.parent.name, limit_bytes)
    return build


def release(build: Build, *, cache_dir: str | Path | None = None) -> None:
    """Our process needs a fetched build no longer; it may go when the cache is too large."""
    cache.release(cache_root(cache_dir), build.package, build.version)


def _found_or_fetched(version: str, root: Path, *, progress: Progress | None, offline: bool) -> Build:
    package = platform_package(this_machine())
    wanted = version.strip().removeprefix("v")
    found = _in_cache(root, package, wanted)
    if found is not None:
        return found
    published = releases.obtain(package, cache_dir=root, offline=offline)
    exact = published.resolve(version.strip())
    if published.note and exact != wanted:
        _log.warning("opencode %s is %s by an old list (%s)", version, exact, published.note)
    if offline:
        return _in_cache(root, package, exact) or _raise_not_here(root, exact)
    try:
        return _fetch_alone(root, package, exact, progress or no_progress)
    except OSError as error:
        raise _disk_error(error, root) from error


def from_binary(path: str | Path, *, source: str = "binary", cache_dir: str | Path | None = None) -> Build:
    """A build of the user's own, or the one behind npm's ``opencode-ai`` wrapper.

    Raises BuildError: not there, no program, for another CPU, not opencode (``--version`` prints no version), or a
    cache to which others may write.
    """
    file = Path(path).expanduser().absolute()
    try:
        executable.check_file(file)
        file = executable.behind_wrapper(file) or file
        executable.check_format(file)
        cache.check_owner(cache_root(cache_dir))
        identity = executable.identify(file, cache_root(cache_dir))
    except OSError as error:
        raise BuildError(f"{file} cannot be read ({error.strerror}): give a path that you may read") from error
    return Build(
        version=identity.version,
        path=str(file),
        sha256=identity.sha256,
        source=source,
        label=f"{identity.version}+{identity.sha256[:8]}",
    )


def stored(cache_dir: str | Path | None = None) -> list[Stored]:
    """Records of all entries of the cache, a package's in semver order; what cannot be read is left out."""
    records = [record for record in map(_record, _entries(cache_root(cache_dir))) if record is not None]
    return sorted(records, key=lambda record: (record.package, semver.Version.parse(record.version)))


# --- below: the cache


def _folder(root: Path, package: str, version: str) -> Path:
    return root / "builds" / package / version


def _entries(root: Path) -> list[Path]:
    return sorted(root.glob("builds/*/*/*"))


def _record(entry: Path) -> Stored | None:
    try:
        record = msgspec.json.decode(read_small(entry / "build.json", _RECORD_BYTES) or b"", type=Stored)
        semver.Version.parse(record.version)
    except ValueError:  # msgspec's errors are ValueErrors too
        return None
    return record


def _in_cache(root: Path, package: str, version: str) -> Build | None:
    """The newest whole entry of this version."""
    if not semver.Version.is_valid(version):
        return None
    entries = [(_verified(entry), entry) for entry in sorted(_folder(root, package, version).glob("*"))]
    whole = [(record.fetched_at, str(entry), record) for record, entry in entries if record is not None]
    if not whole:
        return None
    _, entry, record = max(whole, key=lambda row: row[:2])
    return Build(
        version=version,
        path=str(Path(entry) / EXECUTABLE),
        sha256=record.sha256,
        source="cache",
        package=package,
        integrity=record.integrity,
        label=version,
    )


def _verified(entry: Path) -> Stored | None:
    """The entry's record if its executable is what was stored: by size and times, else by content."""
    record, file = _record(entry), entry / EXECUTABLE
    if record is None:
        return None
    try:
        now = file.stat()
        if not stat.S_ISREG(now.st_mode) or now.st_size != record.size_bytes:  # its content need not be read
            return None
        same = (now.st_mtime_ns, now.st_ctime_ns) == (record.mtime_ns, record.ctime_ns)
        if not os.access(file, os.X_OK) or (not same and sha256_of(file) != record.sha256):
            return None
        if not same:
            touched = msgspec.structs.replace(record, mtime_ns=now.st_mtime_ns, ctime_ns=now.st_ctime_ns)
            with contextlib.suppress(OSError):  # a cache that is only readable is still good
                releases.replace_file(entry / "build.json", msgspec.json.encode(touched))
    except OSError:
        return None
    return record


def _raise_not_here(root: Path, version: str) -> NoReturn:
    have = sorted({record.version for record in stored(root)}, key=semver.Version.parse)
    raise BuildError(
        f"opencode {version} is not in the cache and we are offline; cached: {', '.join(have) or 'nothing'}"
    )


def _fetch_alone(root: Path, package: str, version: str, progress: Progress) -> Build:
    """Fetch under the lock of this version; whoever waited for it finds what the holder stored."""
    path = root / "locks" / f"{package}-{version}.lock"
    make_private(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress(0, 0, f"waiting for another process that fetches opencode {version}")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S, poll_interval=0.1)
        except filelock.Timeout as error:
            raise BuildError(f"another process holds {path} for too long: end it and try again") from error
    try:
        return _in_cache(root, package, version) or _download(root, package, version, progress)
    finally:
        lock.release()


def _download(root: Path, package: str, version: str, progress: Progress) -> Build:
    scratch = root / "tmp" / f"{package}-{version}"
    # what a killed process left; a new name each time, so that an npm that outlived it finds nothing
    shutil.rmtree(scratch, ignore_errors=True)
    make_private(scratch)
    try:
        work = Path(tempfile.mkdtemp(dir=scratch))
        integrity = download.told_integrity(package, version, root / "npm")
        tarball = download.pack(package, version, work, progress)
        check_integrity(tarball, integrity)
        npm = {"package": package, "version": version, "integrity": integrity}
        _keep(_make_entry(work / "entry", tarball, progress, **npm), root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    build = _in_cache(root, package, version)
    if build is None:
        raise BuildError(f"opencode {version} was stored in {root} and is gone again: try once more")
    return build


def _make_entry(entry: Path, tarball: Path, progress: Progress, **npm: str) -> Path:
    """``npm``: package, version, integrity."""
    sha256 = unpack(tarball, entry, progress)
    file = entry / EXECUTABLE
    file.chmod(0o555)
    executable.check_format(file)
    executable.ask_version(file)
    now = file.stat()
    record = Stored(
        **npm,
        sha256=sha256,
        size_bytes=now.st_size,
        mtime_ns=now.st_mtime_ns,
        ctime_ns=now.st_ctime_ns,
        fetched_at=datetime.now(UTC).isoformat(),
    )
    releases.replace_file(entry / "build.json", msgspec.json.encode(record))
    return entry


def _keep(entry: Path, root: Path) -> None:
    """Put a whole entry into its place and throw away those of the same version that are torn."""
    record = _record(entry)
    assert record is not None  # noqa: S101 written a moment ago
    folder = _folder(root, record.package, record.version)
    make_private(folder)
    for old in folder.glob("*"):
        if _verified(old) is None:
            shutil.rmtree(old, ignore_errors=True)
            old.unlink(missing_ok=True) if old.is_file() else None
    entry.rename(folder / hashlib.sha256(record.integrity.encode()).hexdigest()[:16])


def _disk_error(error: OSError, root: Path) -> BuildError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f"no space left in the cache {root}: free some, or set OCREPRO_CACHE_DIR elsewhere")
    why = error.strerror or error
    return BuildError(f"the cache {root} cannot be used ({why}): set OCREPRO_CACHE_DIR to a directory of yours")
