"""Whether a process group is gone."""

from __future__ import annotations

import os
import time

import psutil


def after_kill(leader: int) -> list[psutil.Process]:
    """Members of the group that are still there after at most 10 s; zombies that init has yet to reap are not."""
    deadline = time.monotonic() + 10
    while True:
        alive = [process for process in psutil.process_iter() if _in_group(process, leader)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.01)


def _in_group(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
