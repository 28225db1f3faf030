"""Processes that we did not start: nothing is declared of them, and their deadline counts from their last step."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.foreign import BLIND
from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Verdict
from pytest_ocrepro.judge.verdict import judge, judge_process

if TYPE_CHECKING:
    from tests.data.judge import histories as made
else:
    _spec = importlib.util.spec_from_file_location(
        "ocrepro_histories", Path(__file__).parents[1] / "data" / "judge" / "histories.py"
    )
    made = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(made)

LIMIT_S = 60.0


def stranger(pid: int, at: float, role: str = "run", **more: Any) -> h.ProcessFound:
    values: dict[str, Any] = {"is_subject": True, "obligation": "answer", "deadline_s": LIMIT_S, "foreign": True}
    argv = ("opencode", "run", "hi")
    return made.found(pid, 1, at, role, **{"argv": argv, **values, **more})


def seen(pid: int, role: str = "run", **more: Any) -> r.ProcessReading:
    """A reading with a descriptor, so that it is not blind."""
    return made.process(pid, role, **{"fds": (made.open_database(),), **more})


def overlap(quiet_s: float, **sight: Any) -> History:
    """20 waits for the lock directory of 10, which has a connection that nothing comes in on."""
    until = 10.0 + quiet_s
    looks: dict[str, Any] = {
        "lock_directories": (made.lock_directory(10),),
        "sockets": (made.connection(10),),
        "logs": (made.tail(10, "config-loading"), made.tail(20, "config-loading")),
        **sight,
    }
    return made.of(
        stranger(10, 1.0, "first"),
        stranger(20, 2.0, "second"),
        made.progress(10, "first", 9.0, "its last log line"),
        made.progress(20, "second", 10.0, "its last log line"),
        made.samples((10, 20), until - 3, until),
        made.twice(until - 1, seen(10, "first"), seen(20, "second"), **looks),
    )


def judged(history: History, pid: int = 20) -> ProcessJudgement:
    return judge_process(history, pid)


def test_the_chain_ends_at_the_address_that_is_silent() -> None:
    process = judged(overlap(5.0))
    assert process.verdict is Verdict.ALIVE
    assert "no progress for 5.0 s; the last step: its last log line" in process.because
    links = [link.split(" [")[0] for link in process.chain]
    assert links == [
        f"second (pid 20) waits for lock directory {made.LOCKED}",
        f"lock directory {made.LOCKED} is held by first (pid 10)",
        f"first (pid 10) waits for an answer of {made.REGISTRY}",
    ]
    assert f"it holds {made.LOCKED}" in process.chain[2]


@pytest.mark.parametrize(("quiet_s", "verdict"), [(59.0, Verdict.ALIVE), (61.0, Verdict.BLOCKED)])
def test_the_deadline_counts_from_the_last_step(quiet_s: float, verdict: Verdict) -> None:
    process = judged(overlap(quiet_s))
    assert (process.verdict, process.grade) == (verdict, Grade.STRONG if verdict.hung else Grade.WEAK)
    assert process.seconds == pytest.approx(8.0 + quiet_s, abs=0.5), "its age counts from its real start"


def test_an_hour_old_process_with_a_step_a_moment_ago_is_not_hung() -> None:
    history = made.of(
        stranger(10, 0.0),
        made.progress(10, "run", 3595.0),
        made.samples((10,), 3590.0, 3600.0),
        made.twice(3599.0, seen(10)),
    )
    assert judged(history, 10).verdict is Verdict.ALIVE


def talking(at: float, *, received_s: float | None, sent_s: float | None = 500.0) -> History:
    """A turn of 500 s whose log said its last word at its begin; its provider's last data is so old at the look."""
    connected = msgspec.structs.replace(
        made.connection(10), received_bytes=900, sent_bytes=900, received_ago_s=received_s, sent_ago_s=sent_s
    )
    later = {"received_ago_s": None if received_s is None else received_s + 0.6} | {"sent_ago_s": 500.6}
    tails: dict[str, Any] = {"logs": (made.tail(10, "model-asked"),)}
    return made.of(
        stranger(10, 1.0),
        made.progress(10, "run", at - 500.0, "its last log line"),
        made.samples((10,), at - 3, at),
        made.look(at - 1.0, seen(10), sockets=(connected,), **tails),
        made.look(at - 0.4, seen(10), sockets=(msgspec.structs.replace(connected, **later),), **tails),
    )


def test_data_that_comes_in_is_a_step_although_each_look_finds_an_empty_queue() -> None:
    process = judged(talking(600.0, received_s=3.0), 10)
    assert process.verdict is Verdict.ALIVE
    assert f"no progress for 4.0 s; the last step: data came from {made.REGISTRY}" in process.because


def test_a_connection_is_called_silent_for_as_long_as_that_was_seen() -> None:
    process = judged(talking(600.0, received_s=100.0), 10)
    assert (process.verdict, process.grade) == (Verdict.BLOCKED, Grade.STRONG)
    assert f"waits for an answer of {made.REGISTRY} (silent for 101 s)" in process.chain[0]
    assert "900 bytes came on it, nothing for 100.6 s" in process.chain[0]
    unknown = judged(talking(600.0, received_s=None, sent_s=None), 10)
    assert "silent" not in unknown.chain[0]


def test_a_silent_model_says_when_the_wait_ends_by_itself_on_builds_with_a_timeout_of_their_own() -> None:
    """Measured on 1.18.34: at 300 s of silence it logs a stream error and asks again."""
    frame = h.TrialStarted(at_ns=0, scenario="dump", version="1.18.34", trial=1, seed=1, wall="", boot_id="")
    process = judged(made.of(frame, talking(600.0, received_s=100.0)), 10)
    assert process.verdict is Verdict.BLOCKED
    assert "ends by itself in about 199 s: opencode's own provider timeout of 300 s" in process.chain[0]
    assert process.because[-1].endswith("it would end by itself in about 199 s, after its deadline")
    older = msgspec.structs.replace(frame, version="1.15.4")
    assert "by itself" not in judged(made.of(older, talking(600.0, received_s=100.0)), 10).chain[0]


def test_a_question_that_it_sent_is_a_step() -> None:
    process = judged(talking(600.0, received_s=100.0, sent_s=5.0), 10)
    assert f"the last step: it sent data to {made.REGISTRY}" in process.because[0]


def test_a_lock_that_it_took_itself_is_a_step_although_nobody_saw_it() -> None:
    """It broke the lock of a dead holder, logged nothing, and went on to the next."""
    mine = made.lock_directory(20, age=30.0)
    process = judged(overlap(80.0, lock_directories=(mine, made.lock_directory(10, age=90.0, path="b", key="b"))))
    assert process.verdict is Verdict.ALIVE
    assert f"no progress for 30.4 s; the last step: took the lock directory {made.LOCKED}" in process.because
    reused = msgspec.structs.replace(mine, holder_alive=False, pid_reused=True)
    assert judged(overlap(80.0, lock_directories=(reused,))).verdict is Verdict.BLOCKED


def test_a_holder_that_is_no_opencode_is_told_to_be_none() -> None:
    """The file may name a pid that never was its holder's."""
    sleeper = seen(30, "sleep-30", is_subject=False)
    looks: dict[str, Any] = {
        "lock_directories": (made.lock_directory(30),),
        "logs": (made.tail(20, "config-loading"),),
    }
    history = made.of(
        stranger(20, 2.0, "second"),
        stranger(30, 1.0, "sleep-30", is_subject=False, obligation="", argv=("sleep", "99")),
        made.samples((20, 30), 7.0, 10.0),
        made.twice(9.0, seen(20, "second"), sleeper, **looks),
    )
    assert "meta.json names pid 30, which lives and is no opencode, " in judged(history).chain[1]
    assert "no opencode" not in judged(overlap(5.0)).chain[1]


def test_a_dead_holder_whose_lock_breaks_itself_in_time_is_not_hung_yet() -> None:
    assert judged(overlap(5.0, lock_directories=(made.lock_directory(3, alive=False),))).verdict is Verdict.ALIVE


def test_the_server_of_the_address_is_named_and_its_work_is_no_hang() -> None:
    """An answer that somebody computes is on its way: the chain is told, and is no more than weak."""
    socket = msgspec.structs.replace(made.connection(10), peer_pid=30)
    until = 80.0
    looks: dict[str, Any] = {"sockets": (socket,), "logs": (made.tail(10, "model-asked"),)}
    before, after = (
        seen(30, "ollama-30", is_subject=False),
        seen(30, "ollama-30", is_subject=False, cpu_ns=2 * made.NS),
    )
    history = made.of(
        stranger(10, 1.0),
        stranger(30, 0.5, "ollama-30", is_subject=False, obligation="", argv=("ollama", "serve")),
        made.samples((10,), until - 3, until),
        made.look(until - 1, seen(10), before, **looks),
        made.look(until - 0.4, seen(10), after, **looks),
    )
    process = judged(history, 10)
    assert process.chain[-1].startswith(f"{made.REGISTRY} is served by ollama-30 (pid 30) [proved")
    assert process.grade is Grade.WEAK


def test_a_tool_that_runs_is_never_called_a_hang() -> None:
    tool = seen(11, "sh-11", is_subject=False, parent_pid=10, session_pid=11, argv=("sh", "-c", "make test"))
    looks: dict[str, Any] = {"sockets": (made.connection(10),), "logs": (made.tail(10, "model-answered"),)}
    history = made.of(
        stranger(10, 1.0),
        stranger(11, 2.0, "sh-11", is_subject=False, obligation="", argv=("sh", "-c", "make test")),
        made.samples((10, 11), 397.0, 400.0),
        made.twice(399.0, seen(10), tool, **looks),
    )
    process = judged(history, 10)
    assert process.verdict is Verdict.INCONCLUSIVE
    assert process.chain[0].startswith("run (pid 10) waits for its tool sh-11 (pid 11)")


def test_a_server_that_opencode_keeps_is_no_tool() -> None:
    server = seen(11, "node-11", is_subject=False, parent_pid=10, session_pid=10, argv=("node", "mcp.js"))
    looks: dict[str, Any] = {"sockets": (made.connection(10),), "logs": (made.tail(10, "model-asked"),)}
    history = made.of(
        stranger(10, 1.0), made.samples((10,), 397.0, 400.0), made.twice(399.0, seen(10), server, **looks)
    )
    process = judged(history, 10)
    assert (process.verdict, process.grade) == (Verdict.BLOCKED, Grade.STRONG)
    assert f"waits for an answer of {made.REGISTRY}" in process.chain[0]


@pytest.mark.parametrize(("quiet_s", "verdict"), [(59.0, Verdict.ALIVE), (61.0, Verdict.WAITING_FOR_INPUT)])
def test_standard_input_that_somebody_keeps_open_may_be_written_until_the_deadline(
    quiet_s: float, verdict: Verdict
) -> None:
    until = 1.0 + quiet_s
    pipe: dict[str, Any] = {"kind": r.FdKind.PIPE, "target": "pipe:[77]", "inode": 77}
    reader = r.FdReading(fd=0, writable=False, **pipe)
    poll = r.FdReading(fd=4, kind=r.FdKind.EVENTPOLL, target="anon_inode:[eventpoll]", detail="watches fds 0 7")
    writer = seen(9, "make-9", is_subject=False, fds=(r.FdReading(fd=5, writable=True, **pipe),))
    history = made.of(
        stranger(10, 1.0),
        stranger(9, 0.5, "make-9", is_subject=False, obligation="", argv=("make",)),
        made.samples((9, 10), until - 3, until),
        made.twice(until - 1, seen(10, fds=(reader, poll)), writer),
    )
    process = judged(history, 10)
    assert (process.verdict, process.grade) == (verdict, Grade.PROVED if quiet_s > LIMIT_S else Grade.WEAK)
    assert "standard input (pipe:[77]), kept open by make-9 (pid 9)" in process.chain[0]


@pytest.mark.parametrize("fds", [(), (made.open_database(),)])
def test_a_process_whose_descriptors_cannot_be_read_is_never_called_hung(fds: tuple[r.FdReading, ...]) -> None:
    history = made.of(stranger(10, 1.0), made.samples((10,), 97.0, 100.0), made.twice(99.0, seen(10, fds=fds)))
    assert judged(history, 10).verdict is (Verdict.STALLED if fds else Verdict.INCONCLUSIVE)


def test_connections_that_say_nothing_about_a_wait_are_left_out() -> None:
    def other(remote: str, **more: Any) -> r.SocketReading:
        return msgspec.structs.replace(made.connection(10, remote), **more)

    sockets = (
        other("127.0.0.1:50001", local="127.0.0.1:4096"),  # a client of its own server
        other("0.0.0.0:0", local="127.0.0.1:4096", state="LISTEN"),
        other("127.0.0.1:50002", peer_pid=10),  # itself
        other("127.0.0.1:50003", rx_queue_bytes=9),  # it has not read what came
        other("127.0.0.1:50004", state="CLOSE_WAIT"),
        other("10.0.0.9:443", tx_queue_bytes=5),
        other("10.0.0.8:443", state="SYN_SENT"),
    )
    looks: dict[str, Any] = {"sockets": sockets, "logs": (made.tail(10, "model-asked"),)}
    history = made.of(stranger(10, 1.0), made.samples((10,), 97.0, 100.0), made.twice(99.0, seen(10), **looks))
    graph = judge(made.of(history, made.claim("run", 100.5))).graph
    assert [edge.holder for edge in graph.edges] == ["address:10.0.0.8:443", "address:10.0.0.9:443"]
    assert "5 bytes not taken by the other side" in graph.edges[1].evidence[0]
    assert graph.nodes[0].label == "10.0.0.8:443 on another machine", "unseen is not silent"


def test_a_turn_of_somebody_who_is_gone_is_a_finding_and_that_of_a_living_session_is_none() -> None:
    """An interactive session owes nothing, yet the turn may be its own."""
    frame = h.TrialStarted(
        at_ns=0, scenario="dump", version="", trial=1, seed=0, wall="1970-01-01T00:01:40+00:00", boot_id=""
    )
    left = r.UnfinishedMessage(session="ses_1", message="msg_1", created=105.0)
    reading = r.DatabaseReading(path="a", size_bytes=1, wal_bytes=0, readable=True, unfinished_messages=(left,))
    read = h.DatabaseRead(at_ns=made.ns(50.0), when="now", reading=reading)
    young = stranger(20, 30.0)
    assert [finding.kind for finding in judge(made.of(frame, young, read)).findings] == ["stuck-session"]
    interactive = stranger(10, 1.0, "opencode", obligation="", argv=("opencode",))
    assert judge(made.of(frame, interactive, young, read)).findings == ()


def server(
    until: float, *sockets: r.SocketReading, waiting: int = 0, waiting_s: float | None = None, **more: Any
) -> History:
    """One that listens, looked at three times in its last 12 s; its last step was at 1 s."""
    listens: dict[str, Any] = {"local": "127.0.0.1:4096", "remote": "0.0.0.0:0", "state": "LISTEN"}
    listener = msgspec.structs.replace(made.connection(10), **listens, rx_queue_bytes=waiting, waiting_s=waiting_s)
    curl = made.process(30, "curl-30", is_subject=False)
    return made.of(
        stranger(10, 1.0, "serve", obligation="serve"),
        stranger(30, 2.0, "curl-30", is_subject=False, obligation=""),
        made.samples((10, 30), until - 14, until),
        [
            made.look(at, seen(10, "serve", **more), curl, sockets=(listener, *sockets))
            for at in (until - 12.0, until - 6.0, until - 0.5)
        ],
    )


def client(*, received_s: float | None, sent_s: float | None, sent: int | None = 0) -> r.SocketReading:
    values: dict[str, Any] = {"received_ago_s": received_s, "sent_ago_s": sent_s, "sent_bytes": sent}
    ends = {"local": "127.0.0.1:4096", "remote": "127.0.0.1:50001"}
    told = None if received_s is None else 200
    return msgspec.structs.replace(made.connection(10), **values, **ends, received_bytes=told, peer_pid=30)


FLOCK = (made.thread(10, syscall="flock", wchan="locks_lock_inode_wait"),)


@pytest.mark.parametrize(
    ("waiting_s", "verdict"), [(None, Verdict.ALIVE), (40.0, Verdict.ALIVE), (80.0, Verdict.STALLED)]
)
def test_a_server_that_pauses_is_not_hung_before_the_deadline(waiting_s: float | None, verdict: Verdict) -> None:
    """A backlog is seen for 11.5 s; how long it was there before the kernel may tell."""
    process = judged(server(200.0, waiting=1, waiting_s=waiting_s, threads=FLOCK), 10)
    assert process.verdict is verdict
    assert f"connections wait to be accepted for {11.5 + (waiting_s or 0.0):.1f} s" in process.because


def test_a_suspended_server_is_said_to_be_suspended() -> None:
    process = judged(server(100.0, waiting=3, state="T"), 10)
    assert process.verdict is Verdict.ALIVE
    assert "3 connection(s) wait to be accepted" in process.because
    assert "somebody else has suspended it" in process.because[-1]
    assert process.chain[0].startswith("serve (pid 10) is suspended by somebody else [proved: state T")


@pytest.mark.parametrize(("until", "verdict"), [(31.0, Verdict.ALIVE), (100.0, Verdict.BLOCKED)])
def test_a_request_that_nothing_was_sent_back_for_is_owed(until: float, verdict: Verdict) -> None:
    asked = made.connection(10, "127.0.0.1:9")
    process = judged(server(until, client(received_s=until - 5.0, sent_s=until - 5.0), asked), 10)
    assert process.verdict is verdict
    assert f"it owes an answer to the request of curl-30 (pid 30) for {until - 4.5:.1f} s" in process.because
    assert process.chain[0].startswith("serve (pid 10) waits for an answer of 127.0.0.1:9")


@pytest.mark.parametrize(
    ("sockets", "verdict", "words"),
    [
        ((), Verdict.ALIVE, "nobody is seen to wait for it"),
        ((client(received_s=90.0, sent_s=3.0, sent=900),), Verdict.ALIVE, "without an answer"),
        ((client(received_s=None, sent_s=None, sent=None),), Verdict.INCONCLUSIVE, "cannot be told"),
    ],
)
def test_a_server_that_is_not_seen_to_owe_anything(
    sockets: tuple[r.SocketReading, ...], verdict: Verdict, words: str
) -> None:
    process = judged(server(100.0, *sockets, made.connection(10, "127.0.0.1:9")), 10)
    assert process.verdict is verdict
    assert words in process.because[-1]


def test_a_server_whose_descriptors_cannot_be_read_is_unknown() -> None:
    process = judged(server(100.0, fds=()), 10)
    assert (process.verdict, process.because) == (Verdict.INCONCLUSIVE, (BLIND,))


@pytest.mark.parametrize(("serves", "verdict"), [(True, Verdict.BLOCKED), (False, Verdict.DEADLOCK)])
def test_a_gateway_that_asks_the_server_and_is_its_model_closes_no_cycle(*, serves: bool, verdict: Verdict) -> None:
    """What it asks as a client and what it is asked as a server have nothing to do with each other."""
    to_gateway = msgspec.structs.replace(made.connection(10, "127.0.0.1:9"), peer_pid=30)
    ends: dict[str, Any] = {"local": "127.0.0.1:50001", "remote": "127.0.0.1:4096", "peer_pid": 10}
    its_own = msgspec.structs.replace(made.connection(30), **ends)
    listener = msgspec.structs.replace(made.connection(30), local="127.0.0.1:9", remote="0.0.0.0:0", state="LISTEN")
    sockets = (client(received_s=90.0, sent_s=90.0), to_gateway, its_own, *([listener] if serves else []))
    process = judged(server(100.0, *sockets), 10)
    assert process.verdict is verdict
    assert ("is served by curl-30 (pid 30)" in process.chain[-1]) == serves
