"""Where a run and its bundles lie, and what their directories may be called."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.publish import storage

MAX_SLUG = 120
LATEST = "latest"
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,149}")  # of a directory in a run: no path, and never hidden


def slug(scenario: str, version: str, trial: int) -> str:
    """A directory name for a trial: letters, digits, ``.``, ``_`` and ``-`` only, at most 120 characters.

    What had to be cut is told apart by a hash.
    """
    file, _, test = scenario.partition("::")
    name = file.rpartition("/")[2].removesuffix(".py")
    named = f"{name}-{test}" if version in test else f"{name}-{test}-{version}"
    whole = safe(f"{named}-t{trial}", limit=None)
    if len(whole) <= MAX_SLUG:
        return whole
    digest = hashlib.sha256(f"{scenario}\n{version}\n{trial}".encode()).hexdigest()[:8]
    return f"{whole[: MAX_SLUG - 9].rstrip('-.')}-{digest}"


def safe(text: str, *, limit: int | None = MAX_SLUG) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:limit].rstrip("-.") or "trial"


def make_run_directory(reports_dir: Path, run_id: str | None) -> Path:
    """A new directory for a run, named for its time where it has no name yet. Raises UsageError."""
    if run_id is not None and not SAFE_NAME.fullmatch(run_id):
        raise UsageError(f"{run_id!r:.80} cannot be a run id: use letters, digits, '.', '_' and '-'")
    try:
        reports_dir.mkdir(parents=True, exist_ok=True)
        return _fresh_run(reports_dir) if run_id is None else _new_directory(reports_dir / run_id)
    except FileExistsError as error:
        if run_id is not None and (reports_dir / run_id).exists():
            raise UsageError(f"there is a run {run_id} in {reports_dir} already; choose another run id") from None
        raise unwritable(reports_dir, error) from None
    except OSError as error:
        raise unwritable(reports_dir, error) from None


def fresh_directory(parent: Path, name: str) -> Path:
    """A new directory with this name, or with a number behind it. Raises OSError."""
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            return _new_directory(path)
        except FileExistsError:
            number += 1


def point_latest(reports_dir: Path, run_id: str) -> None:
    """Let ``latest`` name this run. Raises OSError."""
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


def run_directory(path: Path) -> Path:
    """The run at ``path``: itself, the one that its ``latest`` names, or its newest. Raises UsageError."""
    if path.name == LATEST and (path.is_symlink() or path.is_file()):
        path = path.parent / _latest_name(path)
    elif not is_run(path) and ((path / LATEST).is_symlink() or (path / LATEST).is_file()):
        path = path / _latest_name(path / LATEST)
    elif not is_run(path):  # copied without its link, as artifact stores do; run ids sort by time
        path = max((child for child in path.glob("*") if is_run(child)), default=path)
    if not is_run(path):
        raise UsageError(f"there is no run in {path}; give a directory that holds a run.json")
    return path


def whynot(path: Path) -> str:
    """Why what lies among the bundles is none, as the end of a sentence."""
    if path.is_symlink():
        return "is a link"
    return "has no name that a trial can have" if path.is_dir() else "is no directory"


def is_run(path: Path) -> bool:
    """Whether this directory is a run, whole or not."""
    return any((path / name).exists() for name in ("run.json", "results.jsonl", "trials"))


def unwritable(reports_dir: Path, error: Exception) -> UsageError:
    """To be raised where a run cannot be made."""
    why = getattr(error, "strerror", None) or storage.short(error)
    return UsageError(f"the reports directory {reports_dir} cannot be written ({why}); name another one")


def _fresh_run(reports_dir: Path) -> Path:
    while True:
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        if not (reports_dir / run_id).exists():
            return _new_directory(reports_dir / run_id)


def _new_directory(path: Path) -> Path:
    path.mkdir()
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
