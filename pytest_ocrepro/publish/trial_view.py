"""A stored trial with what several parts of its page need of it: its times, its chain, its full looks."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_ocrepro.events import Expectation, SnapshotTaken
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Graph, Judgement
from pytest_ocrepro.publish.counting import Entry
from pytest_ocrepro.publish.document import Link
from pytest_ocrepro.publish.pictures.timeline import Timeline, timeline
from pytest_ocrepro.publish.records import StoredTrial
from pytest_ocrepro.publish.text import clip
from pytest_ocrepro.readings import Snapshot


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as it is read back, with what several parts of the page need of it."""

    entry: Entry
    stored: StoredTrial
    timeline: Timeline
    links: tuple[Link, ...]
    full: tuple[Snapshot, ...]

    @property
    def history(self) -> History:
        """Its events."""
        return self.stored.history

    @property
    def judgement(self) -> Judgement | None:
        """What was said of it; None: pytest ended before."""
        return self.stored.judgement


def view_of(entry: Entry, stored: StoredTrial) -> View:
    """What is drawn and told of a stored trial."""
    return View(
        entry=entry,
        stored=stored,
        timeline=timeline(stored.history, stored.judgement),
        links=tuple(_links(stored.judgement)) if stored.judgement else (),
        full=tuple(e.snapshot for e in stored.history.of_type(SnapshotTaken) if e.snapshot.full),
    )


def seconds_told(view: View) -> float:
    """After which the verdict was, as the sentence says it: by the look, not by the moment when that was written."""
    judged = view.judgement.processes if view.judgement else ()
    role = next((one.role for one in view.history.of_type(Expectation) if one.held is False), None)
    own = (one.seconds for one in judged if one.role == role)
    return next(own, view.entry.result.seconds_to_verdict)


def labels_of(wait_for: Graph) -> dict[str, str]:
    """What each node of the graph is called, by its key."""
    labels = {key: key for edge in wait_for.edges for key in (edge.waiter, edge.holder)}
    return labels | {node.key: node.label for node in wait_for.nodes}


def _links(judgement: Judgement) -> Iterator[Link]:
    labels = labels_of(judgement.graph)
    spoken = {f"{labels[e.waiter]} {e.verb} {labels[e.holder]}": e for e in judgement.graph.edges}
    for sentence in judgement.chain:
        found = max((head for head in spoken if sentence.startswith(head)), key=len, default=None)
        if found is None:
            yield Link(clip(sentence, 300))
            continue
        edge = spoken[found]
        yield Link(clip(labels[edge.waiter], 160), edge.verb, edge.grade, clip(labels[edge.holder], 160))
