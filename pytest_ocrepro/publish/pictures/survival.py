"""Times to each milestone as steps: a panel a milestone, the trials that reproduced against the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.passage import Curve
from pytest_ocrepro.publish.pictures.svg import label, svg
from pytest_ocrepro.publish.text import cut, escaped

PER_ROW = 4
_WIDTH, _HEIGHT, _GAP = 226, 140, 54
_LEFT, _TOP = 44, 34


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One curve. ``css``: bad (those that reproduced) or good (the others)."""

    name: str
    css: str
    n: int
    curve: Curve


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One milestone."""

    milestone: str
    groups: tuple[Group, ...]


def survival(panels: Sequence[Panel], end_s: float, title: str) -> str:
    """All panels on one scale of time."""
    rows = -(-len(panels) // PER_ROW)
    parts = [
        part
        for number, panel in enumerate(panels)
        for part in _panel(panel, end_s, *_corner(number % PER_ROW, number // PER_ROW))
    ]
    width = min(len(panels), PER_ROW) * (_WIDTH + _GAP) + _LEFT - _GAP + 14
    return svg("survival", width, rows * (_HEIGHT + _TOP + 30), title, parts)


def _corner(column: int, row: int) -> tuple[float, float]:
    return _LEFT + column * (_WIDTH + _GAP), _TOP + row * (_HEIGHT + _TOP + 30)


def _panel(panel: Panel, end_s: float, x: float, y: float) -> Iterator[str]:
    yield label(x, y - 12, cut(panel.milestone, 32), "strong")
    for share in (0.0, 0.5, 1.0):
        at = y + _HEIGHT * (1 - share)
        css = "rule" if share == 0 else "grid"
        yield f'<line x1="{x}" y1="{at:.1f}" x2="{x + _WIDTH}" y2="{at:.1f}" class="{css}"/>'
        yield label(x - 6, at + 4, f"{share:.0%}".replace("%", " %"), "small", anchor="end")
    for share in (0.0, 0.5, 1.0):
        yield label(x + _WIDTH * share, y + _HEIGHT + 15, f"{end_s * share:.3g} s", "small", anchor=_ANCHORS[share])
    for group in panel.groups:
        yield _curve(group, end_s, x, y)


_ANCHORS = {0.0: "start", 0.5: "middle", 1.0: "end"}


def _curve(group: Group, end_s: float, x: float, y: float) -> str:
    def place(at_s: float) -> float:
        return x + _WIDTH * min(at_s / end_s, 1.0)

    path = [f"M{x:.1f} {y + _HEIGHT:.1f}"]
    for at_s, share in group.curve.steps:
        path.append(f"H{place(at_s):.1f}V{y + _HEIGHT * (1 - share):.1f}")
    ends = [
        f"M{place(at_s):.1f} {y + _HEIGHT * (1 - _share(group.curve, at_s)) - 4:.1f}v8"
        for at_s in dict.fromkeys(group.curve.open_ends)
    ]
    said = f"{group.name}, n {group.n}: {percent_of(group.curve)} in the end"
    return (
        f'<path d="{"".join(path)}H{x + _WIDTH:.1f}" class="curve {group.css}"><title>{escaped(said)}</title></path>'
        f'<path d="{"".join(ends)}" class="open-end {group.css}"/>'
    )


def _share(curve: Curve, at_s: float) -> float:
    return max((share for when, share in curve.steps if when <= at_s), default=0.0)


def percent_of(curve: Curve) -> str:
    """The share at the end."""
    return f"{100 * (curve.steps[-1][1] if curve.steps else 0.0):.0f} %"
