"""Whose the cache is, who uses which build of it, and which goes when there are too many: the one used longest ago.

A process that uses a build holds a shared lock (flock(2)) on ``locks/<package>-<version>.use`` until it lets go or
ends; the kernel lets go for one that is killed. Only what nobody holds is evicted. The lock file's time is that of
the last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_ocrepro.errors import BuildError, UsageError
from pytest_ocrepro.versions.releases import make_private

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUSTED = ("builds", "commits", "identities", "supervisors")  # programs that we run, and what we say of them
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_held: dict[Path, int] = {}  # lock file -> descriptor; this process' own


def check_owner(root: Path) -> None:
    """What others may write there, we would run or believe. A cache that is not there yet is made for us alone.

    Raises BuildError.
    """
    with contextlib.suppress(OSError):  # told by whoever needs it first
        make_private(root)
    for place in (root, *(root / name for name in TRUSTED)):
        try:
            status = place.stat()
        except OSError:
            continue
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):  # the sticky bit keeps nobody from putting a build there
            raise BuildError(
                f"others may write to the cache {place}: chmod go-w {shlex.quote(str(place))}, "
                "or set OCREPRO_CACHE_DIR elsewhere"
            )
        if status.st_uid not in (0, os.getuid()):
            raise BuildError(
                f"the cache {place} belongs to user {status.st_uid}: set OCREPRO_CACHE_DIR to one of yours"
            )


def parse_size(text: str, source: str) -> int:
    """``500MB``, ``2GB`` or a number of bytes. Raises UsageError naming the source."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    if found is None:
        raise UsageError(f"{source} is {text!r}; it must be a size such as 500MB or 2GB")
    unit = found[2] if found[2] in _UNITS else f"{found[2].removesuffix('B')}B"
    return int(float(found[1]) * _UNITS.get(unit, 1))


def hold(root: Path, package: str, version: str) -> None:
    """Use this build from now on; without effect where it cannot be locked. Held until :func:`release` or our end."""
    path = _lock_of(root, package, version)
    try:
        if path not in _held:
            make_private(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except OSError:
                os.close(descriptor)
                raise
            _held[path] = descriptor
        os.utime(path)
    except OSError:  # a cache that is only readable, a file system without locks: nobody evicts there either
        return


def release(root: Path, package: str, version: str) -> None:
    """Others may evict it."""
    descriptor = _held.pop(_lock_of(root, package, version), None)
    if descriptor is not None:
        os.close(descriptor)


def make_room(root: Path, entries: Sequence[tuple[Path, int]], limit_bytes: int) -> list[Path]:
    """Evict entries (place, size) that nobody holds until the rest fits, used longest ago first; those that went."""
    total = sum(size for _, size in entries)
    gone: list[Path] = []
    for entry, size in sorted(entries, key=lambda one: _last_use(root, one[0])):
        if total <= limit_bytes:
            break
        if _evict(root, entry):
            total -= size
            gone.append(entry)
    return gone


# --- below: how


def _lock_of(root: Path, package: str, version: str) -> Path:
    return root / "locks" / f"{package}-{version}.use"


def _of(root: Path, entry: Path) -> Path:
    """The lock file of ``builds/<package>/<version>/<integrity>``."""
    return _lock_of(root, entry.parent.parent.name, entry.parent.name)


def _last_use(root: Path, entry: Path) -> tuple[float, str]:
    for path in (_of(root, entry), entry / "build.json"):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime, str(entry)
    return 0.0, str(entry)


def _evict(root: Path, entry: Path) -> bool:
    """Out of its place by one rename, so that nobody sees half of it; False: in use, or not ours to remove."""
    path = _of(root, entry)
    try:
        make_private(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        make_private(root / "tmp")
        away = Path(tempfile.mkdtemp(prefix="evicted-", dir=root / "tmp"))
        try:
            entry.rename(away / entry.name)
        except OSError:
            away.rmdir()
            raise
    except OSError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(away, ignore_errors=True)
    return True
