"""A comparison of two run sets in words: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_ocrepro.publish.comparison import Comparison, RunSet
from pytest_ocrepro.publish.counting import plural
from pytest_ocrepro.publish.markdown import escaped, table
from pytest_ocrepro.publish.text import cut, flat

_WIDTH = 118
_TITLE = 40


def in_text(comparison: Comparison) -> str:
    """For a terminal, in lines of at most 118 columns."""
    lines = [("scenario", "version", "A", "B", "difference (95 %)", "p", "")]
    below: dict[int, tuple[str, ...]] = {}
    for change in comparison.changes:
        below[len(lines)] = change.remarks
        lines.append((cut(flat(change.title), _TITLE), cut(flat(change.version), 24), *change.cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [cut(line, _WIDTH) for line in _sides(comparison)]
    for number, line in enumerate(lines):
        told.append("  ".join(map(str.ljust, line, widths)).rstrip())
        told += [cut(f"    {flat(remark)}", _WIDTH) for remark in below.get(number, ())]
    return "\n".join([*told, comparison.headline])


def in_markdown(comparison: Comparison) -> str:
    """The same as a table; texts of the subject are escaped."""
    head = ("Scenario", "Version", "A", "B", "Difference (95 % interval)", "p", "")
    rows = [
        (escaped(change.title), escaped(change.version), *map(escaped, change.cells)) for change in comparison.changes
    ]
    remarks = [
        f"- {escaped(change.title)}, {escaped(change.version)}: {'; '.join(map(escaped, change.remarks))}"
        for change in comparison.changes
        if change.remarks
    ]
    sides = "  \n".join(map(escaped, _sides(comparison)))
    return "\n\n".join(filter(None, (escaped(comparison.headline), sides, table(head, rows), "\n".join(remarks))))


def told_of(comparison: Comparison) -> tuple[str, ...]:
    """Where the trials of both sides are from, a line each."""
    return tuple(_sides(comparison))


def in_json(comparison: Comparison) -> str:
    """The records."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=1).decode()


# --- below: how


def _sides(comparison: Comparison) -> Iterator[str]:
    for side in (comparison.first, comparison.second):
        yield f"{side.label}: {flat(_where(side))}"
    if comparison.shared and not comparison.across:
        yield f"{plural(comparison.shared, 'trial')} of these are in both, and count on both sides"


def _where(side: RunSet) -> str:
    """``3 runs, 60 trials (20261121T..., ...; pytest-ocrepro 0.1.0)``."""
    names = [run.run_id for run in side.runs]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
    versions = ", ".join(sorted({run.plugin_version for run in side.runs} - {""}))
    lost = f"; {plural(len(side.left_out), 'part')} left out" if side.left_out else ""
    return f"{plural(len(names), 'run')}, {plural(side.trials, 'trial')} ({shown}; pytest-ocrepro {versions}{lost})"
