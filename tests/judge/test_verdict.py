from __future__ import annotations

import gzip
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.judgement import Grade, Result, Verdict
from pytest_ocrepro.judge.verdict import QUIET_S, cpu_share, judge, judge_process, last_progress, seconds_starved

DATA = Path(__file__).parents[1] / "data" / "judge"
if TYPE_CHECKING:
    from tests.data.judge import histories as w
else:
    _spec = importlib.util.spec_from_file_location("ocrepro_histories", DATA / "histories.py")
    w = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(w)

RANK = {Grade.WEAK: 0, Grade.STRONG: 1, Grade.PROVED: 2}
UNSTYLED = "Error: Model not found: bogus/nope-1.\n"


def verdict(history: History, pid: int = 20) -> Verdict:
    return judge_process(history, pid).verdict


# --- processes that have ended: each verdict with a near miss that must not get it


def ended(code: int, output: str = "", at: float = 2.0, **more: Any) -> History:
    return w.of(w.started(20, "run", **more), w.exited(20, "run", at, code, output))


def after_an_answer(pid: int | None = 20, *, title: bool = False, turn: str = "text") -> History:
    return w.of(
        w.started(20, "run"),
        w.asked(pid, 1.0, title=title),
        w.replied(pid, 1.1, "finished", turn=turn),
        w.exited(20, "run", 2.0, 0, "done\n"),
    )


def ended_after(signal: str, code: int, *, why: str, signal_at: float = 1.9, ours: bool = True) -> History:
    return w.of(
        w.started(20, "run"), w.signal(20, "run", signal_at, signal, why), w.exited(20, "run", 2.0, code, ours=ours)
    )


@pytest.mark.parametrize(
    ("history", "expected", "grade"),
    [
        pytest.param(after_an_answer(), Verdict.COMPLETED, Grade.PROVED, id="completed"),
        pytest.param(after_an_answer(title=True), Verdict.SILENT, Grade.PROVED, id="only its title was answered"),
        pytest.param(after_an_answer(turn="tool bash"), Verdict.SILENT, Grade.PROVED, id="only a tool was called"),
        pytest.param(after_an_answer(None), Verdict.COMPLETED, Grade.WEAK, id="whom the answer went to is not known"),
        pytest.param(ended(0), Verdict.SILENT, Grade.PROVED, id="silent"),
        pytest.param(
            ended(0, "0 errors, no error: fine\n"), Verdict.SILENT, Grade.PROVED, id="silent beside the word"
        ),
        pytest.param(ended(0, UNSTYLED), Verdict.FAILED_FAST, Grade.PROVED, id="exit 0 but an error on stdout"),
        pytest.param(ended(0, obligation="exit"), Verdict.COMPLETED, Grade.PROVED, id="a wrapper owes its exit only"),
        pytest.param(ended(0, obligation="serve"), Verdict.SILENT, Grade.PROVED, id="a server that stops serving"),
        pytest.param(ended(1, UNSTYLED, 20.0), Verdict.FAILED_FAST, Grade.PROVED, id="failed-fast"),
        pytest.param(ended(1, UNSTYLED, 20.1), Verdict.FAILED_LATE, Grade.PROVED, id="failed-late"),
        pytest.param(ended(1, at=90, fail_fast_s=0.0), Verdict.FAILED_FAST, Grade.PROVED, id="no limit, not late"),
        pytest.param(ended(-11), Verdict.CRASHED, Grade.PROVED, id="crashed"),
        pytest.param(ended(139), Verdict.CRASHED, Grade.STRONG, id="a shell says 128 plus SIGSEGV"),
        pytest.param(ended(124), Verdict.FAILED_FAST, Grade.PROVED, id="timeout(1) is no crash"),
        pytest.param(ended(255), Verdict.FAILED_FAST, Grade.PROVED, id="255 is no signal"),
        pytest.param(ended_after("SIGKILL", -9, why="scenario"), Verdict.ENDED_BY_US, Grade.PROVED, id="ended-by-us"),
        pytest.param(
            ended_after("SIGTERM", 0, why="scenario", ours=False),
            Verdict.ENDED_BY_US,
            Grade.PROVED,
            id="its own handler turned our SIGTERM into exit 0",
        ),
        pytest.param(
            ended_after("SIGKILL", 1, why="scenario", signal_at=2.1, ours=False),
            Verdict.FAILED_FAST,
            Grade.PROVED,
            id="our signal came after its end",
        ),
        pytest.param(
            ended_after("SIGTERM", 0, why="sweep", ours=False), Verdict.ALIVE, Grade.WEAK, id="the sweep's exit 0"
        ),
        pytest.param(ended_after("SIGTERM", -15, why="sweep"), Verdict.ALIVE, Grade.WEAK, id="the sweep's SIGTERM"),
    ],
)
def test_ended(history: History, expected: Verdict, grade: Grade) -> None:
    judged = judge_process(history, 20)
    assert (judged.verdict, judged.grade) == (expected, grade)
    assert judged.because


def test_time_that_we_suspended_it_counts_against_no_limit() -> None:
    slept = (w.signal(20, "run", 2.0, "SIGSTOP"), w.signal(20, "run", 12.0, "SIGCONT"))
    late = w.of(w.started(20, "run"), w.exited(20, "run", 25.0, 1))
    assert verdict(late) is Verdict.FAILED_LATE
    assert verdict(w.of(late, slept)) is Verdict.FAILED_FAST


@pytest.mark.parametrize(("waited_s", "expected"), [(7.0, Verdict.FAILED_FAST), (5.0, Verdict.FAILED_LATE)])
def test_time_that_it_waited_for_a_core_counts_against_no_limit(waited_s: float, expected: Verdict) -> None:
    slow = w.process(20, "run", threads=(w.thread(20, runqueue_wait_ns=w.ns(waited_s)),))
    assert verdict(w.of(w.started(20, "run"), w.look(24.0, slow), w.exited(20, "run", 25.0, 1))) is expected


def test_a_found_process_that_is_gone_is_never_said_to_have_failed() -> None:
    child = w.found(30, 20, 1.0, "opencode-30", obligation="answer", deadline_s=45.0, fail_fast_s=20.0)
    gone = h.ProcessGone(at_ns=w.ns(3.0), pid=30, role="opencode-30")
    assert verdict(w.of(w.started(20, "wrapper", obligation="exit"), child, gone), 30) is Verdict.INCONCLUSIVE
    answer = (w.asked(30, 1.5), w.replied(30, 1.6, "finished"))
    judged = judge_process(w.of(w.started(20, "wrapper", obligation="exit"), child, gone, answer), 30)
    assert (judged.verdict, judged.grade) == (Verdict.COMPLETED, Grade.WEAK)


# --- living processes


def test_blocked_long_before_the_deadline_with_all_that_it_takes() -> None:
    judged = judge_process(w.overlap(), 20)
    assert (judged.verdict, judged.grade) == (Verdict.BLOCKED, Grade.STRONG)
    assert "no progress for" in judged.because[0]
    assert [link.split(" [")[0] for link in judged.chain] == [
        "second (pid 20) waits for lock directory npm-install:$SANDBOX/project/.opencode",
        "lock directory npm-install:$SANDBOX/project/.opencode is held by first (pid 10)",
        "first (pid 10) waits for an answer of the npm registry at 127.0.0.1:4873",
        "the npm registry at 127.0.0.1:4873 is registry is silent",
    ]
    assert judged.refuted_by


def busy(share: float, *, was: dict[str, Any] | None = None, **more: Any) -> tuple[h.SnapshotTaken, ...]:
    """Replaces the quiet sight of the overlap's second process by a later one."""
    seen: dict[str, Any] = {
        "lock_directories": (w.lock_directory(10),),
        "sockets": (w.connection(10),),
        "logs": (w.tail(10, "config-loading"), w.tail(20, "config-loading")),
    }
    before = w.process(20, "second", **(was or {}))
    after = w.process(20, "second", cpu_ns=w.NS + w.ns(share * 0.6), **more)
    first = w.process(10, "first")
    return w.look(6.0, first, before, **seen), w.look(6.6, first, after, **seen)


def sight(**changes: Any) -> History:
    return w.overlap(sight=changes)


NOT_HUNG = {
    "the registry is only slow": lambda: w.overlap(for_good=False),
    "the registry fault was healed": lambda: w.overlap(more=[h.FaultHealed(at_ns=w.ns(4.0), fault="registry")]),
    "it logged after the first look": lambda: w.overlap(more=[w.progress(20, "second", 5.3)]),
    "it logged less than the quiet time ago": lambda: w.overlap(more=[w.progress(20, "second", 4.9)]),
    "the holder logged after the first look": lambda: w.overlap(more=[w.progress(10, "first", 5.3)]),
    "it is at work": lambda: w.of(w.overlap(until=7.0, blind=True), busy(0.4)),
    "it was at work between the looks": lambda: w.of(
        [event for event in w.overlap() if not isinstance(event, h.LightSample)],
        w.samples((10, 20), 0, 6.0, share=0.6),
    ),
    "nobody sampled its CPU": lambda: w.of(event for event in w.overlap() if not isinstance(event, h.LightSample)),
    "it wants a core": lambda: w.of(w.overlap(until=7.0, blind=True), busy(0.01, threads=(w.thread(20, state="R"),))),
    "it waited for a core": lambda: w.of(
        w.overlap(until=7.0, blind=True), busy(0.01, threads=(w.thread(20, runqueue_wait_ns=w.ns(0.3)),))
    ),
    "it wrote pages": lambda: w.of(
        w.overlap(until=7.0, blind=True),
        busy(0.01, was={"written_bytes": 100}, written_bytes=100 + 4120),
    ),
    "the lock changed hands while it waited": lambda: sight(lock_directories=(w.lock_directory(10, age=1.0),)),
    "the holder is unknown": lambda: sight(lock_directories=(w.lock_directory(10, alive=None),)),
    "the lock is for another directory": lambda: sight(
        lock_directories=(w.lock_directory(10, key="npm-install:$SANDBOX/elsewhere"),)
    ),
    "its start is behind it": lambda: sight(logs=(w.tail(10, "config-loading"), w.tail(20, "services-started"))),
    "its log is not known": lambda: sight(logs=(w.tail(10, "config-loading"), w.tail(None, "config-loading"))),
    "the holder installs in the background": lambda: sight(
        logs=(w.tail(10, "turn-started"), w.tail(20, "config-loading"))
    ),
    "the holder has no connection to the registry": lambda: sight(sockets=()),
    "no lock directory is there": lambda: sight(lock_directories=()),
    "the snapshots took too long": lambda: sight(took=3.0),
    "the two looks lie too near": lambda: sight(apart=0.4),
}


def without_threads(event: h.Event) -> h.Event:
    """As psutil sees it: of the threads nothing but how often they woke."""
    if not isinstance(event, h.SnapshotTaken):
        return event
    look = event.snapshot
    processes = tuple(
        msgspec.structs.replace(
            one,
            state="?",
            threads=(r.ThreadReading(tid=one.id.pid, name=one.name, voluntary_switches=100),),
        )
        for one in look.processes
    )
    return msgspec.structs.replace(event, snapshot=msgspec.structs.replace(look, processes=processes))


def test_where_no_thread_is_told_only_the_deadline_tells_a_hang_and_weakly() -> None:
    seen, unseen = w.overlap(), [without_threads(event) for event in w.overlap()]
    assert verdict(seen) is Verdict.BLOCKED
    early = judge_process(w.of(unseen), 20)
    assert (early.verdict, early.grade) == (Verdict.ALIVE, Grade.WEAK)
    assert "not told on this system" in early.because[-1]
    late = [without_threads(event) for event in w.overlap(until=60.0)]
    assert judge_process(w.overlap(until=60.0), 20).grade is Grade.STRONG
    judged = judge_process(w.of(late), 20)
    assert (judged.verdict, judged.grade) == (Verdict.BLOCKED, Grade.WEAK)
    quiet = w.of(w.started(20, "run"), w.samples((20,), 0, 60.0), w.twice(59.0, w.process(20, "run")))
    assert (judge_process(quiet, 20).verdict, judge_process(quiet, 20).grade) == (Verdict.STALLED, Grade.STRONG)
    stalled = judge_process(w.of([without_threads(event) for event in quiet]), 20)
    assert (stalled.verdict, stalled.grade) == (Verdict.STALLED, Grade.WEAK)


@pytest.mark.parametrize("name", NOT_HUNG)
def test_near_misses_of_blocked_are_alive(name: str) -> None:
    judged = judge_process(NOT_HUNG[name](), 20)
    assert judged.verdict is Verdict.ALIVE, judged.because
    assert judged.grade is Grade.WEAK


def test_the_near_misses_at_work_differ_from_blocked_in_that_only() -> None:
    quiet = w.overlap(until=7.0, blind=True)
    assert verdict(w.of(quiet, busy(0.01))) is Verdict.BLOCKED
    less = busy(0.01, was={"written_bytes": 100}, written_bytes=200)
    assert verdict(w.of(quiet, less)) is Verdict.BLOCKED


def test_a_machine_that_slept_between_the_looks_proves_nothing() -> None:
    events = [event for event in w.overlap() if not isinstance(event, h.SnapshotTaken)]
    early, late = (event.snapshot for event in w.overlap().of_type(h.SnapshotTaken))
    moved = msgspec.structs.replace(late, boottime_ns=late.boottime_ns + w.ns(2.0))
    history = w.of(
        events,
        h.SnapshotTaken(at_ns=early.started_ns, snapshot=early),
        h.SnapshotTaken(at_ns=moved.started_ns, snapshot=moved),
    )
    assert verdict(history) is Verdict.ALIVE


def test_a_child_that_runs_is_a_way_out() -> None:
    """Measured: a run whose bash tool sleeps while its background install hangs was once called blocked."""
    child = w.process(30, "sh-30", parent_pid=20, is_subject=False, argv=("sh", "-c", "sleep 8"))
    seen: dict[str, Any] = {
        "lock_directories": (w.lock_directory(20),),
        "sockets": (w.connection(20),),
        "logs": (w.tail(20, "config-loading"),),
    }
    base = (w.fault("registry", address=w.REGISTRY), w.started(20, "run"), w.fetched(20, 1.0))
    quiet = (base, w.samples((20,), 0, 6.0))
    assert verdict(w.of(*quiet, w.twice(5.0, w.process(20, "run"), **seen))) is Verdict.BLOCKED
    assert verdict(w.of(*quiet, w.twice(5.0, w.process(20, "run"), child, **seen))) is Verdict.ALIVE


def test_a_wrapper_is_not_hung_because_its_child_is_for_it_may_have_a_timeout() -> None:
    history = w.overlap(
        blind=True,
        more=[
            w.started(40, "watchdog", obligation="exit", is_subject=False),
            *w.samples((10, 20, 40), 0.0, 6.0),
            *w.twice(
                5.0,
                w.process(10, "first"),
                w.process(20, "second", parent_pid=40),
                w.process(40, "watchdog", is_subject=False),
                lock_directories=(w.lock_directory(10),),
                sockets=(w.connection(10),),
                logs=(w.tail(10, "config-loading"), w.tail(20, "config-loading")),
            ),
        ],
    )
    assert verdict(history, 20) is Verdict.BLOCKED
    watchdog = judge_process(history, 40)
    assert watchdog.verdict is Verdict.ALIVE
    assert "has a child that runs second (pid 20)" in watchdog.chain[0]


def waits_for_provider(what: str, *, until: float = 6.0, other: str = "") -> History:
    replies = [w.replied(20, 1.1, "begun")] if what == "begun" else []
    replies += [w.replied(20, 1.2, "stalled")] if what == "stalled" else []
    stalled = [w.replied(30, 1.3, "stalled", number=9)] if other else []
    return w.of(
        w.started(20, "run"),
        w.asked(20, 1.0),
        w.fault("provider", 1.0, address=w.PROVIDER),
        replies,
        stalled,
        w.samples((20,), 0, until),
        w.twice(until - 1, w.process(20, "run"), sockets=(w.connection(20, w.PROVIDER),)),
    )


def wrapped(*, threads: int = 1, waits_for: int = 20, declared: str = "stalled") -> History:
    """40 started 20 and sleeps in wait4; 20 waits for the model."""
    wait4 = {"syscall": "wait4", "arguments": (hex(waits_for & 0xFFFFFFFFFFFFFFFF), "0x7ffd", "0x0", "0x0")}
    own = tuple(w.thread(40 + number, **wait4) for number in range(threads))
    wrapper = w.process(40, "wrapper", is_subject=False, threads=own)
    known = [event for event in waits_for_provider(declared) if not isinstance(event, h.SnapshotTaken)]
    return w.of(
        w.started(40, "wrapper", obligation="exit", is_subject=False),
        known,
        w.samples((20, 40), 0, 6.0),
        w.twice(5.0, w.process(20, "run", parent_pid=40), wrapper, sockets=(w.connection(20, w.PROVIDER),)),
    )


def test_a_wrapper_that_can_only_wait_for_its_opencode_hangs_as_early_as_that() -> None:
    for awaited in (20, -1):
        judged = judge_process(wrapped(waits_for=awaited), 40)
        assert (judged.verdict, judged.grade) == (Verdict.BLOCKED, Grade.PROVED), awaited
        assert judged.chain[0].startswith(
            "wrapper (pid 40) waits for the end of run (pid 20) [proved: its only thread"
        )
        assert judge_process(wrapped(waits_for=awaited), 20).verdict is Verdict.BLOCKED
    assert verdict(wrapped(waits_for=77), 40) is Verdict.ALIVE, "it waits for another child"
    assert verdict(wrapped(threads=2), 40) is Verdict.ALIVE, "the other thread may have a timer"
    assert verdict(wrapped(declared="begun"), 40) is Verdict.ALIVE, "the model may go on"


def test_a_program_of_the_scenario_that_nothing_is_demanded_of_is_not_called_hung() -> None:
    asleep = w.thread(50, syscall="clock_nanosleep")
    known = w.of(
        w.started(50, "lock-hog", obligation="exit", is_subject=False, deadline_s=45.0),
        w.samples((50,), 0, 46.0),
        w.twice(45.5, w.process(50, "lock-hog", is_subject=False, threads=(asleep,))),
    )
    assert [one.verdict for one in judge(known).processes] == [Verdict.ALIVE]
    assert [one.verdict for one in judge(w.of(known, w.claim("lock-hog", 47.0))).processes] == [Verdict.STALLED]


def test_a_provider_that_fell_silent_for_good_blocks_and_a_slow_one_does_not() -> None:
    judged = judge_process(waits_for_provider("stalled"), 20)
    assert (judged.verdict, judged.grade) == (Verdict.BLOCKED, Grade.PROVED)
    assert verdict(waits_for_provider("begun")) is Verdict.ALIVE
    assert verdict(waits_for_provider("nothing yet")) is Verdict.ALIVE


@pytest.mark.parametrize(("version", "told"), [("1.18.34", True), ("1.18.25", False), ("1.15.4", False), ("", False)])
def test_a_wait_for_the_model_ends_by_itself_on_builds_with_a_timeout_of_their_own(
    version: str, *, told: bool
) -> None:
    frame = h.TrialStarted(at_ns=0, scenario="s", version=version, trial=1, seed=1, wall="", boot_id="")
    judged = judge_process(w.of(frame, waits_for_provider("stalled")), 20)
    assert judged.verdict is Verdict.BLOCKED, "it ends after its deadline"
    words = "ends by itself in about 295 s: opencode's own provider timeout of 300 s"
    assert (words in judged.chain[0]) is told
    patient = [
        msgspec.structs.replace(event, deadline_s=400.0) if isinstance(event, h.ProcessStarted) else event
        for event in waits_for_provider("stalled")
    ]
    assert verdict(w.of(frame, patient)) is (Verdict.ALIVE if told else Verdict.BLOCKED)


def test_the_silence_towards_another_run_is_not_held_against_this_one() -> None:
    assert verdict(waits_for_provider("begun", other="30")) is Verdict.ALIVE


def test_a_slow_provider_is_blocked_at_the_deadline_only() -> None:
    assert verdict(waits_for_provider("begun", until=44.0)) is Verdict.ALIVE
    judged = judge_process(waits_for_provider("begun", until=46.0), 20)
    assert judged.verdict is Verdict.BLOCKED
    assert any("no progress for" in fact for fact in judged.because)


def cycle_history(*, waiting: bool = True, until: float = 6.0) -> History:
    locks = (
        w.file_lock(10, "/tmp/a"),
        w.file_lock(20, "/tmp/b"),
        w.file_lock(10, "/tmp/b", waiting=waiting, source="/proc/locks"),
        w.file_lock(20, "/tmp/a", waiting=True, source="/proc/locks"),
    )
    return w.of(
        w.started(10, "first"),
        w.started(20, "second"),
        w.samples((10, 20), 0, until),
        w.twice(until - 1, w.process(10, "first"), w.process(20, "second"), locks=locks),
    )


def test_deadlock_is_proved_and_a_holder_that_waits_for_nothing_is_none() -> None:
    judged = judge_process(cycle_history(), 20)
    assert (judged.verdict, judged.grade) == (Verdict.DEADLOCK, Grade.PROVED)
    assert verdict(cycle_history(waiting=False)) is Verdict.ALIVE
    assert verdict(cycle_history(waiting=False, until=46.0)) is Verdict.BLOCKED


def test_two_installs_that_both_wait_for_the_registry_are_no_deadlock() -> None:
    """Each holds a lock directory that the other's log speaks of; neither waits for it."""
    seen: dict[str, Any] = {
        "lock_directories": (w.lock_directory(10), w.lock_directory(20, path="$SANDBOX/state/opencode/locks/2.lock")),
        "sockets": (w.connection(10), w.connection(20)),
    }
    for for_good, expected in ((True, Verdict.BLOCKED), (False, Verdict.ALIVE)):
        judged = judge(w.of(w.overlap(for_good=for_good, sight=seen, more=[w.fetched(20, 2.1)])))
        assert [one.verdict for one in judged.processes] == [expected, expected]
        assert judged.graph.cycle == ()


def sqlite_wait(*, syscall: str = "clock_nanosleep", until: float = 6.0, **more: Any) -> History:
    waiter = w.process(20, "run", threads=(w.thread(20, syscall=syscall),), **{"fds": (w.open_database(),), **more})
    holder = w.process(10, "lock-holder", is_subject=False)
    return w.of(
        w.fault("database-lock", pid=10),
        w.started(10, "lock-holder", obligation="", is_subject=False),
        w.started(20, "run"),
        w.samples((10, 20), 0, until),
        w.twice(until - 1, holder, waiter, locks=(w.write_byte(10),)),
    )


def test_a_wait_for_sqlite_ends_by_itself_and_says_when() -> None:
    judged = judge_process(sqlite_wait(), 20)
    assert judged.verdict is Verdict.ALIVE
    assert "busy_timeout is about 5 s" in judged.chain[0]
    assert "ends by itself" in judged.because[-1]
    assert verdict(sqlite_wait(until=46.0)) is Verdict.BLOCKED


def test_a_wait_for_sqlite_that_ends_before_the_deadline_is_no_hang() -> None:
    """Its busy handler began with the wait and not with the look: what it has waited already counts."""
    known = [event for event in sqlite_wait(until=4.0) if not isinstance(event, h.ProcessStarted)]
    short = w.of(w.started(20, "run", deadline_s=7.0), known)
    assert verdict(short) is Verdict.ALIVE
    assert judge_process(short, 20).because[-1] == "the wait ends by itself in at most about 1 s"


def test_a_retry_that_is_not_asleep_at_the_last_look_is_still_one() -> None:
    """Measured on a busy machine: between two tries it was in fcntl, and nobody was seen to be waited for."""
    tries = w.thread(20, syscall="fcntl", state="D")
    last = w.look(46.5, w.process(20, "run", threads=(tries,)), w.process(10, "lock-holder", is_subject=False))
    history = w.of(sqlite_wait(until=46.0), last)
    judged = judge_process(history, 20)
    assert (judged.verdict, judged.grade) == (Verdict.BLOCKED, Grade.WEAK)
    assert "the scenario's lock holder" in judged.because[-1]
    told = judge(w.of(history, w.claim("run", 46.6)))
    assert told.chain == judged.chain
    assert {node.key for node in told.graph.nodes} >= {"pid:20", "fault:database-lock"}


def held(beat: float, *, state: str = "S", deadline: float = 45.0, registry: bool = True) -> History:
    """20 waits for the lock that 10 took ``beat`` seconds ago, and 10 for a registry that is silent for good."""
    seen: dict[str, Any] = {
        "lock_directories": (w.lock_directory(10, age=beat),),
        "sockets": (w.connection(10),) if registry else (),
        "logs": (w.tail(10, "config-loading"), w.tail(20, "config-loading")),
    }
    looks = w.twice(5.0, w.process(10, "first", state=state), w.process(20, "second"), **seen)
    known = [
        msgspec.structs.replace(event, deadline_s=deadline) if isinstance(event, h.ProcessStarted) else event
        for event in w.overlap(blind=True)
    ]
    stop = [w.signal(10, "first", 3.0, "SIGSTOP"), w.fault("SIGSTOP to first", 3.0, pid=10)] if state == "T" else []
    return w.of(known, stop, looks)


def test_the_lock_of_a_living_holder_turns_stale_and_says_when() -> None:
    """Measured on three builds: a living holder's heartbeat stays where it was, the waiter takes the lock at 60 s."""
    working = judge_process(held(20.0, registry=False), 20)
    assert working.verdict is Verdict.ALIVE
    assert "ends by itself in about 40 s: lock turns stale" in working.chain[1]
    late = judge_process(held(20.0, registry=False, deadline=1000.0), 20)
    assert late.because[-1] == "the wait ends by itself in at most about 40 s"
    assert verdict(held(12.0, state="T")) is Verdict.BLOCKED, "suspended for good, and stale after its deadline"
    assert verdict(held(12.0, state="T", deadline=300.0)) is Verdict.ALIVE
    assert verdict(held(35.0, state="T")) is Verdict.ALIVE


def test_a_stale_lock_is_no_way_out_where_who_takes_it_waits_for_the_same_registry() -> None:
    for age, deadline in ((12.0, 45.0), (35.0, 45.0), (12.0, 290.0)):
        judged = judge_process(held(age, deadline=deadline), 20)
        assert judged.verdict is Verdict.BLOCKED, (age, deadline)
        assert f"turns stale in about {60 - age:.0f} s; who takes it then waits for the same" in judged.chain[1]


def test_a_heartbeat_that_was_seen_to_move_keeps_the_lock() -> None:
    history = held(20.0, registry=False)
    moved = [
        msgspec.structs.replace(
            event,
            snapshot=msgspec.structs.replace(
                event.snapshot, lock_directories=(w.lock_directory(10, age=90.0, heartbeat_age_s=12.0),)
            ),
        )
        if isinstance(event, h.SnapshotTaken)
        else event
        for event in history
    ]
    judged = judge_process(w.of(moved), 20)
    assert "heartbeat 12.0 s old" in judged.chain[1]
    assert "stale" not in judged.chain[1]


def waits_for_dead(beat: float, *, deadline: float = 45.0) -> History:
    return w.of(
        w.started(20, "second", deadline_s=deadline),
        w.milestone(20, "second", "config-loading", 2.0),
        w.samples((20,), 0, 6.0),
        w.twice(
            5.0,
            w.process(20, "second"),
            lock_directories=(w.lock_directory(10, alive=False, age=beat),),
            logs=(w.tail(20, "config-loading"),),
        ),
    )


def test_a_dead_holder_blocks_only_when_nothing_breaks_its_lock_before_the_deadline() -> None:
    judged = judge_process(waits_for_dead(12.0), 20)
    assert judged.verdict is Verdict.BLOCKED
    assert "breaks itself in about 48 s" in judged.chain[-1]
    soon = judge_process(waits_for_dead(30.0), 20)
    assert soon.verdict is Verdict.ALIVE
    assert "ends by itself in at most about 30 s" in soon.because[-1]
    assert verdict(waits_for_dead(12.0, deadline=400.0)) is Verdict.ALIVE


def stopped(*, until: float = 6.0, declared: bool = True) -> tuple[h.Event | tuple[h.Event, ...], ...]:
    injected = (w.fault("SIGSTOP to first", 2.0, pid=10),) if declared else ()
    return (
        w.started(10, "first"),
        w.started(20, "second"),
        w.signal(10, "first", 2.0, "SIGSTOP"),
        injected,
        w.milestone(20, "second", "config-loading", 1.0),
        w.samples((10, 20), 0, until),
        w.twice(
            until - 1,
            w.process(10, "first", state="T", threads=(w.thread(10, state="T", syscall=None),)),
            w.process(20, "second"),
            lock_directories=(w.lock_directory(10),),
            logs=(w.tail(20, "config-loading"),),
        ),
    )


def test_a_suspended_process_is_never_hung_and_its_waiter_only_when_it_is_declared() -> None:
    assert verdict(w.of(*stopped()), 10) is Verdict.ALIVE
    assert verdict(w.of(*stopped(until=50.0)), 10) is not Verdict.BLOCKED
    assert verdict(w.of(*stopped()), 20) is Verdict.BLOCKED
    assert verdict(w.of(*stopped(declared=False)), 20) is Verdict.ALIVE
    somebody = [event for event in w.of(*stopped(until=50.0)) if not isinstance(event, h.SignalSent)]
    assert verdict(History.of(somebody), 10) is Verdict.INCONCLUSIVE


def reads_stdin(
    detail: str = "watches fds 0 17", *, stdin: str = "open pipe", beside: Any = (), more: Any = ()
) -> History:
    fds = (
        r.FdReading(fd=0, kind=r.FdKind.PIPE, target="pipe:[7]", inode=7, writable=False),
        r.FdReading(fd=18, kind=r.FdKind.EVENTPOLL, target="anon_inode:[eventpoll]", detail=detail),
    )
    return w.of(
        w.started(20, "run", stdin=stdin),
        w.samples((20,), 0, 6.0),
        w.twice(5.0, w.process(20, "run", fds=fds), *beside, logs=(w.tail(20, "services-started"),)),
        more,
    )


def test_waiting_for_input_needs_somebody_who_reads_it() -> None:
    judged = judge_process(reads_stdin(), 20)
    assert (judged.verdict, judged.grade) == (Verdict.WAITING_FOR_INPUT, Grade.PROVED)
    assert not judged.verdict.hung
    assert verdict(reads_stdin("watches fds 10 17")) is Verdict.ALIVE
    assert verdict(reads_stdin(stdin="/dev/null")) is Verdict.ALIVE
    assert verdict(reads_stdin(more=[w.asked(20, 1.0)])) is Verdict.ALIVE
    child = w.process(30, "sh-30", parent_pid=20, is_subject=False)
    assert verdict(reads_stdin(beside=[child])) is Verdict.ALIVE


def alone(until: float, *, share: float = 0.01, last: float = 1.0, cpu: float = 0.0, **more: Any) -> History:
    before, after = w.process(20, "run"), w.process(20, "run", **{"cpu_ns": w.NS + w.ns(cpu), **more})
    return w.of(
        w.started(20, "run"),
        w.progress(20, "run", last),
        w.samples((20,), 0, until, share=share),
        w.look(until - 1, before),
        w.look(until - 0.4, after),
    )


def test_stalled_livelock_and_overran_exist_at_the_deadline_only() -> None:
    assert verdict(alone(44.0)) is Verdict.ALIVE
    assert verdict(alone(46.0)) is Verdict.STALLED
    assert verdict(alone(46.0, last=40.0)) is Verdict.OVERRAN
    assert verdict(alone(44.0, cpu=0.5)) is Verdict.ALIVE
    assert verdict(alone(46.0, cpu=0.5)) is Verdict.LIVELOCK
    assert verdict(alone(46.0, cpu=0.5, last=40.0)) is Verdict.OVERRAN


def test_a_starved_process_is_not_hung_even_at_the_deadline() -> None:
    starved = (w.thread(20, runqueue_wait_ns=w.ns(0.4)),)
    assert verdict(alone(46.0, threads=starved)) is Verdict.INCONCLUSIVE


def waited_for_a_core(seconds: float, until: float) -> History:
    """It rests now; its main thread had to wait for a core for so long before."""
    reading = w.process(20, "run", threads=(w.thread(20, runqueue_wait_ns=w.ns(seconds)),))
    quiet = (w.progress(20, "run", 20.0), *w.samples((20,), 0, until))
    return w.of(w.started(20, "run"), quiet, w.twice(until - 1, reading))


def test_a_wrapper_has_as_much_longer_as_the_slowest_beneath_it() -> None:
    slow = w.process(21, "opencode", parent_pid=20, threads=(w.thread(21, runqueue_wait_ns=w.ns(11.0)),))
    looks = w.twice(45.0, w.process(20, "wrapper"), slow)
    history = w.of(w.started(20, "wrapper"), w.found(21, 20, 1.0, "opencode"), looks)
    assert seconds_starved(history, 20) == pytest.approx(10.0)
    assert seconds_starved(w.of(w.started(20, "wrapper"), looks), 20) == 0.0, "it is nobody of its own"


def test_a_deadline_moves_by_as_long_as_the_machine_kept_it_from_its_core() -> None:
    assert verdict(waited_for_a_core(0.9, 46.0)) is Verdict.STALLED
    assert verdict(waited_for_a_core(11.0, 46.0)) is Verdict.ALIVE
    assert verdict(waited_for_a_core(11.0, 56.0)) is Verdict.STALLED
    assert seconds_starved(waited_for_a_core(11.0, 46.0), 20) == pytest.approx(10.0)
    assert verdict(waited_for_a_core(200.0, 89.0)) is Verdict.ALIVE
    assert verdict(waited_for_a_core(200.0, 91.0)) is Verdict.STALLED, "at most twice as long"
    assert seconds_starved(History.of([]), 20) == 0.0


def test_who_has_had_the_time_spins_however_busy_the_machine_is() -> None:
    """Measured: beside two busy neighbours a spinning process waits for a core half of the time."""
    starved = (w.thread(20, runqueue_wait_ns=w.ns(0.4)),)
    judged = judge_process(alone(46.0, share=0.45, cpu=0.25, threads=starved), 20)
    assert (judged.verdict, judged.grade) == (Verdict.LIVELOCK, Grade.STRONG)
    assert "with 20.2 s of CPU" in judged.because[-1]
    assert verdict(alone(46.0, share=0.1, cpu=0.05, threads=starved)) is Verdict.INCONCLUSIVE
    parked = alone(46.0, share=0.15, cpu=0.1)
    assert verdict(parked) is Verdict.STALLED, "the timers of a parked process add up, too"


def retries(number: int, what: str = "error", *, until: float = 46.0, last_text: str = "") -> History:
    each = [(w.asked(20, 5.0 * n, n), w.replied(20, 5.0 * n + 0.1, what, n)) for n in range(1, number + 1)]
    events = [event for pair in each for event in pair]
    if last_text:
        events[-2] = msgspec.structs.replace(events[-2], last_text=last_text)
    return w.of(w.started(20, "run"), events, w.samples((20,), 0, until), w.twice(until - 1, w.process(20, "run")))


def test_the_same_request_with_an_error_each_time_is_a_livelock() -> None:
    assert verdict(retries(8)) is Verdict.LIVELOCK
    assert verdict(retries(8, until=44.0)) is Verdict.ALIVE
    assert verdict(retries(8, "finished")) is not Verdict.LIVELOCK
    assert verdict(retries(8, last_text="another prompt")) is not Verdict.LIVELOCK
    assert verdict(retries(2)) is not Verdict.LIVELOCK


def test_a_livelock_may_be_fast_and_may_just_have_asked_again() -> None:
    """Three requests of it lie nearer to one another than two looks can."""
    fast = [(w.asked(20, 40 + n / 10, n), w.replied(20, 40.05 + n / 10, "error", n)) for n in range(1, 60)]
    looks = (*w.samples((20,), 0, 46.0), *w.twice(45.0, w.process(20, "run")))
    history = w.of(w.started(20, "run"), [event for pair in fast for event in pair], looks)
    judged = judge_process(history, 20)
    assert judged.verdict is Verdict.LIVELOCK
    assert "it asked 59 times and got an error each time, about every 0.1 s" in judged.because[-1]
    assert verdict(w.of(history, w.asked(20, 45.99, 60))) is Verdict.LIVELOCK
    for word in ("begun", "finished"):
        answered = w.replied(20, 45.995, word, 60)
        assert verdict(w.of(history, w.asked(20, 45.99, 60), answered)) is not Verdict.LIVELOCK


def test_without_an_obligation_nothing_is_hung() -> None:
    events = [
        msgspec.structs.replace(event, obligation="") if isinstance(event, h.ProcessStarted) else event
        for event in w.overlap(until=50.0)
    ]
    assert verdict(History.of(events)) is Verdict.ALIVE
    assert judge(History.of(events)).processes == ()


@pytest.mark.parametrize(
    ("held", "result", "word"),
    [
        (True, Result.NOT_SEEN, Verdict.ALIVE),
        (False, Result.REPRODUCED, Verdict.ALIVE),
        (None, Result.INCONCLUSIVE, Verdict.INCONCLUSIVE),
    ],
)
def test_without_an_obligation_the_demands_alone_decide(*, held: bool | None, result: Result, word: Verdict) -> None:
    demand = h.Expectation(at_ns=w.ns(3.0), claim="the model is asked", held=held, because="it was")
    judged = judge(w.of(w.started(10, "terminal", obligation="", is_subject=False), demand))
    assert (judged.result, judged.verdict, judged.processes) == (result, word, ())


def test_a_server_is_judged_by_its_answers() -> None:
    def call(status: int) -> h.HttpCall:
        return h.HttpCall(at_ns=5, role="server", method="GET", path="/x", status=status, seconds=1, timeout_s=1)

    served = judge_process(w.of(w.started(20, "server", obligation="serve"), call(200), call(0)), 20)
    assert (served.verdict, served.grade, served.next_milestone) == (Verdict.ALIVE, Grade.PROVED, "")
    assert "1 of 2" in served.because[-1]
    assert "GET /x" in served.because[-1]
    unanswered = judge_process(w.of(w.started(20, "server", obligation="serve"), call(0)), 20)
    assert unanswered.grade is Grade.WEAK


def test_what_a_wrapper_starts_counts_as_its_progress() -> None:
    wrapper = w.started(20, "wrapper", obligation="exit", is_subject=False, deadline_s=10.0)
    quiet = (wrapper, w.samples((20, 30), 0, 12.0), w.twice(11.0, w.process(20, "wrapper", is_subject=False)))
    assert verdict(w.of(*quiet)) is Verdict.STALLED
    child = (w.found(30, 20, 1.0, "opencode-30"), w.progress(30, "opencode-30", 10.5))
    assert verdict(w.of(*quiet, child)) is Verdict.OVERRAN


def test_a_recycled_pid_is_two_processes() -> None:
    history = w.of(
        w.started(20, "first", 0.0, start=1),
        w.asked(20, 1.0),
        w.replied(20, 1.1, "finished"),
        w.exited(20, "first", 2.0, 0),
        w.started(20, "second", 3.0, start=2),
        w.progress(20, "first", 3.5, "read late"),
        w.exited(20, "second", 5.0, 0),
    )
    judged = {one.role: one.verdict for one in judge(history).processes}
    assert judged == {"first": Verdict.COMPLETED, "second": Verdict.SILENT}
    assert last_progress(history, 20, w.ns(9))[0] == w.ns(3.0)


def test_a_process_that_was_started_and_found_is_one() -> None:
    twin = h.ProcessFound(
        at_ns=5, id=w.ident(20), role="opencode-20", argv=(), parent_pid=1, is_subject=True, obligation="answer"
    )
    assert len(judge(w.of(w.started(20, "run"), twin)).processes) == 1


def test_an_unknown_pid_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        judge_process(History.of([]), 1)


# --- milestones


@pytest.mark.parametrize(
    ("line", "reached", "following"),
    [
        (w.LEGACY, "config-loading", "plugins-loading"),
        (w.MODERN, "config-loading", "services-started"),
        (w.LEGACY, "started", "database-opened"),
        (w.MODERN, "model-asked", "model-answered"),
    ],
)
def test_next_milestone_is_one_that_the_dialect_logs(line: str, reached: str, following: str) -> None:
    history = w.of(w.started(20, "run"), w.milestone(20, "run", reached, 1.0, line))
    judged = judge_process(history, 20)
    assert (judged.milestone, judged.next_milestone) == (reached, following)


def test_the_dialect_is_seen_from_the_tails_as_well_and_unknown_counts_as_modern() -> None:
    seen = w.look(1.0, w.process(20, "run"), logs=(w.tail(20, "", w.LEGACY),))
    assert judge_process(w.of(w.started(20, "run"), seen), 20).next_milestone == "database-opened"
    assert judge_process(w.of(w.started(20, "run")), 20).next_milestone == "instance-created"


def test_provider_and_exit_tell_milestones_too() -> None:
    running = w.of(w.started(20, "run"), w.asked(20, 1.0))
    assert judge_process(running, 20).milestone == "model-asked"
    assert judge_process(w.of(running, w.replied(20, 1.1, "finished")), 20).milestone == "model-answered"
    assert judge_process(after_an_answer(), 20).milestone == "ended"


# --- the trial


def test_trouble_of_ours_comes_before_everything() -> None:
    history = w.of(w.overlap(), w.claim("second", 6.1))
    assert judge(history).result is Result.REPRODUCED
    troubled = judge(w.of(history, h.Trouble(at_ns=w.ns(7), what="the sampler died")))
    assert (troubled.result, troubled.reason) == (Result.INCONCLUSIVE, "ours: the sampler died")
    lacking = h.ScenarioSkipped(at_ns=w.ns(8), why="no such lock")
    skipped = judge(w.of(history, lacking))
    assert skipped.result is Result.INCONCLUSIVE
    assert skipped.reason.startswith("skipped: no such lock; before that ")  # a skip hides no broken claim
    assert judge(w.of(w.overlap(), lacking)).reason == "skipped: no such lock"
    both = judge(w.of(history, h.Trouble(at_ns=w.ns(7), what="the sampler died"), lacking))
    assert both.reason == "ours: the sampler died"
    leaked = judge(w.of(history, h.Swept(at_ns=w.ns(7), ended=(), leaked=("77",))))
    assert leaked.result is Result.INCONCLUSIVE
    assert leaked.leaked == ("77",)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((), Result.INCONCLUSIVE),
        ((True,), Result.NOT_SEEN),
        ((True, None), Result.INCONCLUSIVE),
        ((None, False), Result.REPRODUCED),
        ((True, False), Result.REPRODUCED),
    ],
)
def test_result_of_the_demands(held: tuple[bool | None, ...], expected: Result) -> None:
    claims = [w.claim("run", 3.0 + n, held=one) for n, one in enumerate(held)]
    assert judge(w.of(w.started(20, "run"), claims)).result is expected


def test_the_process_is_judged_by_what_was_known_when_the_demand_was_broken() -> None:
    """A fault that is healed behind the demand, as at the end of a with block, does not change the verdict."""
    healed = (h.FaultHealed(at_ns=w.ns(6.5), fault="registry"), w.progress(20, "second", 7.0))
    judged = judge(w.of(w.overlap(), w.claim("second", 6.1), healed, w.exited(20, "second", 8.0, 1)))
    assert (judged.result, judged.verdict) == (Result.REPRODUCED, Verdict.BLOCKED)
    assert judged.seconds_to_verdict == pytest.approx(5.6)
    assert judged.chain
    assert judged.graph.edges


def test_a_verdict_that_is_refuted_makes_the_trial_inconclusive() -> None:
    went_on = w.progress(20, "second", 8.0)
    judged = judge(w.of(w.overlap(), w.claim("second", 6.1), went_on))
    assert judged.result is Result.INCONCLUSIVE
    assert "went on by itself" in judged.reason
    ended_itself = judge(w.of(w.overlap(), w.claim("second", 6.1), w.exited(20, "second", 9.0, 1)))
    assert ended_itself.result is Result.INCONCLUSIVE
    swept = (w.signal(20, "second", 7.0, "SIGTERM", "sweep"), went_on)
    assert judge(w.of(w.overlap(), w.claim("second", 6.1), swept)).result is Result.REPRODUCED


def test_findings_of_a_database_that_all_have_left() -> None:
    part = r.UnfinishedPart(session="s", message="m", part="p", tool="bash", status="running", started=True)
    reading = r.DatabaseReading(
        path="db", size_bytes=1, wal_bytes=0, readable=True, integrity="ok", unfinished_parts=(part,)
    )
    read = h.DatabaseRead(at_ns=w.ns(9), when="at the end", reading=reading)
    over = w.of(w.started(20, "run"), w.exited(20, "run", 2.0, 1), read)
    assert [finding.kind for finding in judge(over).findings] == ["orphaned-part"]
    assert judge(w.of(w.started(20, "run"), read)).findings == ()
    broken = h.DatabaseRead(at_ns=1, when="", reading=msgspec.structs.replace(reading, integrity="row 3 missing"))
    assert "corrupt-database" in [finding.kind for finding in judge(w.of(w.started(20, "run"), broken)).findings]


@pytest.mark.parametrize(
    ("how", "alive", "found"),
    [
        (r.LockChange.TAKEN_FROM_LIVE_HOLDER, True, True),
        (r.LockChange.BROKEN_AS_STALE, True, True),
        (r.LockChange.BROKEN_AS_STALE, False, False),
        (r.LockChange.BROKEN_AS_STALE, None, False),
        (r.LockChange.RELEASED, True, False),
        (r.LockChange.CHANGED_HANDS, True, False),
    ],
)
def test_a_lock_with_two_holders_is_a_finding(how: r.LockChange, *, alive: bool | None, found: bool) -> None:
    changed = h.LockDirectoryChanged(
        at_ns=w.ns(3), path="/l", key="npm-install:/p", how=how, because="why", holder_pid=9, previous_alive=alive
    )
    findings = judge(w.of(w.started(20, "run"), changed)).findings
    assert [(one.kind, one.text) for one in findings] == (
        [("lock-taken-from-live-holder", "npm-install:/p: why; pid 9 has it now")] if found else []
    )


@pytest.mark.parametrize(
    ("how", "holder", "previous", "step"),
    [
        (r.LockChange.TAKEN, 20, None, "took the lock directory npm-install:/p"),
        (r.LockChange.BROKEN_AS_STALE, 20, 9, "took the lock directory npm-install:/p"),
        (r.LockChange.RELEASED, None, 20, "released the lock directory npm-install:/p"),
        (r.LockChange.TAKEN_FROM_LIVE_HOLDER, 9, 20, ""),
        (r.LockChange.TAKEN, 9, None, ""),
        (r.LockChange.RELEASED, None, 9, ""),
    ],
)
def test_taking_and_releasing_a_lock_directory_is_a_step_of_who_does_it(
    how: r.LockChange, holder: int | None, previous: int | None, step: str
) -> None:
    changed = h.LockDirectoryChanged(
        at_ns=w.ns(3),
        path="/l",
        key="npm-install:/p",
        how=how,
        because="why",
        holder_pid=holder,
        previous_pid=previous,
    )
    last = last_progress(w.of(w.started(20, "run"), changed), 20, w.ns(9))
    assert last == ((w.ns(3), step) if step else (0, "its start"))


# --- light samples


def test_cpu_share() -> None:
    history = w.of(w.samples((20,), 0, 4.0, share=0.25))
    assert cpu_share(history, 20, 0) == pytest.approx(0.25, abs=0.01)
    assert cpu_share(history, 21, 0) == 1.0
    assert cpu_share(history, 20, w.ns(3.9)) == 1.0
    assert cpu_share(History.of([]), 20, 0) == 1.0
    backwards = w.of(h.LightSample(at_ns=9 * w.NS, rows=((20, 5, 0, 0, 0, "S"),), cost_ns=0), history)
    assert cpu_share(backwards, 20, 0) == 1.0


def test_last_progress_does_not_trust_the_order_of_the_events() -> None:
    events = [w.started(20, "run"), w.look(5.0, w.process(20, "run")), w.progress(20, "run", 3.0)]
    assert last_progress(History.of(events), 20, w.ns(4.0)) == (w.ns(3.0), "log +100 bytes")
    assert last_progress(History.of(events), 99, w.ns(4.0)) == (0, "its start")
    assert QUIET_S > 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"fds": (("log", 100),)}, {"fds": (("log", 200),)}),
        ({"written_bytes": 0}, {"written_bytes": 4096}),
    ],
)
def test_snapshots_show_steps_that_no_event_tells(before: dict[str, Any], after: dict[str, Any]) -> None:
    def reading(values: dict[str, Any]) -> r.ProcessReading:
        fds = tuple(
            r.FdReading(fd=13, kind=r.FdKind(kind), target="opencode.log", position_bytes=at)
            for kind, at in values.get("fds", ())
        )
        return w.process(20, "run", **{**values, "fds": fds})

    history = w.of(w.started(20, "run"), w.look(3.0, reading(before)), w.look(4.0, reading(after)))
    assert last_progress(history, 20, w.ns(9))[0] == w.ns(4.0)
    still = w.of(w.started(20, "run"), w.look(3.0, reading(before)), w.look(4.0, reading(before)))
    assert last_progress(still, 20, w.ns(9))[0] == 0


@pytest.mark.parametrize(
    ("wrote", "steps"),
    [((500, 500), False), ((500, 509), False), ((500, 510), True), ((None, None), True), ((None, 500), True)],
    ids=["nothing", "less than that", "as much", "not known", "not known before"],
)
def test_an_output_that_others_write_into_is_no_step(wrote: tuple[int | None, int | None], *, steps: bool) -> None:
    """What is inherited has one position for all who have it: of a CI's log, say."""
    looks = [
        w.look(
            at,
            w.process(
                20,
                "run",
                written_bytes=written,
                fds=(r.FdReading(fd=1, kind=r.FdKind.LOG, target="ci.log", position_bytes=position),),
            ),
        )
        for at, position, written in ((3.0, 100, wrote[0]), (4.0, 110, wrote[1]))
    ]
    assert last_progress(w.of(w.started(20, "run"), looks), 20, w.ns(9))[0] == (w.ns(4.0) if steps else 0)


def test_a_log_whose_writer_is_not_known_counts_for_a_process_without_one() -> None:
    def seen(size: int, *, own: bool) -> tuple[r.LogTail, ...]:
        return (w.tail(None, "", size=size), *((w.tail(20, ""),) if own else ()))

    for own, expected in ((False, w.ns(4.0)), (True, 0)):
        looks = [w.look(at, w.process(20, "run"), logs=seen(int(at), own=own)) for at in (3.0, 4.0)]
        assert last_progress(w.of(w.started(20, "run"), looks), 20, w.ns(9))[0] == expected


# --- stored histories: a new folder under tests/data/judge is a new case


def stored(case: Path) -> History:
    packed = case / "history.jsonl.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else (case / "history.jsonl").read_bytes()
    return History.of(decode_event(line) for line in data.splitlines())


CASES = sorted(path.parent for path in DATA.glob("*/expected.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_stored_history_gets_its_judgement_to_the_byte(case: Path) -> None:
    judged = msgspec.json.format(msgspec.json.encode(judge(stored(case))), indent=1) + b"\n"
    assert judged.decode() == (case / "expected.json").read_text()


HEALTHY = ("bash-", "slow-", "suspended-", "crash-", "stdin-", "writer-")


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith(HEALTHY)], ids=lambda case: str(case.name))
def test_who_was_healthy_was_hung_at_no_instant(case: Path) -> None:
    """Measured with real builds: a slow one, one with a tool, one that was suspended, one that asked for input."""
    told = list(stored(case))
    looks = [at for at, event in enumerate(told) if isinstance(event, h.SnapshotTaken)]
    for at in looks:
        known = History.of([event for event in told[: at + 1] if not isinstance(event, h.Expectation)])
        assert not any(one.verdict.hung for one in judge(known).processes)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("overlap-")], ids=lambda case: str(case.name))
def test_the_overlap_is_told_within_four_seconds_of_the_last_milestone(case: Path) -> None:
    told = list(stored(case))
    second = next(event for event in told if isinstance(event, h.ProcessStarted) and event.role == "second")
    for at, event in enumerate(told):
        if isinstance(event, h.SnapshotTaken):
            judged = judge_process(History.of(told[: at + 1]), second.id.pid)
            if judged.verdict.hung:
                last = [m.at_ns for m in told[:at] if isinstance(m, h.MilestoneReached) and m.role == "second"]
                assert (event.at_ns - max(last)) / w.NS < 4.0
                assert judged.grade is not Grade.WEAK
                return
    pytest.fail("it was never told")


def test_there_are_stored_cases_of_both_dialects() -> None:
    assert any("1.14" in case.name for case in CASES)
    assert any("1.18" in case.name for case in CASES)


def test_the_reported_overlap_has_one_signature_on_all_builds() -> None:
    told = {judge(stored(case)).signature for case in CASES if case.name.startswith("overlap-")}
    assert len(told) == 1
    assert told != {""}


# --- what must be true of any history

HUNG: dict[str, Callable[[], History]] = {
    "overlap": w.overlap,
    "provider": lambda: waits_for_provider("stalled"),
    "deadlock": cycle_history,
    "dead holder": lambda: waits_for_dead(12.0),
    "suspended holder": lambda: w.of(*stopped()),
    "stalled": lambda: alone(46.0),
    "livelock": lambda: retries(8),
}


@pytest.mark.parametrize("name", HUNG)
def test_taking_any_one_event_away_never_raises_the_grade(name: str) -> None:
    events = list(HUNG[name]())
    whole = judge_process(History.of(events), 20)
    assert whole.verdict.hung
    for at in range(len(events)):
        rest = History.of(events[:at] + events[at + 1 :])
        if any(one.id.pid == 20 for one in rest.of_type(h.ProcessStarted)):
            assert RANK[judge_process(rest, 20).grade] <= RANK[whole.grade], events[at]


@pytest.mark.parametrize("name", HUNG)
def test_one_snapshot_is_never_enough(name: str) -> None:
    events = list(HUNG[name]())
    looks = [event for event in events if isinstance(event, h.SnapshotTaken)]
    for kept in looks:
        rest = [event for event in events if event is kept or event not in looks]
        assert not judge_process(History.of(rest), 20).verdict.hung


@pytest.mark.parametrize("name", HUNG)
@pytest.mark.parametrize("field", ["locks", "lock_directories", "sockets", "logs"])
def test_what_was_not_seen_makes_nothing_surer(name: str, field: str) -> None:
    whole = HUNG[name]()
    blind = [
        msgspec.structs.replace(event, snapshot=msgspec.structs.replace(event.snapshot, **{field: ()}))
        if isinstance(event, h.SnapshotTaken)
        else event
        for event in whole
    ]
    assert RANK[judge_process(History.of(blind), 20).grade] <= RANK[judge_process(whole, 20).grade]


pids = st.sampled_from([10, 20, 30])
instants = st.floats(0, 60, allow_nan=False)
roles = st.sampled_from(["first", "second", ""])
names = st.sampled_from([*r.MILESTONES, "rubbish", ""])
readings = st.builds(
    w.process,
    pids,
    roles,
    start=st.sampled_from([1, 2]),
    state=st.sampled_from(["S", "T", "R", "Z", "D"]),
    parent_pid=pids,
    cpu_ns=st.integers(0, 60 * w.NS),
    is_subject=st.booleans(),
    fds=st.lists(st.just(w.open_database()), max_size=1).map(tuple),
    threads=st.lists(
        st.builds(w.thread, pids, syscall=st.sampled_from(["clock_nanosleep", "read", None])), max_size=2
    ).map(tuple),
)
looks = st.builds(
    lambda at, seen, locks, directories, logs, sockets: w.look(
        at, *seen, locks=tuple(locks), lock_directories=tuple(directories), logs=tuple(logs), sockets=tuple(sockets)
    ),
    instants,
    st.lists(readings, max_size=3),
    st.lists(
        st.builds(w.file_lock, st.none() | pids, waiting=st.booleans()) | st.builds(w.write_byte, pids), max_size=3
    ),
    st.lists(
        st.builds(
            w.lock_directory, st.none() | pids, alive=st.none() | st.booleans(), heartbeat_age_s=st.none() | instants
        ),
        max_size=2,
    ),
    st.lists(st.builds(w.tail, st.none() | pids, names), max_size=3),
    st.lists(st.builds(w.connection, pids, st.sampled_from([w.REGISTRY, w.PROVIDER])), max_size=2),
)
obligations = st.sampled_from(["answer", "serve", "exit", ""])
events = st.one_of(
    st.builds(
        w.started,
        pids,
        roles,
        instants,
        start=st.sampled_from([1, 2]),
        obligation=obligations,
        deadline_s=st.sampled_from([0.0, 10.0, 45.0]),
        stdin=st.sampled_from(["/dev/null", "open pipe"]),
    ),
    st.builds(w.found, pids, pids, instants, obligation=obligations, deadline_s=st.just(45.0)),
    st.builds(w.exited, pids, roles, instants, st.integers(-64, 300), st.text(max_size=20), ours=st.booleans()),
    st.builds(lambda pid, at: h.ProcessGone(at_ns=w.ns(at), pid=pid, role=""), pids, instants),
    st.builds(
        w.signal,
        pids,
        roles,
        instants,
        st.sampled_from(["SIGKILL", "SIGTERM", "SIGSTOP", "SIGCONT"]),
        st.sampled_from(["scenario", "sweep"]),
    ),
    st.builds(
        w.fault,
        st.sampled_from(["registry", "provider", "database-lock", "SIGSTOP to first"]),
        instants,
        for_good=st.booleans(),
        pid=st.none() | pids,
        address=st.sampled_from([w.REGISTRY, w.PROVIDER, ""]),
    ),
    st.builds(lambda at: h.FaultHealed(at_ns=w.ns(at), fault="registry"), instants),
    st.builds(w.asked, st.none() | pids, instants, st.integers(1, 4)),
    st.builds(
        w.replied,
        st.none() | pids,
        instants,
        st.sampled_from(["begun", "stalled", "finished", "error", "client-left"]),
        st.integers(1, 4),
    ),
    st.builds(w.fetched, st.none() | pids, instants),
    st.builds(w.milestone, pids, roles, names, instants, st.sampled_from([w.MODERN, w.LEGACY, ""])),
    st.builds(w.progress, pids, roles, instants),
    st.builds(w.claim, roles, instants, held=st.sampled_from([True, False, None])),
    st.builds(lambda at: w.samples((10, 20, 30), at, at + 1)[0], instants),
    st.builds(lambda at: h.Swept(at_ns=w.ns(at), ended=(), leaked=()), instants),
    looks,
)
anything = st.lists(events, max_size=25)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_no_history_is_too_strange(drawn: list[h.Event]) -> None:
    history = History.of(drawn)
    judged = judge(history)
    assert msgspec.json.encode(judged) == msgspec.json.encode(judge(History.of(drawn)))
    owing = {start.id.pid for start in history.of_type(h.ProcessStarted) if start.obligation}
    owing |= {found.id.pid for found in history.of_type(h.ProcessFound) if found.obligation}
    for one in judged.processes:
        assert one.pid in owing
        if one.verdict.hung:
            assert one.because
            assert len(history.of_type(h.SnapshotTaken)) >= 2


@settings(max_examples=150, deadline=None)
@given(anything, st.integers(0, 1000))
def test_more_progress_never_turns_alive_into_hung(drawn: list[h.Event], seed: int) -> None:
    """On top of any history: two looks between which the process has logged, before its deadline."""
    shuffled = [event for event in drawn if event.at_ns < w.ns(40)]
    random.Random(seed).shuffle(shuffled)  # noqa: S311  not a secret
    start = w.started(20, "run", 0.0, start=3, deadline_s=90.0)
    history = History.of([start, *shuffled])
    one = w.process(20, "run", start=3)
    more = [w.look(50.0, one), w.look(51.0, one), w.progress(20, "run", 51.5), *w.samples((20,), 48, 52)]
    before = next((p for p in judge(history).processes if p.role == "run" and p.pid == 20), None)
    after = next((p for p in judge(History.of([*history, *more])).processes if p.role == "run"), None)
    if before is not None and after is not None and before.verdict is Verdict.ALIVE:
        assert not after.verdict.hung


def test_the_first_sentence_is_the_root_cause_and_then_the_claim_that_it_breaks() -> None:
    cause, _, rest = judge(w.of(w.overlap(), w.claim("second", 6.1))).reason.partition("; so ")
    assert cause.startswith("second (pid 20) waits for lock directory npm-install:")
    assert cause.endswith(
        "which is held by first (pid 10), which waits for an answer of the npm registry at "
        f"{w.REGISTRY}, which is registry is silent"
    )
    assert rest == '"second finishes" does not hold: so'


def test_a_claim_that_did_not_hold_never_reads_as_if_it_did() -> None:
    left = h.Expectation(
        at_ns=w.ns(2.0), claim="no lock directory is left behind", held=False, because="left by pid 5", finding="left"
    )
    judged = judge(w.of(w.started(10, "first"), left))
    assert judged.reason == '"no lock directory is left behind" does not hold: left by pid 5'
    assert judged.findings[0].text == judged.reason


def test_the_first_sentence_says_how_a_process_ended_that_waits_for_nothing() -> None:
    judged = judge(w.of(w.started(10, "first"), w.exited(10, "first", 2.0, -11), w.claim("first", 2.1)))
    assert judged.reason == 'first (pid 10) crashed; so "first finishes" does not hold: so'
