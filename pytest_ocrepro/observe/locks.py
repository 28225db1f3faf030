"""File locks with SQLite's names for the bytes, and opencode's own lock directories."""

from __future__ import annotations

import hashlib
import socket
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pytest_ocrepro.observe.holders import STALE_AFTER_S
from pytest_ocrepro.observe.inner_pids import InnerPids
from pytest_ocrepro.observe.proctext import fd_kind
from pytest_ocrepro.observe.regular import open_regular
from pytest_ocrepro.readings import FdKind, FileLock, LockDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_ocrepro.observe.errands import Conflict
    from pytest_ocrepro.observe.procfs import Reader
    from pytest_ocrepro.observe.proctext import LockLine
    from pytest_ocrepro.observe.readers import ProcessReader
    from pytest_ocrepro.readings import ProcessReading

    Ask = Callable[[Path, Sequence[tuple[int, int]]], Sequence[Conflict]]

GIVES_UP_AFTER_S: Final = 300.0  # `timeoutMs:300000`, the same source

# https://www.sqlite.org/src: os.h (PENDING_BYTE, SHARED_SIZE) and wal.c (WAL_WRITE_LOCK and following);
# the -shm bytes begin behind two 48-byte headers and a 24-byte checkpoint record.
_PENDING: Final = 0x40000000
_RESERVED: Final = _PENDING + 1
_SHARED: Final = (_PENDING + 2, _PENDING + 511)
_SHM: Final = ("WRITE", "CKPT", "RECOVER", "READ0", "READ1", "READ2", "READ3", "READ4", "DMS")
_SHM_FIRST: Final = 120
_SHM_LAST: Final = _SHM_FIRST + len(_SHM) - 1
_META_BYTES: Final = 65536
_PID_RECYCLED_S: Final = 2.0  # a holder that is younger than its lock by more than this is another process


def name_bytes(path: str, start: int, end: int | None, *, access: str = "READ") -> str:
    """SQLite's names for the bytes ``start..end`` (inclusive, None: to the end), joined with ``+``; "" if none.

    By overlap, because the kernel merges neighbours. WRITE on any of the SHARED bytes is EXCLUSIVE. In WAL mode
    SHARED and DMS mean "has the file open", not "is reading" (https://www.sqlite.org/lockingv3.html, walformat).
    """
    last = _PENDING * 2 if end is None else end
    if path.endswith("-shm"):
        return "+".join(name for at, name in enumerate(_SHM, _SHM_FIRST) if start <= at <= last)
    if start < _PENDING and fd_kind(path) is not FdKind.DATABASE:
        return ""  # a lock on the whole of some other file
    return _main_file_name(start, last, access)


def _main_file_name(start: int, last: int, access: str) -> str:
    shared = start <= _SHARED[1] and last >= _SHARED[0]
    if shared and (access == "WRITE" or start <= _PENDING):
        return "EXCLUSIVE"
    held = ((_PENDING, "PENDING"), (_RESERVED, "RESERVED"))
    names = [name for at, name in held if start <= at <= last]
    return "+".join([*names, "SHARED"] if shared else names)


def file_locks(
    reader: Reader, processes: Sequence[ProcessReading], missing: list[str] | None = None
) -> tuple[FileLock, ...]:
    """Locks that these processes hold (fdinfo) and wait for (/proc/locks), and the holders that they wait for.

    Processes without ``fds`` are looked up by their waiting lines only. SQLite never waits in the kernel, so its
    waiters are not here (it retries a non-blocking lock and sleeps).
    """
    held = [lock for process in processes for lock in _held(reader, process, missing)]
    return (*held, *_awaited(reader.locks(missing), processes))


def _held(reader: Reader, process: ProcessReading, missing: list[str] | None) -> Iterator[FileLock]:
    for fd in process.fds:
        if not fd.target.startswith("/") or fd.kind is FdKind.DEVICE:
            continue
        info = reader.fd_info(process.id.pid, fd.fd, missing)
        for line in info.locks if info else ():
            yield _record(line, fd.target, pid=process.id.pid, source="fdinfo")


def _awaited(lines: Sequence[LockLine], processes: Sequence[ProcessReading]) -> Iterator[FileLock]:
    observed = {process.id.pid for process in processes}
    paths = {fd.inode: fd.target for process in processes for fd in process.fds if fd.target.startswith("/")}
    wanted = {line.number for line in lines if line.waiting and line.pid in observed}
    for line in lines:
        waiter = line.waiting and line.pid in observed
        outsider = not line.waiting and line.number in wanted and line.pid not in observed
        if waiter or outsider:
            path = paths.get(line.inode, f"inode {line.inode} on device {line.device}")
            yield _record(line, path, pid=line.pid, source="/proc/locks")


def _record(line: LockLine, path: str, *, pid: int | None, source: str) -> FileLock:
    return FileLock(
        path=path,
        kind=line.kind,
        access=line.access,
        start=line.start,
        end=line.end,
        # flock(2) and lease locks live in another space than the byte locks of fcntl(2)
        name=name_bytes(path, line.start, line.end, access=line.access) if line.kind in _BYTE_LOCKS else "",
        pid=pid,
        waiting=line.waiting,
        source=source,
    )


_BYTE_LOCKS: Final = frozenset(("POSIX", "OFDLCK"))


def probe(database: Path, ask: Ask) -> tuple[FileLock, ...]:
    """Who stands in the way of a writer of each of SQLite's lock bytes, asked with F_GETLK on db and -shm.

    Takes nothing and wakes nobody; finds holders outside of the observed processes. It names one holder a byte.
    ``ask`` opens the files and closes them again, so it must be another process than one that has an SQLite
    connection to ``database`` (see deputy). A file that is not there has no locks; raises what ``ask`` raises.
    """
    main = ((_PENDING, 1), (_RESERVED, 1), (_SHARED[0], _SHARED[1] - _SHARED[0] + 1))
    shared_memory = tuple((at, 1) for at in range(_SHM_FIRST, _SHM_LAST + 1))
    return (*_ask(database, main, ask), *_ask(Path(f"{database}-shm"), shared_memory, ask))


def _ask(path: Path, ranges: Sequence[tuple[int, int]], ask: Ask) -> tuple[FileLock, ...]:
    try:
        return tuple(_answer(str(path), *conflict) for conflict in ask(path, ranges))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _answer(path: str, access: str, start: int, end: int | None, pid: int) -> FileLock:
    return FileLock(
        path=path,
        kind="POSIX" if pid >= 0 else "OFDLCK",  # the kernel answers -1 for an open file description's lock
        access=access,
        start=start,
        end=end,
        name=name_bytes(path, start, end, access=access),
        pid=pid if pid > 0 else None,  # 0: in another PID namespace
        source="F_GETLK",
    )


class _Meta(msgspec.Struct):
    """``meta.json`` of a lock directory, as opencode 1.14 to 1.18 write it."""

    token: str = ""
    pid: int | None = None
    hostname: str = ""
    createdAt: str = ""  # noqa: N815 opencode's own spelling


def lock_directories(
    state_dirs: Iterable[Path],
    *,
    key_candidates: Iterable[str],
    reader: ProcessReader,
    now_wall: float,
    inner: InnerPids | None = None,
) -> tuple[LockDirectory, ...]:
    """What lies in ``<state>/opencode/locks``; ``state_dirs`` are values of XDG_STATE_HOME.

    ``inner``: of those who write there, where their pids are not what we call them by.

    ``key_candidates`` are tried against the sha1 in the name. A torn or missing meta.json is normal: it is written
    after the mkdir that takes the lock. Ages are seconds at ``now_wall`` (time.time()).
    """
    keys = {hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(): key for key in key_candidates}
    found = (path for state in state_dirs for path in sorted(_locks_in(state / "opencode" / "locks")))
    outer = (inner or InnerPids(reader)).outer
    return tuple(_directory(path, keys.get(path.stem), reader, now_wall, outer) for path in found)


def _locks_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".lock"]
    except OSError:
        return []


def _directory(
    path: Path, key: str | None, reader: ProcessReader, now_wall: float, outer: Callable[[int], int | None]
) -> LockDirectory:
    meta = _meta(path / "meta.json")
    holder_pid = None if meta.pid is None else outer(meta.pid)
    made = _mtime(path)
    created = _instant(meta.createdAt) or made
    age_s = None if created is None else now_wall - created
    beat = _mtime(path / "heartbeat")
    sign = next((at for at in (beat, _mtime(path / "meta.json"), made) if at is not None), None)
    life = _life(holder_pid, meta.hostname, age_s, reader)
    return LockDirectory(
        path=str(path),
        key=key,
        holder_pid=holder_pid,
        holder_alive=None if life is None else life == "alive",
        token=meta.token,
        created_at=meta.createdAt,
        age_s=age_s,
        heartbeat_age_s=None if beat is None else now_wall - beat,
        stale_in_s=None if sign is None else STALE_AFTER_S - (now_wall - sign),
        pid_reused=life == "reused",
    )


def holder_lives(lock: LockDirectory, reader: ProcessReader, *, since_s: float = 0.0) -> bool | None:
    """Whether the holder that this reading of ``since_s`` seconds ago names lives now; None: cannot be told."""
    if lock.holder_alive is not True:
        return lock.holder_alive
    age_s = None if lock.age_s is None else lock.age_s + since_s
    life = _life(lock.holder_pid, "", age_s, reader)
    return None if life is None else life == "alive"


def _meta(path: Path) -> _Meta:
    try:
        with open_regular(path) as file:
            return msgspec.json.decode(file.read(_META_BYTES), type=_Meta)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return _Meta()


def _life(pid: int | None, hostname: str, age_s: float | None, reader: ProcessReader) -> str | None:
    """alive, dead, or reused (the process of that pid is younger than the lock); None: cannot be told."""
    if pid is None or (hostname and hostname != socket.gethostname()):
        return None
    process = reader.identify(pid)
    if process is None or not reader.alive(process):
        return None if reader.hidden(pid) else "dead"
    ours = age_s is None or reader.age_s(process) + _PID_RECYCLED_S >= age_s
    return "alive" if ours else "reused"


def _instant(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
