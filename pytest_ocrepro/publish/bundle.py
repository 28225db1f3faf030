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
                           origin.json    in a merged run only: where it is from (Origin)
    <reports>/latest                      a link to the newest run (a text file where links cannot be made)

A pytest that is killed leaves a bundle without phase 3 and perhaps with half a last line: both are ordinary
when read. Files are not synced to the device: what must be survived is the death of a process, not of the
machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_ocrepro.errors import BundleError, UsageError
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.judgement import Judgement
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.records import (
    SCHEMA,
    Fact,
    Origin,
    ProcessRow,
    Receipt,
    RunInfo,
    StoredTrial,
    Subject,
    TrialInfo,
    TrialResult,
)
from pytest_ocrepro.publish.redaction import Masked
from pytest_ocrepro.publish.storage import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = [
    "LATEST",
    "SCHEMA",
    "Fact",
    "Gate",
    "ProcessRow",
    "RunDir",
    "RunInfo",
    "StoredTrial",
    "Subject",
    "TrialBundle",
    "TrialInfo",
    "TrialResult",
    "slug",
]

MAX_SLUG = 120
LATEST = "latest"
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,149}")  # of a directory in a run: no path, and never hidden
# in the order in which they are written; judgement.json last: it says "complete"
BUNDLE_FILES = ("trial.json", "history.jsonl", "origin.json", "receipt.json", "result.json", "judgement.json")


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
        info = storage.read_optional(directory / "run.json", RunInfo) or RunInfo(run_id=directory.name)
        return cls(directory, info, gate)

    def write_info(self, info: RunInfo) -> None:
        """Replace run.json."""
        self.info = storage.gated(info, self._gate)
        storage.replace(self.path / "run.json", msgspec.json.encode(self.info))

    def append_result(self, result: TrialResult) -> None:
        """Add a line to results.jsonl in one write; half a line of a writer that was killed makes room for it."""
        line = msgspec.json.encode(storage.gated(result, self._gate)) + b"\n"
        path = self.path / "results.jsonl"
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | storage.NOFOLLOW, 0o644)
            try:
                storage.mend(fd)
                storage.write_all(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise storage.unstored(path, error) from None

    def results(self) -> tuple[TrialResult, ...]:
        """All lines of results.jsonl but for half a last one. Raises BundleError naming a corrupt line."""
        lines, _ = storage.read_lines(self.path / "results.jsonl", _result_decoder.decode)
        return lines

    def open_trial(self, slug: str, info: TrialInfo, *, gate: Gate | None = None) -> TrialBundle:
        """A new bundle, with its first phase written. ``gate`` None: the run's own."""
        gate = gate or self._gate
        return TrialBundle(self.place_for(_safe(gate(slug) if gate else slug)), info, gate)

    def place_for(self, name: str) -> Path:
        """A new directory for a bundle, its name free and fit to be one. Raises BundleError."""
        parent = self.path / "trials"
        try:
            parent.mkdir(exist_ok=True)
            return _fresh_directory(parent, name)
        except OSError as error:
            raise storage.unstored(parent, error) from None

    def bundles(self) -> tuple[Path, ...]:
        """The directories under trials/, by name; links are not followed and not listed."""
        try:
            if (self.path / "trials").is_symlink():
                return ()
            with os.scandir(self.path / "trials") as entries:
                found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return ()
        return tuple(sorted(path for path in found if SAFE_NAME.fullmatch(path.name)))

    def passed_over(self) -> tuple[str, ...]:
        """What lies under trials/ and is no bundle of this run, a line each: links, and names that we do not give."""
        trials = self.path / "trials"
        if trials.is_symlink():
            return (f"{storage.where(trials)} is a link; nothing of it was read",)
        known = set(self.bundles())
        strange = sorted(path for path in trials.glob("*") if path not in known and not path.name.startswith("."))
        return tuple(f"{storage.where(path)} {_whynot(path)}; it was not read" for path in strange)

    def bundle_of(self, result: TrialResult) -> Path:
        """The bundle that a result names. Raises BundleError unless it is one of this run's directories."""
        head, _, slug = result.bundle.partition("/")
        path = self.path / "trials" / slug
        linked = path.is_symlink() or path.parent.is_symlink()
        if head != "trials" or not SAFE_NAME.fullmatch(slug) or linked or not path.is_dir():
            raise BundleError(f"results.jsonl names a bundle that is not in this run: {result.bundle!r:.120}")
        return path

    def write_page(self, text: str) -> Path:
        """Replace report.html."""
        return self.write_product("report.html", text.encode())

    def write_product(self, relative: str, content: bytes) -> Path:
        """Replace a file that was rendered from the evidence: ``name`` or ``folder/name``, gated already."""
        if not all(SAFE_NAME.fullmatch(part) for part in relative.split("/")):
            raise BundleError(f"{relative!r:.120} is no name for a file of a run; use letters, digits and dots")
        path = self.path / relative
        if path.parent != self.path and path.parent.is_symlink():
            raise BundleError(f"{storage.where(path.parent)} is a link; nothing was written through it")
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise storage.unstored(path, error) from None
        storage.replace(path, content)
        return path


class TrialBundle:
    """The bundle of a trial that is running."""

    def __init__(self, path: Path, info: TrialInfo, gate: Gate | None = None) -> None:
        self.path = path
        self._gate = gate
        self._bytes = self._lines = 0
        self._broken = False
        self._fd = -1
        storage.replace(path / "trial.json", msgspec.json.encode(storage.gated(info, gate)))
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(path / "history.jsonl", flags, 0o644)
        except OSError as error:
            raise storage.unstored(path / "history.jsonl", error) from None

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
            storage.write_all(self._fd, line)
        except OSError as error:
            self._broken = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            raise storage.unstored(self.path / "history.jsonl", error) from None
        self._bytes += len(line)
        self._lines += 1

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """All events anew, since the gate has learned. Raises BundleError; what was stored before is then gone."""
        if self._broken:
            return
        new = self.path / "history.jsonl.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            storage.write_all(fd, b"".join(lines))
            new.replace(self.path / "history.jsonl")
        except OSError as error:
            self._broken = True
            new.unlink(missing_ok=True)
            os.ftruncate(self._fd, 0)  # it may hold a secret
            raise storage.unstored(self.path / "history.jsonl", error) from None
        os.close(self._fd)
        self._fd, self._bytes = fd, sum(map(len, lines))

    def finish(self, judgement: Judgement, result: TrialResult, *, masked: tuple[Masked, ...] = ()) -> None:
        """The third phase; the bundle is complete when this returns."""
        storage.replace(self.path / "receipt.json", msgspec.json.encode(Receipt(masked=masked)))
        storage.replace(self.path / "result.json", msgspec.json.encode(storage.gated(result, self._gate)))
        storage.replace(self.path / "judgement.json", msgspec.json.encode(storage.gated(judgement, self._gate)))

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
        info = storage.read_one(path / "trial.json", TrialInfo)
        events, torn_line = storage.read_lines(path / "history.jsonl", decode_event)
        judgement = storage.read_optional(path / "judgement.json", Judgement)
        receipt = storage.read_optional(path / "receipt.json", Receipt)
        problems = [f"line {torn_line} of history.jsonl was cut off while it was written"] if torn_line else []
        if judgement is None:
            problems.append("pytest ended before this trial was judged")
        return StoredTrial(
            path=path,
            info=info,
            history=History.of(events),
            judgement=judgement,
            result=storage.read_optional(path / "result.json", TrialResult),
            masked=receipt.masked if receipt else (),
            torn=bool(problems),
            problems=tuple(problems),
            origin=storage.read_optional(path / "origin.json", Origin),
        )

    @staticmethod
    def peek(path: Path) -> tuple[TrialInfo, TrialResult | None, tuple[Masked, ...]]:
        """The first and the last words of a bundle, without its history: cheap. Raises BundleError."""
        receipt = storage.read_optional(path / "receipt.json", Receipt)
        result = storage.read_optional(path / "result.json", TrialResult)
        return storage.read_one(path / "trial.json", TrialInfo), result, receipt.masked if receipt else ()

    def _check_room(self, line_bytes: int) -> None:
        if line_bytes > storage.MAX_LINE_BYTES:
            raise OSError(errno.EFBIG, f"an event of {line_bytes} bytes, more than {storage.MAX_LINE_BYTES}")
        if self._bytes + line_bytes > storage.MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"the history would pass {storage.MAX_FILE_BYTES} bytes")
        if self._lines >= storage.MAX_LINES:
            raise OSError(errno.EFBIG, f"the history would pass {storage.MAX_LINES} events")


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


_result_decoder = msgspec.json.Decoder(TrialResult)


def _safe(text: str, *, limit: int | None = MAX_SLUG) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:limit].rstrip("-.") or "trial"


def _make_run_directory(reports_dir: Path, run_id: str | None) -> Path:
    if run_id is not None and not SAFE_NAME.fullmatch(run_id):
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
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
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
    elif not is_run(path) and ((path / LATEST).is_symlink() or (path / LATEST).is_file()):
        path = path / _latest_name(path / LATEST)
    elif not is_run(path):  # copied without its link, as artifact stores do; run ids sort by time
        path = max((child for child in path.glob("*") if is_run(child)), default=path)
    if not is_run(path):
        raise UsageError(f"there is no run in {path}; give a directory that holds a run.json")
    return path


def _latest_name(path: Path) -> str:
    """The run that ``latest`` names; only a plain name beside it, wherever the link might lead."""
    try:
        name = str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii")[:200].strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give the run directory itself") from None
    if not SAFE_NAME.fullmatch(name):
        raise UsageError(f"{path} does not name a run beside it; give the run directory itself")
    return name


def _whynot(path: Path) -> str:
    if path.is_symlink():
        return "is a link"
    return "has no name that a trial can have" if path.is_dir() else "is no directory"


def is_run(path: Path) -> bool:
    """Whether this directory is a run, whole or not."""
    return any((path / name).exists() for name in ("run.json", "results.jsonl", "trials"))


def _unwritable(reports_dir: Path, error: Exception) -> UsageError:
    why = getattr(error, "strerror", None) or storage.short(error)
    return UsageError(f"the reports directory {reports_dir} cannot be written ({why}); name another one")
