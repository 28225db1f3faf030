"""Who is put on trial, how, and what the judge must say of everybody in it.

Who is expected to be hung must get this verdict and this root cause (a regular expression for ``matrix.root_of``).
Everybody else is healthy and may be called hung at no instant.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from pytest_ocrepro.events import LockDirectoryChanged
from pytest_ocrepro.harness import Trial
from pytest_ocrepro.judge.judgement import Verdict
from pytest_ocrepro.stage.process import OpenPipe, Process
from pytest_ocrepro.stage.server import Server
from pytest_ocrepro.stage.turns import error, for_ever, late, never_ending, paced, stall_after, text

VICTIMS = Path(__file__).parent / "victims"
FAR_S = 40.0  # a deadline that none of them comes near
SOON_S = 7.0  # one for what only a deadline tells
QUIET_FOR_S = 5.0  # how long the healthy ones look hung
PATIENCE_S = 30.0


class Expected(msgspec.Struct, frozen=True):
    """What the judge must say of one process."""

    verdict: Verdict
    root: str = ""


class Case(msgspec.Struct, frozen=True):
    """``play`` sets the stage and returns the process that is watched, or the server; ``expected`` by role."""

    name: str
    play: Callable[[Trial], Process | Server]
    expected: dict[str, Expected]


COMPLETED = Expected(Verdict.COMPLETED)
SILENT_REGISTRY = "npm registry at .* is silent: accepts connections and never answers"


def act(trial: Trial, victim: str, word: str = "-", role: str = "", deadline_s: float = FAR_S) -> Process:
    """Start a stand-in that owes an answer."""
    return trial.run(word, model=f"victim/{victim}", role=role, deadline_s=deadline_s)


def aid(trial: Trial, victim: str, word: str, role: str) -> Process:
    """Start one that owes no answer, only its end."""
    return trial.spawn(["opencode", "run", "-m", f"victim/{victim}", word], role=role, deadline_s=FAR_S)


def alone(victim: str, word: str = "-", deadline_s: float = FAR_S) -> Callable[[Trial], Process]:
    """A play with one actor and a model that answers."""

    def play(trial: Trial) -> Process:
        trial.provider.script(for_ever(text("done")))
        return act(trial, victim, word, deadline_s=deadline_s)

    return play


def reached(trial: Trial, point: str) -> None:
    """Wait until a stand-in has come to this point."""
    path = trial.project.root / point
    trial.wait_until(path.exists, what=f"the point {point!r}", timeout_s=PATIENCE_S)


# -- hung


def abba(victim: str) -> Callable[[Trial], Process]:
    def play(trial: Trial) -> Process:
        trial.project.add_plugin()
        act(trial, victim, "one")
        return act(trial, victim, "two")

    return play


def silent_model(trial: Trial) -> Process:
    trial.provider.script(never_ending())
    return act(trial, "answers")


def model_silent_in_its_answer(trial: Trial) -> Process:
    trial.provider.script(stall_after(3, text("one two three")))
    return act(trial, "answers")


def overlap_behind_a_silent_registry(trial: Trial) -> Process:
    trial.registry.stall()
    trial.project.add_plugin()
    trial.wait_for(trial.at_lock_directory(act(trial, "installs")))
    return act(trial, "installs")


def writer_asleep(trial: Trial) -> Process:
    aid(trial, "sqlite_writer", "for-ever", "writer")
    reached(trial, "writing")
    return act(trial, "sqlite_waiter", "300", deadline_s=SOON_S)


def writer_of_the_scenario(trial: Trial) -> Process:
    aid(trial, "sqlite_writer", "0", "warm-up").wait_for_end(PATIENCE_S)
    trial.hold_database().inject()
    return act(trial, "sqlite_waiter", "300", deadline_s=SOON_S)


def errors_for_ever(trial: Trial) -> Process:
    trial.provider.script(for_ever(error(500)))
    return act(trial, "asks_again_and_again", deadline_s=SOON_S)


def holder_suspended(trial: Trial) -> Process:
    holder = aid(trial, "keeps_a_file_lock", "for-ever", "holder")
    reached(trial, "locked")
    stop = trial.suspend_at(holder, trial.at_milestone(holder, "services-started"))
    stop.inject()
    stop.wait()
    return act(trial, "wants_a_file_lock")


def directory_of_a_suspended_holder(silent_for_s: str = "10") -> Callable[[Trial], Process]:
    """The lock of one that is suspended for good breaks when it has shown no sign of life for long enough."""

    def play(trial: Trial) -> Process:
        trial.project.add_plugin()
        holder = aid(trial, "keeps_a_silent_lock", silent_for_s, "holder")
        reached(trial, "locked")
        stop = trial.suspend_at(holder, trial.at_milestone(holder, "config-loading"))
        stop.inject()
        stop.wait()
        return act(trial, "installs")

    return play


def holder_idle(trial: Trial) -> Process:
    aid(trial, "keeps_a_file_lock", "for-ever", "holder")
    reached(trial, "locked")
    return act(trial, "wants_a_file_lock", deadline_s=SOON_S)


def directory_of_an_idle_holder(trial: Trial) -> Process:
    trial.project.add_plugin()
    act(trial, "takes_and_keeps_the_lock", "for-ever", "holder")
    reached(trial, "locked-for-ever")
    return act(trial, "installs", deadline_s=SOON_S)


def holder_dead(trial: Trial) -> Process:
    trial.project.add_plugin()
    holder = act(trial, "takes_and_keeps_the_lock", "for-ever", "holder")
    reached(trial, "locked-for-ever")
    holder.kill()
    return act(trial, "installs")


def pid_lent(trial: Trial, *, age_s: int = 30, deadline_s: float = 25.0) -> Process:
    """The lock names the pid of a process that is younger than the lock."""
    trial.project.add_plugin()
    trial.provider.script(for_ever(text("done")))
    newcomer = trial.spawn(["sleep", "60"], role="newcomer", deadline_s=2 * PATIENCE_S)
    return act(trial, "finds_the_lock_of_another", f"{age_s} {newcomer.pid}", deadline_s=deadline_s)


def own_pid_lent(trial: Trial) -> Process:
    trial.project.add_plugin()
    return act(trial, "finds_the_lock_of_another", "30 own", deadline_s=25.0)


def called(victim: str, path: str, word: str = "-", timeout_s: float = 6.0) -> Callable[[Trial], Server]:
    """A server that has answered one call, and is then called once more."""

    def play(trial: Trial) -> Server:
        server = trial.serve(args=["-m", f"victim/{victim}", word])
        server.call("GET", "/session")
        server.call("POST", path, timeout_s=timeout_s)
        return server

    return play


def loop_waits_for_a_lock(trial: Trial) -> Server:
    aid(trial, "keeps_a_file_lock", "for-ever", "holder")
    reached(trial, "locked")
    return called("locks_in_its_event_loop", "/lock")(trial)


def prompt_to_a_silent_model(trial: Trial) -> Server:
    trial.provider.script(never_ending())
    return called("serves_answers_of_the_model", "/session/ses_1/message")(trial)


# -- not hung, but not done either


def open_stdin(trial: Trial) -> Process:
    return trial.run("-", model="victim/reads_stdin", stdin=OpenPipe(), deadline_s=FAR_S)


def suspended(trial: Trial) -> Process:
    trial.provider.script(late(PATIENCE_S, text("done")))
    process = act(trial, "answers", deadline_s=SOON_S)
    trial.provider.wait_for_request()
    process.suspend()
    return process


def question_open(trial: Trial) -> Server:
    server = trial.serve(args=["-m", "victim/asks_the_user"])
    server.wait_for_question("ses_1")
    server.call("POST", "/session/ses_1/message", timeout_s=3.0)
    return server


def idle_server(trial: Trial) -> Server:
    """Looked at again and again while nobody wants anything of it."""
    server = trial.serve(args=["-m", "victim/serves"])
    server.call("GET", "/session")
    for _ in range(4):
        server.process.wait(1.5)
        trial.sampler.snapshot()
    return server


def slow_to_the_deadline(trial: Trial) -> Process:
    trial.provider.script(paced(1.5, text("one two three four five six seven eight nine ten eleven twelve")))
    return act(trial, "answers", deadline_s=SOON_S)


# -- healthy, however it looks


def slow_model(trial: Trial) -> Process:
    trial.provider.script(paced(4.0, text("one two")))
    return act(trial, "answers")


def late_model(trial: Trial) -> Process:
    trial.provider.script(late(8.0, text("at last")))
    return act(trial, "answers")


def errors_at_first(trial: Trial) -> Process:
    trial.provider.script(*[error(500)] * 4, text("done"))
    return act(trial, "asks_again_and_again")


def gives_up(trial: Trial) -> Process:
    trial.provider.script(never_ending())
    return act(trial, "gives_up", str(QUIET_FOR_S))


def resumed(trial: Trial) -> Process:
    trial.provider.script(late(1.0, text("done")))
    process = act(trial, "answers")
    trial.provider.wait_for_request()
    process.suspend()
    threading.Timer(QUIET_FOR_S, process.resume).start()
    return process


def gives_up_on_the_database(trial: Trial) -> Process:
    """SQLite's own limit is over before the deadline is."""
    aid(trial, "sqlite_writer", "0", "warm-up").wait_for_end(PATIENCE_S)
    trial.hold_database().inject()
    return act(trial, "sqlite_waiter", "5", deadline_s=2 * SOON_S)


def lock_let_go(trial: Trial) -> Process:
    trial.provider.script(for_ever(text("done")))
    aid(trial, "keeps_a_file_lock", str(QUIET_FOR_S), "holder")
    reached(trial, "locked")
    return act(trial, "wants_a_file_lock")


def holder_killed(trial: Trial) -> Process:
    trial.provider.script(for_ever(text("done")))
    holder = aid(trial, "keeps_a_file_lock", "for-ever", "holder")
    reached(trial, "locked")
    threading.Timer(QUIET_FOR_S, holder.kill).start()
    return act(trial, "wants_a_file_lock")


def convoy(trial: Trial) -> Process:
    """Three after one another through one lock directory."""
    trial.project.add_plugin()
    trial.provider.script(for_ever(text("done")))
    for word in ("3.0", "3.1"):
        act(trial, "takes_and_keeps_the_lock", word)
    reached(trial, "locked-3.0")
    return act(trial, "takes_and_keeps_the_lock", "0.1")


def slow_registry(trial: Trial) -> Process:
    trial.registry.stall(seconds=QUIET_FOR_S)
    trial.provider.script(for_ever(text("done")))
    trial.project.add_plugin()
    trial.wait_for(trial.at_lock_directory(act(trial, "installs")))
    return act(trial, "takes_and_keeps_the_lock", "0.1")


def stale_in_time(trial: Trial) -> Process:
    return pid_lent(trial, age_s=54, deadline_s=FAR_S)


def taken_from_the_living(trial: Trial) -> Process:
    trial.project.add_plugin()
    trial.provider.script(for_ever(text("done")))
    act(trial, "takes_a_lock_from_the_living", "first")
    seen = trial.history.of_type
    trial.wait_until(lambda: seen(LockDirectoryChanged), what="the first holder seen", timeout_s=PATIENCE_S)
    return act(trial, "takes_a_lock_from_the_living", "second")


def writer_commits(trial: Trial) -> Process:
    trial.provider.script(for_ever(text("done")))
    aid(trial, "sqlite_writer", str(QUIET_FOR_S), "writer")
    reached(trial, "writing")
    return act(trial, "sqlite_waiter", "300")


def starved(trial: Trial, for_s: float = QUIET_FOR_S, deadline_s: float = FAR_S) -> Process:
    trial.provider.script(for_ever(text("done")))
    neighbour = VICTIMS / "is_a_neighbour.py"
    trial.spawn([sys.executable, str(neighbour), str(for_s)], role="neighbour", deadline_s=FAR_S)
    return act(trial, "is_starved", deadline_s=deadline_s)


def starved_to_the_deadline(trial: Trial) -> Process:
    """Its deadline moves by as long as it has waited for its core."""
    return starved(trial, for_s=4.0, deadline_s=3.5)


def killed(trial: Trial) -> Process:
    trial.provider.script(never_ending())
    process = act(trial, "answers")
    trial.provider.wait_for_request()
    process.kill()
    return process


def fails_late(trial: Trial) -> Process:
    return trial.run("2.5", model="victim/fails", deadline_s=FAR_S, fail_fast_s=1.0)


CASES = (
    Case(
        "fcntl and flock, ABBA",
        abba("abba_fcntl_and_flock"),
        {
            "second": Expected(Verdict.DEADLOCK, r"cycle: .*lock on .*/bytes .*lock on .*/whole"),
            "first": Expected(Verdict.DEADLOCK, r"cycle: .*lock on .*/whole .*lock on .*/bytes"),
        },
    ),
    Case(
        "open file locks, ABBA",
        abba("abba_open_file_locks"),
        {
            "second": Expected(Verdict.DEADLOCK, r"cycle: .*OFDLCK lock on .*/one.lock .*OFDLCK lock on .*/two.lock"),
            "first": Expected(Verdict.DEADLOCK, r"cycle: .*OFDLCK lock on .*/two.lock .*OFDLCK lock on .*/one.lock"),
        },
    ),
    Case(
        "directory and flock, ABBA",
        abba("abba_directory_and_flock"),
        {
            "second": Expected(Verdict.DEADLOCK, "cycle: .*lock directory npm-install.*FLOCK lock on .*/whole"),
            "first": Expected(Verdict.DEADLOCK, "cycle: .*FLOCK lock on .*/whole.*lock directory npm-install"),
        },
    ),
    Case("silent model", silent_model, {"first": Expected(Verdict.BLOCKED, "turn 'never-ending' says nothing more")}),
    Case(
        "model silent in its answer",
        model_silent_in_its_answer,
        {"first": Expected(Verdict.BLOCKED, "'text, stalled after 3 events' says nothing more")},
    ),
    Case(
        "overlap behind a silent registry",
        overlap_behind_a_silent_registry,
        {"second": Expected(Verdict.BLOCKED, SILENT_REGISTRY), "first": Expected(Verdict.BLOCKED, SILENT_REGISTRY)},
    ),
    Case("writer asleep", writer_asleep, {"first": Expected(Verdict.BLOCKED, "WRITE byte .* is held by writer")}),
    Case(
        "writer of the scenario",
        writer_of_the_scenario,
        {"first": Expected(Verdict.BLOCKED, "lock-holder is the scenario's lock holder, which does not let go")},
    ),
    Case("errors for ever", errors_for_ever, {"first": Expected(Verdict.LIVELOCK, "an error each time")}),
    Case("spins", alone("spins", deadline_s=SOON_S), {"first": Expected(Verdict.LIVELOCK, "busy for")}),
    Case(
        "lost wake-up", alone("loses_a_wake_up", deadline_s=SOON_S), {"first": Expected(Verdict.STALLED, "no chain")}
    ),
    Case(
        "holder suspended",
        holder_suspended,
        {"first": Expected(Verdict.BLOCKED, r"holder is suspended by the scenario \(SIGSTOP\)")},
    ),
    Case(
        "directory of a suspended holder",
        directory_of_a_suspended_holder(),
        {"first": Expected(Verdict.BLOCKED, r"holder is suspended by the scenario \(SIGSTOP\)")},
    ),
    Case("holder idle", holder_idle, {"first": Expected(Verdict.BLOCKED, "lock on .*/whole is held by holder")}),
    Case(
        "directory of an idle holder",
        directory_of_an_idle_holder,
        {"first": Expected(Verdict.BLOCKED, "lock directory npm-install.* is held by holder")},
    ),
    Case("holder dead", holder_dead, {"first": Expected(Verdict.BLOCKED, "is held by pid #, which is dead")}),
    Case("holder's pid lent", pid_lent, {"first": Expected(Verdict.BLOCKED, "pid #, .* lent its pid to another")}),
    Case("own pid lent", own_pid_lent, {"first": Expected(Verdict.BLOCKED, "pid #, .* lent its pid to another")}),
    Case(
        "child for ever",
        alone("waits_for_a_child", "300", SOON_S),
        {"first": Expected(Verdict.BLOCKED, "first has a child that runs sleep-#")},
    ),
    Case(
        "output kept open",
        alone("waits_for_output", "300", SOON_S),
        {"first": Expected(Verdict.BLOCKED, "first waits for output of sleep-#")},
    ),
    Case(
        "call lost",
        called("forgets_a_call", "/lost"),
        {"server": Expected(Verdict.STALLED, "nobody is going to answer this call")},
    ),
    Case(
        "event loop blocked",
        called("blocks_its_event_loop", "/block", "for-ever"),
        {"server": Expected(Verdict.STALLED, "its event loop is blocked in a call")},
    ),
    Case(
        "event loop behind a lock",
        loop_waits_for_a_lock,
        {"server": Expected(Verdict.BLOCKED, "lock on .*/whole is held by holder")},
    ),
    Case(
        "event loop spins",
        called("spins_in_its_event_loop", "/spin", "for-ever"),
        {"server": Expected(Verdict.LIVELOCK, "its event loop spins")},
    ),
    Case(
        "prompt to a silent model",
        prompt_to_a_silent_model,
        {"server": Expected(Verdict.BLOCKED, "turn 'never-ending' says nothing more")},
    ),
    Case(
        "question open",
        question_open,
        {"server": Expected(Verdict.WAITING_FOR_INPUT, "waits for an answer to its question")},
    ),
    Case("idle server", idle_server, {"server": Expected(Verdict.ALIVE, "answered 1 of 1 calls")}),
    Case(
        "slow handler",
        called("blocks_its_event_loop", "/block", str(QUIET_FOR_S), 2 * QUIET_FOR_S),
        {"server": Expected(Verdict.ALIVE, "answered 2 of 2 calls")},
    ),
    Case(
        "handler spins for a while",
        called("spins_in_its_event_loop", "/spin", str(QUIET_FOR_S), 3 * QUIET_FOR_S),
        {"server": Expected(Verdict.ALIVE, "answered 2 of 2 calls")},
    ),
    Case("open stdin", open_stdin, {"first": Expected(Verdict.WAITING_FOR_INPUT, "standard input")}),
    Case("suspended by us", suspended, {"first": Expected(Verdict.ALIVE, "the scenario has suspended it")}),
    Case(
        "suspended by itself",
        alone("suspends_itself", deadline_s=SOON_S),
        {"first": Expected(Verdict.INCONCLUSIVE, "somebody else has suspended it")},
    ),
    Case("slow to the deadline", slow_to_the_deadline, {"first": Expected(Verdict.OVERRAN)}),
    Case("answers", alone("answers"), {"first": COMPLETED}),
    Case("slow model", slow_model, {"first": COMPLETED}),
    Case("late model", late_model, {"first": COMPLETED}),
    Case("errors at first", errors_at_first, {"first": COMPLETED}),
    Case("gives up in time", gives_up, {"first": Expected(Verdict.FAILED_FAST)}),
    Case("gives up on the database", gives_up_on_the_database, {"first": Expected(Verdict.FAILED_FAST)}),
    Case("resumed", resumed, {"first": COMPLETED}),
    Case("pause asleep", alone("pauses_asleep", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("long pause asleep", alone("pauses_asleep", "10"), {"first": COMPLETED}),
    Case("pause in all threads", alone("pauses_in_all_threads", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("pause spinning", alone("pauses_spinning", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("starved", starved, {"first": COMPLETED}),
    Case("starved to the deadline", starved_to_the_deadline, {"first": COMPLETED}),
    Case("working child", alone("waits_for_a_working_child", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("slow child", alone("waits_for_a_child", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("output kept open for a while", alone("waits_for_output", str(QUIET_FOR_S)), {"first": COMPLETED}),
    Case("lock let go", lock_let_go, {"first": COMPLETED, "holder": COMPLETED}),
    Case("holder killed in time", holder_killed, {"first": COMPLETED}),
    Case("convoy", convoy, {"third": COMPLETED, "second": COMPLETED, "first": COMPLETED}),
    Case("slow registry", slow_registry, {"second": COMPLETED, "first": COMPLETED}),
    Case("stale in time", stale_in_time, {"first": COMPLETED}),
    Case("suspended holder, stale in time", directory_of_a_suspended_holder("53"), {"first": COMPLETED}),
    Case("taken from the living", taken_from_the_living, {"second": COMPLETED, "first": COMPLETED}),
    Case("writer commits", writer_commits, {"first": COMPLETED, "writer": COMPLETED}),
    Case("fails fast", alone("fails", "0"), {"first": Expected(Verdict.FAILED_FAST)}),
    Case("fails late", fails_late, {"first": Expected(Verdict.FAILED_LATE)}),
    Case("says nothing", alone("says_nothing"), {"first": Expected(Verdict.SILENT)}),
    Case("crashes", alone("crashes"), {"first": Expected(Verdict.CRASHED)}),
    Case("killed by us", killed, {"first": Expected(Verdict.ENDED_BY_US)}),
)
