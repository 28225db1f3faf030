"""Evidence on disk: one directory a run, one bundle a trial; the only module that writes under ``reports/``.

    <reports>/<run id>/run.json           what was run, where, with which options (RunInfo)
                       results.jsonl      one TrialResult a line, appended as trials end
                       report.html        rendered from all the rest, at any time
                       trials/<slug>/     a bundle, written in three phases:
                           trial.json     1. before anything starts (TrialInfo)
                           history.jsonl  2. one event a line, while it runs
                           receipt.json   3. when it is judged: what was masked,
                           result.json       the line of results.jsonl,
                           judgement.json    and last, so that its presence means "complete", the Judgement
    <reports>/latest                      a link to the newest run (a text file where links cannot be made)

A pytest that is killed leaves a bundle without phase 3 and perhaps with half a last line: both are ordinary
when read. Files are not synced to the device: what must be survived is the death of a process, not of the
machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.judgement import Finding, Judgement
from pytest_ocrepro.publish.redaction import Masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    Gate = Callable[[str], str]

SCHEMA = 1
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_SLUG = 120
LATEST = "latest"


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A name and a value for people: one fact of the machine, one option with its value and source."""

    name: str
    value: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One build that was run."""

    version: str
    sha256: str
    source: str = ""  # path, PATH, npm, cache


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The frame of a run. ``started`` is UTC ISO 8601."""

    schema: int = SCHEMA
    run_id: str
    started: str = ""
    plugin_version: str = ""
    pytest_command: tuple[str, ...] = ()
    machine: tuple[Fact, ...] = ()
    subjects: tuple[Subject, ...] = ()
    options: tuple[Fact, ...] = ()


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a trial. ``exit``: status, minus the signal, or None while it lived."""

    role: str
    pid: int
    argv: tuple[str, ...]
    exit: int | None
    verdict: str
    milestone: str
    seconds: float


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of results.jsonl. ``bundle`` is relative to the run directory.

    ``expected`` says what pytest made of it and why ("xfailed: known on 1.14.48"); ``known``: the scenario's
    mark lists the version.
    """

    schema: int = SCHEMA
    run_id: str
    scenario: str  # node id
    title: str
    issue: tuple[str, ...]
    version: str
    binary_sha256: str
    trial: int
    seed: int
    result: str  # reproduced, not-seen, inconclusive
    reason: str
    verdict: str
    grade: str
    seconds_to_verdict: float
    chain: tuple[str, ...]  # waiter first, root last
    processes: tuple[ProcessRow, ...]
    findings: tuple[Finding, ...]
    leaked: tuple[str, ...]  # must be empty
    signature: str
    bundle: str
    expected: str = ""
    known: bool = False


class TrialInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a trial starts. ``started`` is UTC ISO 8601."""

    schema: int = SCHEMA
    scenario: str
    title: str
    issue: tuple[str, ...] = ()
    version: str = ""
    binary_sha256: str = ""
    trial: int = 1
    seed: int = 0
    docstring: str = ""
    replay: str = ""
    marker: str = ""  # the environment entry that all of the trial's processes carry
    started: str = ""
    control: bool = False  # meant never to fail: it shows that the scenario's ingredient is the cause


class StoredTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle as read back. ``torn``: it ended before it was complete; ``problems`` says in which way."""

    path: Path
    info: TrialInfo
    history: History
    judgement: Judgement | None
    result: TrialResult | None
    masked: tuple[Masked, ...] = ()
    torn: bool
    problems: tuple[str, ...] = ()


class RunDir:
    """One run on disk. Several processes may append to it at the same time (xdist workers)."""

    def __init__(self, path: Path, info: RunInfo, gate: Gate | None = None) -> None:
        self.path = path
        self.info = info
        self._gate = gate

    @classmethod
    def create(cls, reports_dir: Path, *, run_id: str | None = None, gate: Gate | None = None) -> Self:
        """Make ``<reports_dir>/<run id>`` and point ``latest`` to it; ``gate`` passes all that is written.

        Raises UsageError where that cannot be written, and leaves nothing half-made.
        """
        path = _make_run_directory(reports_dir, run_id)
        run = cls(path, RunInfo(run_id=path.name), gate)
        try:
            run.write_info(RunInfo(run_id=path.name, started=datetime.now(UTC).isoformat(timespec="seconds")))
            _point_latest(reports_dir, path.name)
        except (OSError, BundleError) as error:
            (path / "run.json").unlink(missing_ok=True)
            path.rmdir()
            raise _unwritable(reports_dir, error) from None
        return run

    @classmethod
    def read(cls, path: Path, *, gate: Gate | None = None) -> Self:
        """The run at ``path``: ``reports/latest``, a run directory, or the reports directory (its latest).

        Raises UsageError where there is none, BundleError where run.json cannot be understood.
        """
        directory = _run_directory(path)
        info = _read_optional(directory / "run.json", RunInfo) or RunInfo(run_id=directory.name)
        return cls(directory, info, gate)

    def write_info(self, info: RunInfo) -> None:
        """Replace run.json."""
        self.info = _gated(info, self._gate)
        _replace(self.path / "run.json", msgspec.json.encode(self.info))

    def append_result(self, result: TrialResult) -> None:
        """Add a line to results.jsonl in one write; half a line of a writer that was killed makes room for it."""
        line = msgspec.json.encode(_gated(result, self._gate)) + b"\n"
        path = self.path / "results.jsonl"
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | _NOFOLLOW, 0o644)
            try:
                _mend(fd)
                _write_all(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise _unstored(path, error) from None

    def results(self) -> tuple[TrialResult, ...]:
        """All lines of results.jsonl but for half a last one. Raises BundleError naming a corrupt line."""
        lines, _ = _read_lines(self.path / "results.jsonl", _result_decoder.decode)
        return lines

    def open_trial(self, slug: str, info: TrialInfo, *, gate: Gate | None = None) -> TrialBundle:
        """A new bundle, with its first phase written. ``gate`` None: the run's own."""
        gate = gate or self._gate
        parent = self.path / "trials"
        try:
            parent.mkdir(exist_ok=True)
            path = _fresh_directory(parent, _safe(gate(slug) if gate else slug))
        except OSError as error:
            raise _unstored(parent, error) from None
        return TrialBundle(path, info, gate)

    def bundles(self) -> tuple[Path, ...]:
        """The directories under trials/, by name; links are not followed and not listed."""
        try:
            with os.scandir(self.path / "trials") as entries:
                found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return ()
        return tuple(sorted(path for path in found if _SAFE_NAME.fullmatch(path.name)))

    def bundle_of(self, result: TrialResult) -> Path:
        """The bundle that a result names. Raises BundleError unless it is one of this run's directories."""
        head, _, slug = result.bundle.partition("/")
        path = self.path / "trials" / slug
        if head != "trials" or not _SAFE_NAME.fullmatch(slug) or path.is_symlink() or not path.is_dir():
            raise BundleError(f"results.jsonl names a bundle that is not in this run: {result.bundle!r:.120}")
        return path

    def write_page(self, text: str) -> Path:
        """Replace report.html."""
        path = self.path / "report.html"
        _replace(path, text.encode())
        return path


class TrialBundle:
    """The bundle of a trial that is running."""

    def __init__(self, path: Path, info: TrialInfo, gate: Gate | None = None) -> None:
        self.path = path
        self._gate = gate
        self._bytes = 0
        self._broken = False
        self._fd = -1
        _replace(path / "trial.json", msgspec.json.encode(_gated(info, gate)))
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(path / "history.jsonl", flags, 0o644)
        except OSError as error:
            raise _unstored(path / "history.jsonl", error) from None

    @property
    def relative(self) -> str:
        """What TrialResult.bundle says: the path from the run directory."""
        return f"trials/{self.path.name}"

    def sink(self, line: bytes) -> None:
        """Append one event, already redacted and ending in a newline; the kernel has it on return.

        The first failure raises BundleError and ends the file at the last whole line; later calls do nothing,
        so that the trial can still be judged from memory.
        """
        if self._broken:
            return
        try:
            self._check_room(len(line))
            _write_all(self._fd, line)
        except OSError as error:
            self._broken = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            raise _unstored(self.path / "history.jsonl", error) from None
        self._bytes += len(line)

    def finish(self, judgement: Judgement, result: TrialResult, *, masked: tuple[Masked, ...] = ()) -> None:
        """The third phase; the bundle is complete when this returns."""
        _replace(self.path / "receipt.json", msgspec.json.encode(_Receipt(masked=masked)))
        _replace(self.path / "result.json", msgspec.json.encode(_gated(result, self._gate)))
        _replace(self.path / "judgement.json", msgspec.json.encode(_gated(judgement, self._gate)))

    def close(self) -> None:
        """End the writing; safe to call again."""
        self._broken = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read(path: Path) -> StoredTrial:
        """A bundle, whole or torn. Raises BundleError naming the file (in a history: the line) at fault."""
        info = _read_one(path / "trial.json", TrialInfo)
        events, torn_line = _read_lines(path / "history.jsonl", decode_event)
        judgement = _read_optional(path / "judgement.json", Judgement)
        receipt = _read_optional(path / "receipt.json", _Receipt)
        problems = [f"line {torn_line} of history.jsonl was cut off while it was written"] if torn_line else []
        if judgement is None:
            problems.append("pytest ended before this trial was judged")
        return StoredTrial(
            path=path,
            info=info,
            history=History.of(events),
            judgement=judgement,
            result=_read_optional(path / "result.json", TrialResult),
            masked=receipt.masked if receipt else (),
            torn=bool(problems),
            problems=tuple(problems),
        )

    @staticmethod
    def peek(path: Path) -> tuple[TrialInfo, TrialResult | None, tuple[Masked, ...]]:
        """The first and the last words of a bundle, without its history: cheap. Raises BundleError."""
        receipt = _read_optional(path / "receipt.json", _Receipt)
        result = _read_optional(path / "result.json", TrialResult)
        return _read_one(path / "trial.json", TrialInfo), result, receipt.masked if receipt else ()

    def _check_room(self, line_bytes: int) -> None:
        if line_bytes > MAX_LINE_BYTES:
            raise OSError(errno.EFBIG, f"an event of {line_bytes} bytes, more than {MAX_LINE_BYTES}")
        if self._bytes + line_bytes > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"the history would pass {MAX_FILE_BYTES} bytes")


def slug(scenario: str, version: str, trial: int) -> str:
    """A directory name for a trial: letters, digits, ``.``, ``_`` and ``-`` only, at most 120 characters.

    What had to be cut is told apart by a hash.
    """
    file, _, test = scenario.partition("::")
    name = file.rpartition("/")[2].removesuffix(".py")
    named = f"{name}-{test}" if version in test else f"{name}-{test}-{version}"
    whole = _safe(f"{named}-t{trial}", limit=None)
    if len(whole) <= MAX_SLUG:
        return whole
    digest = hashlib.sha256(f"{scenario}\n{version}\n{trial}".encode()).hexdigest()[:8]
    return f"{whole[: MAX_SLUG - 9].rstrip('-.')}-{digest}"


class _Receipt(msgspec.Struct, frozen=True):
    masked: tuple[Masked, ...]


_S = TypeVar("_S", bound=msgspec.Struct)
_L = TypeVar("_L")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,149}")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_result_decoder = msgspec.json.Decoder(TrialResult)


def _safe(text: str, *, limit: int | None = MAX_SLUG) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:limit].rstrip("-.") or "trial"


def _make_run_directory(reports_dir: Path, run_id: str | None) -> Path:
    if run_id is not None and not _SAFE_NAME.fullmatch(run_id):
        raise UsageError(f"{run_id!r:.80} cannot be a run id: use letters, digits, '.', '_' and '-'")
    try:
        reports_dir.mkdir(parents=True, exist_ok=True)
        return _fresh_run(reports_dir) if run_id is None else _new_directory(reports_dir / run_id)
    except FileExistsError as error:
        if run_id is not None and (reports_dir / run_id).exists():
            raise UsageError(f"there is a run {run_id} in {reports_dir} already; choose another run id") from None
        raise _unwritable(reports_dir, error) from None
    except OSError as error:
        raise _unwritable(reports_dir, error) from None


def _fresh_run(reports_dir: Path) -> Path:
    while True:
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        if not (reports_dir / run_id).exists():
            return _new_directory(reports_dir / run_id)


def _new_directory(path: Path) -> Path:
    path.mkdir()
    return path


def _fresh_directory(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            return _new_directory(path)
        except FileExistsError:
            number += 1


def _point_latest(reports_dir: Path, run_id: str) -> None:
    temporary = reports_dir / f".{LATEST}-{run_id}"
    try:
        temporary.symlink_to(run_id, target_is_directory=True)
    except OSError:  # a file system without links, or without the right to make them
        temporary.write_text(run_id + "\n", encoding="ascii")
    try:
        temporary.replace(reports_dir / LATEST)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _run_directory(path: Path) -> Path:
    if path.name == LATEST and (path.is_symlink() or path.is_file()):
        path = path.parent / _latest_name(path)
    elif not _is_run(path) and ((path / LATEST).is_symlink() or (path / LATEST).is_file()):
        path = path / _latest_name(path / LATEST)
    elif not _is_run(path):  # copied without its link, as artifact stores do; run ids sort by time
        path = max((child for child in path.glob("*") if _is_run(child)), default=path)
    if not _is_run(path):
        raise UsageError(f"there is no run in {path}; give a directory that holds a run.json")
    return path


def _latest_name(path: Path) -> str:
    """The run that ``latest`` names; only a plain name beside it, wherever the link might lead."""
    try:
        name = str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii")[:200].strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give the run directory itself") from None
    if not _SAFE_NAME.fullmatch(name):
        raise UsageError(f"{path} does not name a run beside it; give the run directory itself")
    return name


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "results.jsonl", "trials"))


def _gated(record: _S, gate: Gate | None) -> _S:
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


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unstored(path, error) from None


def _write_all(fd: int, content: bytes) -> None:
    """One write as a rule: the kernel keeps appends of several processes apart only within a call."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _mend(fd: int) -> None:
    """Cut off half a last line. Without the lock it could be one that another worker is just writing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # until the descriptor is closed
    except OSError:  # a file system without locks
        return
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        tail = os.pread(fd, min(size, MAX_LINE_BYTES), max(0, size - MAX_LINE_BYTES))
        os.ftruncate(fd, size - len(tail) + tail.rfind(b"\n") + 1)


def _open(path: Path, limit_bytes: int) -> Any:
    """A regular file for reading: never through a link, never a pipe that would make us wait."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | _NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{_where(path)} cannot be read: {error.strerror}") from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit_bytes:
        return os.fdopen(fd, "rb")
    os.close(fd)
    what = f"has {status.st_size} bytes, more than {limit_bytes}" if stat.S_ISREG(status.st_mode) else "is not a file"
    raise BundleError(f"{_where(path)} {what}; it was not read")


def _read_one(path: Path, kind: type[_S]) -> _S:
    record = _read_optional(path, kind)
    if record is None:
        raise BundleError(f"{_where(path)} is missing; the bundle says nothing without it")
    return record


def _read_optional(path: Path, kind: type[_S]) -> _S | None:
    file = _open(path, MAX_LINE_BYTES)
    if file is None:
        return None
    with file:
        content = file.read()
    try:
        record = msgspec.json.decode(content, type=kind)
    except _UNDECODABLE as error:
        raise BundleError(f"{_where(path)} is corrupt: {_short(error)}") from None
    if getattr(record, "schema", SCHEMA) > SCHEMA:
        raise BundleError(f"{_where(path)} was written by a newer pytest-ocrepro; update this one to read it")
    return record


def _read_lines(path: Path, decode: Callable[[bytes], _L]) -> tuple[tuple[_L, ...], int]:
    """All lines, and the number of the last if it was cut off (else 0)."""
    file = _open(path, MAX_FILE_BYTES)
    if file is None:
        return (), 0
    found: list[_L] = []
    with file:
        for number, line in enumerate(_lines(file, path), start=1):
            try:
                found.append(decode(line))
            except _UNDECODABLE as error:
                if not line.endswith(b"\n"):
                    return tuple(found), number
                raise BundleError(f"{_where(path)} line {number} is corrupt: {_short(error)}") from None
    return tuple(found), 0


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    number = 1
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise BundleError(f"{_where(path)} line {number} is longer than {MAX_LINE_BYTES} bytes; it was not read")
        yield line
        number += 1


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unwritable(reports_dir: Path, error: Exception) -> UsageError:
    why = getattr(error, "strerror", None) or _short(error)
    return UsageError(f"the reports directory {reports_dir} cannot be written ({why}); name another one")


def _unstored(path: Path, error: OSError) -> BundleError:
    why = error.strerror or str(error)
    return BundleError(f"evidence cannot be stored in {path}: {why}; make room or name another reports directory")
