"""The record of a run before its first trial: what it is made with, and how it is taken back where nothing is run."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from pytest_ocrepro import __version__
from pytest_ocrepro.observe.readers import reader_here
from pytest_ocrepro.platforms import seen_through
from pytest_ocrepro.publish.bundle import Fact, RunDir, RunInfo, Subject
from pytest_ocrepro.settings import Settings
from pytest_ocrepro.sharing import Share
from pytest_ocrepro.stage import rungs


def newest(reports: Path) -> Path | None:
    """Where ``latest`` leads; None where there is none."""
    try:
        return (reports / "latest").readlink()
    except OSError:
        return None


def withdraw(run: RunDir, reports: Path, before: Path | None) -> None:
    """Take an empty run back, so that a usage error leaves nothing half-done and ``latest`` where it was."""
    latest = reports / "latest"
    with contextlib.suppress(OSError):
        if latest.readlink().name == run.path.name:
            latest.unlink()
            if before is not None:
                latest.symlink_to(before)
    for name in ("run.json", "results.jsonl"):
        with contextlib.suppress(OSError):
            (run.path / name).unlink()
    for folder in (run.path, reports):
        with contextlib.suppress(OSError):  # not empty: somebody else's
            folder.rmdir()


def in_words(value: object) -> str:
    """An option's value for people; "" where it is not given."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(in_words, value)) if isinstance(value, tuple) else str(value)


def run_info(run: RunDir, share: Share) -> RunInfo:
    """What run.json says of a run before its first trial."""
    settings = share.settings
    options = [Fact(name=name, value=in_words(getattr(settings, name))) for name in Settings.__struct_fields__]
    subjects = [
        Subject(
            version=build.version,
            sha256=build.sha256,
            source=build.source,
            package=build.package,
            integrity=build.integrity,
        )
        for build in share.builds
    ]
    return RunInfo(
        run_id=run.info.run_id,
        started=run.info.started,
        plugin_version=__version__,
        pytest_command=share.command,
        machine=tuple(_machine()),
        subjects=tuple(subjects),
        options=tuple(options),
    )


def file_system(folder: Path) -> str:
    """Of the mount that holds the folder; locks do not work alike on all. "" where none is told."""
    whole = folder.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if whole.is_relative_to(one.mountpoint)]
    return max(reversed(mounts), key=lambda one: len(one.mountpoint)).fstype if mounts else ""


def _machine() -> Iterator[Fact]:
    yield Fact(name="system", value=f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Fact(name="processes are ended by", value=rungs.in_words(reader_here()))
    yield Fact(name="processes are read through", value=seen_through())
    yield Fact(name="python", value=platform.python_version())
    yield Fact(name="cores", value=str(psutil.cpu_count()))
    yield Fact(name="memory", value=f"{psutil.virtual_memory().total / 2**30:.1f} GiB")
    yield Fact(name="file system", value=file_system(Path(tempfile.gettempdir())))
    yield Fact(name="load average", value=f"{os.getloadavg()[0]:.2f}")
