"""Which opencode build: resolve what was asked for, fetch it from npm, verify it, store it once.

In the cache an entry is ``builds/<package>/<version>/<integrity>/``, with ``package/bin/opencode`` and
``build.json`` in it. It appears by one rename when it is whole: readers need no lock, writers take one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import gzip
import hashlib
import json
import logging
import mmap
import os
import platform
import shutil
import signal
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn, cast

import filelock
import msgspec
import psutil
import semver

from pytest_ocrepro.errors import BuildError, UnfitBuildError
from pytest_ocrepro.stage import cache
from pytest_ocrepro.versions import releases
from pytest_ocrepro.versions.releases import Machine, cache_root, platform_package, this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Progress = Callable[[int, int, str], None]  # done_bytes, total_bytes (0: unknown), what

PINNED: Final = "1.18.34"
UNPACKED_LIMIT_BYTES = 1 << 30
MEMBERS_LIMIT: Final = 1000
VERSION_TIMEOUT_S = 20.0
LOCK_TIMEOUT_S = 900.0
TRIES: Final = 3
_CHUNK_BYTES: Final = 1 << 20
_HOME: Final = "ocrepro-version-"
_EXECUTABLE: Final = "package/bin/opencode"
_CPUS: Final = {3: "x86", 40: "ARM", 62: "x86-64", 183: "ARM64", 243: "RISC-V", 21: "PowerPC64", 22: "S/390"}
_OUR_CPU: Final = {"x86_64": 62, "amd64": 62, "aarch64": 183, "arm64": 183}  # elf.h: EM_X86_64, EM_AARCH64
_MACH_O: Final = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
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
    _check_owner(root)
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
        return _fetch_alone(root, package, exact, progress or _no_progress)
    except OSError as error:
        raise _disk_error(error, root) from error


def from_binary(path: str | Path, *, source: str = "binary", cache_dir: str | Path | None = None) -> Build:
    """A build of the user's own, or the one behind npm's ``opencode-ai`` wrapper.

    Raises BuildError: not there, no program, for another CPU, not opencode (``--version`` prints no version).
    """
    file = Path(path).expanduser().absolute()
    try:
        _check_file(file)
        file = _behind_wrapper(file) or file
        _check_format(file)
        identity = _identify(file, cache_root(cache_dir))
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


def unpack(tarball: Path, into: Path, progress: Progress | None = None) -> str:
    """Unpack an npm tarball of one build below ``into``; returns the sha256 of its executable.

    Only regular files and directories under ``package/``, 1 GiB and 1000 members at most; BuildError for
    everything else, OSError when the disk says no. What is left in ``into`` then is for the caller to remove.
    """
    tell = progress or _no_progress
    digest = ""
    try:
        with tarball.open("rb") as raw, gzip.open(raw) as plain:
            total = tarball.stat().st_size
            with tarfile.open(fileobj=_bounded(plain), mode="r|") as archive:
                for target, source in _members(archive, tarball.name, into):
                    written = _write(target, source, lambda: tell(raw.tell(), total, "unpacking"))
                    digest = written if target == into / _EXECUTABLE else digest
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise BuildError(f"the package {tarball.name} is damaged ({error}): fetch it again") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(tarball.name, f"two members want {Path(error.filename).name}") from error
    if not digest:
        raise _refused(tarball.name, f"it has no {_EXECUTABLE}")
    return digest


# --- below: the cache


def _no_progress(done_bytes: int, total_bytes: int, what: str) -> None:
    pass


def _check_owner(root: Path) -> None:
    """What everybody may write there, we would run. A cache that is not there yet is made for us alone."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
    except OSError:  # told by whoever needs it first
        return
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise BuildError(f"everybody may write to the cache {root}: chmod o-w it, or set OCREPRO_CACHE_DIR elsewhere")
    if status.st_uid not in (0, os.getuid()):
        raise BuildError(f"the cache {root} belongs to user {status.st_uid}: set OCREPRO_CACHE_DIR to one of yours")


def _folder(root: Path, package: str, version: str) -> Path:
    return root / "builds" / package / version


def _entries(root: Path) -> list[Path]:
    return sorted(root.glob("builds/*/*/*"))


def _record(entry: Path) -> Stored | None:
    try:
        record = msgspec.json.decode((entry / "build.json").read_bytes(), type=Stored)
        semver.Version.parse(record.version)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors too
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
        path=str(Path(entry) / _EXECUTABLE),
        sha256=record.sha256,
        source="cache",
        package=package,
        integrity=record.integrity,
        label=version,
    )


def _verified(entry: Path) -> Stored | None:
    """The entry's record if its executable is what was stored: by size and times, else by content."""
    record, file = _record(entry), entry / _EXECUTABLE
    if record is None:
        return None
    try:
        now = file.stat()
        told = record.size_bytes, record.mtime_ns, record.ctime_ns
        same = (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == told
        if not os.access(file, os.X_OK) or (not same and _sha256(file) != record.sha256):
            return None
        if not same:
            touched = msgspec.structs.replace(record, mtime_ns=now.st_mtime_ns, ctime_ns=now.st_ctime_ns)
            with contextlib.suppress(OSError):  # a cache that is only readable is still good
                releases.replace_file(entry / "build.json", msgspec.json.encode(touched))
    except OSError:
        return None
    return record


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _raise_not_here(root: Path, version: str) -> NoReturn:
    have = sorted({record.version for record in stored(root)}, key=semver.Version.parse)
    raise BuildError(
        f"opencode {version} is not in the cache and we are offline; cached: {', '.join(have) or 'nothing'}"
    )


def _fetch_alone(root: Path, package: str, version: str, progress: Progress) -> Build:
    """Fetch under the lock of this version; whoever waited for it finds what the holder stored."""
    path = root / "locks" / f"{package}-{version}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
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
    scratch.mkdir(parents=True)
    try:
        work = Path(tempfile.mkdtemp(dir=scratch))
        integrity = _told_integrity(package, version, root / "npm")
        tarball = _pack(package, version, work, progress)
        _check_integrity(tarball, integrity)
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
    file = entry / _EXECUTABLE
    file.chmod(0o555)
    _check_format(file)
    _ask_version(file)
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
    folder.mkdir(parents=True, exist_ok=True)
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


# --- below: npm


class _Dist(msgspec.Struct):
    integrity: str = ""


class _Packed(msgspec.Struct):
    filename: str
    integrity: str = ""


def _told_integrity(package: str, version: str, cache: Path) -> str:
    """What the registry's metadata says of the tarball: ``sha512-<base64>``."""
    answer = releases.ask_npm(
        "view",
        f"{package}@{version}",
        "dist",
        "--fetch-timeout=20000",
        cache=cache,
        timeout_s=releases.VIEW_TIMEOUT_S,
    )
    try:
        words = msgspec.json.decode(answer, type=_Dist).integrity.split()
    except ValueError as error:
        raise BuildError(f"npm view {package}@{version} printed something unexpected: {error}") from error
    strong = [word for word in words if word.startswith("sha512-")]
    if not strong:
        raise BuildError(f"the registry gives no sha512 for {package}@{version}: use another mirror")
    return strong[0]


def _pack(package: str, version: str, work: Path, progress: Progress) -> Path:
    cache, what = work / "npm", f"downloading opencode {version}"
    answer = releases.ask_npm(
        "pack",
        f"{package}@{version}",
        f"--pack-destination={work}",
        cache=cache,
        timeout_s=releases.PACK_TIMEOUT_S,
        tick=lambda: progress(_bytes_below(cache), 0, what),
    )
    try:
        [packed] = msgspec.json.decode(answer, type=list[_Packed])
    except ValueError as error:
        raise BuildError(f"npm pack {package}@{version} printed something unexpected: {error}") from error
    tarball = work / Path(packed.filename).name
    if not tarball.is_file():
        raise BuildError(f"npm pack left no {tarball.name}: try again")
    shutil.rmtree(cache, ignore_errors=True)  # npm's second copy of the tarball
    _check_integrity(tarball, packed.integrity)
    return tarball


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # npm renames its temporary files while we look
                total += os.stat(os.path.join(path, name)).st_size  # noqa: PTH116, PTH118 ten times a second
    return total


def _check_integrity(tarball: Path, integrity: str) -> None:
    with tarball.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha512")
    try:
        told = base64.b64decode(integrity.removeprefix("sha512-"), validate=True)
    except binascii.Error:
        told = b""
    if actual.digest() != told:
        raise BuildError(
            f"{tarball.name} is not what the registry announced (sha512 {actual.hexdigest()[:16]}..., "
            f"announced {told.hex()[:16] or integrity}...): cut or altered on its way, fetch it again"
        )


# --- below: unpacking


class _Bounded:
    """A stream that ends in BuildError past the limit, wherever the bytes are: headers count too."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left_bytes = UNPACKED_LIMIT_BYTES + MEMBERS_LIMIT * tarfile.BLOCKSIZE * 4

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise _refused("a package", "it unpacks to more than 1 GiB")
        return data


def _bounded(stream: gzip.GzipFile) -> IO[bytes]:
    return cast("IO[bytes]", _Bounded(stream))  # read() is all that tarfile's stream mode calls


def _members(archive: tarfile.TarFile, name: str, into: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    total_bytes = 0
    for number, member in enumerate(archive):
        total_bytes += member.size
        why = _why_not(member)
        if number >= MEMBERS_LIMIT:
            why = f"it has more than {MEMBERS_LIMIT} members"
        if total_bytes > UNPACKED_LIMIT_BYTES:
            why = "it unpacks to more than 1 GiB"
        if why:
            raise _refused(name, why)
        target = into / member.name.rstrip("/")
        (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
        source = None if member.isdir() else archive.extractfile(member)
        if source is not None:
            yield target, source


def _why_not(member: tarfile.TarInfo) -> str:
    shown = ascii(member.name[:80])
    if not (member.isreg() or member.isdir()) or member.issparse() or member.size < 0:
        return f"{shown} is a link, a device or another special file"
    parts = member.name.rstrip("/").split("/")
    if parts[0] != "package" or {"", ".", ".."} & set(parts):
        return f"{shown} is a path outside package/"
    return ""


def _refused(name: str, why: str) -> BuildError:
    return BuildError(f"{name} is refused: {why}; check where your npm registry gets it from")


def _write(target: Path, source: IO[bytes], tell: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while chunk := source.read(_CHUNK_BYTES):
            out.write(chunk)
            digest.update(chunk)
            tell()
        out.flush()
        os.fsync(out.fileno())  # the rename that follows must not outlive the content
    return digest.hexdigest()


# --- below: any executable


class _Identity(msgspec.Struct, frozen=True, kw_only=True):
    key: tuple[str, int, int, int]  # path, size, mtime_ns, inode
    sha256: str
    version: str


def _check_file(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BuildError(f"there is no {file}: give the path of an opencode executable") from error
    if not stat.S_ISREG(mode):
        raise BuildError(f"{file} is not a file: give the path of an opencode executable")
    if not os.access(file, os.X_OK):
        raise BuildError(f"{file} is not executable: chmod +x it, or give another path")


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(20)


def _check_format(file: Path) -> None:
    """A script, or a program for this system and CPU."""
    head = _head(file)
    if head.startswith(b"#!"):
        return
    ours = platform.machine()
    if head.startswith(b"\x7fELF") and platform.system() == "Linux":
        theirs = _elf_machine(head)
        if theirs != _OUR_CPU.get(ours.lower(), theirs):
            cpu = _CPUS.get(theirs, f"ELF machine {theirs}")
            raise UnfitBuildError(f"{file} is built for {cpu}, this CPU is {ours}: give a build for {ours}")
    elif not (head.startswith(_MACH_O) and platform.system() == "Darwin"):
        raise UnfitBuildError(f"{file} is {_kind(head)}, no program for {platform.system()}: give an opencode build")


def _elf_machine(head: bytes) -> int:
    """``e_machine`` (elf(5)): two bytes at offset 18 in the file's own byte order; 0 where it is cut."""
    big_endian = head[5:6] == b"\2"
    return int.from_bytes(head[18:20], "big" if big_endian else "little")


def _kind(head: bytes) -> str:
    if head.startswith(b"MZ"):
        return "a Windows program"
    if head.startswith(_MACH_O):
        return "a macOS program"
    return "a Linux program" if head.startswith(b"\x7fELF") else "neither a program nor a script"


def _behind_wrapper(file: Path) -> Path | None:
    """The platform's build beside the launcher of the npm package ``opencode-ai``, found as that finds it.

    The launcher is a script up to 1.17 and a placeholder that the package's postinstall replaces later.
    """
    real = file.resolve()
    try:
        name = json.loads((real.parent.parent / "package.json").read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if name != "opencode-ai" or _head(real).startswith((b"\x7fELF", *_MACH_O)):
        return None
    places = (
        folder / "node_modules" / package / "bin/opencode"
        for folder in real.parents
        for package in _packages(this_machine())
    )
    return next((place for place in places if place.is_file() and os.access(place, os.X_OK)), None)


def _packages(machine: Machine) -> list[str]:
    """The package for this machine first, then its variant for the other sort of CPU."""
    other = msgspec.structs.replace(machine, avx2=not machine.avx2)
    return [platform_package(machine), platform_package(other)]


def _identify(file: Path, root: Path) -> _Identity:
    """sha256 and version, remembered for as long as the file is the same; a script is asked every time."""
    now = file.stat()
    key = (str(file), now.st_size, now.st_mtime_ns, now.st_ino)
    note = root / "identities" / f"{hashlib.sha256(key[0].encode()).hexdigest()[:32]}.json"
    if not _head(file).startswith(b"#!"):
        with contextlib.suppress(OSError, ValueError):
            known = msgspec.json.decode(note.read_bytes(), type=_Identity)
            if known.key == key:
                return known
    identity = _Identity(key=key, version=_ask_version(file), sha256=_sha256(file))
    with contextlib.suppress(OSError):  # only costs the next run 0.2 s
        releases.replace_file(note, msgspec.json.encode(identity))
    return identity


def _ask_version(file: Path) -> str:
    """What ``--version`` prints in an empty home, off the network. Raises BuildError."""
    if not _mentions_opencode(file):
        raise UnfitBuildError(
            f"{file} is not opencode: nothing in it says so; give the path of an opencode executable"
        )
    _remove_homes_of_the_dead()
    with tempfile.TemporaryDirectory(prefix=f"{_HOME}{os.getpid()}-", ignore_cleanup_errors=True) as home:
        try:
            done = releases.run_bounded(
                [str(file), "--version"], timeout_s=VERSION_TIMEOUT_S, env=_closed(home), cwd=Path(home)
            )
        except OSError as error:
            raise UnfitBuildError(
                f"{file} cannot be started ({error.strerror}): its loader or interpreter is missing here"
            ) from error
    printed = done.out.strip()
    if done.cut or done.code != 0 or not semver.Version.is_valid(printed):
        raise UnfitBuildError(f"{file} is not an opencode that runs here: --version {_what_it_did(done)}")
    return printed


def _remove_homes_of_the_dead() -> None:
    """Empty homes that a process left behind which was killed while it asked."""
    for place in Path(tempfile.gettempdir()).glob(f"{_HOME}*-*"):
        pid = place.name.removeprefix(_HOME).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(place, ignore_errors=True)


def _what_it_did(done: releases.Finished) -> str:
    if done.cut:
        return f"had to be ended ({done.cut})"
    lines = (done.err.strip() or done.out.strip()).splitlines()
    said = ascii(lines[-1][:120]) if lines else "nothing"
    if done.code == -signal.SIGILL:
        return "met an instruction that this CPU lacks; use the -baseline build"
    return f"printed {said}" if done.code == 0 else f"ended with {done.code} and printed {said}"


def _mentions_opencode(file: Path) -> bool:
    """The word is in its name or anywhere in its bytes: other programs print bare versions too."""
    if "opencode" in file.name and _head(file).startswith(b"#!"):
        return True
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"opencode") >= 0


def _closed(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    rooms = {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in ("DATA", "STATE", "CACHE", "CONFIG")}
    switches = dict.fromkeys(
        ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_LSP_DOWNLOAD"), "1"
    )
    # port 9 of loopback (discard) has no listener: whatever asks npm is refused at once
    npm = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": f"{home}/npm"}
    return {**kept, "HOME": home, "TMPDIR": home, "NO_COLOR": "1", **rooms, **switches, **npm}
