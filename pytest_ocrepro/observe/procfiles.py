"""Files of proc(5), read: the only place that opens them.

What is gone is None or left out; where permission or the kernel lacks something, methods that take ``missing`` append
one line to it a process and file. Text is decoded with replacement characters, so that it can be stored as JSON.
"""

from __future__ import annotations

import errno
import os
from typing import Final

_PART_BYTES: Final = 65_536


class ProcFiles:
    """``root`` may be a made-up tree."""

    def __init__(self, root: str = "/proc") -> None:
        self.root = root

    def content(self, path: str, missing: list[str] | None = None) -> bytes | None:
        """The whole content; None: gone or unreadable."""
        try:
            return _content(f"{self.root}/{path}")
        except OSError as error:
            self._explain(path, error, missing)
            return None

    def text(self, path: str, missing: list[str] | None = None) -> str | None:
        """The same as text."""
        data = self.content(path, missing)
        return None if data is None else data.decode(errors="replace")

    def entries(self, path: str, missing: list[str] | None = None) -> list[str]:
        """Names in a directory."""
        try:
            return os.listdir(f"{self.root}/{path}")  # noqa: PTH208 names only, asked ten times a second
        except OSError as error:
            self._explain(path, error, missing)
            return []

    def link(self, path: str, missing: list[str] | None = None) -> str | None:
        """Where a symbolic link points to; None: gone or unreadable."""
        try:
            link = os.readlink(f"{self.root}/{path}")  # noqa: PTH115 half the time of a Path
        except OSError as error:
            self._explain(path, error, missing)
            return None
        return os.fsencode(link).decode(errors="replace")

    def _explain(self, path: str, error: OSError, missing: list[str] | None) -> None:
        if missing is None or error.errno == errno.ESRCH:
            return
        if error.errno == errno.ENOENT:
            beside = os.path.dirname(f"{self.root}/{path}")  # noqa: PTH120 text only
            if not os.access(f"{beside}/stat", os.F_OK):
                return  # the process, thread or descriptor is gone
        note(missing, path, error.strerror or "unreadable")


def note(missing: list[str], path: str, why: str) -> None:
    """One line a process and file, however many threads and descriptors it has."""
    words = [word for word in path.split("/")[1:] if not word.isdecimal() and word != "task"]
    owner = path.split("/", maxsplit=1)[0]
    line = f"pid {owner}: {'/'.join(words)}: {why}" if words else f"{path}: {why}"
    if line not in missing:
        missing.append(line)


def _content(path: str) -> bytes:
    """A small file of the kernel's, whole; ``open`` asks for its size and kind first, and takes a quarter longer."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(handle, _PART_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)
