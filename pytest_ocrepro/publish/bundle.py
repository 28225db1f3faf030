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
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_ocrepro.errors import BundleError
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
from pytest_ocrepro.publish.run_folders import (
    SAFE_NAME,
    fresh_directory,
    make_run_directory,
    point_latest,
    run_directory,
    safe,
    unwritable,
    whynot,
)
from pytest_ocrepro.publish.storage import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = [
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
]

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
        path = make_run_directory(reports_dir, run_id)
        run = cls(path, RunInfo(run_id=path.name), gate)
        try:
            run.write_info(RunInfo(run_id=path.name, started=datetime.now(UTC).isoformat(timespec="seconds")))
            point_latest(reports_dir, path.name)
        except (OSError, BundleError) as error:
            (path / "run.json").unlink(missing_ok=True)
            path.rmdir()
            raise unwritable(reports_dir, error) from None
        return run

    @classmethod
    def read(cls, path: Path, *, gate: Gate | None = None) -> Self:
        """The run at ``path``: ``reports/latest``, a run directory, or the reports directory (its latest).

        Raises UsageError where there is none, BundleError where run.json cannot be understood.
        """
        directory = run_directory(path)
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
        return TrialBundle(self.place_for(safe(gate(slug) if gate else slug)), info, gate)

    def place_for(self, name: str) -> Path:
        """A new directory for a bundle, its name free and fit to be one. Raises BundleError."""
        parent = self.path / "trials"
        try:
            parent.mkdir(exist_ok=True)
            return fresh_directory(parent, name)
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
        return tuple(f"{storage.where(path)} {whynot(path)}; it was not read" for path in strange)

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
        new, fd = self.path / "history.jsonl.new", None
        try:
            fd = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            storage.write_all(fd, b"".join(lines))
            new.replace(self.path / "history.jsonl")
        except OSError as error:
            self._broken = True
            if fd is not None:
                os.close(fd)
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


_result_decoder = msgspec.json.Decoder(TrialResult)
