"""A Python that is told to be on macOS: what Linux alone has is taken away, and whoever of ours asks for it is noted.

psutil still reads /proc here: what it answers on a Mac is not shown by this. Called before anything of ours is
imported; ``watched``: a file that gets a line for each thing that was touched.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import multiprocessing
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _pytest.capture
import _pytest.pathlib
import _pytest.terminal
import click
import platformdirs
import psutil

OURS = f"{os.sep}pytest_ocrepro{os.sep}"
VARIABLE = "TEST_TOUCHED"
# the modules above, and these, look at the system's name when they are imported, and must see the real one
LOADED = (
    *(_pytest.capture, _pytest.pathlib, _pytest.terminal, click, platformdirs, psutil),
    *(asyncio, ctypes.util, multiprocessing, shutil, subprocess, urllib.request),
)
GONE = {
    "os": "pipe2 pidfd_open setns unshare memfd_create eventfd splice sched_getaffinity sched_setaffinity "
    "posix_fadvise posix_fallocate copy_file_range getrandom waitid O_TMPFILE O_PATH "
    "O_DIRECT O_LARGEFILE",
    "signal": "pidfd_send_signal sigtimedwait sigwaitinfo SIGRTMIN SIGPWR",
    "select": "epoll POLLRDHUP",
    "socket": "AF_NETLINK SOCK_CLOEXEC SOCK_NONBLOCK MSG_CMSG_CLOEXEC AF_VSOCK SO_PEERCRED",
    "time": "CLOCK_BOOTTIME CLOCK_MONOTONIC_COARSE",
    "resource": "prlimit",
    "fcntl": "F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_SETPIPE_SZ F_GETPIPE_SZ",
}
CALLS = ("prctl", "inotify_init1", "inotify_add_watch", "pidfd_open", "setns", "unshare")


def pretend() -> None:
    """From here on ``sys.platform`` is "darwin"."""
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc,assignment]
    for module, names in GONE.items():
        loaded = __import__(module)
        for name in names.split():
            if hasattr(loaded, name):
                delattr(loaded, name)
    for name in ("readlink", "stat", "lstat", "access"):
        _guard(name)
    sys.addaudithook(_hear)
    sys.platform = "darwin"
    import pytest_ocrepro.stage.supervisor as its_parent  # noqa: PLC0415  not before the name is another

    its_parent._BOOT = f"import sys; sys.path[:] = sys.argv[5:]; {BEGIN}; {its_parent._BOOT}"


BEGIN = "from tests.data.portable.elsewhere import pretend; pretend()"


def _guard(name: str) -> None:
    asked: Callable[..., Any] = getattr(os, name)

    def heard(path: object, *arguments: Any, **more: Any) -> Any:
        _note_path(f"os.{name}", path)
        return asked(path, *arguments, **more)

    setattr(os, name, heard)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        _note_path(event, arguments[0])
    elif event == "ctypes.dlsym" and str(arguments[1]) in CALLS:
        _note(f"{event} {arguments[1]}")
    elif event == "socket.__new__" and (arguments[1], arguments[2]) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        _note("a SOCK_SEQPACKET socket")


def _note_path(what: str, path: object) -> None:
    if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(("/proc/", "/dev/shm", "/sys/")):
        _note(f"{what} {os.fsdecode(path)}")


def _note(what: str) -> None:
    """Raise for what our own code has asked for, and write it down in case that is caught."""
    for frame, _ in traceback.walk_stack(None):
        place = frame.f_code.co_filename
        if f"{os.sep}psutil{os.sep}" in place:
            return
        if OURS in place:
            with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
                file.write(f"{what} by {place}:{frame.f_lineno}\n")
            raise AssertionError(f"{what}: macOS has none; asked by {place}:{frame.f_lineno}")
