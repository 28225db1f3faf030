"""What GitHub Actions shows of a run: a job summary, annotations, and a log in which nothing else is a command.

A summary over 1,024 KiB is dropped whole, and the eleventh error, warning or notice of a step vanishes silently.
The runner takes a line for a command where its text begins with ``::`` or holds ``##[`` anywhere (actions/runner,
ActionCommand.cs), so both are taken apart in what we print of the subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import BundleError
from pytest_ocrepro.judge.judgement import Result
from pytest_ocrepro.publish.counting import (
    Cell,
    Entry,
    Row,
    clarity,
    headline,
    matrix,
    plural,
    scenario_of,
    versions_of,
)
from pytest_ocrepro.publish.elsewhere import replayed
from pytest_ocrepro.publish.markdown import escaped, fenced, table
from pytest_ocrepro.publish.records import RunInfo
from pytest_ocrepro.publish.text import cut, flat
from pytest_ocrepro.publish.wholeness import shortfall

SUMMARY_BYTES = 900 * 1024  # of 1,024 KiB: other steps' tools write there too
MOST_ANNOTATIONS = 9
_MESSAGE = 600  # characters
_LEVELS = ("error", "warning", "notice")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One annotation. ``level``: error (a failed test), warning (inconclusive), notice (reproduced, as expected)."""

    level: str
    file: str
    title: str
    message: str

    @property
    def command(self) -> str:
        """The workflow command, on one line."""
        properties = f"file={_property(self.file)},title={_property(self.title)}"
        return f"::{self.level} {properties}::{_data(self.message)}"


def summary(frame: RunInfo, entries: Sequence[Entry], *, limit_bytes: int = SUMMARY_BYTES, page: str = "") -> str:
    """The run as Markdown of at most ``limit_bytes``; its last line says what had no room.

    ``page`` says where the page is.
    """
    rows = matrix(entries)
    kept: list[str] = []
    left_bytes = limit_bytes - 200  # for the last line
    sections = list(_sections(frame, entries, rows, page))
    for number, section in enumerate(sections):
        size = len(section.encode("utf-8", "replace")) + 2
        if size > left_bytes:
            kept.append(f"_{plural(len(sections) - number, 'section')} had no room here; the page has all._")
            break
        left_bytes -= size
        kept.append(section)
    return "\n\n".join(kept) + "\n"


def notes_of(entries: Sequence[Entry]) -> tuple[Note, ...]:
    """At most nine, one a scenario, the worst first; the last one counts those that had no room."""
    found = sorted(
        filter(None, (_note(row, entries) for row in matrix(entries))), key=lambda n: _LEVELS.index(n.level)
    )
    if len(found) <= MOST_ANNOTATIONS:
        return tuple(found)
    kept, rest = found[: MOST_ANNOTATIONS - 1], found[MOST_ANNOTATIONS - 1 :]
    words = "; ".join(f"{note.title}" for note in rest)
    return (
        *kept,
        Note(
            level=rest[0].level,
            file=rest[0].file,
            title=f"and {plural(len(rest), 'more scenario')}",
            message=cut(words, _MESSAGE),
        ),
    )


def append_summary(path: Path, frame: RunInfo, entries: Sequence[Entry], *, page: str = "") -> bool:
    """Add the summary to the file that ``GITHUB_STEP_SUMMARY`` names; False where others left it no room.

    Raises BundleError where it cannot be written.
    """
    try:
        left_bytes = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        content = summary(frame, entries, limit_bytes=left_bytes, page=page).encode("utf-8", "replace")
        if len(content) > left_bytes:
            return False
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise BundleError(f"the job summary {path} cannot be written: {error.strerror or error}") from None
    return True


def inert(text: str) -> str:
    """The text with nothing in it that the runner would take for a command."""
    return _COMMAND.sub(r"\1: :", text.replace("##[", "## ["))


_COMMAND = re.compile(r"(?m)(^\s*|[\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*)::")


def _sections(frame: RunInfo, entries: Sequence[Entry], rows: Sequence[Row], page: str) -> Iterator[str]:
    versions = versions_of(entries)
    yield f"### {escaped(headline(rows))}"
    started = f"run {frame.run_id}, {frame.started or 'start unknown'}, pytest-ocrepro {frame.plugin_version}"
    machine = next((fact.value for fact in frame.machine if fact.name == "system"), "")
    facts = [
        started,
        machine,
        f"{len(frame.parts)} runs merged" if frame.parts else "",
        f"page: {page}" if page else "",
    ]
    yield escaped("; ".join(filter(None, facts)))
    short = shortfall(frame, entries)
    if short:
        yield f"**{escaped(short)}**"
    body = [(_title(row), *(_cell(cell) for cell in row.cells), _issues(row)) for row in rows]
    yield table(("Scenario", *map(escaped, versions), "Report"), body)
    if frame.left_out:
        yield f"Not in these numbers: {plural(len(frame.left_out), 'part')} of the runs that could not be read."
    for row in rows:
        telling = [e for e in entries if scenario_of(e.result) == row.scenario and e.says is not Result.NOT_SEEN]
        if telling:
            yield _details(row, min(telling, key=lambda entry: (entry.says is Result.INCONCLUSIVE, clarity(entry))))


def _title(row: Row) -> str:
    return escaped(row.title) + (" (control)" if row.control else "")


def _issues(row: Row) -> str:
    return escaped(", ".join(row.issue))


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    lost = f" +{cell.inconclusive}?" if cell.inconclusive and cell.n else ""
    return escaped(" ".join(filter(None, (f"{cell.glyph} {cell.rate}{lost}", cell.doubt and f"({cell.doubt})"))))


def _details(row: Row, entry: Entry) -> str:
    result = entry.result
    where = f"{entry.says} on {result.version}, trial {result.trial}"
    lines = [
        f"{where}: {result.verdict} ({result.grade}) after {result.seconds_to_verdict:.1f} s",
        f"pytest: {result.expected}" if result.expected else "",
        result.reason,
        *(f"  {link}" for link in result.chain),
        *(f"{finding.kind}: {finding.text}" for finding in result.findings),
        f"signature: {result.signature}" if result.signature else "",
        f"replay: {replayed(entry.info.replay)}" if entry.info and entry.info.replay else "",
    ]
    text = "\n".join(cut(line[: len(line) - len(line.lstrip())] + flat(line), 2_000) for line in lines if line)
    # the first line is HTML to Markdown, where a backslash protects nothing
    return f"<details><summary>{escape(flat(row.title))}: {entry.says}</summary>\n\n{fenced(text)}\n\n</details>"


def _note(row: Row, entries: Iterable[Entry]) -> Note | None:
    own = [entry for entry in entries if scenario_of(entry.result) == row.scenario]
    levels = {level: [entry for entry in own if _level(entry) == level] for level in _LEVELS}
    level = next((level for level in _LEVELS if levels[level]), None)
    if level is None:
        return None
    telling = min(levels[level], key=clarity)
    rates = ", ".join(f"{cell.version} {cell.word} {cell.rate}" for cell in row.cells if cell)
    return Note(
        level=level,
        file=row.scenario.partition("::")[0],
        title=cut(flat(f"{row.title}: {rates}"), 200),
        message=cut(flat(f"{telling.result.expected or telling.says}. {telling.result.reason}"), _MESSAGE),
    )


def _level(entry: Entry) -> str | None:
    if entry.says is Result.INCONCLUSIVE:
        return "warning"
    if entry.result.expected.startswith("failed"):
        return "error"
    return "notice" if entry.says is Result.REPRODUCED else None


def _data(text: str) -> str:
    """As the runner takes it apart: the per cent sign first."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
