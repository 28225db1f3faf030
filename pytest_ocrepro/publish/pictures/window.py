"""A danger window: the failure rate over the offset, before the milestones of the first process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_ocrepro.judge.offsets import WindowRow
from pytest_ocrepro.publish.pictures.svg import box, label, svg
from pytest_ocrepro.publish.text import cut, escaped

_WIDTH, _HEIGHT = 1120, 250
_LEFT, _RIGHT, _TOP = 60, 24, 26
_PER_CHARACTER = 6.4
_LABEL_ROWS = 3


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """When the first process passed a milestone, over all trials: the middle half, and the median. Milliseconds."""

    name: str
    low_ms: float
    median_ms: float
    high_ms: float


def window(
    rows: Sequence[WindowRow], low_ms: float, high_ms: float, title: str, passed: Sequence[Passed] = ()
) -> str:
    """Points k/n with their 95 % intervals; grey bands: ``passed``, as far as they are within the range."""
    scale = _Scale(low_ms, high_ms)
    seen = [one for one in passed if low_ms <= one.median_ms <= high_ms]
    bottom = _TOP + _HEIGHT
    parts = [*_milestones(seen, scale, bottom), *_axes(scale, bottom), *_interval(rows, scale), *_points(rows, scale)]
    return svg("window", _WIDTH, bottom + 34 + (14 * _LABEL_ROWS if seen else 0), title, parts)


class _Scale:
    """Milliseconds to x, a share to y."""

    def __init__(self, low_ms: float, high_ms: float) -> None:
        self.low_ms, self.high_ms = low_ms, max(high_ms, low_ms + 1)

    def x(self, offset_ms: float) -> float:
        share = (offset_ms - self.low_ms) / (self.high_ms - self.low_ms)
        return _LEFT + 14 + (_WIDTH - _LEFT - _RIGHT - 28) * min(max(share, 0.0), 1.0)

    def y(self, share: float) -> float:
        return _TOP + _HEIGHT * (1 - share)


def _axes(scale: _Scale, bottom: float) -> Iterator[str]:
    for share in (0.0, 0.5, 1.0):
        y = scale.y(share)
        css = "grid" if share else "rule"
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" class="{css}"/>'
        yield label(_LEFT - 8, y + 4, f"{100 * share:.0f} %", "small", anchor="end")
    for tenth in range(0, 11, 2):
        at = scale.low_ms + (scale.high_ms - scale.low_ms) * tenth / 10
        yield label(scale.x(at), bottom + 18, f"{at:.0f} ms", "small", anchor="middle")


def _interval(rows: Sequence[WindowRow], scale: _Scale) -> Iterator[str]:
    if len(rows) > 1:
        there = [f"{scale.x(row.offset_ms):.1f} {scale.y(row.high):.1f}" for row in rows]
        back = [f"{scale.x(row.offset_ms):.1f} {scale.y(row.low):.1f}" for row in reversed(rows)]
        yield f'<path d="M{"L".join([*there, *back])}Z" class="interval"/>'
        line = "L".join(f"{scale.x(row.offset_ms):.1f} {scale.y(row.failed / row.n):.1f}" for row in rows)
        yield f'<path d="M{line}" class="curve bad"/>'


def _points(rows: Sequence[WindowRow], scale: _Scale) -> Iterator[str]:
    for row in rows:
        x, y = scale.x(row.offset_ms), scale.y(row.failed / row.n)
        hint = f"{row.offset_ms:g} ms: {row.failed}/{row.n}, {100 * row.low:.0f} to {100 * row.high:.0f} %"
        whisker = f"M{x:.1f} {scale.y(row.low):.1f}V{scale.y(row.high):.1f}"
        yield f'<path d="{whisker}" class="whisker"/>'
        css = "point bad" if row.failed else "point good"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{css}"><title>{escaped(hint)}</title></circle>'
        yield label(x, scale.y(row.high) - 6, f"{row.failed}/{row.n}", "small", anchor="middle")


def _milestones(passed: Sequence[Passed], scale: _Scale, bottom: float) -> Iterator[str]:
    """A band each, its name below the axis in the first row that has room; who finds none is in the table."""
    ends = [0.0] * _LABEL_ROWS
    for one in sorted(passed, key=lambda one: one.median_ms):
        x, low, high = scale.x(one.median_ms), scale.x(one.low_ms), scale.x(one.high_ms)
        hint = f"{one.name}: {one.median_ms:.0f} ms, half of them {one.low_ms:.0f} to {one.high_ms:.0f} ms"
        yield box(low, _TOP, high - low, _HEIGHT, "passed", hint)
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom + 4}" class="passed-line"/>'
        name = cut(f"◆ {one.name}", 40)
        at = min(x - 4, _WIDTH - _RIGHT - _PER_CHARACTER * len(name))
        row = next((number for number, end in enumerate(ends) if at > end), None)
        if row is not None:
            ends[row] = at + _PER_CHARACTER * len(name) + 8
            yield label(at, bottom + 36 + 14 * row, name, "small")
