"""Makes a realistic run directory out of made-up histories, to look at a page without running opencode.

From the project's root: ``python -m tests.data.publish.sample_run DIRECTORY`` prints the path of the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.history import History, decode_event
from pytest_ocrepro.judge.judgement import (
    Edge,
    Finding,
    Grade,
    Graph,
    Judgement,
    Node,
    ProcessJudgement,
    Result,
    Verdict,
)
from pytest_ocrepro.judge.passage import passages
from pytest_ocrepro.publish.bundle import Fact, ProcessRow, RunDir, RunInfo, Subject, TrialInfo, TrialResult
from pytest_ocrepro.publish.page import write_report
from pytest_ocrepro.publish.redaction import Masked
from pytest_ocrepro.publish.run_folders import slug

SECOND = 1_000_000_000
ORIGIN_NS = 4_000 * SECOND
VERSIONS = ("1.14.48", "1.15.4", "1.18.34")
HASH = "9f3a1c" + "0" * 58
LOCK = "$SANDBOX/state/opencode/locks/3f0c2a9d41be7715c0ffee00aa55ed10b7d6c9e1.lock"
KEY = "npm-install:$SANDBOX/config/opencode"
REGISTRY = "127.0.0.1:41873"

HOSTILE = (
    "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    "{{ 7*7 }}{% raw %}<!--\"'`&lt; \x1b[31mred\x1b[0m \u202egnp.exe \x00\x9b ]]> https://evil.example/?q="
)

Case = tuple[TrialInfo, list[h.Event], Judgement | None]


def ns(seconds: float) -> int:
    """An instant on the trial's clock."""
    return ORIGIN_NS + round(seconds * SECOND)


def identity(pid: int) -> r.ProcessId:
    """A process of the made-up machine."""
    return r.ProcessId(pid=pid, start_ticks=pid * 7, boot_id="3b6f")


def make_run(reports: Path, *, trials: int = 5) -> RunDir:
    """A run with all cases on all versions; the page is not written yet."""
    run = RunDir.create(reports)
    run.write_info(run_info(run.path.name))
    for version in VERSIONS:
        for trial in range(1, trials + 1):
            for case in (overlap, alone, question, killed_server, write_lock):
                store(run, case(version, trial))
    store(run, (*overlap("1.18.34", trials + 1)[:2], None))
    return run


def store(run: RunDir, case: Case) -> Path:
    """A bundle of this case, with its line in results.jsonl where it was judged."""
    info, events, judgement = case
    with run.open_trial(slug(info.scenario, info.version, info.trial), info) as bundle:
        for event in events:
            bundle.sink(msgspec.json.encode(event) + b"\n")
        if judgement is not None:
            result = result_of(run.info.run_id, info, judgement, bundle.relative)
            result = msgspec.structs.replace(result, passages=passages(History.of(events)))
            bundle.finish(judgement, result, masked=(Masked(kind="place", count=41), Masked(kind="sk-key", count=2)))
            run.append_result(result)
    return bundle.path


def run_info(run_id: str) -> RunInfo:
    """The frame of the made-up run."""
    return RunInfo(
        run_id=run_id,
        started="2026-11-21T00:30:12+00:00",
        plugin_version="0.1.0",
        pytest_command=("pytest", "--ocrepro", *(f"--ocrepro-version={version}" for version in VERSIONS)),
        machine=(
            Fact(name="system", value="Linux 6.8.0 x86_64"),
            Fact(name="CPUs", value="2"),
            Fact(name="memory", value="8.2 GB"),
            Fact(name="file system", value="ext4"),
            Fact(name="Python", value="3.11.7"),
            Fact(name="ptrace scope", value="1: threads of our own children are readable"),
        ),
        subjects=tuple(Subject(version=version, sha256=HASH, source="npm, cached") for version in VERSIONS),
        options=(
            Fact(name="--ocrepro-trials", value="5 (command line)"),
            Fact(name="--ocrepro-expect", value="known"),
        ),
    )


def result_of(run_id: str, info: TrialInfo, judgement: Judgement, bundle: str) -> TrialResult:
    """The line of results.jsonl for a judgement."""
    known = judgement.result is Result.REPRODUCED
    return TrialResult(
        run_id=run_id,
        scenario=info.scenario,
        title=info.title,
        issue=info.issue,
        version=info.version,
        binary_sha256=info.binary_sha256,
        trial=info.trial,
        seed=info.seed,
        result=judgement.result,
        reason=judgement.reason,
        verdict=judgement.verdict,
        grade=judgement.grade,
        seconds_to_verdict=judgement.seconds_to_verdict,
        chain=judgement.chain,
        processes=tuple(
            ProcessRow(
                role=one.role,
                pid=one.pid,
                argv=one.argv,
                exit=one.exit,
                verdict=one.verdict,
                milestone=one.milestone,
                seconds=one.seconds,
            )
            for one in judgement.processes
        ),
        findings=judgement.findings,
        leaked=judgement.leaked,
        signature=judgement.signature,
        bundle=bundle,
        expected=f"xfailed: known on {info.version}" if known else "passed",
        known=known,
        control=info.control,
    )


# --- two runs, the first held up in its plugin install ---------------------------------------------------------


def overlap(version: str, trial: int) -> Case:
    """The second run waits for a lock directory whose holder waits for a registry that does not answer."""
    info = information(
        "scenarios/test_overlap.py::test_later_run_while_another_installs_its_plugin",
        "A run that starts while another installs its plugin answers or fails fast",
        "The later run must answer or fail fast; it must not wait in silence.\n\nThe first run is held in its "
        "background npm install by a registry that accepts and never answers.",
        version,
        trial,
        issue=("anomalyco/opencode#29395", "anomalyco/opencode#47566"),
    )
    shift = trial * 0.07
    return info, list(overlap_events(info, shift)), overlap_judgement(shift)


def overlap_events(info: TrialInfo, shift: float) -> Iterator[h.Event]:
    """Twelve seconds of it."""
    yield trial_started(info)
    yield h.FaultInjected(
        at_ns=ns(0.05),
        fault="registry stall",
        detail="accepts and never answers",
        address=REGISTRY,
        silent_for_good=True,
    )
    yield run_started(0.1, 801, "first", "bogus/nope-1")
    yield from milestones(
        801, "first", ((0.3, "started"), (0.9, "database-opened"), (1.2, "config-loading"), (1.4, "plugins-loading"))
    )
    yield h.RegistryRequest(at_ns=ns(1.6), pid=801, path="/@opencode-ai%2fplugin", reply="stalled")
    yield h.LightSample(at_ns=ns(2.0), rows=((801, 900_000_000, 40, 0, 1_310, "S"),), cost_ns=90_000)
    yield run_started(3.1, 812, "second", "bogus/nope-2")
    yield from milestones(
        812, "second", ((3.3, "started"), (3.9 + shift, "database-opened"), (4.4 + shift, "config-loading"))
    )
    for number, at in enumerate((5.2, 6.4, 7.6, 8.8, 10.0)):
        yield h.LightSample(at_ns=ns(at), rows=((812, 990_000_000, 20 * number, 0, 1_472, "S"),), cost_ns=80_000)
    yield snapshot(1, 6.0 + shift, wakeups=40)
    yield snapshot(2, 10.9 + shift, wakeups=57)
    yield h.Expectation(
        at_ns=ns(11.2),
        claim="finishes: it answers, or it says within 8 s why it does not",
        held=False,
        because=f"no output, no log and no request for {6.6 - shift:.1f} s; its log ends at 'config-loading'",
        role="second",
        finding="silent-wait",
    )
    yield h.Expectation(at_ns=ns(11.21), claim="the first is still installing", held=True, because="pid 801 lives")
    for pid, role in ((812, "second"), (801, "first")):
        yield h.SignalSent(at_ns=ns(11.4), pid=pid, role=role, signal="SIGTERM", why="end of the trial")
        yield h.ProcessExited(at_ns=ns(11.5 + (pid == 801) * 0.2), pid=pid, role=role, code=-15, ours=True, output="")
    yield h.Swept(at_ns=ns(11.9), ended=("first (801)", "second (812)"), leaked=())


def snapshot(number: int, at: float, *, wakeups: int) -> h.SnapshotTaken:
    """What a full look at the two runs sees."""
    return h.SnapshotTaken(
        at_ns=ns(at),
        snapshot=r.Snapshot(
            number=number,
            started_ns=ns(at),
            ended_ns=ns(at) + 14_000_000,
            boottime_ns=ns(at),
            full=True,
            processes=(process(801, "first", wakeups), process(812, "second", wakeups + 4)),
            sockets=(
                r.SocketReading(
                    pid=801,
                    fd=24,
                    inode=71_221,
                    local="127.0.0.1:51822",
                    remote=REGISTRY,
                    state="ESTABLISHED",
                    rx_queue_bytes=0,
                    tx_queue_bytes=0,
                    peer_pid=777,
                ),
            ),
            locks=(
                r.FileLock(
                    path="$SANDBOX/data/opencode/opencode.db-shm",
                    kind="POSIX",
                    access="READ",
                    start=128,
                    end=128,
                    name="DMS",
                    pid=801,
                ),
            ),
            lock_directories=(
                r.LockDirectory(
                    path=LOCK,
                    key=KEY,
                    holder_pid=801,
                    holder_alive=True,
                    age_s=at - 1.5,
                    heartbeat_age_s=0.8,
                ),
            ),
            logs=(log_tail(801), log_tail(812)),
            missing=("stack of pid 801: ptrace scope 1",),
        ),
    )


def process(pid: int, role: str, wakeups: int) -> r.ProcessReading:
    """A parked opencode."""
    return r.ProcessReading(
        id=identity(pid),
        role=role,
        name="opencode",
        parent_pid=700,
        session_pid=pid,
        state="S",
        argv=("opencode", "run"),
        threads=(
            r.ThreadReading(
                tid=pid,
                name="opencode",
                state="S",
                wchan="ep_poll",
                syscall="epoll_pwait2",
                voluntary_switches=400 + wakeups,
                involuntary_switches=12,
                cpu_ns=900_000_000 + wakeups * 100_000,
            ),
            *(
                r.ThreadReading(
                    tid=pid + number,
                    name="HeapHelper" if number < 4 else f"Bun Pool {number - 4}",
                    voluntary_switches=9,
                    involuntary_switches=0,
                    cpu_ns=1_000_000,
                    state="S",
                    wchan="futex_do_wait",
                    syscall="futex",
                )
                for number in range(1, 9)
            ),
        ),
        fds=(
            r.FdReading(fd=0, kind=r.FdKind.DEVICE, target="/dev/null"),
            r.FdReading(fd=1, kind=r.FdKind.PIPE, target="pipe:[70011]"),
            r.FdReading(fd=2, kind=r.FdKind.PIPE, target="pipe:[70012]"),
            r.FdReading(
                fd=11, kind=r.FdKind.EVENTPOLL, target="anon_inode:[eventpoll]", detail="watches 1, 2, 12, 24"
            ),
            r.FdReading(fd=13, kind=r.FdKind.LOG, target=f"$SANDBOX/data/opencode/log/{pid}.log", writable=True),
            r.FdReading(fd=17, kind=r.FdKind.DATABASE, target="$SANDBOX/data/opencode/opencode.db"),
            r.FdReading(fd=18, kind=r.FdKind.WAL, target="$SANDBOX/data/opencode/opencode.db-wal"),
            r.FdReading(fd=19, kind=r.FdKind.SHM, target="$SANDBOX/data/opencode/opencode.db-shm"),
            *(r.FdReading(fd=30 + n, kind=r.FdKind.DIRECTORY, target=f"$PROJECT/.opencode/{n}") for n in range(12)),
        ),
    )


def log_tail(pid: int) -> r.LogTail:
    """The end of a log of the older dialect."""
    words = [
        ("service=default version=1.15.4 args=[run] opencode", ""),
        ("service=db path=$SANDBOX/data/opencode/opencode.db opening database", "database-opened"),
        ("service=project directory=$PROJECT fromDirectory", ""),
        ("service=config path=$SANDBOX/config/opencode/opencode.json loading", "config-loading"),
    ]
    words += [("service=plugin name=mcp loading internal plugin", "plugins-loading")] * (pid == 801)
    lines = tuple(
        r.LogLine(text=f"INFO  2026-11-21T00:30:{14 + n} +{n * 31}ms {text}", level="INFO", milestone=milestone)
        for n, (text, milestone) in enumerate(words)
    )
    return r.LogTail(
        path=f"$SANDBOX/data/opencode/log/{pid}.log",
        pid=pid,
        size_bytes=1_472,
        lines=lines,
        milestone=lines[-1].milestone,
    )


def overlap_judgement(shift: float) -> Judgement:
    """Blocked, with the chain to the registry."""
    nodes = (
        Node(key="pid:812", kind="process", label="second (pid 812)"),
        Node(key=f"lock:{LOCK}", kind="lock-directory", label=f"lock directory {KEY}"),
        Node(key="pid:801", kind="process", label="first (pid 801)"),
        Node(key="fault:registry", kind="fault", label=f"registry {REGISTRY} (stalled: will not answer)"),
    )
    edges = (
        Edge(
            waiter="pid:812",
            holder=f"lock:{LOCK}",
            grade="inferred",
            verb="waits for",
            evidence=("its log ends at 'config-loading'", "it leaves no kernel trace but a repeated mkdir"),
        ),
        Edge(
            waiter=f"lock:{LOCK}",
            holder="pid:801",
            grade="proved",
            verb="is held by",
            evidence=("meta.json names pid 801, which lives, heartbeat 0.8 s old",),
        ),
        Edge(
            waiter="pid:801",
            holder="fault:registry",
            grade="proved",
            verb="waits for an answer of",
            evidence=(
                f"fd 24 is connected to {REGISTRY}, both queues empty",
                "request /@opencode-ai%2fplugin: stalled",
            ),
        ),
    )
    labels = {node.key: node.label for node in nodes}
    chain = tuple(
        f"{labels[e.waiter]} {e.verb} {labels[e.holder]} [{e.grade}: {'; '.join(e.evidence)}]" for e in edges
    )
    return Judgement(
        result=Result.REPRODUCED,
        reason="the second run made no progress: it waits for npm-install's lock directory, whose holder waits for "
        "a registry that does not answer",
        verdict=Verdict.BLOCKED,
        grade=Grade.PROVED,
        seconds_to_verdict=7.9 + shift,
        chain=chain,
        processes=(
            judged("second", 812, None, Verdict.BLOCKED, "config-loading", 7.9 + shift, chain=chain),
            judged("first", 801, None, Verdict.BLOCKED, "plugins-loading", 10.9, chain=chain[2:]),
        ),
        findings=(Finding(kind="silent-wait", text="the waiting run printed nothing and logged nothing"),),
        leaked=(),
        signature="oc-9f3a1c config-loading|lock-directory|npm-install",
        graph=Graph(nodes=nodes, edges=edges),
    )


# --- the control ------------------------------------------------------------------------------------------------


def alone(version: str, trial: int) -> Case:
    """One run with a model that does not exist, by itself."""
    info = information(
        "scenarios/test_overlap.py::test_a_single_run_with_a_bogus_model",
        "A single run with a model that does not exist fails fast",
        "Control: by itself the run says what is wrong and gives control back.",
        version,
        trial,
        issue=("anomalyco/opencode#29395",),
        control=True,
    )
    events: list[h.Event] = [
        trial_started(info),
        run_started(0.1, 901, "only", "bogus/nope-1"),
        *milestones(901, "only", ((0.3, "started"), (0.8, "database-opened"), (1.3, "session-created"))),
        h.ProcessExited(at_ns=ns(1.9), pid=901, role="only", code=1, ours=False, output="Error: Model not found"),
        h.Expectation(at_ns=ns(1.9), claim="fails fast", held=True, because="exit 1 after 1.8 s", role="only"),
        h.Swept(at_ns=ns(2.0), ended=(), leaked=()),
    ]
    return (
        info,
        events,
        plain_judgement(
            Result.NOT_SEEN,
            "every demand was met: the run failed fast",
            judged("only", 901, 1, Verdict.FAILED_FAST, "session-created", 1.8),
        ),
    )


# --- the question tool ------------------------------------------------------------------------------------------


def question(version: str, trial: int) -> Case:
    """A pending question: every call that is guarded, and every way out."""
    info = information(
        "scenarios/test_question.py::test_every_way_out_of_a_pending_question",
        "A session with a pending question can be left by every documented way",
        "Each guarded call and each way out is tried on a session of its own.",
        version,
        trial,
        issue=("anomalyco/opencode#27907",),
    )
    old = version == "1.14.48"
    busy = '{"name":"Error","data":{"message":"Session ses_5c1 is busy"}}' if old else '{"name":"SessionBusyError"}'
    ways = (
        ("guarded", "DELETE", "/session/ses_5c1/message/msg_02", 400 if old else 409, 0.03, busy),
        ("guarded", "POST", "/session/ses_5c1/revert", 400 if old else 409, 0.02, busy),
        ("guarded", "POST", "/session/ses_5c1/summarize", 400 if old else 409, 0.02, busy),
        ("way out: new prompt", "POST", "/session/ses_5c1/prompt_async", 204, 0.04, ""),
        ("way out: answer", "POST", "/question/que_77/reply", 0, 5.0, ""),
        ("way out: reject", "POST", "/question/que_77/reject", 200, 0.05, "true"),
        ("way out: abort", "POST", "/session/ses_5c1/abort", 200, 0.06, "true"),
    )
    calls = [
        h.HttpCall(
            at_ns=ns(3.0 + number),
            role="server",
            method=method,
            path=path,
            status=status,
            seconds=seconds,
            timeout_s=5.0,
            body=body,
            error="" if status else "no answer within 5 s",
            purpose=purpose,
        )
        for number, (purpose, method, path, status, seconds, body) in enumerate(ways)
    ]
    events: list[h.Event] = [
        trial_started(info),
        h.ProcessStarted(
            at_ns=ns(0.1),
            id=identity(950),
            role="server",
            argv=("opencode", "serve", "--port", "4096", "--hostname", "127.0.0.1"),
            obligation="serve",
            fail_fast_s=8,
            deadline_s=60,
            stdin="/dev/null",
        ),
        *milestones(950, "server", ((0.4, "started"), (1.1, "database-opened"), (1.5, "services-started"))),
        h.ProviderRequest(
            at_ns=ns(2.1), request=1, pid=950, path="/v1/chat/completions", model="m1", tools=9, title=False
        ),
        h.ProviderReply(at_ns=ns(2.3), request=1, pid=950, what="finished", turn="question"),
        *calls,
        h.Expectation(
            at_ns=ns(10.2),
            claim="deleting a message of the session is possible while the question waits",
            held=False,
            because=f"{ways[0][3]}: {busy}",
            finding="busy-for-ever",
        ),
        h.Expectation(at_ns=ns(10.3), claim="abort frees the session", held=True, because="status idle after 0.06 s"),
        h.Expectation(
            at_ns=ns(10.4), claim="after a restart the question is asked again", held=None, because="not tried"
        ),
        h.ProcessExited(
            at_ns=ns(10.9), pid=950, role="server", code=0, ours=True, output="opencode server listening"
        ),
        h.Swept(at_ns=ns(11.0), ended=("server (950)",), leaked=()),
    ]
    judgement = plain_judgement(
        Result.REPRODUCED,
        f"while a question is pending every guarded call is refused ({ways[0][3]}); abort and reject free it",
        judged("server", 950, 0, Verdict.WAITING_FOR_INPUT, "turn-started", 8.4),
        findings=(Finding(kind="busy-for-ever", text="3 guarded calls refused while the question was pending"),),
    )
    return info, events, judgement


# --- kill -9 of a server in the middle of a tool ----------------------------------------------------------------


def killed_server(version: str, trial: int) -> Case:
    """What is left in the database and among the processes."""
    info = information(
        "scenarios/test_restart.py::test_a_server_killed_in_a_bash_tool_and_started_again",
        "After kill -9 in a bash tool and a restart nothing is left half-done",
        "No part stays running, the message is completed, and nothing that the tool started is alive.",
        version,
        trial,
        issue=("anomalyco/opencode#19023",),
    )
    reading = r.DatabaseReading(
        path="$SANDBOX/data/opencode/opencode.db",
        size_bytes=126_976,
        wal_bytes=412_032,
        readable=True,
        journal_mode="wal",
        integrity="ok",
        sessions=("ses_4417",),
        messages=2,
        parts=4,
        unfinished_messages=(r.UnfinishedMessage(session="ses_4417", message="msg_0b1"),),
        unfinished_parts=(
            r.UnfinishedPart(
                session="ses_4417", message="msg_0b1", part="prt_9ac", tool="bash", status="running", started=True
            ),
        ),
    )
    events: list[h.Event] = [
        trial_started(info),
        h.ProcessStarted(
            at_ns=ns(0.1),
            id=identity(960),
            role="server",
            argv=("opencode", "serve"),
            obligation="serve",
            fail_fast_s=8,
            deadline_s=60,
            stdin="/dev/null",
        ),
        *milestones(960, "server", ((0.4, "started"), (1.2, "services-started"), (2.0, "turn-started"))),
        h.ProviderRequest(
            at_ns=ns(2.1), request=1, pid=960, path="/v1/chat/completions", model="m1", tools=9, title=False
        ),
        h.ProviderReply(at_ns=ns(2.2), request=1, pid=960, what="finished", turn="bash sleep 300"),
        h.ProcessFound(
            at_ns=ns(2.6), id=identity(966), role="tool", argv=("sleep", "300"), parent_pid=960, is_subject=False
        ),
        h.SignalSent(at_ns=ns(3.0), pid=960, role="server", signal="SIGKILL", why="the scenario"),
        h.ProcessExited(at_ns=ns(3.02), pid=960, role="server", code=-9, ours=True),
        h.ProcessStarted(
            at_ns=ns(3.4),
            id=identity(971),
            role="server again",
            argv=("opencode", "serve"),
            obligation="serve",
            fail_fast_s=8,
            deadline_s=60,
            stdin="/dev/null",
        ),
        *milestones(971, "server again", ((3.7, "started"), (4.6, "services-started"))),
        h.DatabaseRead(at_ns=ns(6.0), when="5 s after the restart", reading=reading),
        h.Expectation(
            at_ns=ns(6.1),
            claim="no part stays running",
            held=False,
            because="prt_9ac is running",
            finding="orphaned part",
        ),
        h.ProcessExited(at_ns=ns(6.5), pid=971, role="server again", code=0, ours=True),
        h.Swept(at_ns=ns(6.8), ended=("tool (966)",), leaked=(), survivors=("sleep 300 (966)",)),
    ]
    findings = (
        Finding(kind="orphaned part", text="prt_9ac (bash) stays running after the restart"),
        Finding(kind="stuck session", text="msg_0b1 has no time.completed, and the status API says idle"),
        Finding(kind="leaked process", text="sleep 300 (pid 966) outlived its opencode"),
    )
    judgement = plain_judgement(
        Result.REPRODUCED,
        "after kill -9 and a restart a tool part stays running and what the tool started is alive",
        judged("server again", 971, 0, Verdict.ENDED_BY_US, "services-started", 3.1),
        findings=findings,
    )
    return info, events, judgement


# --- a write lock that somebody else holds ----------------------------------------------------------------------


def write_lock(version: str, trial: int) -> Case:
    """The message says what is wrong, except in one trial in three, where we failed ourselves."""
    info = information(
        "scenarios/test_database.py::test_write_lock_held_by_another_process[immediate]",
        "A run that finds the database locked says so in time",
        "The message names the resource, and comes within ten seconds.",
        version,
        trial,
        issue=("KE7/helix#35",),
    )
    started: list[h.Event] = [trial_started(info), run_started(0.1, 981, "run", "mock/m1")]
    if trial % 3 == 0:
        events = [*started, h.Trouble(at_ns=ns(1.0), what="the lock holder could not open the database")]
        return (
            info,
            events,
            plain_judgement(
                Result.INCONCLUSIVE,
                "the lock holder could not open the database",
                judged("run", 981, None, Verdict.INCONCLUSIVE, "started", 0.9),
                grade=Grade.WEAK,
            ),
        )
    exited = h.ProcessExited(
        at_ns=ns(6.4), pid=981, role="run", code=1, ours=False, output="Error: database is locked\n", answered=False
    )
    swept = h.Swept(at_ns=ns(6.6), ended=(), leaked=())
    return (
        info,
        [*started, exited, swept],
        plain_judgement(
            Result.NOT_SEEN,
            "it said 'database is locked' after 6.3 s",
            judged("run", 981, 1, Verdict.FAILED_FAST, "started", 6.3),
        ),
    )


# --- an attack -------------------------------------------------------------------------------------------------


def hostile() -> Case:
    """Every text of every kind of event is hostile."""

    def poison(value: object) -> object:
        if isinstance(value, str):
            return HOSTILE if value not in kept else value
        if isinstance(value, list):
            return [poison(item) for item in value]
        if isinstance(value, dict):
            return {key: item if key == "event" else poison(item) for key, item in value.items()}
        return value

    kept = {kind.value for kind in r.FdKind}
    info, _, judgement = overlap("1.15.4", 1)
    assert judgement is not None
    events: list[h.Event] = []
    for make in (overlap, question, killed_server, write_lock):
        made = (poison(msgspec.to_builtins(event)) for event in make("1.15.4", 3)[1])
        events += [decode_event(msgspec.json.encode(event)) for event in made]
    graph = msgspec.convert(poison(msgspec.to_builtins(judgement.graph)), type(judgement.graph))
    judgement = msgspec.structs.replace(
        judgement, reason=HOSTILE, chain=(HOSTILE,), graph=graph, signature=HOSTILE, leaked=(HOSTILE,)
    )
    judgement = msgspec.structs.replace(judgement, findings=(Finding(kind=HOSTILE, text=HOSTILE),))
    fields = dict.fromkeys(
        ("scenario", "title", "version", "binary_sha256", "docstring", "replay", "marker"), HOSTILE
    )
    return msgspec.structs.replace(info, issue=(HOSTILE, "a/b#1"), **fields), events, judgement


# --- parts ------------------------------------------------------------------------------------------------------


def information(
    scenario: str,
    title: str,
    docstring: str,
    version: str,
    trial: int,
    *,
    issue: tuple[str, ...],
    control: bool = False,
) -> TrialInfo:
    """The frame of a trial."""
    return TrialInfo(
        scenario=f"{scenario}[{version}]" if not scenario.endswith("]") else f"{scenario[:-1]}-{version}]",
        title=title,
        issue=issue,
        version=version,
        binary_sha256=HASH,
        trial=trial,
        seed=1000 + trial,
        docstring=docstring,
        replay=f"pytest --ocrepro --ocrepro-version {version} --ocrepro-seed {1000 + trial} '{scenario}'",
        marker=f"OCREPRO_TRIAL=7f3c-{trial}",
        started="2026-11-21T00:30:12+00:00",
        control=control,
    )


def trial_started(info: TrialInfo) -> h.TrialStarted:
    """The first event of every history."""
    return h.TrialStarted(
        at_ns=ns(0),
        scenario=info.scenario,
        version=info.version,
        trial=info.trial,
        seed=info.seed,
        wall=info.started,
        boot_id="3b6f",
        python="3.11.7",
        kernel="6.8.0",
        cpus=2,
        load_average=0.8,
    )


def run_started(at: float, pid: int, role: str, model: str) -> h.ProcessStarted:
    """An ``opencode run``."""
    return h.ProcessStarted(
        at_ns=ns(at),
        id=identity(pid),
        role=role,
        argv=("opencode", "run", "-m", model, "hi"),
        obligation="answer",
        fail_fast_s=8,
        deadline_s=45,
        stdin="/dev/null",
        environment=("HOME=$SANDBOX/home", "XDG_DATA_HOME=$SANDBOX/data", f"npm_config_registry=http://{REGISTRY}"),
    )


def milestones(pid: int, role: str, seen: tuple[tuple[float, str], ...]) -> Iterator[h.Event]:
    """Milestones that the log told."""
    for at, milestone in seen:
        yield h.MilestoneReached(at_ns=ns(at), pid=pid, role=role, milestone=milestone, source="log")


def judged(
    role: str,
    pid: int,
    code: int | None,
    verdict: Verdict,
    milestone: str,
    seconds: float,
    *,
    chain: tuple[str, ...] = (),
) -> ProcessJudgement:
    """One process's judgement."""
    return ProcessJudgement(
        role=role,
        pid=pid,
        argv=("opencode", "run"),
        exit=code,
        verdict=verdict,
        grade=Grade.PROVED,
        milestone=milestone,
        next_milestone=r.MILESTONES[r.MILESTONES.index(milestone) + 1],
        seconds=seconds,
        because=("log, output, requests and switches say the same",),
        chain=chain,
        refuted_by="a line of log, a byte of output or a request within the window",
    )


def plain_judgement(
    result: Result,
    reason: str,
    process: ProcessJudgement,
    *,
    findings: tuple[Finding, ...] = (),
    grade: Grade = Grade.STRONG,
) -> Judgement:
    """A judgement without a chain."""
    return Judgement(
        result=result,
        reason=reason,
        verdict=process.verdict,
        grade=grade,
        seconds_to_verdict=process.seconds,
        chain=(),
        processes=(process,),
        findings=findings,
        leaked=(),
        signature="",
        graph=Graph(),
    )


if __name__ == "__main__":
    sys.stdout.write(f"{write_report(make_run(Path(sys.argv[1]))).resolve().as_uri()}\n")
