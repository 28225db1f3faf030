from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.judge import waitgraph
from pytest_ocrepro.judge.judgement import Edge, Graph, Node

if TYPE_CHECKING:
    from tests.data.judge import histories as w
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_histories", Path(__file__).parents[1] / "data" / "judge" / "histories.py"
    )
    w = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(w)


def graph_of(*processes: r.ProcessReading, events: Iterable[h.Event] = (), **seen: Any) -> Graph:
    look = w.look(5.0, *processes, **seen)
    starts = [w.started(one.id.pid, one.role, is_subject=one.is_subject) for one in processes]
    return waitgraph.build(w.of(starts, events, look), look.snapshot)


def node(graph: Graph, key: str) -> Node:
    return next(one for one in graph.nodes if one.key == key)


def links(graph: Graph, pid: int) -> list[tuple[str, str]]:
    return [(edge.holder, edge.grade) for edge in waitgraph.chain_from(graph, f"pid:{pid}")]


def test_lock_directory_chain_down_to_the_registry() -> None:
    history = w.overlap()
    graph = waitgraph.build(history, history.of_type(h.SnapshotTaken)[-1].snapshot)
    lock = "lock:$SANDBOX/state/opencode/locks/5688.lock"
    assert links(graph, 20) == [
        (lock, "inferred"),
        ("pid:10", "proved"),
        ("registry", "proved"),
        ("fault:registry", "declared"),
    ]
    assert graph.cycle == ()
    ends = {edge.waiter: edge.ends_in_s for edge in graph.edges}
    assert ends["pid:20"] == pytest.approx(296.4, abs=0.2)


def test_what_comes_after_the_snapshot_plays_no_part() -> None:
    history = w.overlap()
    look = history.of_type(h.SnapshotTaken)[-1].snapshot
    later = [h.FaultHealed(at_ns=w.ns(9), fault="registry"), w.signal(10, "first", 9.0, "SIGSTOP")]
    assert waitgraph.build(w.of(history, later), look) == waitgraph.build(history, look)


def test_two_lock_directories_are_both_named_and_the_one_read_last_comes_first() -> None:
    other = w.lock_directory(
        10, path="$SANDBOX/state/opencode/locks/1111.lock", key="npm-install:$SANDBOX/config/opencode"
    )
    first = r.LogLine(text="message=loading path=$SANDBOX/config/opencode/config.json")
    last = r.LogLine(text=w.MODERN)
    tail = r.LogTail(path="l", pid=20, size_bytes=9, lines=(first, last), milestone="config-loading")
    graph = graph_of(
        w.process(10, "first"),
        w.process(20, "second"),
        lock_directories=(other, w.lock_directory(10)),
        logs=(tail,),
        events=[w.progress(20, "second", 4.0)],
    )
    holders = [edge.holder for edge in graph.edges if edge.waiter == "pid:20"]
    assert [key.rsplit("/", 1)[-1] for key in holders] == ["5688.lock", "1111.lock"]
    chosen = waitgraph.chain_from(graph, "pid:20")[0]
    assert any("npm-install:$SANDBOX/config/opencode as well" in fact for fact in chosen.evidence)


def test_an_own_lock_directory_is_not_waited_for_but_one_of_a_dead_namesake_is() -> None:
    def edges(*, alive: bool | None) -> list[str]:
        graph = graph_of(
            w.process(20, "second"),
            lock_directories=(w.lock_directory(20, alive=alive),),
            logs=(w.tail(20, "config-loading"),),
        )
        return [edge.holder for edge in waitgraph.chain_from(graph, "pid:20")]

    assert edges(alive=True) == []
    assert edges(alive=None) == []
    assert edges(alive=False)[-1] == "dead:20"


def test_a_holder_whose_pid_is_lent_is_told_as_such() -> None:
    def label(*, reused: bool) -> str:
        graph = graph_of(
            w.process(20, "second"),
            w.process(10, "newcomer"),
            lock_directories=(w.lock_directory(10, alive=False, age=20.0, pid_reused=reused),),
            logs=(w.tail(20, "config-loading"),),
        )
        return node(graph, "dead:10").label

    assert label(reused=True) == (
        "pid 10, which is dead and has lent its pid to another process; the lock breaks itself in about 40 s"
    )
    assert label(reused=False) == "pid 10, which is dead; the lock breaks itself in about 40 s"


def test_a_holder_on_another_machine_is_not_called_dead() -> None:
    graph = graph_of(
        w.process(20, "second"),
        lock_directories=(w.lock_directory(77, alive=None),),
        logs=(w.tail(20, "config-loading"),),
    )
    root = waitgraph.root_of(graph, waitgraph.chain_from(graph, "pid:20"))
    assert root is not None
    assert (root.kind, root.for_good) == ("outsider", False)


def sqlite(*, syscall: str | None = "clock_nanosleep", fds: tuple[r.FdReading, ...] = ()) -> Graph:
    waiter = w.process(20, "run", threads=(w.thread(20, syscall=syscall),), fds=fds)
    return graph_of(
        w.process(10, "lock-holder", is_subject=False),
        waiter,
        locks=(w.write_byte(10),),
        events=[w.fault("database-lock", pid=10)],
    )


def test_sqlite_byte_chain() -> None:
    graph = sqlite(fds=(w.open_database(),))
    assert [grade for _, grade in links(graph, 20)] == ["inferred", "proved", "declared"]
    assert waitgraph.chain_from(graph, "pid:20")[0].ends_in_s == 5.0
    assert not waitgraph.has_no_way_out(graph, "pid:20", 20.0)


def test_nobody_waits_for_a_byte_without_the_database_and_the_sleeps_of_a_retry() -> None:
    assert sqlite().edges == ()
    assert sqlite(syscall="epoll_pwait2", fds=(w.open_database(),)).edges == ()
    assert sqlite(syscall=None, fds=(w.open_database(),)).edges == ()
    other = r.FdReading(fd=14, kind=r.FdKind.DATABASE, target="$SANDBOX/other.db")
    assert sqlite(fds=(other,)).edges == ()


def test_a_byte_whose_holder_is_out_of_view() -> None:
    waiter = w.process(20, "run", threads=(w.thread(20, syscall="clock_nanosleep"),), fds=(w.open_database(),))
    graph = graph_of(waiter, locks=(w.write_byte(None),))
    root = waitgraph.root_of(graph, waitgraph.chain_from(graph, "pid:20"))
    assert root is not None
    assert root.label == "a holder outside of our view"


def test_abba_is_a_proved_cycle() -> None:
    locks = (
        w.file_lock(10, "/tmp/a"),
        w.file_lock(20, "/tmp/b"),
        w.file_lock(10, "/tmp/b", waiting=True),
        w.file_lock(20, "/tmp/a", waiting=True),
    )
    graph = graph_of(w.process(10, "first"), w.process(20, "second"), locks=locks)
    assert len(graph.cycle) == 5
    assert graph.cycle[0] == graph.cycle[-1]
    chain = waitgraph.chain_from(graph, "pid:20")
    assert waitgraph.cycle_on(chain)
    assert {edge.grade for edge in chain} == {"proved"}
    assert waitgraph.has_no_way_out(graph, "pid:20", 999.0)
    assert waitgraph.processes_on(chain) == (20, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"access": "READ"},
        {"start": 10, "end": 20},
        {"kind": "POSIX"},
        {"path": "/tmp/b"},
    ],
)
def test_locks_that_do_not_conflict_hold_nobody_up(change: dict[str, Any]) -> None:
    held = {"path": "/tmp/a", **change}
    wanted = w.file_lock(20, "/tmp/a", waiting=True, access="READ", end=5)
    graph = graph_of(w.process(10, "a"), w.process(20, "b"), locks=(w.file_lock(10, **held), wanted))
    assert [edge.holder for edge in graph.edges] == ["file:/tmp/a"]
    conflicting = w.file_lock(10, "/tmp/a")
    graph = graph_of(w.process(10, "a"), w.process(20, "b"), locks=(conflicting, wanted))
    assert [edge.holder for edge in graph.edges] == ["file:/tmp/a", "pid:10"]


def ofd_wait(command: str = "0x26", **lock: Any) -> Graph:
    """20 sleeps in fcntl(4, command); /proc/locks has no pid for locks of open file descriptions."""
    file = r.FdReading(fd=4, kind=r.FdKind.FILE, target="/tmp/a")
    asleep = w.thread(20, syscall="fcntl", arguments=("0x4", command, "0x7ffd"))
    held = w.file_lock(10, **{"kind": "OFDLCK", **lock})
    return graph_of(w.process(10, "a"), w.process(20, "b", threads=(asleep,), fds=(file,)), locks=(held,))


def test_a_lock_of_an_open_file_description_is_told_by_the_waiters_system_call() -> None:
    assert links(ofd_wait(), 20) == [("file:/tmp/a", "proved"), ("pid:10", "proved")]
    assert "sleeps in fcntl(0x4, 0x26)" in ofd_wait().edges[0].evidence[0]
    assert links(ofd_wait("0x7", kind="POSIX"), 20)[-1] == ("pid:10", "proved")
    assert links(ofd_wait("0x25"), 20) == [], "F_OFD_SETLK does not wait"
    assert links(ofd_wait(path="/tmp/b"), 20) == [("file:/tmp/a", "proved")]
    assert links(ofd_wait(kind="FLOCK"), 20) == [("file:/tmp/a", "proved")], "flock(2) has a space of its own"


def test_a_lock_that_proc_locks_tells_is_told_once() -> None:
    asleep = w.thread(20, syscall="flock", arguments=("0x4", "0x2"))
    file = r.FdReading(fd=4, kind=r.FdKind.FILE, target="/tmp/a")
    locks = (w.file_lock(10), w.file_lock(20, waiting=True, source="/proc/locks"))
    graph = graph_of(w.process(10, "a"), w.process(20, "b", threads=(asleep,), fds=(file,)), locks=locks)
    assert len([edge for edge in graph.edges if edge.waiter == "pid:20"]) == 1
    assert "/proc/locks lists" in graph.edges[0].evidence[0]


def silent_provider(at: float, *arguments: str, syscall: str = "poll") -> Edge:
    """What 20 waits for in a look at this instant; its last step was at 1.2 s."""
    events = [w.asked(20, 1.0), w.fault("provider", 1.1, address=w.PROVIDER), w.replied(20, 1.2, "stalled")]
    waiter = w.process(20, "run", threads=(w.thread(20, syscall=syscall, arguments=arguments),))
    look = w.look(at, waiter, sockets=(w.connection(20, w.PROVIDER),))
    return waitgraph.build(w.of(w.started(20, "run"), events, look), look.snapshot).edges[0]


def test_a_wait_with_a_timeout_of_its_own_ends_by_itself() -> None:
    six = ("0x7ffd", "0x1", "0x1770")
    assert silent_provider(3.2, *six).ends_in_s == pytest.approx(5.0)
    assert silent_provider(3.2, *six).evidence[-1] == "its main thread waits with a timeout of 6 s"
    assert silent_provider(8.3, *six).ends_in_s is None, "it has run out once since the last step, and was begun anew"
    assert silent_provider(3.2, "0x5", "0x7ffd", "0x40", "0x1770", syscall="epoll_wait").ends_in_s is not None


@pytest.mark.parametrize(
    ("syscall", "arguments"),
    [
        ("poll", ("0x7ffd", "0x1", "0xffffffff")),
        ("poll", ("0x7ffd", "0x1", "0xffffffffffffffff")),
        ("poll", ()),
        ("epoll_pwait2", ("0x5", "0x7ffd", "0x40", "0x1770")),
        ("futex", ("0x7ffd", "0x80", "0x1770")),
    ],
)
def test_a_wait_whose_timeout_cannot_be_seen_has_none(syscall: str, arguments: tuple[str, ...]) -> None:
    assert silent_provider(3.2, *arguments, syscall=syscall).ends_in_s is None


def pipe(fd: int, *, writable: bool) -> r.FdReading:
    return r.FdReading(fd=fd, kind=r.FdKind.PIPE, target="pipe:[9]", inode=9, writable=writable)


def test_pipe_and_child() -> None:
    reader = w.process(20, "run", fds=(pipe(5, writable=False),))
    writer = w.process(30, "sh", is_subject=False, parent_pid=1, fds=(pipe(1, writable=True),))
    graph = graph_of(reader, writer)
    assert [(edge.verb, edge.grade) for edge in graph.edges] == [("waits for output of", "proved")]
    child = w.process(30, "sh", is_subject=False, parent_pid=20, argv=("sleep", "300"))
    graph = graph_of(w.process(20, "run"), child)
    assert [(edge.verb, edge.evidence) for edge in graph.edges] == [("has a child that runs", ("sleep 300",))]
    zombie = w.process(30, "sh", is_subject=False, parent_pid=20, state="Z")
    assert graph_of(w.process(20, "run"), zombie).edges == ()
    assert not waitgraph.has_no_way_out(graph, "pid:20", 1.0)


def pair_end(pid: int, fd: int, inode: int, peer: int | None) -> r.UnixSocketReading:
    return r.UnixSocketReading(pid=pid, fd=fd, inode=inode, name="", state="ESTABLISHED", peer_inode=peer)


def test_an_output_kept_open_through_a_socket_pair() -> None:
    """What opencode's bash tool gives its child: measured on 1.14.48 and 1.18.34."""
    run, tool, other = w.process(20, "run"), w.process(30, "sh", is_subject=False, parent_pid=1), w.process(21, "run")
    ours, theirs = pair_end(20, 28, 696, 697), pair_end(30, 2, 697, 696)
    (edge,) = graph_of(run, tool, unix_sockets=(ours, theirs)).edges
    assert (edge.waiter, edge.holder, edge.verb, edge.grade) == ("pid:20", "pid:30", "waits for output of", "proved")
    assert not edge.binding, "opencode may have other work"
    near_misses = [
        (tool, (ours, pair_end(30, 0, 697, 696))),  # its input
        (tool, (pair_end(20, 1, 696, 697), theirs)),  # our own output
        (tool, (pair_end(20, 28, 696, None), theirs)),  # the peer is not known
        (tool, (ours, pair_end(30, 2, 999, 696))),
        (other, (ours, pair_end(21, 9, 697, 696))),  # another opencode is no tool
    ]
    for holder, sockets in near_misses:
        assert graph_of(run, holder, unix_sockets=sockets).edges == ()


def test_suspended_by_us_and_by_somebody() -> None:
    sent = [w.signal(20, "run", 2.0, "SIGSTOP")]
    ours = graph_of(w.process(20, "run", state="T"), events=sent)
    assert ours.edges[0].grade == "declared"
    assert not node(ours, "stop:20").for_good
    declared = graph_of(w.process(20, "run", state="T"), events=[*sent, w.fault("SIGSTOP to run", 2.0, pid=20)])
    assert node(declared, "stop:20").for_good
    resumed = graph_of(w.process(20, "run", state="T"), events=[*sent, w.signal(20, "run", 3.0, "SIGCONT")])
    assert "somebody else" in node(resumed, "stop:20").label


def test_provider_with_and_without_its_socket() -> None:
    events = [w.asked(20, 1.0), w.fault("provider", 1.1, address=w.PROVIDER), w.replied(20, 1.2, "stalled")]
    graph = graph_of(w.process(20, "run"), events=events, sockets=(w.connection(20, w.PROVIDER),))
    assert links(graph, 20) == [("provider:1", "proved"), ("fault:provider", "declared")]
    assert "ESTABLISHED" in graph.edges[0].evidence[0]
    assert links(graph_of(w.process(20, "run"), events=events), 20)[0][1] == "inferred"
    left = [*events, w.replied(20, 1.3, "client-left")]
    assert graph_of(w.process(20, "run"), events=left).edges == ()
    title = [w.asked(20, 1.0, title=True)]
    assert graph_of(w.process(20, "run"), events=title).edges == ()


def test_every_sentence_begins_with_an_edge_of_the_graph() -> None:
    """The page finds the edge of each sentence again by its beginning."""
    history = w.overlap()
    graph = waitgraph.build(history, history.of_type(h.SnapshotTaken)[-1].snapshot)
    labels = {node.key: node.label for node in graph.nodes}
    spoken = [f"{labels[edge.waiter]} {edge.verb} {labels[edge.holder]} [" for edge in graph.edges]
    sentences = waitgraph.in_words(graph, waitgraph.chain_from(graph, "pid:20"))
    assert sentences
    assert all(any(sentence.startswith(head) for head in spoken) for sentence in sentences)


# --- cycles and ways out in any graph

keys = st.sampled_from("abcdefg")
arrows = st.lists(st.tuples(keys, keys), max_size=14)


def edge(waiter: str, holder: str, *, binding: bool = True) -> Edge:
    return Edge(waiter=waiter, holder=holder, grade="proved", verb="waits for", evidence=(), binding=binding)


def reachable(pairs: list[tuple[str, str]], begin: str) -> set[str]:
    seen: set[str] = set()
    new = {holder for waiter, holder in pairs if waiter == begin}
    while new:
        seen |= new
        new = {holder for waiter, holder in pairs if waiter in seen} - seen
    return seen


@given(arrows)
def test_find_cycle_against_reachability(pairs: list[tuple[str, str]]) -> None:
    cycle = waitgraph.find_cycle([edge(*pair) for pair in pairs])
    assert bool(cycle) == any(key in reachable(pairs, key) for key in "abcdefg")
    if cycle:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(step in pairs for step in pairwise(cycle))


def test_find_cycle_in_a_chain_deeper_than_the_stack() -> None:
    chain = [edge(str(n), str(n + 1)) for n in range(5000)]
    assert waitgraph.find_cycle(chain) == ()
    assert len(waitgraph.find_cycle([*chain, edge("5000", "0")])) == 5002


def naive_way_out(nodes: dict[str, bool], pairs: list[tuple[str, str]], begin: str) -> bool:
    """Somebody that it waits for, near or far, is not shut for good and waits for nothing."""
    return any(
        not nodes[key] and not any(waiter == key for waiter, _ in pairs)
        for key in until_for_good(nodes, pairs, begin)
    )


def until_for_good(nodes: dict[str, bool], pairs: list[tuple[str, str]], begin: str) -> set[str]:
    return {begin} | reachable([pair for pair in pairs if not nodes[pair[0]]], begin)


@given(st.dictionaries(st.sampled_from(["pid:1", "pid:2", "pid:3", "pid:4"]), st.booleans(), min_size=4), st.data())
def test_no_way_out_against_a_naive_oracle(for_good: dict[str, bool], data: st.DataObject) -> None:
    nodes = {**for_good, "pid:1": False}
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(nodes)), st.sampled_from(sorted(nodes))), max_size=10)
    )
    graph = Graph(
        nodes=tuple(Node(key=key, kind="process", label=key, for_good=shut) for key, shut in nodes.items()),
        edges=tuple(edge(*pair) for pair in pairs),
    )
    assert waitgraph.has_no_way_out(graph, "pid:1", 10.0) == (not naive_way_out(nodes, pairs, "pid:1"))


@given(arrows)
def test_one_wait_that_does_not_bind_is_a_way_out(pairs: list[tuple[str, str]]) -> None:
    node_keys = ["pid:1", *"abcdefg"]
    graph = Graph(
        nodes=tuple(Node(key=key, kind="process", label=key) for key in node_keys),
        edges=(edge("pid:1", "a", binding=False), *(edge(*pair) for pair in pairs)),
    )
    assert not waitgraph.has_no_way_out(graph, "pid:1", 1.0)


def test_the_chain_in_one_sentence_names_each_only_once() -> None:
    chain = (
        "run-2 (pid 20) waits for lock directory a [b] [inferred: its log ends; it has [proved: nothing]]",
        "lock directory a [b] is held by run-1 (pid 10) [proved: meta.json]",
        "run-1 (pid 10) waits for pid 5, which is dead; the lock breaks itself in about 9 s [proved: x]",
    )
    assert waitgraph.in_one_sentence(chain) == (
        "run-2 (pid 20) waits for lock directory a [b], which is held by run-1 (pid 10), "
        "which waits for pid 5, which is dead, the lock breaks itself in about 9 s"
    )
    assert waitgraph.in_one_sentence(chain[:1]) == "run-2 (pid 20) waits for lock directory a [b]"
    assert waitgraph.in_one_sentence(()) == ""
