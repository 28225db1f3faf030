"""The last step, only when asked for: strace, gdb and a core. Each stops the process for a moment and may disturb it.

strace needs all threads: opencode's mkdir runs on Bun's pool, not on the main thread (measured on 1.14.48 and
1.18.34). It ends as soon as one path was tried twice; the waiter tries every 2 s, with 30 % jitter.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.platforms import has_proc
from pytest_ocrepro.readings import NativeStack, TracedCall

TRACE_S: Final = 6.0  # two tries of a waiter at its longest delay, 2 s and 30 %
STACKS_S: Final = 20.0
CORE_S: Final = 120.0
CORE_LIMIT_BYTES: Final = 16 << 30  # 7.2 GB is what gdb writes of a parked 1.18.34, whose memory is mostly empty
_ENOUGH: Final = 2
_GRACE_S: Final = 2.0
_MOST_BYTES: Final = 4 << 20  # of what a tool prints
_MOST_LINES: Final = 20_000
_FRAME_CHARACTERS: Final = 160
_FREE_SHARE: Final = 0.9  # of the disk: a core must leave some

_LINE = re.compile(r"(?:\[pid +(?P<tid>\d+)\] |(?P<alone>\d+) +)?(?P<at>\d+\.\d+) (?P<call>.*)")
_BEGUN = re.compile(
    r'(?P<name>mkdir(?:at)?)\((?:[^"]*?, )?"(?P<path>(?:[^"\\]|\\.)*)"(?P<cut>\.\.\.)?, 0?\d+(?P<rest>.*)'
)
_RESUMED = re.compile(r"<\.\.\. mkdir(?:at)? resumed>(?P<rest>.*)")
_ENDED = re.compile(r"\) += +(?P<value>-?\d+)(?: (?P<error>[A-Z0-9]+))?")
_THREAD = re.compile(r"Thread \d+ \((?:.*?LWP |process )(?P<tid>\d+)\)?(?: \"(?P<name>[^\"]*)\")?.*:$")
_FRAME = re.compile(r"#\d+ +(?P<frame>.*)")


class IntrusiveError(OcreproError):
    """The step could not be taken: no such tool, no permission, no room, no time."""


def parse_calls(text: str) -> tuple[TracedCall, ...]:
    """``strace -ttt -e trace=mkdir,mkdirat`` output, calls of one path and result together; rubbish is left out."""
    found: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    open_calls: dict[int, tuple[float, str, str]] = {}  # of a thread: another's line came between call and result
    first: float | None = None
    for line in map(_LINE.match, text.splitlines()[:_MOST_LINES]):
        if line is None:
            continue
        tid, at = int(line["tid"] or line["alone"] or 0), float(line["at"])
        first = at if first is None else first
        begun, resumed = _BEGUN.match(line["call"]), _RESUMED.match(line["call"])
        if begun is not None and not begun["cut"]:
            open_calls[tid] = (at - first, begun["name"], _unquoted(begun["path"]))
        ended = _ENDED.match((begun or resumed)["rest"]) if begun or resumed else None  # type: ignore[index]
        if ended is not None and tid in open_calls:
            began, name, path = open_calls.pop(tid)
            found.setdefault((name, path, ended["error"] or ended["value"]), []).append((began, tid))
    return tuple(
        TracedCall(
            name=name,
            path=path,
            result=result,
            at_s=tuple(round(at, 3) for at, _ in tries),
            threads=tuple(dict.fromkeys(tid for _, tid in tries if tid)),
        )
        for (name, path, result), tries in found.items()
    )


def parse_stacks(text: str) -> tuple[NativeStack, ...]:
    """``thread apply all bt`` of gdb; threads with the same frames are one stack. Addresses that differ are kept."""
    stacks: dict[tuple[str, ...], list[str]] = {}
    thread = ""
    frames: list[str] = []
    for line in [*text.splitlines(), ""]:
        head, frame = _THREAD.match(line), _FRAME.match(line)
        if head is not None:
            thread, frames = f"{head['name'] or 'thread'} ({head['tid']})", []
        elif frame is not None and thread:
            frames.append(frame["frame"][:_FRAME_CHARACTERS])
        elif not line.strip() and thread and frames:
            stacks.setdefault(tuple(frames), []).append(thread)
            thread, frames = "", []
    return tuple(NativeStack(threads=tuple(threads), frames=frames) for frames, threads in stacks.items())


def trace(pid: int, *, timeout_s: float = TRACE_S) -> tuple[TracedCall, ...]:
    """Each mkdir of the process within ``timeout_s``; earlier if one path was tried twice. Raises IntrusiveError."""
    argv = [_tool("strace"), "-f", "-qq", "-ttt", "-s", "4096", "-e", "trace=mkdir,mkdirat", "-e", "signal=none"]
    bound = shutil.which("timeout")  # so that it lets go even when we are killed and cannot end it
    child = _start([*([bound, f"{timeout_s + _GRACE_S:g}"] if bound else []), *argv, "-p", str(pid)])
    text = ""
    try:
        for text in _growing(child, time.monotonic() + timeout_s):
            if any(len(call.at_s) >= _ENOUGH for call in parse_calls(text)):
                break
    finally:
        _end(child)
    if child.returncode == 1 and not parse_calls(text):
        raise IntrusiveError(f"strace cannot watch pid {pid}: {_complaint(text)}; {_HOW}")
    return parse_calls(text)


def native_stacks(pid: int, *, timeout_s: float = STACKS_S) -> tuple[NativeStack, ...]:
    """What every thread stands in, without the values of arguments. Raises IntrusiveError."""
    text = _gdb(pid, ["set print frame-arguments none", "thread apply all bt 30"], timeout_s)
    stacks = parse_stacks(text)
    if not stacks:
        raise IntrusiveError(f"gdb shows no stack of pid {pid}: {_complaint(text)}; {_HOW}")
    return stacks


def write_core(pid: int, path: Path, *, limit_bytes: int = CORE_LIMIT_BYTES, timeout_s: float = CORE_S) -> int:
    """Its memory, all secrets included, into ``path``, for the owner's eyes only; returns the size in bytes.

    The process is stopped all the while: 29 s for 7.2 GB. Raises IntrusiveError, and leaves no file then.
    """
    _tool("gdb")
    free = shutil.disk_usage(path.parent).free
    limit_bytes = min(limit_bytes, int(free * _FREE_SHARE))
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise IntrusiveError(f"no core of pid {pid}: {path.name}: {error.strerror}") from None
    kept = False
    try:
        text = _gdb(pid, [f"gcore {path}"], timeout_s, limit_bytes=limit_bytes)
        size = path.stat().st_size
        kept = "Saved corefile" in text and size < limit_bytes  # gdb takes a write that failed for done
        return size if kept else _no_core(pid, _complaint(text), limit_bytes)
    finally:
        if not kept:
            path.unlink(missing_ok=True)


# --- below: how


def _no_core(pid: int, why: str, limit_bytes: int) -> NoReturn:
    raise IntrusiveError(f"no core of pid {pid}: {why} (limit: {limit_bytes} bytes)")


_HOW: Final = "run this as root, or see ptrace-scope in: ocrepro doctor"


def _tool(name: str) -> str:
    if not has_proc():
        raise IntrusiveError(f"{name}: the intrusive step is for Linux alone: this step was left out")
    found = shutil.which(name)
    if found is None:
        raise IntrusiveError(f"{name} is not installed: this step was left out; install the package {name}")
    return found


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "DEBUGINFOD_URLS": ""}
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle: it must let go of the process in order
        )
    except OSError as error:
        raise IntrusiveError(f"{argv[0]} cannot be started: {error.strerror or error}") from None


def _growing(child: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """What it has printed so far, each time that there is more, until its end or the deadline."""
    assert child.stdout is not None  # noqa: S101  it was asked for
    data = b""
    ready = select.poll()
    ready.register(child.stdout, select.POLLIN | select.POLLHUP)
    while (left_s := deadline - time.monotonic()) > 0 and len(data) < _MOST_BYTES:
        if not ready.poll(left_s * 1000):
            return
        more = os.read(child.stdout.fileno(), 65536)
        if not more:
            child.wait(_GRACE_S)
            return
        data += more
        yield data.decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """TERM lets strace and gdb detach in order; a process whose tracer is killed goes on as well (measured)."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _gdb(pid: int, commands: Iterable[str], timeout_s: float, *, limit_bytes: int | None = None) -> str:
    quiet = ["-nx", "-q", "-batch", "-iex", "set auto-load off", "-iex", "set debuginfod enabled off"]
    asked = [word for command in ("set pagination off", *commands) for word in ("-ex", command)]
    child = _start([_tool("gdb"), *quiet, "-p", str(pid), *asked])
    text = ""
    try:
        if limit_bytes is not None and sys.platform == "linux":
            with contextlib.suppress(OSError):  # it has ended already
                resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        for text in _growing(child, time.monotonic() + timeout_s):  # noqa: B007  the last is what we want
            pass
        late = child.poll() is None
    finally:
        _end(child)
    if late:
        raise IntrusiveError(f"gdb did not get done with pid {pid} within {timeout_s:g} s and was ended")
    return text


def _complaint(text: str) -> str:
    """The line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"ptrace|not permitted|[Ee]rror|[Cc]annot|[Uu]nable|No such", line)
    ]
    return next(iter([*telling, *lines[-1:]]), "it said nothing")[:200]


def _unquoted(text: str) -> str:
    r"""Bytes outside of ASCII are written as octal (``\303``), quotes and backslashes with a backslash."""

    def plain(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code, 8)) if code[0].isdigit() else {"n": "\n", "t": "\t", "r": "\r"}.get(code, code)

    return re.sub(r"\\([0-7]{1,3}|.)", plain, text).encode("latin-1", "replace").decode(errors="replace")
