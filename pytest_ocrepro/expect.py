"""What a scenario may demand of a healthy subject. A broken demand is a reproduction, never an exception.

Each demand is stored as an Expectation event; what pytest makes of it is decided at the end of the trial. Demands
return whether they held (None: could not be told), so that a scenario can go on from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pytest_ocrepro.history import Expectation, History, now_ns
from pytest_ocrepro.judge.judgement import ProcessJudgement, Verdict
from pytest_ocrepro.readings import DatabaseReading
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.server import Answer

ENDED_WELL = frozenset({Verdict.COMPLETED, Verdict.FAILED_FAST, Verdict.SILENT})
UNKNOWN = frozenset({Verdict.INCONCLUSIVE, Verdict.ALIVE})
# What opencode prints when its database fails it; measured on 1.14.48 to 1.18.34
DATABASE_ERROR = re.compile(
    r"database is locked|database table is locked|SQLITE_BUSY|PRAGMA journal_mode|CREATE TABLE|already exists"
    r"|duplicate column|no such table|Failed to (?:run|execute) (?:the query|statement)|disk I/O error|malformed",
    re.IGNORECASE,
)


class Claims:
    """Writes demands into the history."""

    def __init__(self, history: History) -> None:
        self._history = history

    def state(self, claim: str, *, held: bool | None, because: str, role: str = "", finding: str = "") -> bool | None:
        """Store one demand and whether it held."""
        self._history.append(
            Expectation(at_ns=now_ns(), claim=claim, held=held, because=because, role=role, finding=finding)
        )
        return held


class ProcessDemands:
    """Demands on a run. ``watch`` blocks until the process has ended or a verdict about its wait is stable."""

    def __init__(self, process: Process, claims: Claims, watch: Callable[[Process], ProcessJudgement]) -> None:
        self._process = process
        self._claims = claims
        self._watch = watch

    def to_finish(self) -> bool | None:
        """It answers or fails fast; it must not hang, crash, or come back late."""
        judged = self._watch(self._process)
        held = None if judged.verdict in UNKNOWN else judged.verdict in ENDED_WELL
        return self._claim("answers or fails fast", judged, held=held)

    def to_complete(self) -> bool | None:
        """It does what it was asked to do."""
        judged = self._watch(self._process)
        held = None if judged.verdict in UNKNOWN else judged.verdict is Verdict.COMPLETED
        return self._claim("does what it was asked", judged, held=held)

    def not_to_die_of_the_database(self) -> bool | None:
        """It ends, and what it prints shows no error of its database."""
        judged = self._watch(self._process)
        found = DATABASE_ERROR.search(self._process.output)
        if found:
            line = next(line for line in self._process.output.splitlines() if found.group(0) in line)
            because = f"exit {judged.exit} after {judged.seconds:.1f} s: {_plain(line)}"
            claim = f"{self._process.role} does not die of the database"
            return self._claims.state(
                claim, held=False, because=because, role=self._process.role, finding="database-error"
            )
        held = None if judged.verdict in UNKNOWN else not judged.verdict.hung
        return self._claim("does not die of the database", judged, held=held)

    def to_name_what_it_waits_for(self, *names: str) -> bool | None:
        """Its error says which resource failed it: any of these words."""
        judged = self._watch(self._process)
        said = _plain(self._process.output)
        named = [name for name in names if name.lower() in said.lower()]
        shown = said[-200:] if said else "nothing"
        because = f"after {judged.seconds:.1f} s it printed: {shown}"
        claim = f"{self._process.role} names the resource ({', '.join(names)})"
        return self._claims.state(
            claim,
            held=bool(named),
            because=because,
            role=self._process.role,
            finding="" if named else "unnamed-resource",
        )

    def _claim(self, what: str, judged: ProcessJudgement, *, held: bool | None) -> bool | None:
        because = f"{judged.verdict} ({judged.grade}) after {judged.seconds:.1f} s: {'; '.join(judged.because)}"
        return self._claims.state(f"{self._process.role} {what}", held=held, because=because, role=self._process.role)


class AnswerDemands:
    """Demands on one HTTP answer."""

    def __init__(self, answer: Answer, claims: Claims) -> None:
        self._answer = answer
        self._claims = claims

    def to_be_accepted(self) -> bool | None:
        """A 2xx status, within the call's own timeout."""
        answer = self._answer
        said = answer.body[:160] or answer.error
        because = f"{answer.method} {answer.path} -> {answer.status} after {answer.seconds:.1f} s: {said}"
        return self._claims.state(
            f"{answer.purpose} is accepted",
            held=answer.accepted,
            because=because,
            role=answer.role,
            finding="" if answer.accepted else "call-refused",
        )


class DatabaseDemands:
    """Demands on stored state."""

    def __init__(self, reading: DatabaseReading, claims: Claims) -> None:
        self._reading = reading
        self._claims = claims

    def to_have_no_orphans(self, session: str = "") -> bool | None:
        """No tool part is pending or running and no message is unfinished (in one session, or in all)."""
        reading = self._reading
        if not reading.readable:
            return self._claims.state("nothing is left unfinished", held=None, because=f"unreadable: {reading.error}")
        parts = [part for part in reading.unfinished_parts if session in ("", part.session)]
        messages = [message for message in reading.unfinished_messages if session in ("", message.session)]
        self._claims.state(
            "no tool part stays unfinished",
            held=not parts,
            finding="orphaned-part" if parts else "",
            because=_list([f"{part.tool} part {part.part} is {part.status}" for part in parts]),
        )
        self._claims.state(
            "no message stays unfinished",
            held=not messages,
            finding="orphaned-message" if messages else "",
            because=_list([f"{message.message} has no time.completed" for message in messages]),
        )
        return not parts and not messages


def _list(facts: list[str]) -> str:
    return "; ".join(facts[:5]) if facts else "none found"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).strip()
