"""The journal of a bisection or a matrix: JSON lines, one a trial, on disk before anything is decided from it.

The journal is the only truth: resume and replay fold it, nothing else is stored. Each line carries a check over
itself and all lines before it, so that an edit is seen and told; what an edited line says still counts, because
putting a wrong verdict right is what one edits a journal for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import filelock
import msgspec

from pytest_ocrepro.errors import UsageError

SCHEMA = 1
_CHECK_LENGTH = 12


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="record"):
    """Base of all records."""


class Plan(Record, frozen=True, kw_only=True, tag="plan"):
    """The first line: what is done. ``versions`` in release order, ``cached`` those that were here at the start."""

    schema: int = SCHEMA
    tool: str = ""
    kind: str  # bisect, matrix
    scenarios: tuple[str, ...]
    versions: tuple[str, ...]
    cached: tuple[str, ...] = ()
    find_fix: bool = False
    confidence: float = 0.95
    monotone: bool = False
    oracle_is_certain: bool = False
    signature: str = ""  # only failures whose signature begins so count; "": any
    workers: int = 1
    seed: int = 0


class Tried(Record, frozen=True, kw_only=True, tag="tried"):
    """One trial. ``batch``: those with the same number were chosen together, before any of them was seen."""

    batch: int
    phase: str  # calibrate, search, confirm, fill
    scenario: str
    version: str
    seed: int
    result: str  # reproduced, not-seen, inconclusive
    signature: str = ""
    verdict: str = ""
    reason: str = ""
    sha256: str = ""
    seconds: float = 0.0
    load: float = 0.0  # one minute, at the end of the trial
    bundle: str = ""
    wall: str = ""


class Fetched(Record, frozen=True, kw_only=True, tag="fetched"):
    """A build is here now; ``seconds`` that took. ``same_as``: an earlier version with the same bytes."""

    version: str
    sha256: str
    seconds: float
    same_as: str = ""


class Skipped(Record, frozen=True, kw_only=True, tag="skipped"):
    """A version that cannot be tried. It stays a hypothesis."""

    version: str
    reason: str


AnyRecord = Plan | Tried | Fetched | Skipped
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


class _Line(msgspec.Struct, frozen=True):
    check: str
    data: msgspec.Raw


class Journal:
    """An open journal: one writer at a time. Raises UsageError where it is somebody else's or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(f"another process writes {path}: end it, or name another journal") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): name another journal") from error
        try:
            self._load()
        except BaseException:
            self._lock.release()
            raise

    def _load(self) -> None:
        content = self.path.read_bytes() if self.path.is_file() else b""
        read = read_lines(content, str(self.path))
        self.records, self.edited, self.torn = list(read.records), read.edited, read.torn
        self._check = read.check
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._fd, read.whole_bytes)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written ({error.strerror}): name another journal") from error

    @property
    def plan(self) -> Plan | None:
        """The first line; None in a new journal."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, Plan) else None

    def append(self, record: AnyRecord) -> None:
        """On disk when this returns. Raises UsageError when the disk is full; what was whole stays whole."""
        data = _encoder.encode(record)
        check = _checked(self._check, data)
        line = _encoder.encode(_Line(check=check, data=msgspec.Raw(data))) + b"\n"
        at = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            _write_whole(self._fd, line)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, at)
            raise UsageError(f"{self.path} cannot be written ({error.strerror}): free space and resume") from error
        self._check = check
        self.records.append(record)

    def close(self) -> None:
        """Let others in."""
        os.close(self._fd)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal says. ``edited``: numbers of lines that do not fit to what stands before them."""

    records: tuple[AnyRecord, ...]
    edited: tuple[int, ...]
    torn: bool
    check: str
    whole_bytes: int


def read_lines(content: bytes, name: str) -> Read:
    """Parse a journal; half a last line is left out. Raises UsageError naming the line that cannot be meant."""
    records: list[AnyRecord] = []
    edited: list[int] = []
    check, whole = "", 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        record, told, good = _one(line, check, f"{name} line {number}")
        if not good:
            edited.append(number)
        _fits(record, number, name)
        records.append(record)
        check, whole = told, whole + len(line)
    return Read(
        records=tuple(records), edited=tuple(edited), torn=whole < len(content), check=check, whole_bytes=whole
    )


def trials_of(records: Sequence[AnyRecord]) -> Iterator[Tried]:
    """The trials, oldest first."""
    return (record for record in records if isinstance(record, Tried))


def _write_whole(fd: int, line: bytes) -> None:
    while line:
        line = line[os.write(fd, line) :]


def _one(line: bytes, check: str, where: str) -> tuple[AnyRecord, str, bool]:
    try:
        read = msgspec.json.decode(line, type=_Line)
        record = _decoder.decode(read.data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{where} is no record of a journal ({error}): put it right or take the line out") from None
    return record, read.check, read.check == _checked(check, bytes(read.data))


def _fits(record: AnyRecord, number: int, name: str) -> None:
    if (number == 1) != isinstance(record, Plan):
        raise UsageError(
            f"{name} line {number}: a journal has its plan in line 1 and nowhere else; name another file"
        )
    if isinstance(record, Plan) and record.schema != SCHEMA:
        raise UsageError(
            f"{name} is of another version of pytest-ocrepro (schema {record.schema}, this one writes {SCHEMA}): "
            "use that version, or name a new journal"
        )


def _checked(before: str, data: bytes) -> str:
    return hashlib.sha256(before.encode() + data).hexdigest()[:_CHECK_LENGTH]
