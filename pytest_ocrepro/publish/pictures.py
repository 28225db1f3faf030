"""Pictures drawn by hand: records in, SVG text out.

Every text in them is escaped, every picture has ``role="img"`` and a title, and carries no colour of its own: it is
set inline in the page, whose style sheet knows light, dark and print. The records are what the tables beside the
pictures show.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from html import escape
from typing import TYPE_CHECKING

import msgspec

from pytest_ocrepro.history import (
    Event,
    FaultHealed,
    FaultInjected,
    LightSample,
    MilestoneReached,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    ProgressSeen,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    SignalSent,
    SnapshotTaken,
    TrialStarted,
)
from pytest_ocrepro.judge.judgement import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_ocrepro.history import History
    from pytest_ocrepro.judge.judgement import Graph, Judgement, Node

MAX_LANES = 16


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a process, or a server of ours. Seconds since the trial's start."""

    label: str
    pid: int | None
    start_s: float
    end_s: float
    ending: str  # "exit 1", "SIGKILL by us", "alive"
    subject: bool = True


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at one moment. ``lane`` None: to the whole trial."""

    lane: int | None
    at_s: float
    kind: str  # milestone, request, signal, snapshot, sample
    label: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lasted. ``lane`` None: a fault, which is behind all lanes."""

    lane: int | None
    start_s: float
    end_s: float
    kind: str  # fault, waits, holds, holds-too (a further one of the same process)
    label: str


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as it is drawn, and as its table twin lists it. ``more``: lanes that were left out."""

    lanes: tuple[Lane, ...]
    marks: tuple[Mark, ...]
    spans: tuple[Span, ...]
    end_s: float
    more: int = 0


def visible(text: str) -> str:
    """Text with its control, direction and invisible characters spelled out, so that none can disturb a page.

    Newline and tab stay. C0 controls become their pictures (U+2400 on), all others ``<U+202E>``.
    """
    return _HIDDEN.sub(_spelled, text)


def graph(wait_for: Graph, *, uid: str) -> str:
    """The wait-for graph from left (waiter) to right (root); ``uid`` keeps the marks of several pictures apart."""
    layers = _layers(wait_for)
    places = _node_places(layers)
    height = max((y for _, y in places.values()), default=0) + _NODE_HEIGHT + 24
    width = len(layers) * (_NODE_WIDTH + _NODE_GAP) - _NODE_GAP + 24
    cycle = set(zip(wait_for.cycle, wait_for.cycle[1:], strict=False))
    parts = [_arrow_heads(uid)]
    for edge in wait_for.edges:
        if edge.waiter in places and edge.holder in places:
            looped = (edge.waiter, edge.holder) in cycle
            parts.append(_edge(places[edge.waiter], places[edge.holder], edge.verb, edge.grade, uid, cycle=looped))
    parts += [_node(node, places[node.key], cycle=node.key in wait_for.cycle) for node in wait_for.nodes]
    words = "a cycle is marked" if wait_for.cycle else "no cycle found"
    title = f"Wait-for graph: {len(wait_for.nodes)} nodes, {len(wait_for.edges)} edges, {words}"
    return _svg("graph", width, height, title, parts)


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
    parts += [_in_lane(span, scale, top + _LANE * span.lane, uid) for span in line.spans if span.lane is not None]
    parts += [_mark(mark, scale, top + _LANE * mark.lane) for mark in line.marks if mark.lane is not None]
    parts.append(_last_milestones(line, scale, top))
    parts.append(_observations(line.marks, scale, bottom))
    return _svg("swimlane", _WIDTH, bottom + 50, title, parts)


def timeline(history: History, judgement: Judgement | None) -> Timeline:
    """What the swimlane of this history shows."""
    return _Tracer(list(history), judgement).trace()


class _Tracer:
    """Collects lanes first, then what happened in them."""

    def __init__(self, events: Sequence[Event], judgement: Judgement | None) -> None:
        self._events = events
        self._judgement = judgement
        self._origin_ns = next((e.at_ns for e in events if isinstance(e, TrialStarted)), _first_ns(events))
        self._end_s = max((self._s(event.at_ns) for event in events), default=0.0)
        self._lanes: list[Lane] = []
        self._lane_of: dict[int, int] = {}

    def trace(self) -> Timeline:
        more = self._processes()
        marks = [*self._marks(), *self._servers()]
        spans = (*self._faults(), *self._holds(), *self._waits())
        return Timeline(lanes=tuple(self._lanes), marks=tuple(marks), spans=spans, end_s=self._end_s, more=more)

    def _s(self, at_ns: int) -> float:
        return max(0.0, (at_ns - self._origin_ns) / 1e9)

    def _processes(self) -> int:
        born = {e.id.pid: e for e in reversed(self._events) if isinstance(e, (ProcessStarted, ProcessFound))}
        exits = {e.pid: e for e in self._events if isinstance(e, ProcessExited)}
        ordered = sorted(born.values(), key=lambda e: (isinstance(e, ProcessFound), e.at_ns))
        for event in ordered[:MAX_LANES]:
            pid = event.id.pid
            self._lane_of[pid] = len(self._lanes)
            gone = exits.get(pid)
            self._lanes.append(
                Lane(
                    label=event.role,
                    pid=pid,
                    start_s=self._s(event.at_ns),
                    end_s=self._s(gone.at_ns) if gone else self._end_s,
                    ending=_ending(gone),
                    subject=event.is_subject,
                )
            )
        return max(0, len(ordered) - MAX_LANES)

    def _marks(self) -> Iterable[Mark]:
        for event in self._events:
            at_s = self._s(event.at_ns)
            match event:
                case MilestoneReached(pid=pid, milestone=milestone) if pid in self._lane_of:
                    yield Mark(lane=self._lane_of[pid], at_s=at_s, kind="milestone", label=milestone)
                case SignalSent(pid=pid, signal=signal, why=why) if pid in self._lane_of:
                    yield Mark(
                        lane=self._lane_of[pid], at_s=at_s, kind="signal", label=f"{signal}: {why}" if why else signal
                    )
                case SnapshotTaken(snapshot=snapshot):
                    yield Mark(lane=None, at_s=at_s, kind="snapshot", label=f"snapshot {snapshot.number}")
                case LightSample():
                    yield Mark(lane=None, at_s=at_s, kind="sample", label="sample")
                case _:
                    pass

    def _servers(self) -> Iterable[Mark]:
        for label, kinds in (
            ("provider", (ProviderRequest, ProviderReply)),
            ("registry", (RegistryRequest,)),
            ("off loopback", (OffLoopback,)),
        ):
            events = [event for event in self._events if isinstance(event, kinds)]
            if not events:
                continue
            number = len(self._lanes)
            asked = sum(not isinstance(event, ProviderReply) for event in events)
            self._lanes.append(
                Lane(
                    label=label,
                    pid=None,
                    start_s=0.0,
                    end_s=self._end_s,
                    ending=f"{asked} request{'s' * (asked != 1)}",
                    subject=False,
                )
            )
            for event in events:
                kind = "reply" if isinstance(event, ProviderReply) else "request"
                yield Mark(lane=number, at_s=self._s(event.at_ns), kind=kind, label=_asked(event))

    def _faults(self) -> Iterable[Span]:
        for number, event in enumerate(self._events):
            if isinstance(event, FaultInjected):
                healed = (
                    e.at_ns for e in self._events[number:] if isinstance(e, FaultHealed) and e.fault == event.fault
                )
                end = next(healed, None)
                yield Span(
                    lane=None,
                    start_s=self._s(event.at_ns),
                    end_s=self._end_s if end is None else self._s(end),
                    kind="fault",
                    label=f"{event.fault}: {event.detail}" if event.detail else event.fault,
                )

    def _holds(self) -> Iterable[Span]:
        seen: dict[tuple[int, str], list[float]] = defaultdict(list)
        for event in self._events:
            if isinstance(event, SnapshotTaken):
                for lock in event.snapshot.lock_directories:
                    if lock.holder_pid in self._lane_of:
                        at_s = self._s(event.at_ns)
                        seen[lock.holder_pid, lock.key or lock.path] += [at_s - (lock.age_s or 0.0), at_s]
        held = Counter(pid for pid, _ in seen)
        for (pid, key), moments in seen.items():
            number = self._lane_of[pid]
            start_s = max(min(moments), self._lanes[number].start_s)
            more, held[pid] = held[pid] - 1, 0  # the first one's label speaks for all: they lie on one line
            kind, label = ("holds", f"holds {key}") if more >= 0 else ("holds-too", f"holds {key}")
            label += f" and {more} more" if more > 0 else ""
            yield Span(lane=number, start_s=start_s, end_s=max(moments), kind=kind, label=label)

    def _waits(self) -> Iterable[Span]:
        for process in self._judgement.processes if self._judgement else ():
            number = self._lane_of.get(process.pid)
            if number is None or not (process.verdict.hung or process.verdict is Verdict.WAITING_FOR_INPUT):
                continue
            lane = self._lanes[number]
            end_s = min(lane.start_s + process.seconds, lane.end_s)
            start_s = max((s for s in self._progress(process.pid) if s < end_s), default=lane.start_s)
            label = f"no progress for {end_s - start_s:.1f} s: {process.verdict}"
            yield Span(lane=number, start_s=start_s, end_s=end_s, kind="waits", label=label)

    def _progress(self, pid: int) -> Iterable[float]:
        kinds = (ProgressSeen, MilestoneReached, ProviderRequest, RegistryRequest)
        return (self._s(e.at_ns) for e in self._events if isinstance(e, kinds) and e.pid == pid)


def _first_ns(events: Sequence[Event]) -> int:
    return min((event.at_ns for event in events), default=0)


def _ending(gone: ProcessExited | None) -> str:
    if gone is None:
        return "alive"
    how = f"signal {-gone.code}" if gone.code < 0 else f"exit {gone.code}"
    return f"{how}, by us" if gone.ours else how


def _asked(event: Event) -> str:
    match event:
        case ProviderRequest():
            return f"pid {event.pid} asks for {event.model}{' (title)' if event.title else ''}"
        case ProviderReply():
            return f"request {event.request}: {event.what}"
        case RegistryRequest():
            return f"pid {event.pid} asks for {event.path}: {event.reply}"
        case OffLoopback():
            return f"pid {event.pid} refused: {event.destination}"
        case _:
            return ""


# C0 but newline and tab, DEL, C1, soft hyphen, marks and overrides of direction, separators and joiners that show
# nothing, surrogates (which no file can hold), tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:  # noqa: PLR2004 - the end of C0
        return chr(0x2400 + code)
    return f"<U+{code:04X}>"


def _text(text: str) -> str:
    return escape(visible(text).replace("\n", " "))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _svg(kind: str, width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg class="picture {kind}" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{min(width, 720):.0f}px;max-width:{width:.0f}px" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{_text(title)}</title>{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, text: str, css: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{_text(text)}</text>'


def _box(x: float, y: float, width: float, height: float, css: str, title: str = "", fill: str = "") -> str:
    hint = f"<title>{_text(title)}</title>" if title else ""
    paint = f' fill="{fill}"' if fill else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" '
        f'class="{css}"{paint}>{hint}</rect>'
    )


# --- the swimlane -----------------------------------------------------------------------------------------------

_WIDTH = 1120
_GUTTER = 190
_LANE = 54
_PER_CHARACTER = 6.4  # of the 11.5 px labels, measured generously


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
            for power in range(-3, 7)
            for base in (1, 2, 5)
            if base * 10.0**power * 12 >= self.end_s
        )
        return [step * number for number in range(int(self.end_s / step) + 1)]


def _axis(scale: _Scale, top: float, bottom: float) -> str:
    parts = []
    for second in scale.ticks():
        x = scale(second)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
        parts.append(_label(x, bottom + 42, f"{second:g} s", "small", anchor="middle"))
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
        _box(x, y, end - x, bottom - y, "fault-band")
        + _box(x, y, end - x, 16, "fault-head", f"fault {span.label}, from {span.start_s:.2f} s")
        + _label(x + 5, y + 12, _cut(f"fault {span.label}", max(room, 8)), "small fault-text")
        + _label(_GUTTER - 12, y + 12, "fault", "small", anchor="end")
    )


def _lane(lane: Lane, scale: _Scale, y: float) -> str:
    x, end = scale(lane.start_s), scale(lane.end_s)
    who = lane.ending if lane.pid is None else f"pid {lane.pid} · {lane.ending}"
    kind = "server" if lane.pid is None else "subject" if lane.subject else "tool"
    title = f"{lane.label}: from {lane.start_s:.2f} s to {lane.end_s:.2f} s, {who}"
    bar = (
        f'<line x1="{x:.1f}" y1="{y + 20:.1f}" x2="{end:.1f}" y2="{y + 20:.1f}" class="server-line"/>'
        if kind == "server"
        else _box(x, y + 12, end - x, 16, f"life {kind}", title)
    )
    return (
        f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" class="rule"/>'
        + _label(0, y + 21, _cut(lane.label, 26), "strong")
        + _label(0, y + 37, _cut(who, 30), "small")
        + bar
    )


def _in_lane(span: Span, scale: _Scale, y: float, uid: str) -> str:
    x, end = scale(span.start_s), scale(span.end_s)
    if span.kind in ("holds", "holds-too"):
        shown = _cut(span.label, 60) if span.kind == "holds" else ""
        text = _label(end, y + 45, shown, "small holds-text", anchor="end") if shown else ""
        return _box(x, y + 30, end - x, 4, "holds", span.label) + text
    box = _box(x, y + 10, end - x, 20, "waits", f"{span.label}, until {span.end_s:.2f} s", f"url(#hatch-{uid})")
    if (end - x) / _PER_CHARACTER > len(span.label) + 4:
        return box + _label((x + end) / 2, y + 24, span.label, "small waits-text", anchor="middle")
    return box + _label(min(x, _WIDTH - 24 - _PER_CHARACTER * len(span.label)), y + 8, span.label, "small waits-text")


def _mark(mark: Mark, scale: _Scale, y: float) -> str:
    x, title = scale(mark.at_s), f"<title>{_text(mark.label)} at {mark.at_s:.2f} s</title>"
    if mark.kind == "milestone":
        return f'<path d="M{x:.1f} {y + 13:.1f}l7 7-7 7-7-7z" class="milestone">{title}</path>'
    if mark.kind == "signal":
        return f'<path d="M{x:.1f} {y + 6:.1f}v28m-4-28h8" class="signal">{title}</path>'
    height = 18 if mark.kind == "request" else 8
    return f'<path d="M{x:.1f} {y + 20 - height / 2:.1f}v{height}" class="{mark.kind}">{title}</path>'


def _last_milestones(line: Timeline, scale: _Scale, top: float) -> str:
    last = {mark.lane: mark for mark in line.marks if mark.kind == "milestone" and mark.lane is not None}
    parts = []
    for number, mark in last.items():
        x = scale(mark.at_s)
        anchor = "end" if x > _WIDTH * 0.8 else "start"
        y = top + _LANE * number + 45
        parts.append(_label(x - 6 if anchor == "start" else x + 6, y, f"◆ {mark.label}", "small", anchor=anchor))
    return "".join(parts)


def _observations(marks: Iterable[Mark], scale: _Scale, y: float) -> str:
    marks = list(marks)
    light = "".join(f"M{scale(mark.at_s):.1f} {y + 8:.1f}v4" for mark in marks if mark.kind == "sample")
    full = "".join(f"M{scale(mark.at_s):.1f} {y + 4:.1f}v14" for mark in marks if mark.kind == "snapshot")
    paths = (f'<path d="{path}" class="{css}"/>' for path, css in ((light, "sample"), (full, "snapshot")) if path)
    return (
        f'<line x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" class="rule"/>'
        + _label(0, y + 16, "snapshots, samples", "small")
        + "".join(paths)
    )


# --- the wait-for graph -----------------------------------------------------------------------------------------

_NODE_WIDTH = 204
_NODE_HEIGHT = 78
_NODE_GAP = 144
_NODE_ROW = 108


def _layers(wait_for: Graph) -> list[list[str]]:
    """Node keys by longest distance from a waiter that nobody waits for; edges that close a cycle do not count."""
    followers: dict[str, list[str]] = defaultdict(list)
    for edge in wait_for.edges:
        followers[edge.waiter].append(edge.holder)
    ordered = _topological([node.key for node in wait_for.nodes], followers)
    place = {key: number for number, key in enumerate(ordered)}
    depth = dict.fromkeys(ordered, 0)
    for key in ordered:
        for follower in followers[key]:
            if follower in place and place[follower] > place[key]:
                depth[follower] = max(depth[follower], depth[key] + 1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for key in ordered:
        layers[depth[key]].append(key)
    return layers


def _topological(keys: Sequence[str], followers: dict[str, list[str]]) -> list[str]:
    """Depth-first, without recursion: a chain of any length can be drawn."""
    known, done, ordered = set(keys), set[str](), list[str]()
    awaited = {follower for key in keys for follower in followers[key]}
    for root in sorted(keys, key=lambda key: key in awaited):
        stack = [(root, iter(followers[root]))] if root not in done else []
        done.add(root)
        while stack:
            key, rest = stack[-1]
            follower = next(rest, None)
            if follower is None:
                ordered.append(key)
                stack.pop()
            elif follower in known and follower not in done:
                done.add(follower)
                stack.append((follower, iter(followers[follower])))
    return ordered[::-1]


def _node_places(layers: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    tallest = max((len(layer) for layer in layers), default=0)
    return {
        key: (12 + column * (_NODE_WIDTH + _NODE_GAP), 12 + _NODE_ROW * (row + (tallest - len(layer)) / 2))
        for column, layer in enumerate(layers)
        for row, key in enumerate(layer)
    }


def _node(node: Node, place: tuple[float, float], *, cycle: bool) -> str:
    x, y = place
    css = f"node node-{re.sub('[^a-z-]', '', node.kind)}{' in-cycle' if cycle else ''}"
    lines = _wrapped(node.label, 25, 3)
    text = "".join(_label(x + 12, y + 36 + 15 * row, line, "node-text") for row, line in enumerate(lines))
    return (
        f'<g><title>{_text(node.label)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{_NODE_WIDTH}" '
        f'height="{_NODE_HEIGHT}" rx="7" class="{css}"/>'
        + _label(x + 12, y + 18, node.kind.replace("-", " "), "node-kind")
        + f"{text}</g>"
    )


def _wrapped(text: str, width: int, rows: int) -> list[str]:
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < rows:
        if len(rest) <= width:
            return [*lines, rest]
        at = max(rest.rfind(" ", 0, width + 1), rest.rfind("/", 0, width) + 1, rest.rfind(":", 0, width) + 1)
        at = at if at > width // 2 else width
        lines.append(rest[:at].strip())
        rest = rest[at:].strip()
    if rest and lines:
        lines[-1] = lines[-1][: width - 1] + "…"
    return lines


def _edge(
    start: tuple[float, float], end: tuple[float, float], verb: str, grade: str, uid: str, *, cycle: bool
) -> str:
    half = _NODE_HEIGHT / 2
    x1, y1, x2, y2 = start[0] + _NODE_WIDTH, start[1] + half, end[0], end[1] + half
    if x2 > x1:
        bend = (x2 - x1) / 2
        path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2 - 4:.1f} {y2:.1f}"
        at = (x1 + x2) / 2, (y1 + y2) / 2 - 8
    else:  # backwards: below the boxes, from foot to foot
        x1, x2 = start[0] + _NODE_WIDTH / 2, end[0] + _NODE_WIDTH / 2
        y1, y2 = start[1] + _NODE_HEIGHT, end[1] + _NODE_HEIGHT + 4
        low = max(y1, y2) + 34
        path = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {low:.1f} {x2:.1f} {low:.1f} {x2:.1f} {y2:.1f}"
        at = (x1 + x2) / 2, low - 12
    kind = re.sub("[^a-z-]", "", grade)
    head = "cycle" if cycle else "plain"
    css = f"edge {kind}{' in-cycle' if cycle else ''}"
    return (
        f'<path d="{path}" class="{css}" marker-end="url(#{head}-{uid})"><title>{_text(f"{verb} ({grade})")}</title>'
        f"</path>{_label(*at, _cut(verb, 23), 'edge-text', anchor='middle')}"
        + _label(at[0], at[1] + 22, grade, "edge-grade", anchor="middle")
    )


def _arrow_heads(uid: str) -> str:
    return (
        "<defs>"
        + "".join(
            f'<marker id="{kind}-{uid}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" markerHeight="9" '
            'markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
            f'<path d="M0 0L10 5L0 10z" class="head-{kind}"/></marker>'
            for kind in ("plain", "cycle")
        )
        + "</defs>"
    )
