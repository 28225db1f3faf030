"""On which systems what works: told in one line, before anything is imported that other systems do not have."""

from __future__ import annotations

import sys

_STORED = "`ocrepro report`, `merge`, `diff`, `issue`, `judge` and `show` of stored runs work here"


def scenarios_refused(system: str = sys.platform) -> str:
    """Why no scenario can be run on a system (``sys.platform``'s name for it); "" where they can."""
    if system.startswith("linux"):
        return ""
    if system == "darwin":
        return (
            "no scenario is run on macOS: what a process waits for is read from /proc, and that nothing outlives us "
            f"is assured by prctl(2) and pidfd_open(2), which macOS does not have; run them on Linux. {_STORED}"
        )
    return everything_refused(system) or f"no scenario has been run on {system}; run them on Linux. {_STORED}"


def everything_refused(system: str = sys.platform) -> str:
    """Why nothing of ours works on a system; "" where something does."""
    if system in ("win32", "cygwin"):
        return "pytest-ocrepro does not work on Windows, which has neither /proc nor fcntl; run it under WSL 2"
    return ""
