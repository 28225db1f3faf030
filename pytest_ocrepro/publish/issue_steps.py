"""The scenario's own moves in words, up to its first broken demand: steps that a person can follow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_ocrepro.events import (
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    HttpAsked,
    ProcessExited,
    ProcessStarted,
    SandboxFurnished,
    ScriptedTurn,
    SignalSent,
    StepWaited,
    TurnsScripted,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.publish.markdown import code, prose
from pytest_ocrepro.publish.plan import LOCK_HOLDER

MOST_MOVES = 20
IDS = {"ses": "SESSION", "msg": "MESSAGE", "prt": "PART", "que": "QUESTION"}
ID = re.compile(rf"\b({'|'.join(IDS)})_[A-Za-z0-9]{{8,}}")


def moves(history: History) -> Iterator[str]:
    """A numbered list, after one line that says what it is; nothing where there was no move."""
    told = [words for event in _until_broken(history) for words in _move(event)]
    told = list(_once(_without_ids(told)))
    if not told:
        return
    lines = [f"{number}. {words}" for number, words in enumerate(told[:MOST_MOVES], start=1)]
    if len(told) > MOST_MOVES:
        lines.append(f"\n{len(told) - MOST_MOVES} more steps are left out.")
    yield "Step by step, in an empty git project and a fresh HOME:"
    yield "\n".join(lines)


def _without_ids(told: list[str]) -> list[str]:
    """Ids of the trial are other ones next time: $SESSION, and $SESSION2 for the second that is met."""
    met: dict[str, list[str]] = {name: [] for name in IDS.values()}

    def named(found: re.Match[str]) -> str:
        ids = met[IDS[found[1]]]
        if found[0] not in ids:
            ids.append(found[0])
        number = ids.index(found[0]) + 1
        return f"${IDS[found[1]]}{number if number > 1 else ''}"

    return [ID.sub(named, words) for words in told]


def _until_broken(history: History) -> Iterator[Event]:
    events = sorted(history, key=lambda event: event.at_ns)
    for event in events:
        yield event
        if isinstance(event, Expectation) and event.held is False:
            return


def _once(told: list[str]) -> Iterator[str]:
    """Equal moves in a row become one, counted."""
    for at, words in enumerate(told):
        if at and told[at - 1] == words:
            continue
        same = next((n for n, other in enumerate(told[at:]) if other != words), len(told) - at)
        yield f"{words} ({same} times)" if same > 1 else words


def _move(event: Event) -> Iterator[str]:
    match event:
        case SandboxFurnished():
            yield from _furniture(event)
        case TurnsScripted():
            turns = "; then ".join(_turn(turn) for turn in event.turns[:6])
            to = f" a prompt with {code(event.when, 60)}" if event.when else ""
            yield f"Have a model that answers{to} so: {turns}"
        case FaultInjected():
            yield f"Fault ({prose(event.fault, 40)}): {prose(event.detail or event.address, 200)}"
        case FaultHealed():
            yield f"End the fault: {prose(event.fault, 80)}"
        case StepWaited():
            yield f"Wait for {'the question' if event.kind == 'question' else prose(event.what or event.kind, 120)}"
        case HttpAsked():
            body = f" with {code(event.body, 160)}" if event.body else ""
            yield f"Ask {prose(event.role, 40)}: {code(f'{event.method} {event.path}', 160)}{body}"
        case _:
            yield from _of_processes(event)


def _of_processes(event: Event) -> Iterator[str]:
    match event:
        case ProcessStarted() if event.role != LOCK_HOLDER:
            extra = f" with {code(' '.join(event.environment), 160)}" if event.environment else ""
            stdin = ", its standard input an open pipe" if event.stdin == "open pipe" else ""
            yield f"Start {code(' '.join(event.argv), 200)}{extra}{stdin}"
        case ProcessExited() if not event.ours and event.role != LOCK_HOLDER:
            yield f"{code(event.role, 40)} ends: exit {event.code}"
        case SignalSent() if event.why != "sweep":
            yield f"Send {prose(event.signal, 20)} to {prose(event.role, 40)}"
        case Expectation() if event.held is False:
            yield f"What is then demanded does not hold: {prose(event.claim, 200)}"


def _furniture(event: SandboxFurnished) -> Iterator[str]:
    for file in event.files:
        yield f"Write {code(file.path, 120)}: {code(file.text, 200)}"
    if event.config not in ("", "{}"):
        yield f"Set in `opencode.json`: {code(event.config, 300)}"


def _turn(turn: ScriptedTurn) -> str:
    if turn.status >= 400:  # noqa: PLR2004 - where HTTP's errors begin
        return f"HTTP {turn.status}{_for_ever(turn)}"
    said = [f"says {code(turn.words.strip(), 80)}"] if turn.words.strip() else []
    said += [f"calls {code(f'{name} {arguments}', 160)}" for name, arguments in turn.calls]
    if turn.stall_after is not None:
        said.append(f"falls silent after {turn.stall_after} events")
    if turn.never_ends:
        said.append("never ends its answer")
    if turn.late_s:
        said.append(f"begins {turn.late_s:g} s late")
    if turn.pace_s:
        said.append(f"pauses {turn.pace_s:g} s between events")
    if turn.barrier:
        said.append(f"is held until {prose(turn.barrier, 40)}")
    return " and ".join(said or [prose(turn.name, 40)]) + _for_ever(turn)


def _for_ever(turn: ScriptedTurn) -> str:
    return " (each time)" if turn.repeats else ""
