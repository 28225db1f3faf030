"""Records in files: read with limits and never through a link, replaced in one step, appended in one write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.publish.records import SCHEMA

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024  # a snapshot of 10,000 descriptors takes some 2 MB
MAX_LINES = 200_000  # of one file; a trial of ours writes some 2,000. The judge needs 17 us for each
MAX_INSTANT = 1 << 63  # what a counter of the kernel can hold
MAX_NUMBER = 1e18
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
Gate = Callable[[str], str]

_S = TypeVar("_S", bound=msgspec.Struct)
_L = TypeVar("_L")
# every digit as 0, and E as e: a number that a clock, a counter or a size can hardly be is then found fast
_DIGITS = bytes(48 if 48 <= one <= 57 else 101 if one in b"eE" else 32 for one in range(256))  # noqa: PLR2004 ASCII
_LONGEST = 40  # characters of a number before its exponent where no row of digits is that long
_LARGE = b"0" * 19
UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def gated(record: _S, gate: Gate | None) -> _S:
    """The record with every string passed through the gate."""
    if gate is None:
        return record
    return msgspec.convert(_through(msgspec.to_builtins(record), gate), type(record))


def _through(value: Any, gate: Gate) -> Any:
    if isinstance(value, str):
        return gate(value)
    if isinstance(value, (list, tuple)):
        return [_through(item, gate) for item in value]
    if isinstance(value, dict):
        return {key: _through(item, gate) for key, item in value.items()}
    return value


def replace(path: Path, content: bytes) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unstored(path, error) from None


def deliver(path: Path, content: bytes) -> None:
    """Replace a file that the user named. Raises UsageError where it cannot be written."""
    try:
        replace(path, content)
    except BundleError as error:
        why = error.__context__.strerror if isinstance(error.__context__, OSError) else str(error)
        raise UsageError(f"{path} cannot be written ({why}); name a file in a directory that exists") from None


def write_all(fd: int, content: bytes) -> None:
    """One write as a rule: the kernel keeps appends of several processes apart only within a call."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def mend(fd: int) -> None:
    """Cut off half a last line. Without the lock it could be one that another worker is just writing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # until the descriptor is closed
    except OSError:  # a file system without locks
        return
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        tail = os.pread(fd, min(size, MAX_LINE_BYTES), max(0, size - MAX_LINE_BYTES))
        os.ftruncate(fd, size - len(tail) + tail.rfind(b"\n") + 1)


def open_regular(path: Path, limit_bytes: int) -> Any:
    """A regular file for reading, or None: never through a link, never a pipe that would make us wait.

    Raises BundleError for anything else, and for a file of more than ``limit_bytes``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{where(path)} cannot be read: {error.strerror}") from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit_bytes:
        return os.fdopen(fd, "rb")
    os.close(fd)
    what = f"has {status.st_size} bytes, more than {limit_bytes}" if stat.S_ISREG(status.st_mode) else "is not a file"
    raise BundleError(f"{where(path)} {what}; it was not read")


def read_bytes(path: Path, limit_bytes: int = MAX_LINE_BYTES) -> bytes | None:
    """The whole file; None where there is none. Raises BundleError."""
    file = open_regular(path, limit_bytes)
    if file is None:
        return None
    with file:
        content: bytes = file.read()
    return content


def read_one(path: Path, kind: type[_S]) -> _S:
    """The record in a file. Raises BundleError where there is none."""
    record = read_optional(path, kind)
    if record is None:
        raise BundleError(f"{where(path)} is missing; the bundle says nothing without it")
    return record


def read_optional(path: Path, kind: type[_S]) -> _S | None:
    """The record in a file, or None where there is no file. Raises BundleError."""
    content = read_bytes(path, MAX_LINE_BYTES)
    if content is None:
        return None
    try:
        record = msgspec.json.decode(content, type=kind)
        check_numbers(content)
    except UNDECODABLE as error:
        raise BundleError(f"{where(path)} is corrupt: {short(error)}") from None
    if getattr(record, "schema", SCHEMA) > SCHEMA:
        raise BundleError(f"{where(path)} was written by a newer pytest-ocrepro; update this one to read it")
    return record


def read_lines(path: Path, decode: Callable[[bytes], _L]) -> tuple[tuple[_L, ...], int]:
    """All lines, and the number of the last if it was cut off (else 0)."""
    file = open_regular(path, MAX_FILE_BYTES)
    if file is None:
        return (), 0
    found: list[_L] = []
    with file:
        for number, line in enumerate(each_line(file, path), start=1):
            try:
                found.append(decode(line))
                check_numbers(line)
            except UNDECODABLE as error:
                if not line.endswith(b"\n"):
                    return tuple(found), number
                raise BundleError(f"{where(path)} line {number} is corrupt: {short(error)}") from None
    return tuple(found), 0


def each_line(file: Any, path: Path) -> Iterator[bytes]:
    """The lines of an open file with their ends. Raises BundleError at one too long to be read, and past the last."""
    number = 1
    while line := file.readline(MAX_LINE_BYTES + 1):
        if number > MAX_LINES:
            raise BundleError(f"{where(path)} has more than {MAX_LINES} lines; it was not read")
        if len(line) > MAX_LINE_BYTES:
            raise BundleError(f"{where(path)} line {number} is longer than {MAX_LINE_BYTES} bytes; it was not read")
        yield line
        number += 1


def check_numbers(content: bytes) -> None:
    """Raise ValueError for a number past what a counter can hold: with it no reader can reckon.

    JSON knows no limits, and Python's own ``int`` takes thousands of digits, which no ``float`` can follow.
    """
    if _may_be_large(content) and not all(map(_countable, _numbers(msgspec.json.decode(content)))):
        raise ValueError("a number in it is larger than any counter")


def _may_be_large(content: bytes) -> bool:
    """Nineteen digits in a row, or digits with an exponent that stand where a number may begin, as in no hash."""
    digits = content.translate(_DIGITS)
    if _LARGE in digits:
        return True
    at = digits.find(b"0e")
    while at >= 0:
        before = content[max(0, at - _LONGEST) : at + 1].rstrip(b"0123456789.").removesuffix(b"-")
        if not before or before[-1] in b":,[ \t\r\n":
            return True
        at = digits.find(b"0e", at + 2)
    return False


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _countable(number: float) -> bool:
    """Whether it is within the limits; of a whole number exactly."""
    return -MAX_INSTANT <= number < 2 * MAX_INSTANT if isinstance(number, int) else abs(number) <= MAX_NUMBER


def where(path: Path) -> str:
    """The file with its directory: enough to find it in a run."""
    return f"{path.parent.name}/{path.name}"


def short(error: Exception) -> str:
    """The error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def unstored(path: Path, error: OSError) -> BundleError:
    """The error for something that could not be written."""
    why = error.strerror or str(error)
    return BundleError(f"evidence cannot be stored in {path}: {why}; make room or name another reports directory")
