"""The comparison with another run set as the page tells it: one sentence, paired rates, and a table of all rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.publish.bundle import RunDir
from pytest_ocrepro.publish.comparison import Change, Comparison, Direction, Side, compare_paths
from pytest_ocrepro.publish.comparison_words import told_of
from pytest_ocrepro.publish.document import Block, Bullets, Paragraph, Part, Picture, Words, said, sheet
from pytest_ocrepro.publish.pictures.paired import Pair, paired
from pytest_ocrepro.publish.text import clip

MOST_PAIRS = 24
CSS = {Direction.WORSE: "worse", Direction.BETTER: "better"}


def compared(against: Path, run: RunDir) -> tuple[Block, ...]:
    """The run beside the run set at ``against``; where that cannot be read any more, this is what is told."""
    try:
        return comparison_blocks(compare_paths([against], [run.path]))
    except OcreproError as error:
        return (Paragraph(text=said(f"The other run set could not be read: {error}"), css="alarm"),)


def comparison_blocks(found: Comparison) -> tuple[Block, ...]:
    """What got worse comes first; the picture has the first rows, the table all of them."""
    return tuple(_blocks(found))


def _blocks(found: Comparison) -> Iterator[Block]:
    yield Paragraph(text=said(Words(clip(found.headline, 600), "strong"), "."))
    for line in told_of(found):
        yield Paragraph(text=said(clip(line, 600)), css="small soft")
    title = "Reproduction rates of both run sets, scenario by scenario"
    drawn = found.changes[:MOST_PAIRS]
    if drawn:
        more = len(found.changes) - len(drawn)
        caption = "A above and hollow, B below and filled, whiskers: 95 % interval."
        caption += f" {more} more rows are in the table." if more else ""
        yield Picture(svg=paired([_pair(change) for change in drawn], title), title=title, caption=caption)
    heads = ["scenario", "version", "#A", "#B", "#difference (95 %)", "#p", "told"]
    rows = [
        (said(clip(change.title, 120)), said(change.version), *(said(cell) for cell in change.cells))
        for change in found.changes
    ]
    remarks = [
        said(Words(clip(change.title, 120), "strong"), f", {change.version}: {clip('; '.join(change.remarks), 600)}")
        for change in found.changes
        if change.remarks
    ]
    blocks: list[Block] = [sheet("All rows", heads, rows)]
    if remarks:
        blocks.append(Bullets(items=tuple(remarks)))
    yield Part(title="The comparison as a table", note="and what else changed", blocks=tuple(blocks))


def _pair(change: Change) -> Pair:
    note = f"{change.version}{' · control' if change.control else ''}"
    return Pair(
        label=change.title,
        note=note,
        first=_rate(change.first),
        second=_rate(change.second),
        told=change.direction,
        css=CSS.get(change.direction, ""),
    )


def _rate(side: Side | None) -> tuple[int, int] | None:
    return (side.k, side.n) if side is not None else None
