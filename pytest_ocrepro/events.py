"""What happens in a trial, one record an event: stage and observe write them into a history, judge reads them there.

Every event has ``at_ns`` (CLOCK_MONOTONIC). They are stored: a field that is added needs a default, none is renamed.
"""

from __future__ import annotations

import msgspec

from pytest_ocrepro.readings import (
    DatabaseReading,
    LockChange,
    LockDirectory,
    NativeStack,
    ProcessId,
    Snapshot,
    TracedCall,
)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Base of all events."""

    at_ns: int


class TrialStarted(Event, frozen=True, kw_only=True, tag="trial-started"):
    """The trial's frame. ``wall`` is UTC ISO 8601, taken at ``at_ns``."""

    scenario: str
    version: str
    trial: int
    seed: int
    wall: str
    boot_id: str
    python: str = ""
    kernel: str = ""
    cpus: int = 0
    load_average: float = 0.0


class ProcessStarted(Event, frozen=True, kw_only=True, tag="process-started"):
    """A process that we started. ``obligation`` is what it owes; without one nothing is called a hang."""

    id: ProcessId
    role: str
    argv: tuple[str, ...]
    obligation: str  # "answer", "serve", "exit", or "" (owes nothing)
    fail_fast_s: float
    deadline_s: float
    stdin: str  # "/dev/null", "open pipe"
    is_subject: bool = True
    environment: tuple[str, ...] = ()  # NAME=value, for the replay line
    foreign: bool = False  # as in ProcessFound
    inner_pid: int = 0  # in its own PID namespace; 0: the same


class ProcessFound(Event, frozen=True, kw_only=True, tag="process-found"):
    """A process that carries our marker and that somebody beneath us started.

    ``foreign``: one that we have nothing to do with; ``at_ns`` is then its real start, and since nobody knows by when
    it was to answer, ``deadline_s`` counts from its last visible step.
    """

    id: ProcessId
    role: str
    argv: tuple[str, ...]
    parent_pid: int
    is_subject: bool
    obligation: str = ""
    fail_fast_s: float = 0.0
    deadline_s: float = 0.0
    inner_pid: int = 0  # in its own PID namespace; 0: the same
    foreign: bool = False
    cwd: str = ""


class ProcessExited(Event, frozen=True, kw_only=True, tag="process-exited"):
    """``code`` is the exit status, or minus the signal. ``ours``: we sent the signal that ended it."""

    pid: int
    role: str
    code: int
    ours: bool
    output: str = ""  # the end of what it printed, stdout then stderr
    answered: bool = False  # the answer that the script meant for it was printed or served


class ProcessGone(Event, frozen=True, kw_only=True, tag="process-gone"):
    """A found process is no longer there. Its exit status belongs to its parent and is not known to us."""

    pid: int
    role: str


class SignalSent(Event, frozen=True, kw_only=True, tag="signal-sent"):
    """We sent a signal."""

    pid: int
    role: str
    signal: str
    why: str = ""


class FaultInjected(Event, frozen=True, kw_only=True, tag="fault-injected"):
    """Something is now deliberately broken. ``silent_for_good``: the scenario will not let it answer."""

    fault: str
    detail: str
    address: str = ""  # "127.0.0.1:4873" where the fault has one
    pid: int | None = None
    silent_for_good: bool = False


class FaultHealed(Event, frozen=True, kw_only=True, tag="fault-healed"):
    """The fault of the same name is over."""

    fault: str


class ProviderRequest(Event, frozen=True, kw_only=True, tag="provider-request"):
    """The scripted model was asked. ``pid`` from the loopback socket pair; None when it was gone already.

    ``offered``: the names of the tools that it might call; bundles written before 0.1.0 have none.
    ``unanswered``: the tools whose calls in the transcript that it was given no result follows.
    """

    request: int
    pid: int | None
    path: str
    model: str
    tools: int
    title: bool
    last_text: str = ""
    unanswered: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()


class ProviderReply(Event, frozen=True, kw_only=True, tag="provider-reply"):
    """What became of a request: ``begun``, ``stalled``, ``finished``, ``error``, ``client-left``, ``unexpected``.

    Of a turn that is paced ``continued``, once an event; ``broken-off`` where its script ends the connection.
    """

    request: int
    pid: int | None
    what: str
    turn: str
    detail: str = ""


class RegistryRequest(Event, frozen=True, kw_only=True, tag="registry-request"):
    """Somebody asked the loopback npm registry. ``reply``: not-found, stalled, reset, served."""

    pid: int | None
    path: str
    reply: str


class OffLoopback(Event, frozen=True, kw_only=True, tag="off-loopback"):
    """The subject tried to leave the loopback interface and was refused by our proxy."""

    pid: int | None
    destination: str


class MilestoneReached(Event, frozen=True, kw_only=True, tag="milestone"):
    """A process has reached a stage, told by ``source`` (log, provider, http)."""

    pid: int
    role: str
    milestone: str
    source: str
    line: str = ""


class ProgressSeen(Event, frozen=True, kw_only=True, tag="progress"):
    """A visible change: more log, more output, a request."""

    pid: int
    role: str
    what: str


class SnapshotTaken(Event, frozen=True, kw_only=True, tag="snapshot"):
    """A full look at the world."""

    snapshot: Snapshot


class LightSample(Event, frozen=True, kw_only=True, tag="sample"):
    """A cheap look: one row a process, ``(pid, cpu_ns, main_thread_wakeups, output_bytes, log_bytes, state)``."""

    rows: tuple[tuple[int, int, int, int, int, str], ...]
    cost_ns: int


class ObservingCost(Event, frozen=True, kw_only=True, tag="observing-cost"):
    """What looking has cost: CPU time of the looking threads (user and system), their records included.

    ``cpu_ns`` is the sum; ``snapshots_cpu_ns`` the part of the snapshots, ``deputy_cpu_ns`` that of the deputy, its
    start included (about 20 ms). ``seconds``: how long was looked.
    """

    samples: int
    snapshots: int
    cpu_ns: int
    snapshots_cpu_ns: int
    seconds: float
    deputy_cpu_ns: int = 0

    @property
    def share(self) -> float:
        """Of one core."""
        return self.cpu_ns / 1e9 / self.seconds if self.seconds else 0.0


class LockDirectoryChanged(Event, frozen=True, kw_only=True, tag="lock-directory-changed"):
    """One of opencode's lock directories has another holder, or none; seen between two light samples.

    ``sign_age_s``: age of the earlier holder's last sign of life (heartbeat, else meta.json, else the directory).
    ``since_s``: so long before ``at_ns`` the holder of now took it, by its own record; None: not told, or told by a
    clock that our looks contradict.
    """

    path: str
    key: str | None
    how: LockChange
    because: str
    holder_pid: int | None = None  # who has it now
    previous_pid: int | None = None
    previous_alive: bool | None = None
    sign_age_s: float | None = None
    since_s: float | None = None

    @property
    def taken_ns(self) -> int:
        """When it changed, as far as that is told: ``at_ns`` is when it was seen."""
        return self.at_ns - round((self.since_s or 0.0) * 1e9)


class HttpCall(Event, frozen=True, kw_only=True, tag="http-call"):
    """One call to the subject's server. ``status`` 0: no answer within ``timeout_s``, or no connection.

    ``number`` counts the calls of one server and pairs an answer with its HttpAsked; 0: stored before there was one.
    """

    role: str
    method: str
    path: str
    status: int
    seconds: float
    timeout_s: float
    body: str = ""
    error: str = ""
    purpose: str = ""
    number: int = 0
    timed_out: bool = False  # it was connected, and no whole answer came within timeout_s


class DatabaseRead(Event, frozen=True, kw_only=True, tag="database"):
    """What a byte copy of the database said; ``when`` in the scenario's words."""

    when: str
    reading: DatabaseReading


class Expectation(Event, frozen=True, kw_only=True, tag="expectation"):
    """What the scenario demands of a healthy subject, and whether it got it.

    ``held`` is True, False (the reported failure is there) or None (could not be told).
    """

    claim: str
    held: bool | None
    because: str
    role: str = ""
    finding: str = ""  # kind of the finding that a broken claim is


class Note(Event, frozen=True, kw_only=True, tag="note"):
    """Anything a reader of the evidence should know."""

    text: str


class Trouble(Event, frozen=True, kw_only=True, tag="trouble"):
    """We failed, or the machine did: the trial is inconclusive."""

    what: str


class ScenarioSkipped(Event, frozen=True, kw_only=True, tag="scenario-skipped"):
    """The scenario has ended itself: this build, or this machine, lacks what it is about."""

    why: str


class IntrusionBegun(Event, frozen=True, kw_only=True, tag="intrusion-begun"):
    """We are about to stop a process for a moment to see more: all that follows is possibly disturbed.

    ``tool``: strace, gdb, core.
    """

    pid: int
    role: str
    tool: str


class CallsTraced(Event, frozen=True, kw_only=True, tag="calls-traced"):
    """What strace showed of a process within ``seconds``, up to ``at_ns``."""

    pid: int
    role: str
    seconds: float
    calls: tuple[TracedCall, ...] = ()


class StacksTaken(Event, frozen=True, kw_only=True, tag="stacks-taken"):
    """Where every thread of a process stands, in machine code."""

    pid: int
    role: str
    stacks: tuple[NativeStack, ...]


class CoreWritten(Event, frozen=True, kw_only=True, tag="core-written"):
    """The memory of a process lies beside the bundle; it was stopped for ``seconds``. It holds all secrets."""

    pid: int
    role: str
    file: str
    size_bytes: int
    seconds: float


class Swept(Event, frozen=True, kw_only=True, tag="swept"):
    """The end of the trial: what still carried our marker after the kill ladder (must be empty)."""

    ended: tuple[str, ...]
    leaked: tuple[str, ...]
    survivors: tuple[str, ...] = ()  # tools' processes that outlived their opencode, before the sweep
    lock_directories: tuple[LockDirectory, ...] = ()  # those whose holder had ended by itself, before the sweep


class StagedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the scenario put into the project; ``path`` is relative to the project."""

    path: str
    text: str


class SandboxFurnished(Event, frozen=True, kw_only=True, tag="sandbox-furnished"):
    """What the scenario put on the stage before a process was started, for the repro script.

    ``config`` is JSON: the top-level keys that it set in opencode's configuration, beside those of every trial.
    ``left_out`` counts files that were too large or too many to be kept.
    """

    config: str = "{}"
    files: tuple[StagedFile, ...] = ()
    left_out: int = 0


class ScriptedTurn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of the provider's script. ``calls``: (tool, its arguments as JSON); ``barrier`` "": not held.

    ``beyond``: it does more than is told here (stage/turns).
    """

    name: str
    words: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    stall_after: int | None = None
    never_ends: bool = False
    barrier: str = ""
    repeats: bool = False
    late_s: float = 0.0
    pace_s: float = 0.0
    beyond: bool = False


class TurnsScripted(Event, frozen=True, kw_only=True, tag="turns-scripted"):
    """The scenario appended these turns to the script of a model, or of prompts that hold ``when``."""

    model: str
    when: str = ""
    turns: tuple[ScriptedTurn, ...] = ()


class HttpAsked(Event, frozen=True, kw_only=True, tag="http-asked"):
    """The scenario is about to call the subject's server; ``body`` is JSON or "". HttpCall has the answer."""

    role: str
    method: str
    path: str
    body: str = ""
    purpose: str = ""
    timeout_s: float = 0.0
    number: int = 0


class SweptOffset(msgspec.Struct, frozen=True, kw_only=True):
    """The scenario sweeps this wait over a range: ``asked_s`` after ``since_ns``."""

    asked_s: float
    low_s: float
    high_s: float
    since_ns: int


class StepWaited(Event, frozen=True, kw_only=True, tag="step-waited"):
    """The scenario went on when something had come; ``at_ns`` is when it had.

    ``kind``: lock-directory, milestone, request (``count`` of them), question, condition, trigger, offset.
    """

    kind: str
    what: str = ""
    role: str = ""
    count: int = 0
    seconds: float = 0.0
    id: str = ""  # of the question
    offset: SweptOffset | None = None


COMPLETES = "does what it was asked"  # the demand of who must not only end, but succeed
HEALTH_PROBE = "health probe"  # the purpose of a call of ours that asks only whether anybody is there

AnyEvent = (
    TrialStarted
    | ProcessStarted
    | ProcessFound
    | ProcessExited
    | ProcessGone
    | SignalSent
    | FaultInjected
    | FaultHealed
    | ProviderRequest
    | ProviderReply
    | RegistryRequest
    | OffLoopback
    | MilestoneReached
    | ProgressSeen
    | SnapshotTaken
    | LightSample
    | ObservingCost
    | LockDirectoryChanged
    | HttpCall
    | DatabaseRead
    | Expectation
    | Note
    | Trouble
    | ScenarioSkipped
    | IntrusionBegun
    | CallsTraced
    | StacksTaken
    | CoreWritten
    | Swept
    | SandboxFurnished
    | TurnsScripted
    | HttpAsked
    | StepWaited
)
