"""A trial as a plan that needs nothing of ours: the scenario's own moves up to its first broken demand. Pure.

What cannot be told in a short script is refused with one line that says why; a script that shows something else than
the trial did would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from pytest_ocrepro.errors import OcreproError
from pytest_ocrepro.events import (
    Event,
    Expectation,
    FaultHealed,
    FaultInjected,
    HttpAsked,
    HttpCall,
    ProcessExited,
    ProcessStarted,
    ProviderRequest,
    SandboxFurnished,
    ScriptedTurn,
    SignalSent,
    StepWaited,
    TurnsScripted,
)
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Judgement, Result, Verdict
from pytest_ocrepro.publish.records import StoredTrial

LOCK_HOLDER = "lock-holder"  # the role of the harness' own process that holds a database lock
SUBJECT = "opencode"
SESSION_ID = re.compile(r"ses_[A-Za-z0-9]+")
NAMES = re.compile(r"names the resource \((.*)\)$")
MASK = re.compile(r"\[masked:[^\]]*\]")
STILL_THERE = {Verdict.OVERRAN, Verdict.WAITING_FOR_INPUT, Verdict.FAILED_LATE}
PATIENCE = 3.0  # times the limit of the trial
SIGNALS = {"SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP", "SIGCONT"}


class InexpressibleError(OcreproError):
    """A trial cannot be told as a script that stands alone."""


class Shows(StrEnum):
    """What is looked at in the end to tell whether the bug is there."""

    STILL_RUNS = "still-runs"
    REFUSED = "refused"
    ORPHANED_PART = "orphaned-part"
    ORPHANED_MESSAGE = "orphaned-message"
    DATABASE_ERROR = "database-error"
    UNNAMED = "unnamed"


FINDINGS = {
    "call-refused": Shows.REFUSED,
    "orphaned-part": Shows.ORPHANED_PART,
    "orphaned-message": Shows.ORPHANED_MESSAGE,
    "database-error": Shows.DATABASE_ERROR,
    "unnamed-resource": Shows.UNNAMED,
    "slow-start": Shows.STILL_RUNS,
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``steps`` in order; ``roles``: the processes that the check is about; ``turns``: what the model says."""

    claim: str
    shows: Shows
    roles: tuple[str, ...]
    names: tuple[str, ...]  # of the resource that an error ought to name
    limit_s: float  # after which a process that still runs is the bug
    furniture: SandboxFurnished
    turns: tuple[ScriptedTurn, ...]
    registry: str  # "not-found" or "stalled"
    steps: tuple[Event, ...]
    answers: tuple[HttpCall | None, ...]  # beside the steps: what an HttpAsked was answered


def plan(trial: StoredTrial) -> Plan:
    """The plan of a trial that reproduced. Raises InexpressibleError."""
    if trial.judgement is None or trial.judgement.result is not Result.REPRODUCED:
        raise InexpressibleError("the trial did not reproduce anything that a script could show")
    events = sorted(trial.history, key=lambda event: event.at_ns)
    reason = "what the scenario demands cannot be checked by a short script"
    for target in (event for event in events if isinstance(event, Expectation) and event.held is False):
        shows = _shows(target, trial.judgement)
        if shows is None:
            continue
        try:
            found = _Planner(trial.history, events, target, shows).plan()
        except InexpressibleError as error:
            reason = str(error)
        else:
            return _patient(found, _verdict_of(target.role, trial.judgement))
    raise InexpressibleError(reason)


def made(answer: HttpCall) -> str:
    """The id of the session that an answer is about; its text may have been cut short."""
    found = SESSION_ID.search(answer.body)
    return found[0] if found else ""


def _shows(target: Expectation, judged: Judgement) -> Shows | None:
    """How the broken demand can be seen from a script; None where it cannot."""
    if target.finding:
        return FINDINGS.get(target.finding)
    verdict = _verdict_of(target.role, judged)
    stays = verdict is not None and (verdict.hung or verdict in STILL_THERE)
    return Shows.STILL_RUNS if stays else None


def _verdict_of(role: str, judged: Judgement) -> Verdict | None:
    return next((one.verdict for one in judged.processes if one.role == role), None)


def _patient(found: Plan, verdict: Verdict | None) -> Plan:
    """Who hangs still does so later; on a busy machine a healthy one can be slow. Only what came late is late."""
    stays = verdict is not None and (verdict.hung or verdict is Verdict.WAITING_FOR_INPUT)
    return msgspec.structs.replace(found, limit_s=found.limit_s * PATIENCE) if stays else found


class _Planner:
    def __init__(self, history: History, events: Sequence[Event], target: Expectation, shows: Shows) -> None:
        self._target = target
        self._shows = shows
        self._all = events
        self._before = [event for event in events if event.at_ns <= target.at_ns]
        self._started = {event.role: event for event in history.of_type(ProcessStarted)}

    def plan(self) -> Plan:
        self._refuse()
        steps, answers = self._steps()
        _refuse_what_is_masked([*self._furniture()[:1], *self._scripts(), *steps])
        names = NAMES.search(self._target.claim)
        started = self._started.get(self._target.role)
        return Plan(
            claim=self._target.claim,
            shows=self._shows,
            roles=self._roles(),
            names=tuple(names[1].split(", ")) if names else (),
            limit_s=started.fail_fast_s if started else 0.0,
            furniture=self._furniture()[0],
            turns=self._turns(steps),
            registry="stalled" if any(fault.fault == "registry" for fault in self._faults()) else "not-found",
            steps=tuple(steps),
            answers=tuple(answers),
        )

    def _roles(self) -> tuple[str, ...]:
        """Of several processes of which the same is demanded, any may show a race."""
        if self._shows is not Shows.DATABASE_ERROR:
            return (self._target.role,)
        same = self._target.claim.removeprefix(self._target.role)
        asked = [event for event in self._all if isinstance(event, Expectation)]
        roles = [event.role for event in asked if event.role and event.claim == event.role + same]
        return tuple(dict.fromkeys([*roles, self._target.role]))

    def _faults(self) -> list[FaultInjected]:
        return [event for event in self._before if isinstance(event, FaultInjected)]

    def _furniture(self) -> list[SandboxFurnished]:
        return [event for event in self._before if isinstance(event, SandboxFurnished)]

    def _scripts(self) -> list[TurnsScripted]:
        return [event for event in self._before if isinstance(event, TurnsScripted)]

    def _refuse(self) -> None:
        furniture = self._furniture()
        if not furniture:
            raise InexpressibleError("this bundle does not say what lay on the stage; run the scenario again")
        if len(furniture) > 1 or furniture[0].left_out:
            raise InexpressibleError("the scenario's files or configuration are too much for a short script")
        for fault in self._faults():
            if fault.fault == "registry" and not fault.silent_for_good:
                raise InexpressibleError(f"the registry's fault cannot be made by a short script: {fault.detail}")
            if fault.fault not in ("registry", "database-lock", "provider"):
                raise InexpressibleError(f"the fault {fault.fault!r} cannot be made by a short script")
        if any(isinstance(event, FaultHealed) and event.fault == "registry" for event in self._before):
            raise InexpressibleError("the registry's fault is healed in between, which a short script cannot do")
        for event in self._before:
            if isinstance(event, ProcessStarted) and event.role != LOCK_HOLDER and event.argv[:1] != (SUBJECT,):
                raise InexpressibleError(f"the scenario starts {event.role!r}, a program of its own")
            if isinstance(event, SignalSent) and event.why != "sweep" and event.signal not in SIGNALS:
                raise InexpressibleError(f"the scenario sends {event.signal}, which a short script does not")

    def _steps(self) -> tuple[list[Event], list[HttpCall | None]]:
        asked = list(self._calls())
        last = asked[-1][0] if asked and self._shows is Shows.REFUSED else None
        sessions = set(SESSION_ID.findall(last.path)) if last else set()
        kept = {id(one): answer for one, answer in asked if not sessions or _concerns(one, answer, sessions)}
        steps: list[Event] = []
        answers: list[HttpCall | None] = []
        for event in self._before:
            if self._wanted(event, kept, sessions):
                steps.append(event)
                answers.append(kept.get(id(event)))
            if event is last:
                break
        return steps, answers

    def _calls(self) -> Iterator[tuple[HttpAsked, HttpCall | None]]:
        told = [event for event in self._before if isinstance(event, HttpCall)]
        for asked in (event for event in self._before if isinstance(event, HttpAsked)):
            same = _key(asked)
            yield asked, next((one for one in told if one.at_ns >= asked.at_ns and _key(one) == same), None)

    def _wanted(self, event: Event, kept: dict[int, HttpCall | None], sessions: set[str]) -> bool:
        if isinstance(event, HttpAsked):
            return id(event) in kept
        if isinstance(event, StepWaited):
            return not (event.kind == "question" and sessions and event.what not in sessions)
        if isinstance(event, SignalSent):
            return event.why != "sweep"
        if isinstance(event, ProcessExited):
            return not event.ours and event.role != LOCK_HOLDER and event.role not in self._roles()
        if isinstance(event, (FaultInjected, FaultHealed)):
            return event.fault == "database-lock"
        if isinstance(event, ProviderRequest):
            return not event.title and not sessions
        return isinstance(event, ProcessStarted) and event.role != LOCK_HOLDER

    def _turns(self, steps: Sequence[Event]) -> tuple[ScriptedTurn, ...]:
        said = "\n".join(
            [one.body for one in steps if isinstance(one, HttpAsked)]
            + [" ".join(one.argv) for one in steps if isinstance(one, ProcessStarted)]
        )
        scripts: dict[str, list[ScriptedTurn]] = {}
        for one in self._scripts():
            if one.when in said if one.when else one.model in said:
                scripts.setdefault(one.when or one.model, []).extend(one.turns)
        if len(scripts) > 1:
            raise InexpressibleError("the model has several scripts at once, too much for a short script")
        turns = _with_subagents(list(next(iter(scripts.values()), ())), self._scripts(), said)
        if any(turn.barrier for turn in turns):
            raise InexpressibleError("the scenario holds an answer of the model at a barrier")
        if any(turn.late_s or turn.pace_s for turn in turns):
            raise InexpressibleError("the scenario has an answer of the model come late or with pauses")
        if any(turn.beyond for turn in turns):
            raise InexpressibleError("the scenario has the model answer in a way that a short script cannot")
        return turns


def _with_subagents(
    turns: list[ScriptedTurn], scripts: Iterable[TurnsScripted], said: str
) -> tuple[ScriptedTurn, ...]:
    """What a subagent is told to do is in no step, but in the call that starts it: its turns come right after."""
    for script in scripts:
        at = next((n for n, turn in enumerate(turns) if any(script.when in call[1] for call in turn.calls)), None)
        if script.when and script.when not in said and at is not None:
            turns[at + 1 : at + 1] = script.turns
    return tuple(turns)


def _key(call: HttpAsked | HttpCall) -> tuple[str, str, str]:
    return call.role, call.method, call.path


def _concerns(asked: HttpAsked, answer: HttpCall | None, sessions: set[str]) -> bool:
    """The call is about one of these sessions, or made one of them."""
    if set(SESSION_ID.findall(asked.path)) & sessions:
        return True
    return asked.path == "/session" and answer is not None and made(answer) in sessions


def _refuse_what_is_masked(steps: Iterable[Event]) -> None:
    """What the gate took out cannot be written into a script again."""
    for event in steps:
        told: tuple[str, ...] = ()
        if isinstance(event, ProcessStarted):
            told = (*event.argv, *event.environment)
        elif isinstance(event, HttpAsked):
            told = (event.path, event.body)
        elif isinstance(event, SandboxFurnished):
            told = (event.config, *(part for file in event.files for part in (file.path, file.text)))
        elif isinstance(event, TurnsScripted):
            told = tuple(part for turn in event.turns for part in (turn.words, *(call[1] for call in turn.calls)))
        found = next((MASK.search(text) for text in told if MASK.search(text)), None)
        if found is not None:
            raise InexpressibleError(f"a step of it holds {found[0]}, which was masked before it was stored")
