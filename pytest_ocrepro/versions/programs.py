"""A program that is run for so long, and for so much output, at most; with all that it starts. A leaf."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_OUTPUT_LIMIT_BYTES: Final = 16 * 1024 * 1024
_TICK_S: Final = 0.1


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What a bounded run left. ``code``: status or minus the signal; ``cut``: why we ended it, or ""."""

    code: int
    out: str
    err: str
    cut: str = ""


def run_bounded(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    tick: Callable[[], None] | None = None,
    tied: bool = False,
) -> Finished:
    """Run a program in a session of its own, for so long and with so much output at most; raises OSError.

    Its process group is killed when it does not end, or leaves something behind that holds its output.
    ``tied``: its standard input is a pipe that breaks when we are gone.
    """
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            out, err, cut = _collect(process, deadline, tick)
        except BaseException:
            _kill_group(process)
            raise
        if cut is not None:
            _kill_group(process)
        code = process.wait()
    limit = cut.replace("TIME", f"no end within {timeout_s:g} s") if cut else ""
    return Finished(code=code, out=_text(out), err=_text(err), cut=limit)


# --- below: how


def _collect(
    process: subprocess.Popen[bytes], deadline: float, tick: Callable[[], None] | None
) -> tuple[bytearray, bytearray, str | None]:
    """(stdout, stderr, why it must be ended). None: it has ended; "": something that it started lives."""
    assert process.stdout is not None  # noqa: S101 for the type checker: both are pipes
    assert process.stderr is not None  # noqa: S101
    texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = texts.values()
    with selectors.DefaultSelector() as selector:
        for fd in texts:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = [key.fd for key, _ in selector.select(_TICK_S)]
            if tick is not None:
                tick()
            for fd in ready:
                if not _read_some(fd, texts[fd]):
                    selector.unregister(fd)
            if len(out) + len(err) > _OUTPUT_LIMIT_BYTES:
                return out, err, "too much output"
            if not ready and process.poll() is not None:
                return out, err, ""
            if time.monotonic() > deadline:
                return out, err, "TIME"
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return out, err, "TIME"
    return out, err, None


def _read_some(fd: int, into: bytearray) -> bool:
    data = os.read(fd, 1 << 16)
    into += data
    return bool(data)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _text(data: bytearray) -> str:
    return data.decode(errors="replace")
