"""A matrix for people and for machines: Markdown, JSON, and an inert page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import msgspec

from pytest_ocrepro.judge.rates import clopper_pearson
from pytest_ocrepro.versions.matrix import Cell, Grid, Row

STYLE = """
:root{color-scheme:light dark}body{font:14px/1.45 system-ui,sans-serif;margin:2em}
table{border-collapse:collapse}th,td{border:1px solid #8886;padding:.15em .45em;text-align:center}
th{font-weight:600}th.v{writing-mode:vertical-rl}th.s{text-align:left;max-width:26em;font-weight:400}
td.none{color:#8889}td.clean{background:#2471a322}td.some{background:#c0392b33}td.most{background:#c0392b77}
"""
MOST = 0.5


class StoredCell(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the JSON: k reproductions in n conclusive trials, exact 95 % interval, why there is none.

    ``not_tried``: of the version; ``skipped``: of this scenario on it, which was started and ended itself.
    """

    scenario: str
    version: str
    k: int
    n: int
    low: float
    high: float
    inconclusive: int
    signatures: tuple[str, ...]
    not_tried: str = ""
    same_as: str = ""
    skipped: str = ""


class StoredGrid(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON file."""

    schema: int = 1
    trials: int
    cells: tuple[StoredCell, ...]
    changes: tuple[dict[str, str], ...]


def as_json(grid: Grid) -> bytes:
    """One object, cells by scenario and release order."""
    changes = tuple(
        {"scenario": row.scenario, "before": one.before, "after": one.after, "appears": str(one.appears).lower()}
        for row in grid.rows
        for one in row.changes
    )
    stored = StoredGrid(trials=grid.trials, cells=tuple(_cells(grid)), changes=changes)
    return msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"


def as_markdown(grid: Grid, why: str) -> str:
    """A table, then what changes where.

    A column a scenario and a row a version; the other way round where there are more scenarios than versions.
    """
    return "\n".join(_lines(grid, why)).rstrip() + "\n"


def as_page(grid: Grid, why: str) -> str:
    """One file, no script, no request; a row a scenario, a column a version."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    versions = _with_twins(grid)
    head = "".join(f'<th class="v" scope="col">{escape(version)}</th>' for version in versions)
    rows = "".join(
        f'<tr><th class="s" scope="row">{escape(_short(row))}</th>'
        + "".join(_cell(grid, row, version) for version in versions)
        + "</tr>"
        for row in grid.rows
    )
    changes = "".join(f"<li>{escape(line)}</li>" for line in (*_changes(grid), *_skips(grid)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><title>ocrepro matrix</title>'
        f"<style>{STYLE}</style></head><body><h1>Scenarios and versions</h1><p>{escape(_summary(grid, why))}</p>"
        f'<table><thead><tr><th class="s" scope="col">k of n reproduced</th>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table><ul>{changes}</ul></body></html>\n"
    )


# --- below: how


def _lines(grid: Grid, why: str) -> Iterator[str]:
    yield _summary(grid, why)
    yield ""
    yield from _by_scenario(grid) if len(grid.rows) > len(grid.versions) else _by_version(grid)
    yield ""
    yield from (f"- {line}" for line in _changes(grid))
    yield from (f"- {version} was not tried: {reason}" for version, reason in grid.closed.items())
    yield from (f"- {line}" for line in _skips(grid))


def _by_version(grid: Grid) -> Iterator[str]:
    yield f"| version | {' | '.join(str(number) for number in range(1, len(grid.rows) + 1))} |"
    yield f"|---|{'---|' * len(grid.rows)}"
    for version in _with_twins(grid):
        cells = [_text(grid, grid.cell(row.scenario, version)) for row in grid.rows]
        yield f"| {_named(grid, version)} | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {_short(row)}" for number, row in enumerate(grid.rows, 1))


def _by_scenario(grid: Grid) -> Iterator[str]:
    versions = _with_twins(grid)
    yield f"| k of n reproduced | {' | '.join(_named(grid, version) for version in versions)} |"
    yield f"|---|{'---|' * len(versions)}"
    for row in grid.rows:
        cells = [_text(grid, grid.cell(row.scenario, version)) for version in versions]
        yield f"| {_short(row).replace('|', '/')} | {' | '.join(cells)} |"


def _named(grid: Grid, version: str) -> str:
    return f"{version} (is {grid.same[version]})" if version in grid.same else version


def _summary(grid: Grid, why: str) -> str:
    cells = [cell for row in grid.rows for cell in row.cells]
    tried = sum(bool(cell.rate.n) for cell in cells)
    end = f"; ended early: {why}" if why else ""
    counted = "A cell counts the reproductions among the conclusive trials of one scenario, one test item each"
    return f"{grid.trials} trials, {tried} of {len(cells)} cells tried, each in a fresh sandbox{end}. {counted}."


def _changes(grid: Grid) -> Iterator[str]:
    for row in grid.rows:
        for one in row.changes:
            before, after = grid.cell(row.scenario, one.before).rate, grid.cell(row.scenario, one.after).rate
            word = "appears" if one.appears else "goes"
            yield f"{_short(row)}: {word} between {one.before} ({before}) and {one.after} ({after})"


def _skips(grid: Grid) -> Iterator[str]:
    """A line a scenario and reason, with all the versions that lack the same."""
    for row in grid.rows:
        for why in dict.fromkeys(cell.skipped for cell in row.cells if cell.skipped):
            versions = ", ".join(cell.version for cell in row.cells if cell.skipped == why)
            yield f"{_short(row)}: skipped on {versions}: {why}"


def _with_twins(grid: Grid) -> tuple[str, ...]:
    """All versions in release order, those with the same bytes as the one before them included."""
    found: list[str] = []
    for version in grid.versions:
        found += [version, *(other for other, first in grid.same.items() if first == version)]
    return tuple(found)


def _short(row: Row) -> str:
    return row.scenario.partition("::")[2].removeprefix("test_").replace("_", " ") or row.scenario


def _text(grid: Grid, cell: Cell) -> str:
    if cell.rate.n:
        return str(cell.rate)
    if cell.version in grid.closed or cell.skipped:
        return "n/a"
    return f"? ({cell.inconclusive} inconclusive)" if cell.inconclusive else ""


def _cell(grid: Grid, row: Row, version: str) -> str:
    cell = grid.cell(row.scenario, version)
    share = cell.rate.share
    css = "none" if share is None else "clean" if not share else "most" if share > MOST else "some"
    said = f"{version}: {cell.rate.in_words()}"
    if cell.version in grid.closed:
        said = f"{version} was not tried: {grid.closed[cell.version]}"
    said += f"; skipped: {cell.skipped}" if cell.skipped else ""
    said += f"; {', '.join(cell.signatures)}" if cell.signatures else ""
    return f'<td class="{css}" title="{escape(said)}">{escape(_text(grid, cell))}</td>'


def _cells(grid: Grid) -> Iterator[StoredCell]:
    for row in grid.rows:
        for version in _with_twins(grid):
            cell = grid.cell(row.scenario, version)
            ends = clopper_pearson(cell.rate.k, cell.rate.n)
            yield StoredCell(
                scenario=row.scenario,
                version=version,
                k=cell.rate.k,
                n=cell.rate.n,
                low=round(ends.low, 4),
                high=round(ends.high, 4),
                inconclusive=cell.inconclusive,
                signatures=cell.signatures,
                not_tried=grid.closed.get(cell.version, ""),
                same_as=grid.same.get(version, ""),
                skipped=cell.skipped,
            )
