"""The wait-for graph, from the waiter on the left to the root on the right."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_ocrepro.publish.pictures.svg import label, svg
from pytest_ocrepro.publish.text import cut, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_ocrepro.judge.judgement import Graph, Node

_NODE_WIDTH = 204
_NODE_HEIGHT = 78
_NODE_GAP = 144
_NODE_ROW = 108


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
    return svg("graph", width, height, title, parts)


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
    text = "".join(label(x + 12, y + 36 + 15 * row, line, "node-text") for row, line in enumerate(lines))
    return (
        f'<g><title>{escaped(node.label)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{_NODE_WIDTH}" '
        f'height="{_NODE_HEIGHT}" rx="7" class="{css}"/>'
        + label(x + 12, y + 18, node.kind.replace("-", " "), "node-kind")
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
        f'<path d="{path}" class="{css}" marker-end="url(#{head}-{uid})">'
        f"<title>{escaped(f'{verb} ({grade})')}</title></path>"
        f"{label(*at, cut(verb, 23), 'edge-text', anchor='middle')}"
        + label(at[0], at[1] + 22, grade, "edge-grade", anchor="middle")
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
