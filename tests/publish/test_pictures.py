from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.judgement import Edge, Graph, Node, Verdict
from pytest_ocrepro.judge.verdict import judge
from pytest_ocrepro.publish.pictures.swimlane import swimlane
from pytest_ocrepro.publish.pictures.timeline import MAX_LANES, Lane, Mark, Span, Timeline, timeline
from pytest_ocrepro.publish.pictures.waitfor import graph
from pytest_ocrepro.readings import FileLock, LockChange, ProcessId, Snapshot
from tests.data.publish import sample_run

CAPTURED = Path(__file__).parents[1] / "data" / "judge"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m\u202egnp.exe\x00"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - made a moment ago by us


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parsed(svg).iter(f"{SVG}text")]


def by_class(svg: str, css: str) -> list[ET.Element]:
    return [node for node in parsed(svg).iter() if css in (node.get("class") or "").split()]


def overlap_line() -> Timeline:
    _, events, judgement = sample_run.overlap("1.15.4", 1)
    return timeline(History.of(events), judgement)


def chain_of(*keys: str, grade: str = "proved", cycle: tuple[str, ...] = ()) -> Graph:
    return Graph(
        nodes=tuple(Node(key=key, kind="process", label=f"node {key}") for key in dict.fromkeys(keys)),
        edges=tuple(
            Edge(waiter=a, holder=b, grade=grade, verb="waits for", evidence=()) for a, b in itertools.pairwise(keys)
        ),
        cycle=cycle,
    )


# --- the swimlane -----------------------------------------------------------------------------------------------


def test_lanes_run_from_start_to_exit() -> None:
    line = overlap_line()
    assert [(lane.label, lane.pid) for lane in line.lanes] == [("first", 801), ("second", 812), ("registry", None)]
    assert [line.lanes[1].start_s, line.lanes[1].end_s] == pytest.approx([3.1, 11.5])
    assert line.lanes[1].ending == "signal 15, by us"
    assert line.lanes[2].ending == "1 request"


def test_the_silent_span_runs_from_the_last_progress_to_the_verdict() -> None:
    waits = {span.lane: span for span in overlap_line().spans if span.kind == "waits"}
    assert [waits[1].start_s, waits[1].end_s] == pytest.approx([4.47, 11.07])
    assert waits[1].label == "no progress for 6.6 s: blocked"
    # the first asked the registry after its last line of log
    assert waits[0].start_s == pytest.approx(1.6)


@pytest.mark.parametrize("name", ["overlap-1.18.34", "stdin-open-1.18.34"])
def test_a_silence_has_the_number_that_the_judge_says(name: str) -> None:
    """Real histories: the sentence beside the picture is made of these words."""
    data = (CAPTURED / name / "history.jsonl").read_bytes()
    history = History.of(decode_event(line) for line in data.splitlines())
    judged = judge(history)
    hung = [one for one in judged.processes if one.verdict.hung or one.verdict is Verdict.WAITING_FOR_INPUT]
    spans = [span for span in timeline(history, judged).spans if span.kind == "waits"]
    assert hung
    assert len(spans) == len(hung)
    for one, span in zip(hung, spans, strict=True):
        silence = one.because[0].partition(";")[0]
        assert span.label == f"{silence}: {one.verdict}"
        assert silence == f"no progress for {span.end_s - span.start_s:.1f} s"


def test_a_trial_that_was_not_judged_has_no_silent_span() -> None:
    _, events, _ = sample_run.overlap("1.15.4", 1)
    assert {span.kind for span in timeline(History.of(events), None).spans} == {"fault", "holds"}


def test_a_lock_is_held_from_its_own_age_to_the_last_snapshot() -> None:
    (holds,) = (span for span in overlap_line().spans if span.kind == "holds")
    assert [holds.lane, holds.start_s, holds.end_s] == pytest.approx([0, 1.5, 10.984])
    assert holds.label == "holds npm-install:$SANDBOX/config/opencode"


def test_locks_that_are_left_behind_or_waited_for_are_told_apart() -> None:
    def started(pid: int) -> h.Event:
        return h.ProcessFound(
            at_ns=pid, id=ProcessId(pid=pid, start_ticks=pid), role=f"p{pid}", argv=(), parent_pid=1, is_subject=True
        )

    def changed(at_s: int, how: LockChange, **who: int) -> h.Event:
        return h.LockDirectoryChanged(at_ns=at_s * 10**9, path="/l", key="k", how=how, because="", **who)  # type: ignore[arg-type]

    waits = FileLock(path="db", kind="POSIX", access="WRITE", start=0, end=0, name="WRITE", pid=2, waiting=True)
    reads = FileLock(path="db", kind="POSIX", access="READ", start=1, end=1, name="SHARED", pid=2)
    look = Snapshot(
        number=1, started_ns=2 * 10**9, ended_ns=3 * 10**9, boottime_ns=0, full=True, locks=(waits, reads)
    )
    events = [
        started(1),
        started(2),
        changed(1, LockChange.TAKEN, holder_pid=1),
        h.SnapshotTaken(at_ns=2 * 10**9, snapshot=look),
        changed(4, LockChange.LEFT_BEHIND, previous_pid=1),
        h.Note(at_ns=6 * 10**9, text="end"),
    ]
    spans = timeline(History.of(events), None).spans
    assert [(span.lane, span.kind, round(span.start_s), round(span.end_s), span.quiet) for span in spans] == [
        (0, "holds", 1.0, 4.0, False),
        (1, "queues", 2.0, 3.0, False),
        (0, "left", 4.0, 6.0, True),
    ]
    svg = swimlane(timeline(History.of(events), None), uid="u")
    assert {css: len(by_class(svg, css)) for css in ("holds", "queues", "left")} == dict.fromkeys(
        ("holds", "queues", "left"), 1
    )
    assert "waits for WRITE byte of db" in texts(svg)
    assert "holds k and 1 more, as seen" in texts(svg)


def test_of_several_locks_that_of_the_chain_is_named() -> None:
    who = ProcessId(pid=1, start_ticks=1)

    def taken(at_s: int, path: str) -> h.Event:
        return h.LockDirectoryChanged(
            at_ns=at_s * 10**9, path=path, key=path, how=LockChange.TAKEN, because="", holder_pid=1, since_s=0.5
        )

    events = [
        h.ProcessFound(at_ns=0, id=who, role="first", argv=(), parent_pid=1, is_subject=True),
        taken(1, "npm-install:a"),
        taken(2, "npm-install:a/b"),
        taken(3, "npm-install:a/b/c"),
        h.Note(at_ns=9 * 10**9, text="end"),
    ]
    _, _, judged = sample_run.overlap("1.15.4", 1)
    assert judged is not None
    chain = ("second (pid 2) waits for lock directory npm-install:a/b [inferred: it may be npm-install:a as well]",)
    line = timeline(History.of(events), msgspec.structs.replace(judged, chain=chain, processes=()))
    assert {span.label: (span.start_s, span.quiet) for span in line.spans} == {
        "holds npm-install:a/b and 2 more": (1.5, False),
        "holds npm-install:a": (0.5, True),
        "holds npm-install:a/b/c": (2.5, True),
    }
    first = timeline(History.of(events), None).spans
    assert [span.label for span in first if not span.quiet] == ["holds npm-install:a and 2 more"]


@pytest.mark.parametrize("start_s", [30.0, 98.0])
def test_a_label_that_its_span_cannot_hold_lies_free_above_the_lane(start_s: float) -> None:
    """Below the lane's rule, above the head of a signal, and within the picture however late it begins."""
    label = "no progress for 2.0 s: waiting-for-input"
    lane = Lane(label="first", pid=7, start_s=0.0, end_s=100.0, ending="alive")
    line = Timeline(
        lanes=(lane, msgspec.structs.replace(lane, label="second")),
        marks=(Mark(lane=1, at_s=start_s + 1, kind="signal", label="SIGTERM"),),
        spans=(Span(lane=1, start_s=start_s, end_s=start_s + 2, kind="waits", label=label),),
        end_s=100.0,
    )
    svg = swimlane(line, uid="u")
    (text,) = (node for node in parsed(svg).iter(f"{SVG}text") if node.text == label)
    (rule,) = (float(node.get("y1") or 0) for node in by_class(svg, "rule")[1:2])
    (signal,) = by_class(svg, "signal")
    head = float((signal.get("d") or "").split("v")[0].split()[1])
    baseline, x = float(text.get("y") or 0), float(text.get("x") or 0)
    size = 11.5  # of the style sheet
    assert rule < baseline - size * 0.75
    assert baseline + size * 0.2 <= head
    width = 6.4 * len(label)
    assert (x if text.get("text-anchor") == "end" else x + width) <= 1120 - 24


def test_faults_last_until_they_are_healed() -> None:
    events: list[h.Event] = [
        h.FaultInjected(at_ns=0, fault="a", detail="x"),
        h.FaultInjected(at_ns=1_000_000_000, fault="b", detail=""),
        h.FaultHealed(at_ns=2_000_000_000, fault="b"),
        h.Note(at_ns=4_000_000_000, text="end"),
    ]
    spans = timeline(History.of(events), None).spans
    assert [(span.label, span.start_s, span.end_s) for span in spans] == [("a: x", 0.0, 4.0), ("b", 1.0, 2.0)]


def test_marks_are_drawn_where_they_belong() -> None:
    svg = swimlane(overlap_line(), uid="u")
    assert len(by_class(svg, "milestone")) == 7
    assert len(by_class(svg, "request")) == 1
    assert len(by_class(svg, "signal")) == 2
    assert len(by_class(svg, "waits")) == 2
    assert len(by_class(svg, "fault-band")) == 1
    (snapshots,) = by_class(svg, "snapshot")
    assert (snapshots.get("d") or "").count("M") == 2
    assert "no progress for 6.6 s: blocked" in texts(svg)
    assert "◆ config-loading" in texts(svg)


def test_an_empty_history_can_be_drawn() -> None:
    line = timeline(History(), None)
    assert line.lanes == ()
    assert parsed(swimlane(line, uid="u")).tag == f"{SVG}svg"


def test_lanes_beyond_the_most_are_counted() -> None:
    events = [
        h.ProcessFound(
            at_ns=n, id=ProcessId(pid=n, start_ticks=n), role=f"p{n}", argv=(), parent_pid=1, is_subject=False
        )
        for n in range(1, MAX_LANES + 6)
    ]
    line = timeline(History.of(events), None)
    assert (len(line.lanes), line.more) == (MAX_LANES, 5)


# --- the graph --------------------------------------------------------------------------------------------------


def test_a_chain_runs_from_left_to_right() -> None:
    svg = graph(chain_of("a", "b", "c"), uid="u")
    x = [float(node.get("x") or 0) for node in by_class(svg, "node")]
    assert x == sorted(x)
    assert len(set(x)) == 3
    assert "no cycle found" in (parsed(svg).findtext(f"{SVG}title") or "")


@pytest.mark.parametrize("grade", ["proved", "inferred", "declared"])
def test_edges_carry_their_grade(grade: str) -> None:
    svg = graph(chain_of("a", "b", grade=grade), uid="u")
    assert len(by_class(svg, grade)) == 1
    assert grade in texts(svg)


def test_a_cycle_is_marked_and_an_edge_outside_it_is_not() -> None:
    svg = graph(chain_of("x", "a", "b", "a", cycle=("a", "b", "a")), uid="u")
    assert len([node for node in by_class(svg, "in-cycle") if node.tag == f"{SVG}path"]) == 2
    assert len(by_class(svg, "edge")) == 3
    assert "a cycle is marked" in (parsed(svg).findtext(f"{SVG}title") or "")


def test_a_very_long_chain_and_a_self_loop_can_be_drawn() -> None:
    assert len(by_class(graph(chain_of(*map(str, range(3000))), uid="u"), "node")) == 3000
    assert len(by_class(graph(chain_of("a", "a"), uid="u"), "edge")) == 1


def test_edges_of_unknown_nodes_and_an_empty_graph_do_no_harm() -> None:
    lost = Edge(waiter="a", holder="nowhere", grade="proved", verb="waits for", evidence=())
    svg = graph(Graph(nodes=(Node(key="a", kind="process", label="a"),), edges=(lost,)), uid="u")
    assert by_class(svg, "edge") == []
    assert parsed(graph(Graph(), uid="u")).tag == f"{SVG}svg"


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_any_graph_can_be_drawn_without_two_nodes_in_one_place(pairs: list[tuple[int, int]]) -> None:
    keys = sorted({str(key) for pair in pairs for key in pair})
    wait_for = Graph(
        nodes=tuple(Node(key=key, kind="process", label=key) for key in keys),
        edges=tuple(Edge(waiter=str(a), holder=str(b), grade="proved", verb="v", evidence=()) for a, b in pairs),
    )
    nodes = by_class(graph(wait_for, uid="u"), "node")
    assert len({(node.get("x"), node.get("y")) for node in nodes}) == len(keys)


# --- text -------------------------------------------------------------------------------------------------------


def test_hostile_text_stays_text() -> None:
    _, events, judgement = sample_run.overlap("1.15.4", 1)
    assert judgement is not None
    events.append(h.FaultInjected(at_ns=sample_run.ns(2), fault=HOSTILE, detail=HOSTILE))
    events.append(
        h.ProcessFound(
            at_ns=sample_run.ns(2),
            id=ProcessId(pid=5, start_ticks=5),
            role=HOSTILE,
            argv=(HOSTILE,),
            parent_pid=1,
            is_subject=False,
        )
    )
    nodes = tuple(msgspec.structs.replace(node, label=HOSTILE, kind=HOSTILE) for node in judgement.graph.nodes)
    edges = tuple(msgspec.structs.replace(edge, verb=HOSTILE, grade=HOSTILE) for edge in judgement.graph.edges)
    for svg in (
        swimlane(timeline(History.of(events), judgement), uid="u", title=HOSTILE),
        graph(Graph(nodes=nodes, edges=edges), uid="u"),
    ):
        tags = {node.tag.removeprefix(SVG) for node in parsed(svg).iter()}
        assert tags <= {"svg", "title", "defs", "pattern", "marker", "rect", "line", "path", "text", "g"}
        for bad in ("\x1b", "\u202e", "\x00", "<script", "<img"):
            assert bad not in svg
