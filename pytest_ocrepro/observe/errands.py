"""The deputy's own program: what is done to the subject's files by another process than ours.

Closing any descriptor of a file drops all POSIX locks that the process has on it (fcntl(2)), and opening a file of a
file system that hangs may never return. So a process that has nothing to lose opens them. It is started with the path
of this file, one JSON object a line goes in and one comes out, and it ends with its standard input. Standard library
only, and little of it: it starts in 20 ms.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable

# struct flock: on a 64-bit Linux type, whence, start, length, pid; on macOS start, length, pid, type, whence
FLOCK, _TYPE_FIRST = (struct.Struct("qqihh"), False) if sys.platform == "darwin" else (struct.Struct("hhqqi4x"), True)
Conflict = tuple[str, int, int | None, int]


def conflicts(path: str, ranges: Iterable[Iterable[int]]) -> list[Conflict]:
    """Who keeps a writer out of each (start, length), by F_GETLK: (READ or WRITE, start, end or None, pid).

    It takes nothing and wakes nobody. The kernel names one holder a range; pid 0 is one in another PID namespace,
    -1 an open file description. Raises OSError when the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        answers = [_conflict(fd, start, length) for start, length in ranges]
    finally:
        os.close(fd)
    return list(dict.fromkeys(answer for answer in answers if answer is not None))


def _conflict(fd: int, start: int, length: int) -> Conflict | None:
    kinds, place = (fcntl.F_WRLCK, os.SEEK_SET), (start, length, 0)
    question = FLOCK.pack(*kinds, *place) if _TYPE_FIRST else FLOCK.pack(*place, *kinds)
    try:
        answer = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
        kind, _, first, size, pid = answer if _TYPE_FIRST else (*answer[3:], *answer[:3])
    except OSError:
        return None
    if kind == fcntl.F_UNLCK:
        return None
    return "WRITE" if kind == fcntl.F_WRLCK else "READ", first, first + size - 1 if size else None, pid


def head(path: str, size_bytes: int) -> str:
    """The first bytes of a file, in hexadecimal. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, size_bytes).hex()
    finally:
        os.close(fd)


def copy(source: str, target: str) -> None:
    """Copy a file's bytes. Raises OSError."""
    import shutil  # noqa: PLC0415  half of the start-up time, and seldom asked for

    shutil.copyfile(source, target)


ERRANDS: dict[str, Callable[..., object]] = {"conflicts": conflicts, "head": head, "copy": copy}


def serve() -> None:
    """Answer until the standard input ends, or until nobody hears the answers. Raises BrokenPipeError then."""
    for line in sys.stdin.buffer:
        number, errand, arguments = json.loads(line)
        try:
            answer: object = ERRANDS[errand](*arguments)
            error = None
        except OSError as failure:
            answer, error = None, [failure.errno, failure.strerror or type(failure).__name__]
        told = [number, answer, error, time.process_time_ns()]
        print(json.dumps(told), flush=True)  # noqa: T201  this is its way to answer


if __name__ == "__main__":
    try:
        serve()
    except BrokenPipeError:
        os._exit(0)  # whoever asked is gone; at a usual end Python would flush the answer once more, and complain
