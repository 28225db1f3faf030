"""What a finished run leaves for those who watch it from elsewhere: GitHub's job page, a CTRF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.publish import ctrf as format_of_dashboards
from pytest_ocrepro.publish import github as on_github
from pytest_ocrepro.publish import storage
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.intake import entries_of, read_contents

SUMMARY = "summary.md"


def entries_in(run: RunDir) -> tuple[Entry, ...]:
    """The trials of a run as they are counted."""
    return entries_of(read_contents(run.path, evidence=False))


def hand_out(run: RunDir, *, github: str, ctrf: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Write what was asked for; yields the lines to print, workflow commands among them. Errors are lines too.

    ``github``: on, off, or auto (where GITHUB_STEP_SUMMARY names a file); ``ctrf``: an absolute path, or "".
    """
    entries = entries_in(run)
    step = environment.get("GITHUB_STEP_SUMMARY", "")
    if github == "on" or (github == "auto" and step):
        yield from _for_github(run, entries, step)
    if ctrf:
        try:
            storage.deliver(Path(ctrf), format_of_dashboards.encode(run.info, entries))
            yield f"ctrf: {Path(ctrf).as_uri()}"
        except OcreproError as error:
            yield f"ocrepro: {error}"


def _for_github(run: RunDir, entries: tuple[Entry, ...], step: str) -> Iterator[str]:
    try:
        if not step:
            text = on_github.summary(run.info, entries)
            yield f"summary: {run.write_product(SUMMARY, text.encode('utf-8', 'replace')).as_uri()}"
        elif not on_github.append_summary(Path(step), run.info, entries):
            yield "ocrepro: the job summary has no room left in its 1,024 KiB; nothing was added"
    except OcreproError as error:
        yield f"ocrepro: {error}"
    yield from (note.command for note in on_github.notes_of(entries))
