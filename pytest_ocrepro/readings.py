"""What one look at the world saw: frozen records that observe makes and judge reads.

A field that could not be read is ``None`` ("unknown"), never a value; ``Snapshot.missing`` says why.
Instants end in ``_ns`` (CLOCK_MONOTONIC), durations are float seconds, sizes end in ``_bytes``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

# Where in its start or its turn a subject is; in order. Both log dialects, the provider's log and the process table
# are mapped onto these, so that "the first one not reached" means the same on every build.
MILESTONES = (
    "started",  # the process exists
    "database-opened",
    "instance-created",
    "bootstrapping",
    "config-loading",
    "plugins-loading",  # "loading internal plugin"; not logged by 1.17 and later
    "services-started",  # language servers, formatters, file watcher: plugins are behind it
    "session-created",
    "events-connected",
    "turn-started",
    "model-asked",
    "model-answered",
    "ended",
)


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records."""


class ProcessId(Reading, frozen=True, kw_only=True):
    """One process for all time: a pid alone is recycled (proc_pid_stat(5), field 22)."""

    pid: int
    start_ticks: int
    boot_id: str = ""


class ThreadReading(Reading, frozen=True, kw_only=True):
    """One thread at one instant, from ``/proc/<pid>/task/<tid>/{stat,status,wchan,syscall,schedstat}``."""

    tid: int
    name: str
    state: str | None = None  # R S D T t Z
    wchan: str | None = None  # kernel function slept in; None: unreadable, or running
    syscall: str | None = None  # its name, or "running"
    arguments: tuple[str, ...] = ()  # hexadecimal, as the kernel prints them
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    cpu_ns: int | None = None
    runqueue_wait_ns: int | None = None


class FdKind(StrEnum):
    """What a file descriptor is."""

    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    PIPE = "pipe"
    SOCKET = "socket"
    EVENTPOLL = "eventpoll"
    EVENTFD = "eventfd"
    TIMERFD = "timerfd"
    DATABASE = "database"
    WAL = "wal"
    SHM = "shm"
    LOG = "log"
    OTHER = "other"


class FdReading(Reading, frozen=True, kw_only=True):
    """One file descriptor, from ``fd/`` and ``fdinfo/``."""

    fd: int
    kind: FdKind
    target: str
    inode: int | None = None
    position_bytes: int | None = None
    writable: bool | None = None
    detail: str = ""  # watched fds of an epoll, ticks of a timerfd, count of an eventfd


class SocketReading(Reading, frozen=True, kw_only=True):
    """One TCP socket of an observed process, or a listener of ours."""

    pid: int | None
    fd: int | None
    inode: int | None  # None: not told (without proc(5)), as are the queues then
    local: str  # "127.0.0.1:4096"
    remote: str
    state: str  # ESTABLISHED, LISTEN, SYN_SENT, ...
    rx_queue_bytes: int | None  # for LISTEN: connections not yet accepted
    tx_queue_bytes: int | None
    peer_pid: int | None = None  # who holds the other end on loopback
    # From TCP_INFO; None: not told (another network namespace, an old kernel). Both ages begin at the connection.
    received_bytes: int | None = None
    sent_bytes: int | None = None
    received_ago_s: float | None = None
    sent_ago_s: float | None = None
    waiting_s: float | None = None  # for LISTEN: the age of the oldest connection that nobody has accepted


class UnixSocketReading(Reading, frozen=True, kw_only=True):
    """One UNIX socket of an observed process; opencode reads what its tools print through such pairs.

    One that several processes have inherited is told once for each of them, and so is its peer.
    """

    pid: int
    fd: int
    inode: int
    name: str  # a path, "@" and an abstract name, or "" (one of a pair)
    state: str  # ESTABLISHED, LISTEN, UNCONNECTED
    rx_queue_bytes: int | None = None  # for LISTEN: connections not yet accepted
    tx_queue_bytes: int | None = None  # for LISTEN: how many of them there may be
    peer_inode: int | None = None
    peer_pid: int | None = None  # the first process that has the other end, or that listens and has not accepted


class FileLock(Reading, frozen=True, kw_only=True):
    """A POSIX, OFD or flock lock on a file, held or waited for (proc_locks(5))."""

    path: str
    kind: str  # POSIX, OFDLCK, FLOCK
    access: str  # READ, WRITE
    start: int
    end: int | None  # None: to the end of the file
    name: str  # SQLite's name for the bytes ("WRITE", "SHARED"), or ""
    pid: int | None  # None: an open file description that nobody visible has
    waiting: bool = False
    source: str = "fdinfo"  # fdinfo, /proc/locks, F_GETLK


class WalIndex(Reading, frozen=True, kw_only=True):
    """How full a database's WAL is, and up to which frame its readers read it (walformat: the WAL index header)."""

    path: str  # of the database
    frames: int  # mxFrame: valid frames in the WAL
    pages: int  # nPage: of the database, with the WAL
    backfilled: int  # nBackfill: frames that a checkpoint has copied
    backfill_attempted: int
    read_marks: tuple[int | None, ...]  # of READ0 to READ4; None: unused
    torn: bool = False  # its two copies differ: it was being written


class LockDirectory(Reading, frozen=True, kw_only=True):
    """One of opencode's own lock directories, ``<state>/opencode/locks/<sha1(key)>.lock``."""

    path: str
    key: str | None  # "npm-install:<directory>" where the hash could be matched
    holder_pid: int | None
    holder_alive: bool | None
    token: str = ""
    created_at: str = ""
    age_s: float | None = None
    heartbeat_age_s: float | None = None
    stale_in_s: float | None = None  # until the next waiter may break it; negative: it may already
    pid_reused: bool = False  # a process has the holder's pid that is younger than the lock


class LockChange(StrEnum):
    """How the holder of a lock directory changed between two looks."""

    TAKEN = "taken"
    NAMED = "named"  # it was there before; meta.json now says whose it is
    RELEASED = "released"
    BROKEN_AS_STALE = "broken-as-stale"
    TAKEN_FROM_LIVE_HOLDER = "taken-from-live-holder"
    LEFT_BEHIND = "left-behind"  # the holder has ended, the directory stays
    REMOVED = "removed"  # the directory of a dead holder is gone, and not by the breaker's way
    CHANGED_HANDS = "changed-hands"  # another holder, and how could not be told


class ProcessReading(Reading, frozen=True, kw_only=True):
    """One process and its threads."""

    id: ProcessId
    role: str
    name: str
    parent_pid: int
    session_pid: int
    state: str
    argv: tuple[str, ...] = ()
    is_subject: bool = True  # an opencode process, and not one of its tools
    cpu_ns: int = 0
    rss_bytes: int = 0
    read_bytes: int | None = None
    written_bytes: int | None = None
    threads: tuple[ThreadReading, ...] = ()
    fds: tuple[FdReading, ...] = ()


class LogLine(Reading, frozen=True, kw_only=True):
    """One line of an opencode log, of either dialect."""

    text: str
    level: str = ""
    service: str = ""
    message: str = ""
    run: str = ""
    milestone: str = ""


class LogTail(Reading, frozen=True, kw_only=True):
    """The end of what one process has logged so far."""

    path: str
    pid: int | None
    size_bytes: int
    lines: tuple[LogLine, ...] = ()
    milestone: str = ""  # the last one reached


class Snapshot(Reading, frozen=True, kw_only=True):
    """All readings of one instant."""

    number: int
    started_ns: int
    ended_ns: int
    boottime_ns: int
    full: bool
    processes: tuple[ProcessReading, ...] = ()
    sockets: tuple[SocketReading, ...] = ()
    unix_sockets: tuple[UnixSocketReading, ...] = ()
    locks: tuple[FileLock, ...] = ()
    wal_indexes: tuple[WalIndex, ...] = ()
    lock_directories: tuple[LockDirectory, ...] = ()
    logs: tuple[LogTail, ...] = ()
    missing: tuple[str, ...] = ()


class TracedCall(Reading, frozen=True, kw_only=True):
    """One system call with one path and one result, as strace saw it. ``at_s`` counts from the first call seen."""

    name: str
    path: str
    result: str  # "EEXIST", or the value that it returned
    at_s: tuple[float, ...]
    threads: tuple[int, ...] = ()


class NativeStack(Reading, frozen=True, kw_only=True):
    """Frames of the machine code, innermost first, and the threads that stand in them: ``Bun Pool 0 (4711)``."""

    threads: tuple[str, ...]
    frames: tuple[str, ...]


class UnfinishedPart(Reading, frozen=True, kw_only=True):
    """A tool part whose stored state is not an end state."""

    session: str
    message: str
    part: str
    tool: str
    status: str  # pending, running
    started: bool
    detail: str = ""


class UnfinishedMessage(Reading, frozen=True, kw_only=True):
    """An assistant message without ``time.completed``."""

    session: str
    message: str
    error: str = ""
    created: float | None = None  # seconds since 1970, by the subject's own clock


class DatabaseReading(Reading, frozen=True, kw_only=True):
    """What a byte copy of opencode.db, -wal and -shm says; the original is never opened."""

    path: str
    size_bytes: int
    wal_bytes: int
    readable: bool
    error: str = ""
    journal_mode: str = ""
    integrity: str = ""
    sessions: tuple[str, ...] = ()
    messages: int = 0
    parts: int = 0
    unfinished_messages: tuple[UnfinishedMessage, ...] = ()
    unfinished_parts: tuple[UnfinishedPart, ...] = ()
    touched: tuple[tuple[str, float], ...] = ()  # the sessions written last, and when: seconds since 1970
