"""Looks at opencode's lock directories again and again, and tells every change of holder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_ocrepro.events import LockDirectoryChanged
from pytest_ocrepro.history import now_ns
from pytest_ocrepro.observe.folder_watch import FolderWatch
from pytest_ocrepro.observe.holders import Happened, changes
from pytest_ocrepro.observe.locks import holder_lives, lock_directories

if TYPE_CHECKING:
    from pytest_ocrepro.observe.inner_pids import InnerPids
    from pytest_ocrepro.observe.readers import ProcessReader
    from pytest_ocrepro.readings import LockDirectory

_LOOKS: Final = 4  # a listing that is never still leaves its folder as not watched for this once


class LockHistory:
    """Not thread-safe: whoever asks holds a lock of its own. ``inner``: of those who take the locks."""

    def __init__(self, reader: ProcessReader, inner: InnerPids | None = None) -> None:
        self._reader = reader
        self._inner = inner
        self._watch = FolderWatch()
        self._before: tuple[LockDirectory, ...] = ()
        self._before_ns = now_ns()

    @property
    def error(self) -> str:
        """Why changes of holder cannot be told apart; empty when they can."""
        return self._watch.error

    def look(self, state_dirs: Sequence[Path], lock_keys: Sequence[str]) -> tuple[LockDirectoryChanged, ...]:
        """What has changed since the last look; ``state_dirs`` are values of XDG_STATE_HOME."""
        fresh = {str(folder) for state in state_dirs if self._watch.watch(folder := state / "opencode" / "locks")}
        listing, happened = self._still(state_dirs, lock_keys)
        at_ns = now_ns()
        elapsed_s = (at_ns - self._before_ns) / 1e9
        found = changes(
            self._before,
            listing,
            happened={folder: events for folder, events in happened.items() if folder not in fresh},
            alive=self._alive(listing, happened, elapsed_s),
            elapsed_s=elapsed_s,
            at_ns=at_ns,
        )
        self._before, self._before_ns = listing, at_ns
        return found

    def close(self) -> None:
        """Give the watches back."""
        self._watch.close()

    def _alive(
        self, listing: Sequence[LockDirectory], happened: dict[str, list[Happened]], elapsed_s: float
    ) -> dict[str, bool | None]:
        """Asked for those alone that may have lost it: most looks see no change."""
        tokens = {lock.path: lock.token for lock in listing}
        busy = {folder for folder, events in happened.items() if events}
        lost = (
            one for one in self._before if tokens.get(one.path) != one.token or str(Path(one.path).parent) in busy
        )
        return {lock.path: holder_lives(lock, self._reader, since_s=elapsed_s) for lock in lost}

    def _still(
        self, state_dirs: Sequence[Path], lock_keys: Sequence[str]
    ) -> tuple[tuple[LockDirectory, ...], dict[str, list[Happened]]]:
        """A listing during which nothing happened, and all that had happened before it."""
        happened = self._watch.drain()
        for _ in range(_LOOKS):
            listing = lock_directories(
                state_dirs,
                key_candidates=lock_keys,
                reader=self._reader,
                now_wall=time.time(),
                inner=self._inner,
            )
            more = self._watch.drain()
            happened = {folder: [*events, *more[folder]] for folder, events in happened.items() if folder in more}
            if not any(more.values()):
                return listing, happened
        return listing, {folder: events for folder, events in happened.items() if not more.get(folder)}
