"""What a scenario may demand of a healthy subject. A broken demand is a reproduction, never an exception.

Each demand is stored as an Expectation event; what pytest makes of it is decided at the end of the trial. Demands
return whether they held (None: could not be told), so that a scenario can go on from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from pytest_ocrepro.events import COMPLETES, Expectation, ProviderRequest
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.judge.ending import STYLED_ERROR, errors_in, plain
from pytest_ocrepro.judge.judgement import ProcessJudgement, Verdict
from pytest_ocrepro.readings import DatabaseReading
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.server import Answer

ENDED_WELL = frozenset({Verdict.COMPLETED, Verdict.FAILED_FAST, Verdict.SILENT})
UNKNOWN = frozenset({Verdict.INCONCLUSIVE, Verdict.ALIVE, Verdict.ENDED_BY_US})
NOT_OVER = UNKNOWN | {Verdict.OVERRAN, Verdict.WAITING_FOR_INPUT}
# What opencode prints when its database fails it: measured on 1.14.48 to 1.18.34, and sqlite.org/rescode.html
DATABASE_ERROR = re.compile(
    r"database (?:table |schema )?is locked|SQLITE_(?:BUSY|LOCKED|CORRUPT|IOERR|CANTOPEN|NOTADB|READONLY|FULL)\w*"
    r"|PRAGMA journal_mode|(?:table|index|trigger|view) \S+ already exists|duplicate column name"
    r"|no such (?:table|column)|CREATE (?:TABLE|(?:UNIQUE )?INDEX)\b"
    r"|Failed (?:to (?:run|execute) (?:the )?)?(?:query|statement)\b|disk I/O error"
    r"|database disk image is malformed|file is not a database|unable to open database file",
    re.IGNORECASE,
)
SHOWN, SAID = 200, 160


class Claims:
    """Writes demands into the history."""

    def __init__(self, history: History) -> None:
        self._history = history

    def excerpt(self, text: str, limit: int) -> str:
        """A cut that no secret survives in part (History.excerpt)."""
        return self._history.excerpt(text, limit)

    def asked(self) -> int:
        """How often the model was asked; for titles it does not count."""
        return sum(not event.title for event in self._history.of_type(ProviderRequest))

    def state(self, claim: str, *, held: bool | None, because: str, role: str = "", finding: str = "") -> bool | None:
        """Store one demand and whether it held."""
        self._history.append(
            Expectation(at_ns=now_ns(), claim=claim, held=held, because=because, role=role, finding=finding)
        )
        return held


class ProcessDemands:
    """Demands on a run. ``watch`` blocks until the process has ended or a verdict about its wait is stable.

    ``wait``: :meth:`Trial.wait_until`.
    """

    def __init__(
        self,
        process: Process,
        claims: Claims,
        watch: Callable[[Process], ProcessJudgement],
        wait: Callable[..., None],
    ) -> None:
        self._process = process
        self._claims = claims
        self._watch = watch
        self._wait = wait

    def to_finish(self) -> bool | None:
        """It answers or fails fast; it must not hang, crash, or come back late."""
        judged = self._watch(self._process)
        held = None if judged.verdict in UNKNOWN else judged.verdict in ENDED_WELL
        return self._claim("answers or fails fast", judged, held=held)

    def to_complete(self) -> bool | None:
        """It does what it was asked to do."""
        judged = self._watch(self._process)
        held = None if judged.verdict in UNKNOWN else judged.verdict is Verdict.COMPLETED
        return self._claim(COMPLETES, judged, held=held)

    def not_to_ask_for_ever(self, many: int, *, timeout_s: float = 60.0) -> bool:
        """It ends before the trial's model was asked so often; all answered alike, no end is then in sight.

        Raises NotReachedError where neither comes within ``timeout_s``.
        """
        process, role = self._process, self._process.role
        self._wait(
            lambda: not process.alive or self._claims.asked() >= many,
            what=f"an end, or {many} requests",
            timeout_s=timeout_s,
        )
        asked = self._claims.asked()
        held = asked < many
        finding, because = "" if held else "asks-for-ever", f"its model was asked {asked} time(s)"
        self._claims.state(f"{role} gives up, or ends", held=held, because=because, role=role, finding=finding)
        return held

    def not_to_die_of_the_database(self) -> bool | None:
        """It ends, and what it prints shows no error of its database."""
        judged = self._watch(self._process)
        line = next((line for line in _errors(self._process.output, judged) if DATABASE_ERROR.search(line)), "")
        if line:
            because = f"exit {judged.exit} after {judged.seconds:.1f} s: {self._claims.excerpt(_flat(line), SHOWN)}"
            claim = f"{self._process.role} does not die of the database"
            return self._claims.state(
                claim, held=False, because=because, role=self._process.role, finding="database-error"
            )
        held = None if judged.verdict in NOT_OVER else not judged.verdict.hung
        return self._claim("does not die of the database", judged, held=held)

    def to_name_what_it_waits_for(self, *names: str) -> bool | None:
        """Its error says which resource failed it: any of these words. One that completes has nothing to name."""
        judged = self._watch(self._process)
        errors = " ".join(_errors(self._process.output, judged))
        named = [name for name in names if _names(errors, name)]
        shown = self._claims.excerpt(_flat(errors), SHOWN)
        shown = shown or self._claims.excerpt(_flat(self._process.output), -SHOWN) or "nothing"
        done = judged.verdict is Verdict.COMPLETED
        held = True if named or done else None if judged.verdict in UNKNOWN else False
        because = f"after {judged.seconds:.1f} s {'it completed' if done else f'it printed: {shown}'}"
        return self._claims.state(
            f"{self._process.role} names the resource ({', '.join(names)})",
            held=held,
            because=because,
            role=self._process.role,
            finding="unnamed-resource" if held is False else "",
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
        return self._claim("accepted", held=self._answer.accepted, finding=self._refusal(), told="")

    def to_be_answered(self) -> bool | None:
        """The message that ``POST /session/:id/message`` gives is one with words, and of a turn that did not fail.

        A turn that fails is answered with 200 too, and its error is in the message (measured on 1.14.48 and 1.18.34).
        """
        told = "" if not self._answer.accepted else why_no_answer(self._answer.json)
        held = self._answer.accepted and not told
        return self._claim(
            "answered", held=held, finding=self._refusal() or ("failed-turn" if told else ""), told=told
        )

    def _refusal(self) -> str:
        if self._answer.accepted:
            return ""
        return "call-unanswered" if self._answer.timed_out else "call-refused"

    def _claim(self, what: str, *, held: bool, finding: str, told: str) -> bool | None:
        answer = self._answer
        said = told or self._claims.excerpt(answer.body, SAID) or answer.error
        because = f"{answer.method} {answer.path} -> {answer.status} after {answer.seconds:.1f} s: "
        because += self._claims.excerpt(said, SHOWN)
        return self._claims.state(
            f"{answer.purpose} is {what}", held=held, because=because, role=answer.role, finding=finding
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


def why_no_answer(message: object) -> str:
    """What keeps an assistant's message, as the API gives it, from being an answer; "" when it is one."""
    match message:
        case {"info": {"error": error}} if error is not None:
            return f"the turn failed: {json.dumps(error)}"
        case {"info": dict(), "parts": list(parts)}:
            return "" if any(_has_words(part) for part in parts) else "the message has no words"
        case _:
            return "this is no message"


def _has_words(part: object) -> bool:
    match part:
        case {"type": "text", "text": str(words)}:
            return bool(words.strip())
        case _:
            return False


def _list(facts: list[str]) -> str:
    return "; ".join(facts[:5]) if facts else "none found"


def _errors(output: str, judged: ProcessJudgement) -> tuple[str, ...]:
    """The lines about what went wrong.

    Of one that completed only those in opencode's own style: an answer of the model may hold any words. Of one that
    failed without such a line, everything.
    """
    if judged.verdict is Verdict.COMPLETED:
        _, found, rest = output.partition(STYLED_ERROR)
        return errors_in(found + rest)
    errors = errors_in(output)
    failed = judged.exit not in (None, 0)
    return errors or (tuple(plain(output).splitlines()) if failed else ())


def _names(text: str, name: str) -> bool:
    """As a word of its own; a plain word that is a folder in some path does not count."""
    before, after = (r"(?<![\w-])", r"(?![\w-])") if "." in name else (r"(?<![\w./-])", r"(?![\w/-])")
    return re.search(before + re.escape(name) + after, text, re.IGNORECASE) is not None


def _flat(text: str) -> str:
    return " ".join(plain(text).split())
