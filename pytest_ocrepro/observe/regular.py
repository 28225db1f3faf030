"""Files that a subject or a stranger may have put something else in the place of: opened without ever waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """A regular file for reading. Raises OSError, for a link, a pipe or any other special file too.

    Opening a pipe that nobody writes into would wait for ever, and whoever holds a lock meanwhile with it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_small(path: Path, most_bytes: int) -> bytes | None:
    """The whole of a small regular file; None for all else: absent, unreadable, a link, a pipe, or longer."""
    try:
        with open_regular(path) as file:
            content = file.read(most_bytes + 1)
    except OSError:
        return None
    return content if len(content) <= most_bytes else None
