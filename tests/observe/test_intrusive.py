"""strace, gdb and a core on stand-ins of ours, and what they print."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_ocrepro.observe.intrusive import (
    IntrusiveError,
    native_stacks,
    parse_calls,
    parse_stacks,
    trace,
    write_core,
)
from pytest_ocrepro.observe.procfs import Reader

POLLS = """
import os, sys, threading
os.mkdir(sys.argv[1])
print('ready', flush=True)
pause = threading.Event()
def poll():
    while not pause.wait(0.1):
        try: os.mkdir(sys.argv[1])
        except FileExistsError: pass
thread = threading.Thread(target=poll)
thread.start(); thread.join()
"""
RESTS = "import signal; print('ready', flush=True); signal.pause()"
WORKS = """
import os, sys
print('ready', flush=True)
number = 0
while True:
    os.mkdir(f'{sys.argv[1]}-{number}'); os.rmdir(f'{sys.argv[1]}-{number}'); number += 1
"""
STRACE = r"""
[pid 24936] 1795252872.478791 mkdir("/x/locks/18a3.lock", 0700) = -1 EEXIST (File exists)
[pid 24936] 1795252872.693022 mkdir("/x/locks/4875.lock", 0700 <unfinished ...>
[pid 24935] 1795252872.693500 mkdirat(AT_FDCWD, "/x/Stra\303\237e \"q\"", 0777) = 0
[pid 24936] 1795252872.694022 <... mkdir resumed>) = -1 EEXIST (File exists)
[pid 24935] 1795252874.663087 mkdir("/x/locks/18a3.lock", 0700) = -1 EEXIST (File exists)
[pid 24935] 1795252874.700000 mkdir("/very/long"..., 0700) = -1 ENAMETOOLONG (File name too long)
[pid 24935] 1795252874.800000 +++ exited with 0 +++
rubbish
[pid 24935] 1795252874.900000 mkdir("/x/locks/4875.lock", 0700
"""
GDB = """
[New LWP 24921]
Using host libthread_db library "/lib/x86_64-linux-gnu/libthread_db.so.1".

Thread 3 (Thread 0x7f416cdfe6c0 (LWP 24936) "Bun Pool 1"):
#0  syscall () at ../sysdeps/unix/sysv/linux/x86_64/syscall.S:38
#1  0x0000000005b8ded6 in ?? ()

Thread 2 (Thread 0x7f416d1ff6c0 (LWP 24935) "Bun Pool 0"):
#0  syscall () at ../sysdeps/unix/sysv/linux/x86_64/syscall.S:38
#1  0x0000000005b8ded6 in ?? ()

Thread 1 (LWP 24920):
#0  epoll_pwait2 () at x.c:1
[Inferior 1 (process 24920) detached]
"""


@contextmanager
def running(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        try:
            yield child
            assert child.poll() is None, "it has outlived what we did to it"
            assert Reader().state(child.pid) in ("S", "R", "D")
        finally:
            child.kill()


def test_calls_are_put_together_by_path_and_result() -> None:
    calls = {(call.path, call.result): call for call in parse_calls(STRACE)}
    assert set(calls) == {
        ("/x/locks/18a3.lock", "EEXIST"),
        ("/x/locks/4875.lock", "EEXIST"),
        ('/x/Straße "q"', "0"),
    }
    twice = calls["/x/locks/18a3.lock", "EEXIST"]
    assert (twice.name, twice.at_s, twice.threads) == ("mkdir", (0.0, 2.184), (24936, 24935))
    assert calls["/x/locks/4875.lock", "EEXIST"].at_s == (0.214,)


def test_threads_that_stand_alike_are_one_stack() -> None:
    pool, main = parse_stacks(GDB)
    assert pool.threads == ("Bun Pool 1 (24936)", "Bun Pool 0 (24935)")
    assert pool.frames[0] == "syscall () at ../sysdeps/unix/sysv/linux/x86_64/syscall.S:38"
    assert (main.threads, len(main.frames)) == (("thread (24920)",), 1)


def test_a_polling_waiter_is_shown_by_its_thread(tmp_path: Path) -> None:
    with running(POLLS, str(tmp_path / "a.lock")) as child:
        (call,) = trace(child.pid, timeout_s=20.0)
    assert (call.path, call.result, call.name) == (str(tmp_path / "a.lock"), "EEXIST", "mkdir")
    assert len(call.at_s) == 2, "it ends as soon as that is shown"
    assert child.pid not in call.threads


def test_one_that_rests_and_one_that_works_show_no_repeated_try(tmp_path: Path) -> None:
    with running(RESTS) as child:
        assert trace(child.pid, timeout_s=0.3) == ()
    with running(WORKS, str(tmp_path / "d")) as child:
        calls = trace(child.pid, timeout_s=0.3)
    assert calls
    assert {(call.result, len(call.at_s)) for call in calls} == {("0", 1)}


def test_native_stacks_are_taken_and_it_goes_on() -> None:
    with running(RESTS) as child:
        stacks = native_stacks(child.pid)
    assert any(str(child.pid) in thread for stack in stacks for thread in stack.threads)
    assert any("pause" in frame or "??" in frame for frame in stacks[0].frames)


def test_a_core_is_for_its_owner_alone_and_its_size_is_told(tmp_path: Path) -> None:
    with running(RESTS) as child:
        size = write_core(child.pid, tmp_path / "core")
        status = (tmp_path / "core").stat()
        assert (status.st_size, stat.S_IMODE(status.st_mode)) == (size, 0o600)
        assert size > 100_000
        with pytest.raises(IntrusiveError, match=f"no core of pid {child.pid}: core: File exists"):
            write_core(child.pid, tmp_path / "core")
        with pytest.raises(IntrusiveError, match="limit: 4096 bytes"):
            write_core(child.pid, tmp_path / "small", limit_bytes=4096)
    assert not (tmp_path / "small").exists()


def test_a_core_that_there_was_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "core").write_text("of another")
    with running(RESTS) as child, pytest.raises(IntrusiveError):
        write_core(child.pid, tmp_path / "core")
    assert (tmp_path / "core").read_text() == "of another"


@pytest.mark.parametrize("step", [trace, native_stacks])
def test_without_the_tool_it_is_told_which_one(step: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IntrusiveError, match=r"(strace|gdb) is not installed: this step was left out"):
        step(1)  # type: ignore[operator]
    with pytest.raises(IntrusiveError, match="gdb is not installed"):
        write_core(1, tmp_path / "core")
    assert not (tmp_path / "core").exists()


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    with pytest.raises(IntrusiveError, match=f"strace cannot watch pid {gone.pid}: .*No such process"):
        trace(gone.pid)
    with pytest.raises(IntrusiveError, match=f"gdb shows no stack of pid {gone.pid}"):
        native_stacks(gone.pid)


def test_one_that_somebody_else_traces_is_left_alone(tmp_path: Path) -> None:
    with running(POLLS, str(tmp_path / "a.lock")) as child:
        argv = ["strace", "-f", "-o", "/dev/null", "-e", "trace=none", "-p", str(child.pid)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as other:
            assert other.stderr is not None
            assert "attached" in other.stderr.readline()
            with pytest.raises(
                IntrusiveError, match=r"Operation not permitted.*run this as root, or see ptrace-scope"
            ):
                trace(child.pid)
            other.terminate()


def test_a_tool_that_does_not_get_done_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "gdb"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(IntrusiveError, match="gdb did not get done with pid 1 within"):
        native_stacks(1, timeout_s=0.2)
    reader = Reader()
    assert not [pid for pid in reader.children_of(os.getpid()) if (reader.argv(pid) or ("",))[-1] == "600"]


def test_strace_lets_go_even_when_we_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``timeout`` stands between us and it, with a time of its own."""
    bound = tmp_path / "timeout"
    bound.write_text('#!/bin/sh\necho "$@" > "$0.seen"\nexec /usr/bin/timeout "$@"\n')
    bound.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with running(RESTS) as child:
        trace(child.pid, timeout_s=0.2)
    seen = (tmp_path / "timeout.seen").read_text().split()
    assert seen[0] == "2.2"
    assert seen[1].endswith("strace")
