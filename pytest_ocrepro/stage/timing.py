"""Trials that measure times take turns, whichever pytest they belong to, as long as those share a cache.

Two of them at once would measure each other. The lock is a file in the cache (flock(2): the kernel lets go of it when
its holder dies), so it is one for all runs of a user, but not for those with a cache of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.versions.releases import make_private

LOCK = "timing.lock"
WAIT_S = 900.0  # a trial that measures takes less than two minutes


@contextlib.contextmanager
def turn(folder: Path, *, most_s: float = WAIT_S) -> Iterator[float]:
    """Hold the turn of those who share this folder; gives the seconds that were waited for it.

    Where the folder cannot be written there are no turns. Raises StageError after ``most_s`` seconds.
    """
    begun = time.monotonic()
    lock = filelock.FileLock(folder / LOCK)
    try:
        make_private(folder)
        lock.acquire(timeout=most_s)
    except filelock.Timeout:
        raise StageError(
            f"another trial that measures times has run on this machine for {most_s:g} s ({folder / LOCK}); "
            "run again when it is over"
        ) from None
    except OSError:  # a cache that is only readable
        yield 0.0
        return
    try:
        yield time.monotonic() - begun
    finally:
        lock.release()
