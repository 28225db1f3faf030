"""The journal of a bisection or a matrix: JSON lines, on disk before anything is decided from them.

It is the only truth: resume and replay fold it, nothing else is stored. Each line carries a check over itself and all
lines before it, so that an edit is seen and told; what an edited line says still counts, because putting a wrong
verdict right is what one edits a journal for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from pytest_ocrepro.errors import UsageError

SCHEMA = 1
MAX_BYTES = 64 * 1024 * 1024
_CHECK_LENGTH = 12


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="record"):
    """Base of all records."""


class Plan(Record, frozen=True, kw_only=True, tag="plan"):
    """The first line: what is done. ``versions`` in release order, ``cached`` those that were here at the start.

    ``commits``: they are commits of a checkout, in the order of its first parents. ``control``: a scenario that must
    never fail, tried in between.

    ``signature``: what counts as the failure; "": what the failing end shows while it is made sure of, "any": every
    reproduction, else the beginning of a sign (of :class:`Tried`).
    """

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
    signature: str = ""
    workers: int = 1
    seed: int = 0
    commits: bool = False
    control: str = ""


class Opened(Record, frozen=True, kw_only=True, tag="opened"):
    """Somebody began, or went on; ``wall`` is UTC ISO 8601. ``away``: versions that cannot be had this time."""

    tool: str = ""
    wall: str = ""
    away: tuple[str, ...] = ()


class Chosen(Record, frozen=True, kw_only=True, tag="chosen"):
    """A batch that was decided on and not begun yet: ``trials`` are (scenario, version, seed).

    Whoever finds it unfinished finishes it, so that a kill changes no later choice.
    """

    batch: int
    phase: str  # calibrate, search, confirm, control, fill
    trials: tuple[tuple[str, str, int], ...]


SKIPPED = "skipped"
UNTOLD = ("inconclusive", SKIPPED)  # results that say nothing of the failure


class Tried(Record, frozen=True, kw_only=True, tag="tried"):
    """One trial of a batch. ``signs``: its signature, then what each finding says, neutral.

    ``load``: of the machine, one minute, at the end; ``bundle``: where the evidence is.
    """

    batch: int
    phase: str
    scenario: str
    version: str
    seed: int
    result: str  # reproduced, not-seen, inconclusive, or skipped: the build lacks what the scenario is about
    signs: tuple[str, ...] = ()
    verdict: str = ""
    reason: str = ""
    sha256: str = ""
    seconds: float = 0.0
    load: float = 0.0
    bundle: str = ""
    wall: str = ""


class Fetched(Record, frozen=True, kw_only=True, tag="fetched"):
    """A build is here now; ``seconds`` that took."""

    version: str
    sha256: str
    seconds: float


class Skipped(Record, frozen=True, kw_only=True, tag="skipped"):
    """A version that cannot be tried. It stays a hypothesis. ``by_hand``: because the user said so."""

    version: str
    reason: str
    by_hand: bool = False


AnyRecord = Plan | Opened | Chosen | Tried | Fetched | Skipped
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)


class _Line(msgspec.Struct, frozen=True):
    check: str
    data: msgspec.Raw


class _Schema(msgspec.Struct):
    schema: int = SCHEMA


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal says. ``edited``: numbers of lines that do not fit to what stands before them."""

    records: tuple[AnyRecord, ...]
    edited: tuple[int, ...] = ()
    torn: bool = False
    check: str = ""
    whole_bytes: int = 0

    def warnings(self, name: str) -> list[str]:
        """One line for each thing that its user should know."""
        told = [f"{name}: half a last line was left out; that trial is done again"] if self.torn else []
        lines = ", ".join(map(str, self.edited[:10]))
        return told + ([f"{name}: edited by hand (lines {lines}); what they say counts"] if self.edited else [])


class Journal:
    """An open journal, one writer at a time. Raises UsageError where it is somebody else's or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): name another journal") from error
        try:
            self._lock()
            self.read = read_journal(path)
            os.ftruncate(self._fd, self.read.whole_bytes)
        except BaseException:
            os.close(self._fd)
            raise
        self.records: list[AnyRecord] = list(self.read.records)
        self._check = self.read.check

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process writes {self.path}: end it, or name another journal") from None
        except OSError:  # a file system without locks
            return

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
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}): free space and go on with --resume"
            ) from error
        self._check = check
        self.records.append(record)

    def close(self) -> None:
        """Let others in."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(path: Path) -> Read:
    """All of a journal but for half a last line. Raises UsageError naming what cannot be meant."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UsageError(f"{path} is no journal: name the file that `ocrepro bisect` or `ocrepro matrix` wrote")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a journal") from None
    records: list[AnyRecord] = []
    edited: list[int] = []
    check, whole = "", 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        record, told, good = _parsed(line, check, number, path)
        edited += [] if good else [number]
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


def _parsed(line: bytes, check: str, number: int, path: Path) -> tuple[AnyRecord, str, bool]:
    """(record, its check, whether that fits to what stands before it)."""
    try:
        read = msgspec.json.decode(line, type=_Line)
        _check_schema(read.data, path)
        record = _decoder.decode(read.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        what = "is not a journal" if number == 1 else f"line {number} is no record of a journal"
        raise UsageError(f"{path} {what} ({why}): put it right, or name another file") from None
    if (number == 1) != isinstance(record, Plan):
        raise UsageError(
            f"{path} line {number}: a journal has its plan in line 1 and nowhere else; name another file"
        )
    return record, read.check, read.check == _checked(check, bytes(read.data))


def _check_schema(data: msgspec.Raw, path: Path) -> None:
    """Before the fields, which another version may have others of."""
    schema = msgspec.json.decode(data, type=_Schema).schema
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is of another version of pytest-ocrepro (schema {schema}, this one writes {SCHEMA}): "
            "use that version, or name a new journal"
        )


def _checked(before: str, data: bytes) -> str:
    return hashlib.sha256(before.encode() + data).hexdigest()[:_CHECK_LENGTH]
