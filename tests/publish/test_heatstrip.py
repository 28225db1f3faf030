from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_ocrepro import readings as r
from pytest_ocrepro.publish.pictures import heatstrip as h

SVG = "{http://www.w3.org/2000/svg}"


def thread(tid: int, name: str = "t", **facts: object) -> r.ThreadReading:
    return r.ThreadReading(tid=tid, name=name, **{"state": "S", "syscall": "futex", **facts})  # type: ignore[arg-type]


def look(number: int, *threads: r.ThreadReading, pid: int = 5, fds: tuple[r.FdReading, ...] = ()) -> r.Snapshot:
    process = r.ProcessReading(
        id=r.ProcessId(pid=pid, start_ticks=1),
        role=f"p{pid}",
        name="x",
        parent_pid=1,
        session_pid=1,
        state="S",
        threads=threads,
        fds=fds,
    )
    at_ns = number * 10**9
    return r.Snapshot(number=number, started_ns=at_ns, ended_ns=at_ns, boottime_ns=0, full=True, processes=(process,))


PIPE = r.FdReading(fd=3, kind=r.FdKind.PIPE, target="pipe:[7]")


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"state": "R", "syscall": "running"}, "running"),
        ({"syscall": "epoll_pwait2", "wchan": "do_epoll_wait"}, "event loop"),
        ({"syscall": "futex", "wchan": "futex_do_wait"}, "futex"),
        ({"syscall": "restart_syscall", "wchan": "futex_do_wait"}, "futex"),
        ({"syscall": "fcntl", "arguments": ("0x9", "0x7", "0x0")}, "file lock"),
        ({"syscall": "fcntl", "arguments": ("0x9", "0x6", "0x0")}, "other"),
        ({"syscall": "flock", "arguments": ("0x9", "0x2")}, "file lock"),
        ({"syscall": "read", "arguments": ("0x3", "0x0", "0x1")}, "pipe"),
        ({"syscall": "read", "arguments": ("0x4", "0x0", "0x1"), "wchan": "pipe_read"}, "pipe"),
        ({"syscall": "read", "arguments": ("0x4", "0x0", "0x1")}, "other"),
        ({"syscall": "fdatasync"}, "disk"),
        ({"state": "D", "syscall": "openat"}, "disk"),
        ({"syscall": "wait4"}, "other"),
        ({"syscall": None}, "unknown"),
    ],
)
def test_what_a_thread_is_in(facts: dict[str, Any], state: str) -> None:
    assert h.state_of(thread(1, **facts), (PIPE,)) == state


def test_threads_that_were_always_alike_share_a_row_and_others_do_not() -> None:
    idle = [thread(n, f"Bun Pool {n}") for n in range(1, 5)]
    first = look(1, *idle, thread(9, "main", syscall="epoll_wait"))
    second = look(2, *idle[:3], thread(4, "Bun Pool 4", state="R"), thread(9, "main", syscall="epoll_wait"))
    strip = h.strip([first, second], 0)
    assert strip.looks == (1.0, 2.0)
    assert [(row.name, row.count, row.states) for row in strip.rows] == [
        ("Bun Pool", 3, ("futex", "futex")),
        ("Bun Pool", 1, ("futex", "running")),
        ("main", 1, ("event loop", "event loop")),
    ]


def test_what_was_not_there_is_not_drawn() -> None:
    strip = h.strip([look(1, thread(1)), look(2, thread(1), thread(2, "late")), look(3, thread(7), pid=6)], 0)
    assert [(row.role, row.name, row.states) for row in strip.rows] == [
        ("p5", "t", ("futex", "futex", "not there")),
        ("p5", "late", ("not there", "futex", "not there")),
        ("p6", "t", ("not there", "not there", "futex")),
    ]
    svg = ET.fromstring(h.heatstrip(strip, "Strip"))  # noqa: S314 - made a moment ago by us
    assert len(svg.findall(f".//{SVG}rect")) == 4
    assert svg.findtext(f"{SVG}title") == "Strip"
    texts = [node.text for node in svg.iter(f"{SVG}text")]
    assert texts.count("f") == 4
    assert {"p5 (pid 5)", "p6 (pid 6)", "late", "1.0 s"} <= set(texts)


def test_many_looks_and_rows_are_cut_and_counted() -> None:
    threads = [thread(n, f"{chr(97 + n % 26)}{chr(97 + n // 26)}") for n in range(h.MOST_ROWS + 7)]
    strip = h.strip([look(n, *threads) for n in range(h.MOST_LOOKS + 3)], 0)
    assert (len(strip.looks), strip.earlier) == (h.MOST_LOOKS, 3)
    assert (len(strip.rows), strip.more) == (h.MOST_ROWS, 7)
    assert strip.looks[0] == 3.0
