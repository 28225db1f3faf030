"""On which systems what works: told in one line, before anything is imported that other systems do not have."""

from __future__ import annotations

import sys
from typing import Final

# What a look through psutil leaves open; what is not told is unknown (None), and no verdict is made of it.
UNKNOWN_ON_MACOS: Final = (
    "system calls, wait channels and states of threads; whether a process runs or sleeps; who waits for a POSIX or "
    "flock lock; queues and peers of UNIX sockets, queues and ages of TCP connections; pipes; positions in files; "
    "bytes read and written; the environment of Apple's own programs"
)


def has_proc(system: str = "") -> bool:
    """Whether processes are read from proc(5) here, and not through psutil; ``system`` as ``sys.platform`` has it."""
    return (system or sys.platform).startswith("linux")


def seen_through(system: str = "") -> str:
    """How processes are looked at, and what is not seen that way: for the header and the record of a run."""
    return "proc(5)" if has_proc(system) else f"psutil; unknown here: {UNKNOWN_ON_MACOS}"


def scenarios_refused(system: str = "") -> str:
    """Why no scenario can be run on a system (``sys.platform``'s name for it); "" where they can."""
    system = system or sys.platform
    if system.startswith("linux") or system == "darwin":
        return ""
    return everything_refused(system) or (
        f"no scenario has been run on {system}; run them on Linux. "
        "`ocrepro report`, `merge`, `diff`, `issue`, `judge` and `show` of stored runs work here"
    )


def everything_refused(system: str = "") -> str:
    """Why nothing of ours works on a system; "" where something does."""
    if (system or sys.platform) in ("win32", "cygwin"):
        return "pytest-ocrepro does not work on Windows, which has neither /proc nor fcntl; run it under WSL 2"
    return ""
