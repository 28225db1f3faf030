from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_ocrepro.observe.procfs import Reader
from pytest_ocrepro.readings import FdKind, ProcessId, ProcessReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAT = (
    "6193 (sleep) S 6187 6187 4872 0 -1 4194304 126 0 1 0 7 3 0 0 20 0 1 0 72439 2990080 406 18446744073709551615 1 "
    "2 140726441471424 0 0 0 0 6 0 1 0 0 17 0 0 0 0 0 0 94 95 96 97 98 4711 99 0\n"
)


@contextmanager
def stand_in(code: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python child that has said "ready"; killed and reaped at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield child
    finally:
        child.kill()
        child.communicate()


def until(condition: Callable[[], bool], *, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"
THREADS = """
import sys, threading, time
gate = threading.Event()
for number in range(3):
    threading.Thread(target=gate.wait, daemon=True).start()
print('ready', flush=True)
sys.stdin.read()
"""


def test_a_process_with_threads_is_read_in_full() -> None:
    missing: list[str] = []
    reader = Reader()
    with stand_in(THREADS) as child:

        def looked() -> ProcessReading | None:
            return reader.read_process(child.pid, role="first", is_subject=False, full=True, missing=missing)

        until(lambda: (seen := looked()) is not None and {thread.state for thread in seen.threads} == {"S"})
        missing.clear()
        reading = looked()
    assert reading is not None
    assert (reading.role, reading.parent_pid, reading.is_subject) == ("first", os.getpid(), False)
    assert reading.argv[0] == sys.executable
    assert len(reading.threads) == 4
    assert reading.threads[0].tid == child.pid
    main = reading.threads[0]
    assert main.voluntary_switches is not None
    assert main.cpu_ns is not None
    assert reading.rss_bytes > 1_000_000
    assert {fd.fd: fd.kind for fd in reading.fds if fd.fd < 2} == {0: FdKind.PIPE, 1: FdKind.PIPE}
    assert {fd.fd: fd.writable for fd in reading.fds if fd.fd < 2} == {0: False, 1: True}
    if not missing:  # where the machine lets us see them, they must be right
        assert main.syscall == "read"
        assert [thread.syscall for thread in reading.threads[1:]] == ["futex"] * 3


def test_a_glance_reads_the_main_thread_only() -> None:
    reader = Reader()
    with stand_in(THREADS) as child:
        reading = reader.read_process(child.pid, role="first", is_subject=True, full=False, missing=[])
    assert reading is not None
    assert [thread.tid for thread in reading.threads] == [child.pid]
    assert reading.threads[0].voluntary_switches is not None
    assert (reading.fds, reading.threads[0].syscall) == ((), None)


def test_a_vanished_process_is_nothing() -> None:
    reader = Reader()
    missing: list[str] = []
    with stand_in(WAITS) as child:
        identity = reader.identify(child.pid)
        assert identity is not None
        assert reader.alive(identity)
    assert not reader.alive(identity)
    assert reader.read_process(child.pid, role="x", is_subject=True, full=True, missing=missing) is None
    assert (reader.environ(child.pid), reader.argv(child.pid), reader.state(child.pid)) == (None, None, None)
    assert (reader.parent(child.pid), reader.session(child.pid), reader.fd_links(child.pid, missing)) == (
        None,
        None,
        [],
    )
    assert missing == []


def test_a_zombie_is_not_alive_but_has_a_reading() -> None:
    reader = Reader()
    with stand_in(WAITS, OCREPRO_TEST="zombie") as child:
        identity = reader.identify(child.pid)
        assert identity is not None
        assert reader.marked("OCREPRO_TEST", "zombie") == [identity]
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: reader.state(child.pid) == "Z")
        assert not reader.alive(identity)
        assert reader.marked("OCREPRO_TEST", "zombie") == []
        reading = reader.read_process(child.pid, role="x", is_subject=True, full=True, missing=[])
        assert reading is not None
        assert reading.state == "Z"


def test_a_recycled_pid_is_another_process() -> None:
    reader = Reader()
    ourselves = reader.identify(os.getpid())
    assert ourselves is not None
    assert reader.alive(ourselves)
    assert not reader.alive(ProcessId(pid=ourselves.pid, start_ticks=ourselves.start_ticks + 1))


def test_family() -> None:
    reader = Reader()
    with stand_in(WAITS) as child:
        assert reader.parent(child.pid) == os.getpid()
        assert child.pid in reader.children_of(os.getpid())
        assert reader.session(child.pid) == os.getsid(0)
        assert Path(reader.exe(child.pid) or "").name.startswith("python")


def test_marked_by_value_and_by_prefix() -> None:
    reader = Reader()
    with stand_in(WAITS, OCREPRO_TEST="run7.trial1") as one, stand_in(WAITS, OCREPRO_TEST="run7.trial2") as two:
        assert [process.pid for process in reader.marked("OCREPRO_TEST", "run7.trial1")] == [one.pid]
        assert {process.pid for process in reader.marked("OCREPRO_TEST", "run7.*")} == {one.pid, two.pid}
        assert reader.marked("OCREPRO_TEST", "run7") == []
        assert reader.marked("OCREPRO_ABSENT", "*") == []
    assert reader.marked("OCREPRO_TEST", "run7.*") == []


def test_a_mark_that_comes_with_a_late_exec_is_found() -> None:
    """A "no" is kept for the program that was asked, not for its pid."""
    code = (
        "import os, sys; print('ready', flush=True); sys.stdin.readline();"
        "os.execve(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()'], {'OCREPRO_TEST': 'late'})"
    )
    reader = Reader()
    with stand_in(code) as child:
        identity = reader.identify(child.pid)
        assert identity is not None
        until(lambda: reader.age_s(identity) > 1.1)
        assert reader.marked("OCREPRO_TEST", "late") == []
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        until(lambda: reader.marked("OCREPRO_TEST", "late") == [identity])


def test_a_mark_that_is_forgotten_leaves_nothing_and_is_found_again() -> None:
    reader = Reader()
    with stand_in(WAITS, OCREPRO_TEST_MARK="z.1") as child:
        for _ in range(2):
            assert [one.pid for one in reader.marked("OCREPRO_TEST_MARK", "z.1")] == [child.pid]
            reader.newly_marked("OCREPRO_TEST_MARK", "z.1")
            reader.forget("OCREPRO_TEST_MARK", "z.1")
            assert reader._settled == {}


def test_newly_marked_tells_a_process_until_it_is_settled() -> None:
    reader = Reader()
    mark = f"new-{os.getpid()}"
    assert reader.newly_marked("OCREPRO_TEST", mark) == []
    with stand_in(WAITS, OCREPRO_TEST=mark) as child, stand_in(WAITS, OCREPRO_TEST=f"{mark}.2") as other:
        identity = reader.identify(child.pid)
        assert identity is not None
        assert reader.newly_marked("OCREPRO_TEST", mark) == [identity]
        assert {one.pid for one in reader.newly_marked("OCREPRO_TEST", f"{mark}*")} == {child.pid, other.pid}
        until(lambda: reader.age_s(identity) > 1.1)
        assert reader.newly_marked("OCREPRO_TEST", mark) == [identity], "told once more when its program is its own"
        assert reader.newly_marked("OCREPRO_TEST", mark) == []
        assert reader.marked("OCREPRO_TEST", mark) == [identity]


def test_an_old_unmarked_process_is_asked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    asked: list[int] = []
    value = Reader._value

    def counting(self: Reader, pid: int, name: str) -> str | None:
        asked.append(pid)
        return value(self, pid, name)

    monkeypatch.setattr(Reader, "_value", counting)
    with stand_in(WAITS) as child:
        identity = reader.identify(child.pid)
        assert identity is not None
        reader.marked("OCREPRO_TEST", "never")
        reader.marked("OCREPRO_TEST", "never")
        assert asked.count(child.pid) == 2, "a young process may still be on its way to exec"
        until(lambda: reader.age_s(identity) > 1.1)
        reader.marked("OCREPRO_TEST", "never")
        before = asked.count(child.pid)
        reader.marked("OCREPRO_TEST", "never")
        reader.marked("OCREPRO_TEST", "nor this")
        assert asked.count(child.pid) == before
        assert reader.marked("OCREPRO_OTHER", "never", known={identity}) == [identity]


def test_what_others_may_not_see_is_unknown_and_told() -> None:
    """Process 1 belongs to root; asked by anybody else its environment and descriptors are unknown, not empty."""
    missing: list[str] = []
    reader = Reader()
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        reading = reader.read_process(1, role="init", is_subject=False, full=True, missing=missing)
        environment = reader.environ(1)
    finally:
        os.seteuid(before)
    assert reading is not None
    assert environment is None
    assert (reading.fds, reading.read_bytes, reading.threads[0].wchan) == ((), None, None)
    assert [line for line in missing if line.startswith("pid 1: fd: ")]
    assert [line for line in missing if line.startswith("pid 1: io: ")]
    assert len(missing) == len(set(missing)) <= 6


# --- the reader, on made-up trees


def tree(root: Path, pid: int = 42, **files: str) -> Reader:
    task = root / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    stat = STAT.replace("6193 (", f"{pid} (")
    (root / str(pid) / "stat").write_text(stat)
    (task / "stat").write_text(stat)
    for name, text in files.items():
        (task / name).write_text(text)
    return Reader(str(root))


@pytest.mark.parametrize(
    "wchan", ["futex_wait_queue_me", "futex_wait_queue", "futex_do_wait", "ep_poll", "do_epoll_wait", "pipe_read"]
)
def test_wait_channels_of_several_kernels_are_kept_as_they_are(tmp_path: Path, wchan: str) -> None:
    reader = tree(tmp_path, wchan=wchan, syscall="202 0x1", schedstat="1 2 3", status="")
    reading = reader.read_process(42, role="x", is_subject=True, full=True, missing=[])
    assert reading is not None
    assert (reading.threads[0].wchan, reading.threads[0].cpu_ns) == (wchan, 1)


def test_a_zero_wait_channel_of_a_sleeper_is_unknown(tmp_path: Path) -> None:
    missing: list[str] = []
    reader = tree(tmp_path, wchan="0", syscall="202 0x1", schedstat="1 2 3", status="")
    reading = reader.read_process(42, role="x", is_subject=True, full=True, missing=missing)
    assert reading is not None
    assert reading.threads[0].wchan is None
    assert "pid 42: wchan: 0 for a sleeping thread (no permission, or not told by this kernel)" in missing


def test_files_that_a_kernel_does_not_have_are_told(tmp_path: Path) -> None:
    missing: list[str] = []
    reading = tree(tmp_path).read_process(42, role="x", is_subject=True, full=True, missing=missing)
    assert reading is not None
    thread = reading.threads[0]
    assert (thread.wchan, thread.syscall, thread.cpu_ns, thread.voluntary_switches) == (None, None, None, None)
    assert "pid 42: syscall: No such file or directory" in missing
    assert "pid 42: schedstat: No such file or directory" in missing


def test_a_tree_that_hides_everything(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path))
    assert (reader.pids(), reader.boot_id(), reader.locks(), reader.net()) == ([], "", (), "")
    assert reader.identify(42) is None
    assert reader.marked("A", "*") == []
    assert reader.owner_of_socket(7) is None


def test_rubbish_where_stat_should_be(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_bytes(b"\xff\x00 rubbish")
    reader = Reader(str(tmp_path))
    assert reader.pids() == [42]
    assert reader.identify(42) is None
    assert reader.read_process(42, role="x", is_subject=True, full=True, missing=[]) is None


def test_ten_thousand_threads_are_cut_and_told(tmp_path: Path) -> None:
    reader = tree(tmp_path)
    tasks = tmp_path / "42" / "task"
    for tid in range(43, 10_042):
        (tasks / str(tid)).mkdir()
    for tid in range(43, 1043):
        (tasks / str(tid) / "stat").write_text(STAT.replace("6193 (", f"{tid} ("))
    missing: list[str] = []
    reading = reader.read_process(42, role="x", is_subject=True, full=True, missing=missing)
    assert reading is not None
    assert (reading.threads[0].tid, len(reading.threads)) == (42, 512)
    assert "pid 42: 9488 of 10000 threads were not read" in missing


def test_the_main_thread_is_not_cut_where_pids_have_begun_anew(tmp_path: Path) -> None:
    """Its threads may have smaller numbers than the process itself."""
    reader = tree(tmp_path, pid=30_000)
    for tid in range(300, 1300):
        (tmp_path / "30000" / "task" / str(tid)).mkdir()
        (tmp_path / "30000" / "task" / str(tid) / "stat").write_text(STAT.replace("6193 (", f"{tid} ("))
    missing: list[str] = []
    reading = reader.read_process(30_000, role="x", is_subject=True, full=True, missing=missing)
    assert reading is not None
    assert 30_000 in {thread.tid for thread in reading.threads}
    assert "pid 30000: 489 of 1001 threads were not read" in missing


def test_who_and_where_a_process_is() -> None:
    reader = Reader()
    with stand_in(WAITS) as child:
        assert reader.cwd(child.pid) == str(Path.cwd())
        assert reader.root_of(child.pid) == "/"
        assert reader.user(child.pid) == os.getuid()
        assert reader.inner_pids(child.pid)[0] == child.pid
        assert reader.namespace(child.pid, "pid") == reader.namespace("self", "pid") is not None
    assert (reader.cwd(child.pid), reader.user(child.pid), reader.inner_pids(child.pid)) == (None, None, ())


@pytest.mark.parametrize(
    ("options", "how"),
    [("rw,relatime", ""), ("rw,hidepid=0", ""), ("rw,hidepid=2", "2"), ("ro,hidepid=invisible", "invisible")],
)
def test_a_mount_that_hides_processes_says_so(tmp_path: Path, options: str, how: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mounts").write_text(f"proc /other proc rw,hidepid=1 0 0\nproc {tmp_path} proc {options} 0 0\n")
    assert Reader(str(tmp_path)).hidepid() == how


def test_yama(tmp_path: Path) -> None:
    assert Reader(str(tmp_path)).ptrace_scope() is None
    (tmp_path / "sys/kernel/yama").mkdir(parents=True)
    (tmp_path / "sys/kernel/yama/ptrace_scope").write_text("1\n")
    assert Reader(str(tmp_path)).ptrace_scope() == 1
