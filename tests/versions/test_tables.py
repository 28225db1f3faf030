from __future__ import annotations

import json
from html.parser import HTMLParser

import msgspec

from pytest_ocrepro.judge.rates import Rate
from pytest_ocrepro.versions.matrix import Cell, Change, Grid, Row
from pytest_ocrepro.versions.tables import as_json, as_markdown, as_page

HOSTILE = 'oc-1 "><script>alert(1)</script>'


def cell(scenario: str, version: str, k: int, n: int, **more: object) -> Cell:
    return Cell(scenario=scenario, version=version, rate=Rate(k=k, n=n), **more)  # type: ignore[arg-type]


def row(name: str, *cells: tuple[int, int], changes: tuple[Change, ...] = ()) -> Row:
    made = tuple(
        cell(name, version, k, n, signatures=(HOSTILE,) if k else (), inconclusive=2 if version == "1.3.0" else 0)
        for version, (k, n) in zip(("1.2.0", "1.3.0", "1.4.0"), cells, strict=True)
    )
    return Row(scenario=name, cells=made, present=(0.0,) * 3, gain=(0.0,) * 3, changes=changes)


GRID = Grid(
    versions=("1.2.0", "1.3.0", "1.4.0"),
    rows=(
        row("scenarios/a.py::test_one_thing", (0, 5), (0, 0), (4, 5),
            changes=(Change(before="1.2.0", after="1.4.0", appears=True),)),
        row("scenarios/b.py::test_other", (1, 5), (0, 0), (0, 0)),
    ),
    closed={"1.4.0": "does not start"},
    same={"1.2.1": "1.2.0"},
    here=frozenset(),
    trial_s={},
    download_s=1.0,
    trials=15,
    trouble_in_a_row=0,
    pending=None,
)  # fmt: skip


def test_the_markdown_has_a_row_a_version_and_says_what_changes() -> None:
    lines = as_markdown(GRID, "the time is up").splitlines()
    assert lines[0] == (
        "15 trials, 3 of 6 cells tried, each in a fresh sandbox; ended early: the time is up. A cell counts the "
        "reproductions among the conclusive trials of one scenario, one test item each."
    )
    assert "| 1.2.0 | 0/5 | 1/5 |" in lines
    assert "| 1.2.1 (is 1.2.0) | 0/5 | 1/5 |" in lines
    assert "| 1.3.0 | ? (2 inconclusive) | ? (2 inconclusive) |" in lines
    assert "| 1.4.0 | 4/5 | n/a |" in lines
    assert "1. one thing" in lines
    assert "- one thing: appears between 1.2.0 (0/5) and 1.4.0 (4/5)" in lines
    assert "- 1.4.0 was not tried: does not start" in lines


def test_more_scenarios_than_versions_have_a_row_each() -> None:
    more = tuple(row(f"scenarios/c.py::test_{number}[a | b]", (1, 2), (0, 3), (0, 0)) for number in range(2))
    lines = as_markdown(msgspec.structs.replace(GRID, rows=(*GRID.rows, *more)), "").splitlines()
    assert "| k of n reproduced | 1.2.0 | 1.2.1 (is 1.2.0) | 1.3.0 | 1.4.0 |" in lines
    assert "| one thing | 0/5 | 0/5 | ? (2 inconclusive) | 4/5 |" in lines
    assert "| 0[a / b] | 1/2 | 1/2 | 0/3 | n/a |" in lines
    assert not [line for line in lines if line.startswith("1. ")]


def test_the_json_has_every_cell_with_its_interval() -> None:
    told = json.loads(as_json(GRID))
    assert (told["schema"], told["trials"], len(told["cells"])) == (1, 15, 8)
    first = told["cells"][0]
    assert (first["version"], first["k"], first["n"], first["low"], first["high"]) == ("1.2.0", 0, 5, 0.0, 0.5218)
    assert {one["same_as"] for one in told["cells"]} == {"", "1.2.0"}
    assert told["changes"] == [
        {"scenario": "scenarios/a.py::test_one_thing", "before": "1.2.0", "after": "1.4.0", "appears": "true"}
    ]


def test_what_a_version_lacks_is_told_and_is_no_doubt() -> None:
    lacking = cell("scenarios/a.py::test_one_thing", "1.3.0", 0, 0, skipped="no lock <b>")
    first = msgspec.structs.replace(GRID.rows[0], cells=(GRID.rows[0].cells[0], lacking, GRID.rows[0].cells[2]))
    grid = msgspec.structs.replace(GRID, rows=(first, GRID.rows[1]))
    lines = as_markdown(grid, "").splitlines()
    assert "| 1.3.0 | n/a | ? (2 inconclusive) |" in lines
    assert "- one thing: skipped on 1.3.0: no lock <b>" in lines
    assert [one["skipped"] for one in json.loads(as_json(grid))["cells"] if one["skipped"]] == ["no lock <b>"]
    assert "no lock &lt;b&gt;" in as_page(grid, "")
    assert "no lock <b>" not in as_page(grid, "")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]


def test_the_page_is_inert_and_each_cell_says_more() -> None:
    page = as_page(GRID, "")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "a", "form", "iframe"} & set(tags.seen)
    assert tags.seen.count("td") == 8
    assert f"1.4.0 was not tried: does not start; {HOSTILE}" in tags.titles
    assert "default-src 'none'" in page
