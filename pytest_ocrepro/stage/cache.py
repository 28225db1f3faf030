"""Who uses which build of the cache, and which goes when there are too many: the one that was used longest ago.

A process that uses a build holds a shared lock (flock(2)) on ``locks/<package>-<version>.use`` until it lets go or
ends; the kernel lets go for one that is killed. Only what nobody holds is evicted. The lock file's time is that of
the last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_ocrepro.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_held: dict[Path, int] = {}  # lock file -> descriptor; this process' own


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
            path.parent.mkdir(parents=True, exist_ok=True)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (root / "tmp").mkdir(parents=True, exist_ok=True)
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
