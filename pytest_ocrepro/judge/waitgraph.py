"""Who waits for whom: the graph of one snapshot, its cycle, and the chain from a process to its root."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from pytest_ocrepro.history import History
from pytest_ocrepro.judge.edges import EdgeBuilder
from pytest_ocrepro.judge.judgement import Edge, Graph, Node
from pytest_ocrepro.readings import Snapshot

MAX_CHAIN = 12
# A resource lets its waiter go only when all holders do; a process goes on when any of its waits may be none.
_EVIDENCE = re.compile(r" \[(?:proved|inferred|declared): ")  # what in_words has behind a link
RESOURCES = frozenset({"lock-directory", "sqlite-byte", "file-lock", "provider", "registry"})


def build(history: History, snapshot: Snapshot) -> Graph:
    """The wait-for graph of one full snapshot; of what the history says after it only a trace plays a part."""
    graph = EdgeBuilder(history, snapshot).build()
    return msgspec.structs.replace(graph, cycle=find_cycle(graph.edges))


def find_cycle(edges: Iterable[Edge]) -> tuple[str, ...]:
    """The first cycle met, its first key repeated at the end; empty when there is none."""
    following: dict[str, list[str]] = {}
    for edge in edges:
        following.setdefault(edge.waiter, []).append(edge.holder)
    done: set[str] = set()
    for start in following:
        cycle = _walk(start, following, done)
        if cycle:
            return cycle
    return ()


def _walk(start: str, following: dict[str, list[str]], done: set[str]) -> tuple[str, ...]:
    """Depth first without recursion: a graph may be deeper than the interpreter's stack."""
    path: list[str] = []
    todo: list[tuple[str, bool]] = [(start, True)]
    while todo:
        key, entering = todo.pop()
        if not entering:
            done.add(path.pop())
        elif key in path:
            return (*path[path.index(key) :], key)
        elif key not in done:
            path.append(key)
            todo.append((key, False))
            todo += [(holder, True) for holder in reversed(following.get(key, []))]
    return ()


def chain_from(graph: Graph, key: str) -> tuple[Edge, ...]:
    """From a node to the root that waits for nothing, by the preferred edge at each node; stops at a cycle."""
    chain: list[Edge] = []
    seen: set[str] = set()
    while key not in seen and len(chain) < MAX_CHAIN:
        seen.add(key)
        edge = next((edge for edge in graph.edges if edge.waiter == key), None)
        if edge is None:
            break
        chain.append(edge)
        key = edge.holder
    return tuple(chain)


def root_of(graph: Graph, chain: tuple[Edge, ...]) -> Node | None:
    """The node that the chain ends at."""
    if not chain:
        return None
    return next((node for node in graph.nodes if node.key == chain[-1].holder), None)


def cycle_on(chain: tuple[Edge, ...]) -> tuple[str, ...]:
    """The cycle that this chain runs into, its first key repeated at the end."""
    keys = [edge.waiter for edge in chain]
    return (*keys[keys.index(chain[-1].holder) :], chain[-1].holder) if chain and chain[-1].holder in keys else ()


def processes_on(chain: tuple[Edge, ...]) -> tuple[int, ...]:
    """The pids that the chain goes through, the waiter first."""
    keys = [edge.waiter for edge in chain] + [edge.holder for edge in chain[-1:]]
    return tuple(dict.fromkeys(int(key.removeprefix("pid:")) for key in keys if key.startswith("pid:")))


def has_no_way_out(graph: Graph, key: str, within_s: float) -> bool:
    """Whether nothing that is seen could let this node go on within so many seconds.

    All waits of a process must be binding and lead to something that stays as it is for good, or back to where they
    come from (a cycle); one single wait that may end is a way out. A resource is shut while one holder is.
    """
    following: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        following.setdefault(edge.waiter, []).append(edge)
    shut = {node.key for node in graph.nodes}
    while opened := {
        node.key
        for node in graph.nodes
        if node.key in shut and not node.for_good and not _is_shut(node, following.get(node.key, []), shut, within_s)
    }:
        shut -= opened
    return key in shut


def _is_shut(node: Node, edges: list[Edge], shut: set[str], within_s: float) -> bool:
    each = [
        edge.binding and (edge.ends_in_s is None or edge.ends_in_s > within_s) and edge.holder in shut
        for edge in edges
    ]
    return bool(each) and (any(each) if node.kind in RESOURCES else all(each))


def in_words(graph: Graph, chain: tuple[Edge, ...]) -> tuple[str, ...]:
    """The chain as sentences, waiter first, root last."""
    labels = {node.key: node.label for node in graph.nodes}
    return tuple(f"{sentence(edge, labels)} [{edge.grade}: {'; '.join(_facts(edge))}]" for edge in chain)


def in_one_sentence(chain: Iterable[str]) -> str:
    """The root cause in one sentence, from a chain in words; empty where there is none.

    ``second (pid 20) waits for lock directory x, which is held by first (pid 10), which is suspended by somebody``.
    """
    told, before = "", ""
    for link in chain:
        words = _EVIDENCE.split(link, maxsplit=1)[0].replace("; ", ", ")
        told += f", which {words[_shared(before, words) :].lstrip()}" if told else words
        before = words
    return told


def _shared(before: str, words: str) -> int:
    """How many characters at the end of one link begin the next: the name of who is waited for, and then waits."""
    ends = (at for at in range(len(words), 0, -1) if words[at : at + 1] == " " and before.endswith(words[:at]))
    return next(ends, 0)


def sentence(edge: Edge, labels: Mapping[str, str]) -> str:
    """One link; ``labels`` by node key."""
    return f"{labels[edge.waiter]} {edge.verb} {labels[edge.holder]}"


def _facts(edge: Edge) -> tuple[str, ...]:
    """Its evidence, and when the wait would end by itself where that is known."""
    if edge.ends_in_s is None or any("by itself" in fact for fact in edge.evidence):
        return edge.evidence
    return (*edge.evidence, f"ends by itself in about {edge.ends_in_s:.0f} s")
