"""What happened in a trial, in words, in order: what the harness did and met, and what was asked of its servers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_ocrepro.events import (
    CallsTraced,
    CoreWritten,
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    HttpCall,
    IntrusionBegun,
    LockDirectoryChanged,
    Note,
    ObservingCost,
    OffLoopback,
    ProcessExited,
    ProcessFound,
    ProcessStarted,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    ScenarioSkipped,
    SignalSent,
    SnapshotTaken,
    StacksTaken,
    StepWaited,
    Swept,
    Trouble,
)
from pytest_ocrepro.history import History

# the kinds of what the harness did and met itself
OURS = frozenset(
    {
        "fault injected",
        "fault healed",
        "signal",
        "lock directory",
        "off loopback",
        "note",
        "trouble",
        "swept",
        "observing cost",
        "intrusive step",
    }
)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """``at_s``: seconds since the trial's first event."""

    at_s: float
    kind: str
    text: str


def moments(history: History) -> Iterator[Moment]:
    """All that can be told in a line, by the time at which it was; what was seen late and dates itself, by that."""
    return iter(sorted(_moments(history), key=lambda one: one.at_s))


def _moments(history: History) -> Iterator[Moment]:
    origin_ns = origin_of(history)
    for event in history:
        told = _of_ours(event) or _of_intrusions(event) or _of_processes(event) or _of_servers(event)
        if told:
            at_ns = event.taken_ns if isinstance(event, LockDirectoryChanged) else event.at_ns
            yield Moment(at_s=(at_ns - origin_ns) / 1e9, kind=told[0], text=told[1])


def origin_of(history: History) -> int:
    """Zero of the trial's clock, in ns of the monotonic one."""
    return next((event.at_ns for event in history), 0)


def _of_ours(event: Event) -> tuple[str, str] | None:
    match event:
        case FaultInjected():
            return "fault injected", ", ".join(filter(None, (event.fault, event.detail, event.address)))
        case FaultHealed():
            return "fault healed", event.fault
        case SignalSent():
            why = f": {event.why}" if event.why else ""
            return "signal", f"{event.signal} to {event.role} (pid {event.pid}){why}"
        case LockDirectoryChanged():
            who = "" if event.holder_pid is None else f" by pid {event.holder_pid}"
            # without a date of its own it is known only that it was so by the time of the look
            seen = "seen " if event.since_s is None else ""
            late = "" if event.since_s is None else f" (seen {event.since_s:.2f} s later)"
            return "lock directory", f"{event.key or event.path}: {seen}{event.how}{who}{late}; {event.because}"
        case ObservingCost():
            looks = f"{event.samples} light samples and {event.snapshots} snapshots in {event.seconds:.1f} s"
            return "observing cost", f"{event.share * 100:.1f} % of a core, {looks}"
        case OffLoopback():
            return "off loopback", f"pid {event.pid} was refused {event.destination}"
        case Note():
            return "note", event.text
        case Trouble():
            return "trouble", event.what
        case Swept():
            left = f"leaked: {', '.join(event.leaked)}" if event.leaked else "nothing leaked"
            tools = f"; outlived their opencode: {', '.join(event.survivors)}" if event.survivors else ""
            return "swept", f"{left}; ended by the sweep: {', '.join(event.ended) or 'nothing'}{tools}"
        case _:
            return None


def _of_intrusions(event: Event) -> tuple[str, str] | None:
    match event:
        case IntrusionBegun():
            return "intrusive step", f"{event.tool} on {event.role} (pid {event.pid}): what follows may be disturbed"
        case CallsTraced():
            return "intrusive step", f"strace watched pid {event.pid} for {event.seconds:.1f} s"
        case StacksTaken():
            return "intrusive step", f"gdb took {len(event.stacks)} different stacks of pid {event.pid}"
        case CoreWritten():
            return (
                "intrusive step",
                f"{event.file}: {event.size_bytes} bytes, pid {event.pid} stood for {event.seconds:.1f} s",
            )
        case _:
            return None


def _of_processes(event: Event) -> tuple[str, str] | None:
    match event:
        case ProcessStarted():
            return "started", f"{event.role} (pid {event.id.pid}): {' '.join(event.argv)}"
        case ProcessFound():
            return "found", f"{event.role} (pid {event.id.pid}): {' '.join(event.argv)}"
        case ProcessExited():
            how = f"signal {-event.code}" if event.code < 0 else f"exit {event.code}"
            return "ended", f"{event.role} (pid {event.pid}): {how}{', sent by us' if event.ours else ''}"
        case SnapshotTaken():
            return "snapshot", f"number {event.snapshot.number}"
        case Expectation():
            held = {True: "held", False: "broken", None: "could not be told"}[event.held]
            return "demand", f"{event.role}{': ' if event.role else ''}{event.claim}: {held}"
        case ScenarioSkipped():
            return "skipped", event.why
        case StepWaited():
            return "waited", f"{event.seconds:.2f} s for {event.what or event.kind}"
        case _:
            return None


def _of_servers(event: Event) -> tuple[str, str] | None:
    match event:
        case ProviderRequest():
            title = " for a title" if event.title else ""
            return "provider", f"request {event.request} of pid {event.pid} to {event.model}{title}"
        case ProviderReply():
            return "provider", f"request {event.request}: {event.what}{f' ({event.turn})' if event.turn else ''}"
        case RegistryRequest():
            return "registry", f"pid {event.pid} asks for {event.path}: {event.reply}"
        case HttpCall():
            answer = event.status or event.error or "no answer"
            return "call", f"{event.method} {event.path} of {event.role}: {answer} after {event.seconds:.2f} s"
        case _:
            return None
