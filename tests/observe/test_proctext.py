from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro.observe import proctext
from pytest_ocrepro.readings import FdKind

if TYPE_CHECKING:
    from collections.abc import Callable

STAT = (
    "6193 (sleep) S 6187 6187 4872 0 -1 4194304 126 0 1 0 7 3 0 0 20 0 1 0 72439 2990080 406 18446744073709551615 1 "
    "2 140726441471424 0 0 0 0 6 0 1 0 0 17 0 0 0 0 0 0 94 95 96 97 98 4711 99 0\n"
)
LOCKS = (  # Linux 6.18, but for the last three: proc_locks(5)
    "1: FLOCK  ADVISORY  WRITE 10240 fe:00:2187972 0 EOF\n"
    "1: -> FLOCK  ADVISORY  WRITE 10241 fe:00:2187972 0 EOF\n"
    "1:  -> FLOCK  ADVISORY  WRITE 10242 fe:00:2187972 0 EOF\n"
    "2: POSIX  ADVISORY  WRITE 10240 fe:00:2187972 5 14\n"
    "3: OFDLCK ADVISORY  READ  -1 08:01:12 128 128\n"
    "4: LEASE  ACTIVE    READ  77 08:01:13 0 EOF\n"
    "5: POSIX  ADVISORY  WRITE 78 <none>:0 0 EOF\n"
)
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode       \n"
    "   0: 00000000:07E8 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1113 1 0000 100 0 0\n"
    "   1: 0100007F:9BEA 0100007F:9E51 01 00000007:00000000 00:00000000 00000000     0        0 26788 2 00 20 0 0 1\n"
)
TCP6 = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue inode\n"
    "   2: 00000000000000000000000001000000:886D 00000000000000000000000001000000:E6EE 01 00000000:00000000 "
    "00:00000000 00000000     0        0 0 1 0000000089228f69 20 0 0 10 -1\n"
    "   3: 0000000000000000FFFF00000100007F:9E51 0000000000000000FFFF00000100007F:9BEA 01 00000000:00000005 "
    "00:00000000 00000000     0        0 26789 1 000000008f87205a 20 4 30 10 -1\n"
)
EPOLL = (
    "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t18\n"
    "tfd:        3 events:       1f data:                3  pos:0 ino:12 sdev:10\n"
    "tfd:       11 events:       19 data:                3  pos:0 ino:12 sdev:10\n"
)
TIMER = (
    "pos:\t0\nflags:\t02\nclockid: 1\nticks: 0\nsettime flags: 00\nit_value: (99, 999912530)\nit_interval: (0, 0)\n"
)
IDLE_TIMER = TIMER.replace("(99, 999912530)", "(0, 0)")
EVENTFD = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t18\neventfd-count:               1f\neventfd-id: 1\n"
LOCKED_FILE = (
    "pos:\t1026\nflags:\t0102001\nmnt_id:\t27\nino:\t2187972\n"
    "lock:\t1: FLOCK  ADVISORY  WRITE 10240 fe:00:2187972 0 EOF\n"
    "lock:\t2: POSIX  ADVISORY  WRITE 10240 fe:00:2187972 5 14\n"
)


@pytest.mark.parametrize("name", ["sleep", "a b", ") S 1 (", "x\ny", "(", "t Helper Thread", "\N{SNOWMAN}"])
def test_a_name_may_hold_anything(name: str) -> None:
    stat = proctext.parse_stat(STAT.replace("sleep", name))
    assert stat is not None
    assert (stat.pid, stat.name, stat.state, stat.parent_pid, stat.session_pid) == (6193, name, "S", 6187, 4872)
    assert (stat.cpu_ticks, stat.start_ticks, stat.rss_pages, stat.environment_at) == (10, 72439, 406, 4711)


@pytest.mark.parametrize("text", ["", "1", "1 (x", "1 (x) S 1 2", "x (y) " + "1 " * 50, "1 (x) S " + "q " * 50])
def test_stat_that_is_none(text: str) -> None:
    assert proctext.parse_stat(text) is None


def test_stat_of_a_kernel_before_the_environment_was_told() -> None:
    stat = proctext.parse_stat(" ".join(STAT.split()[:44]))
    assert stat is not None
    assert stat.environment_at == 0


@pytest.mark.parametrize(
    ("text", "machine", "expected"),
    [
        ("running\n", "x86_64", ("running", ())),
        ("-1 0x7ffd6d8dea10 0x7f80d39a7bd1\n", "x86_64", ("none", ())),
        ("72 0x3 0x7 0x7f 0x8 0x0 0x0 0x9 0xa\n", "x86_64", ("fcntl", ("0x3", "0x7", "0x7f", "0x8", "0x0", "0x0"))),
        ("441 0x5 0x0 0x0 0x0 0x0 0x0 0x9 0xa", "x86_64", ("epoll_pwait2", ("0x5", *["0x0"] * 5))),
        ("441 0x5 0x0 0x0 0x0 0x0 0x0 0x9 0xa", "aarch64", ("epoll_pwait2", ("0x5", *["0x0"] * 5))),
        ("98 0x5", "aarch64", ("futex", ("0x5",))),
        ("202 0x5", "x86_64", ("futex", ("0x5",))),
        ("202 0x5", "riscv64", ("syscall-202", ("0x5",))),
        ("9999", "x86_64", ("syscall-9999", ())),
        ("", "x86_64", (None, ())),
        ("rubbish", "x86_64", (None, ())),
    ],
)
def test_syscalls_have_names(text: str, machine: str, expected: tuple[str | None, tuple[str, ...]]) -> None:
    assert proctext.parse_syscall(text, proctext.syscall_names(machine)) == expected


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [
        ("x86_64", 202, "futex"), ("x86_64", 232, "epoll_wait"), ("x86_64", 281, "epoll_pwait"),
        ("x86_64", 441, "epoll_pwait2"), ("x86_64", 247, "waitid"), ("x86_64", 288, "accept4"),
        ("x86_64", 75, "fdatasync"), ("x86_64", 83, "mkdir"), ("x86_64", 73, "flock"),
        ("aarch64", 22, "epoll_pwait"), ("aarch64", 32, "flock"), ("aarch64", 34, "mkdirat"),
        ("aarch64", 260, "wait4"), ("aarch64", 115, "clock_nanosleep"),
    ],
)  # fmt: skip
def test_the_syscall_tables(machine: str, number: int, name: str) -> None:
    assert proctext.syscall_names(machine)[number] == name


def test_switches_schedstat_and_io() -> None:
    status = "Name:\tx\nState:\tS\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t9\n"
    assert proctext.parse_status_switches(status) == (3, 9)
    assert proctext.parse_status_switches("Name:\tx\n") == (None, None)
    assert proctext.parse_schedstat("517570 12 3\n") == (517570, 12)
    assert proctext.parse_schedstat("0 0\n") == (0, 0)
    assert proctext.parse_schedstat("") == (None, None)
    assert proctext.parse_io("rchar: 6976\nwchar: 5\nread_bytes: 1\nwrite_bytes: 2\n") == (6976, 5)
    assert proctext.parse_io("") == (None, None)


def test_an_environment_with_strange_entries() -> None:
    found = proctext.parse_environ(b"A=1\0B=x=y\0nothing\0=z\0A=2\0C=\xff\0\0")
    assert found == {"A": "1", "B": "x=y", "C": "\N{REPLACEMENT CHARACTER}"}


def test_locks_held_and_awaited() -> None:
    lines = proctext.parse_locks(LOCKS)
    assert [(line.number, line.waiting, line.pid) for line in lines] == [
        (1, False, 10240),
        (1, True, 10241),
        (1, True, 10242),
        (2, False, 10240),
        (3, False, None),
        (4, False, 77),
    ]
    assert (lines[3].device, lines[3].inode, lines[3].start, lines[3].end) == ("fe:00", 2187972, 5, 14)
    assert lines[0].end is None


@pytest.mark.parametrize(
    ("text", "detail"),
    [(EPOLL, "watches fds 3 11"), (TIMER, "fires in 100.000 s"), (IDLE_TIMER, "not armed"), (EVENTFD, "count 31")],
)
def test_details_of_event_descriptors(text: str, detail: str) -> None:
    assert proctext.parse_fdinfo(text).detail == detail


def test_fdinfo_of_a_locked_file() -> None:
    info = proctext.parse_fdinfo(LOCKED_FILE)
    assert (info.position_bytes, info.flags, info.inode) == (1026, 0o102001, 2187972)
    assert [lock.kind for lock in info.locks] == ["FLOCK", "POSIX"]
    assert proctext.parse_fdinfo(EPOLL).watched == (3, 11)


def test_tcp_rows_of_both_families() -> None:
    rows = proctext.parse_net_tcp(TCP + TCP6)
    assert [(row.local, row.remote, row.state) for row in rows] == [
        ("0.0.0.0:2024", "0.0.0.0:0", "LISTEN"),
        ("127.0.0.1:39914", "127.0.0.1:40529", "ESTABLISHED"),
        ("[::1]:34925", "[::1]:59118", "ESTABLISHED"),
        ("127.0.0.1:40529", "127.0.0.1:39914", "ESTABLISHED"),
    ]
    assert [(row.tx_queue_bytes, row.rx_queue_bytes, row.inode) for row in rows] == [
        (0, 2, 1113),
        (7, 0, 26788),
        (0, 0, 0),
        (0, 5, 26789),
    ]


UNIX = (
    "Num       RefCount Protocol Flags    Type St Inode Path\n"
    "00000000bc5d5a92: 00000002 00000000 00010000 0001 01  1035 /run/a socket\n"
    "00000000e3b8b7b2: 00000003 00000000 00000000 0001 03 22057\n"
    "00000000e3b8b7b3: 00000003 00000000 00000000 0002 01 22058 @abstract\n"
    "rubbish: 1 2 x 4 y z\n"
)


def test_unix_rows() -> None:
    assert [(row.inode, row.state, row.name) for row in proctext.parse_net_unix(UNIX)] == [
        (1035, "LISTEN", "/run/a socket"),
        (22057, "ESTABLISHED", ""),
        (22058, "UNCONNECTED", "@abstract"),
    ]
    assert {row.rx_queue_bytes for row in proctext.parse_net_unix(UNIX)} == {None}, "not told there"


@pytest.mark.parametrize(
    ("target", "flags", "kind"),
    [
        ("socket:[12224]", 0o2, FdKind.SOCKET), ("pipe:[7]", 0o1, FdKind.PIPE),
        ("anon_inode:[eventpoll]", 0, FdKind.EVENTPOLL), ("anon_inode:[eventfd]", 0, FdKind.EVENTFD),
        ("anon_inode:[timerfd]", 0, FdKind.TIMERFD), ("anon_inode:inotify", 0, FdKind.OTHER),
        ("anon_inode:[nonsense]", 0, FdKind.OTHER), ("/dev/null", 0, FdKind.DEVICE),
        ("/s/opencode.db", 0o2, FdKind.DATABASE), ("/s/opencode.db-wal", 0o2, FdKind.WAL),
        ("/s/opencode.db-shm", 0o2, FdKind.SHM), ("/s/log/opencode.log", 0o2001, FdKind.LOG),
        ("/s/opencode.db (deleted)", 0o2, FdKind.DATABASE), ("/s", os.O_DIRECTORY, FdKind.DIRECTORY),
        ("/s/plain", None, FdKind.FILE), ("/dev/shm/x", None, FdKind.FILE), ("", None, FdKind.OTHER),
    ],
)  # fmt: skip
def test_kinds_of_descriptors(target: str, flags: int | None, kind: FdKind) -> None:
    assert proctext.fd_kind(target, flags) is kind


PARSERS: list[tuple[Callable[[str], object], str]] = [
    (proctext.parse_stat, STAT),
    (proctext.parse_status_switches, "voluntary_ctxt_switches:\t3\n"),
    (lambda text: proctext.parse_syscall(text, {72: "fcntl"}), "72 0x3 0x7 0x7f 0x8 0x0 0x0 0x9 0xa"),
    (proctext.parse_schedstat, "1 2 3"),
    (proctext.parse_io, "rchar: 1\nwchar: 2\n"),
    (proctext.parse_locks, LOCKS),
    (proctext.parse_fdinfo, LOCKED_FILE + EPOLL + TIMER + EVENTFD),
    (proctext.parse_net_tcp, TCP + TCP6),
    (proctext.parse_net_unix, UNIX),
    (proctext.fd_kind, "anon_inode:[eventpoll]"),
    (lambda text: proctext.parse_environ(text.encode(errors="replace")), "A=1\0B=2"),
]


@pytest.mark.parametrize(("parse", "sample"), PARSERS)
@given(data=st.data())
def test_no_text_makes_a_parser_raise(parse: Callable[[str], object], sample: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sample)))
    length = data.draw(st.integers(0, 20))
    mutant = sample[:at] + data.draw(st.text(max_size=30)) + sample[at + length :]
    for text in (mutant, data.draw(st.text(max_size=80))):
        parse(text)
    assert parse(sample), "the unharmed sample must be understood, or this test shows nothing"
