"""The swimlane: a lane per process from start to exit, and what happened in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_ocrepro.publish.pictures.svg import box, label, svg
from pytest_ocrepro.publish.text import cut, escaped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_ocrepro.publish.pictures.timeline import Lane, Mark, Span, Timeline

_WIDTH = 1120
_GUTTER = 190
_LANE = 62
_ABOVE = 8  # of a lane: room for a label that its silent span cannot hold
_ON_THE_LOCK_LINE = ("holds", "queues", "left")
_PER_CHARACTER = 6.4  # of the 11.5 px labels, measured generously


def swimlane(line: Timeline, *, uid: str, title: str = "Swimlane of the trial") -> str:
    """A lane per process from start to exit, with milestones, faults, requests, snapshots and the silent span."""
    scale = _Scale(line.end_s)
    faults = [span for span in line.spans if span.kind == "fault"]
    top = 10 + 20 * len(faults)
    bottom = top + _LANE * len(line.lanes)
    parts = [_hatch(uid), _axis(scale, top, bottom)]
    parts += [_fault(span, scale, 8 + 20 * row, bottom) for row, span in enumerate(faults)]
    for number, lane in enumerate(line.lanes):
        parts.append(_lane(lane, scale, top + _LANE * number))
    inner = top + _ABOVE
    parts += [_in_lane(span, scale, inner + _LANE * span.lane, uid) for span in line.spans if span.lane is not None]
    parts += [_mark(mark, scale, inner + _LANE * mark.lane) for mark in line.marks if mark.lane is not None]
    parts += [_lane_labels(line, number, scale, inner + _LANE * number + 45) for number in range(len(line.lanes))]
    parts.append(_observations(line.marks, scale, bottom))
    return svg("swimlane", _WIDTH, bottom + 50, title, parts)


class _Scale:
    """Seconds to x."""

    def __init__(self, end_s: float) -> None:
        self.end_s = max(end_s, 0.001)

    def __call__(self, at_s: float) -> float:
        return _GUTTER + (_WIDTH - _GUTTER - 24) * min(max(at_s, 0.0), self.end_s) / self.end_s

    def ticks(self) -> list[float]:
        """Round seconds, at most a dozen."""
        step = next(
            base * 10.0**power
            for power in range(-3, 19)
            for base in (1, 2, 5)
            if base * 10.0**power * 12 >= self.end_s
        )
        return [step * number for number in range(int(self.end_s / step) + 1)]


def _axis(scale: _Scale, top: float, bottom: float) -> str:
    parts = []
    for second in scale.ticks():
        x = scale(second)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
        parts.append(label(x, bottom + 42, f"{second:g} s", "small", anchor="middle"))
    return "".join(parts)


def _hatch(uid: str) -> str:
    return (
        f'<defs><pattern id="hatch-{uid}" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="7" height="7" class="hatch-ground"/>'
        '<line x1="0" y1="0" x2="0" y2="7" class="hatch-line"/></pattern></defs>'
    )


def _fault(span: Span, scale: _Scale, y: float, bottom: float) -> str:
    x, end = scale(span.start_s), scale(span.end_s)
    room = int((_WIDTH - x - 34) / _PER_CHARACTER)
    return (
        box(x, y, end - x, bottom - y, "fault-band")
        + box(x, y, end - x, 16, "fault-head", f"fault {span.label}, from {span.start_s:.2f} s")
        + label(x + 5, y + 12, cut(f"fault {span.label}", max(room, 8)), "small fault-text")
        + label(_GUTTER - 12, y + 12, "fault", "small", anchor="end")
    )


def _lane(lane: Lane, scale: _Scale, y: float) -> str:
    x, end = scale(lane.start_s), scale(lane.end_s)
    rule = f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" class="rule"/>'
    y += _ABOVE
    who = lane.ending if lane.pid is None else f"pid {lane.pid} · {lane.ending}"
    kind = "server" if lane.pid is None else "subject" if lane.subject else "tool"
    title = f"{lane.label}: from {lane.start_s:.2f} s to {lane.end_s:.2f} s, {who}"
    bar = (
        f'<line x1="{x:.1f}" y1="{y + 20:.1f}" x2="{end:.1f}" y2="{y + 20:.1f}" class="server-line"/>'
        if kind == "server"
        else box(x, y + 12, end - x, 16, f"life {kind}", title)
    )
    return rule + label(0, y + 21, cut(lane.label, 26), "strong") + label(0, y + 37, cut(who, 30), "small") + bar


def _in_lane(span: Span, scale: _Scale, y: float, uid: str) -> str:
    x, end = scale(span.start_s), scale(span.end_s)
    if span.kind in _ON_THE_LOCK_LINE:
        return box(x, y + 30, end - x, 4, span.kind, span.label)
    silent = box(x, y + 10, end - x, 20, "waits", f"{span.label}, until {span.end_s:.2f} s", f"url(#hatch-{uid})")
    if (end - x) / _PER_CHARACTER > len(span.label) + 4:
        return silent + label((x + end) / 2, y + 24, span.label, "small waits-text", anchor="middle")
    # above the lane, below its rule and clear of the heads of the signals
    if x + _long(span.label) > _WIDTH - 24:
        return silent + label(_WIDTH - 24, y + 3, span.label, "small waits-text", anchor="end")
    return silent + label(x, y + 3, span.label, "small waits-text")


def _mark(mark: Mark, scale: _Scale, y: float) -> str:
    x, title = scale(mark.at_s), f"<title>{escaped(mark.label)} at {mark.at_s:.2f} s</title>"
    if mark.kind == "milestone":
        return f'<path d="M{x:.1f} {y + 13:.1f}l7 7-7 7-7-7z" class="milestone">{title}</path>'
    if mark.kind == "signal":
        return f'<path d="M{x:.1f} {y + 6:.1f}v28m-4-28h8" class="signal">{title}</path>'
    height = 18 if mark.kind == "request" else 8
    return f'<path d="M{x:.1f} {y + 20 - height / 2:.1f}v{height}" class="{mark.kind}">{title}</path>'


def _lane_labels(line: Timeline, number: int, scale: _Scale, y: float) -> str:
    """The last milestone of a lane and its locks, in words, none over another; what has no room is in the table."""
    marks = [mark for mark in line.marks if mark.kind == "milestone" and mark.lane == number]
    spans = [s for s in line.spans if s.lane == number and s.kind in _ON_THE_LOCK_LINE and not s.quiet]
    taken: list[tuple[float, float]] = []
    parts = []
    if marks:
        text = f"◆ {marks[-1].label}"
        x = scale(marks[-1].at_s) - 6
        parts.append(_placed(text, "small", y, taken, [x, x + 12 - _long(text)]))
    for span in spans:
        text = cut(span.label, 80)
        x, end = scale(span.start_s), scale(span.end_s)
        beside = [place for low, high in taken for place in (high + 12, low - 12 - _long(text))]
        parts.append(_placed(text, f"small {span.kind}-text", y, taken, [end - _long(text), x, *beside]))
    return "".join(parts)


def _long(text: str) -> float:
    return _PER_CHARACTER * len(text)


def _placed(text: str, css: str, y: float, taken: list[tuple[float, float]], places: Iterable[float]) -> str:
    """The text at the first of these places that is free and within the picture."""
    for x in places:
        end = x + _long(text)
        inside = x >= _GUTTER and end <= _WIDTH
        if inside and all(end + 8 <= low or x >= high + 8 for low, high in taken):
            taken.append((x, end))
            return label(x, y, text, css)
    return ""


def _observations(marks: Iterable[Mark], scale: _Scale, y: float) -> str:
    marks = list(marks)
    light = "".join(f"M{scale(mark.at_s):.1f} {y + 8:.1f}v4" for mark in marks if mark.kind == "sample")
    full = "".join(f"M{scale(mark.at_s):.1f} {y + 4:.1f}v14" for mark in marks if mark.kind == "snapshot")
    paths = (f'<path d="{path}" class="{css}"/>' for path, css in ((light, "sample"), (full, "snapshot")) if path)
    return (
        f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" class="rule"/>'
        + label(0, y + 16, "snapshots, samples", "small")
        + "".join(paths)
    )
