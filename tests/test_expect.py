from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest

from pytest_ocrepro import events as h
from pytest_ocrepro import readings as r
from pytest_ocrepro.expect import AnswerDemands, Claims, DatabaseDemands, ProcessDemands
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.ending import errors_in, last_words, plain
from pytest_ocrepro.judge.judgement import Grade, ProcessJudgement, Verdict
from pytest_ocrepro.stage.process import Process
from pytest_ocrepro.stage.server import Answer

STYLED = "\x1b[91m\x1b[1mError: \x1b[0m"
LOG = "check log file at /tmp/test_database_lock/log/x.log for more details"
LOCKED = f"{STYLED}Unexpected error, {LOG}\n\ndatabase is locked\n"
JOURNAL = f"{STYLED}Unexpected error, {LOG}\n\nFailed to run the query 'PRAGMA journal_mode = WAL'\n"
NOT_FOUND = f"{STYLED}Model not found: bogus/nope-1.\n"
MIGRATED = "Performing one time database migration, may take a few minutes...\nDatabase migration complete.\n"
FAILED_QUERY = 'Failed query: insert into "project" ("id") values (?)\nparams: global\n'
QUERY = f"{STYLED}Unexpected error\n\n{FAILED_QUERY}"
JSON_ERROR = '{"type":"error","error":{"name":"UnknownError","data":{"message":"database is locked"}}}\n'
JSON_TEXT = '{"type":"text","part":{"text":"Error: database is locked"}}\n'
PRETTY = f'{STYLED}{{\n  "name": "UnknownError",\n  "data": {{\n    "message": "Check \\"server\\" logs."\n  }}\n}}\n'


@dataclass
class StandIn:
    output: str = ""
    role: str = "first"
    alive: bool = True


def no_wait(condition: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    """What is waited for is there already."""
    assert condition(), f"{what} within {timeout_s} s"


def demands(output: str, verdict: Verdict, *, code: int | None = 1) -> tuple[ProcessDemands, History]:
    history = History()
    judged = ProcessJudgement(
        role="first",
        pid=1,
        argv=(),
        exit=code,
        verdict=verdict,
        grade=Grade.PROVED,
        milestone="started",
        next_milestone="",
        seconds=2.0,
        because=("so",),
        chain=(),
        refuted_by="",
    )
    process = cast("Process", StandIn(output))
    return ProcessDemands(process, Claims(history), lambda _process: judged, no_wait), history


HUNG = (Verdict.DEADLOCK, Verdict.BLOCKED, Verdict.LIVELOCK, Verdict.STALLED)
UNTOLD = (Verdict.ALIVE, Verdict.INCONCLUSIVE, Verdict.ENDED_BY_US)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_to_finish_and_to_complete(verdict: Verdict) -> None:
    finish: bool | None = verdict in (Verdict.COMPLETED, Verdict.FAILED_FAST, Verdict.SILENT)
    complete: bool | None = verdict is Verdict.COMPLETED
    if verdict in UNTOLD:
        finish = complete = None
    one, history = demands("", verdict)
    assert one.to_finish() is finish
    assert one.to_complete() is complete
    stored = history.of_type(h.Expectation)
    assert [claim.held for claim in stored] == [finish, complete]
    assert all(claim.role == "first" and str(verdict) in claim.because for claim in stored)


@pytest.mark.parametrize(
    ("asked", "alive", "held"), [(0, False, True), (5, False, True), (6, True, False), (9, False, False)]
)
def test_not_to_ask_for_ever(asked: int, alive: bool, held: bool) -> None:  # noqa: FBT001
    history = History()
    for number in range(asked):
        asks = h.ProviderRequest(at_ns=1, request=number, pid=1, path="/v1", model="m1", tools=1, title=False)
        history.append(asks)
        history.append(msgspec.structs.replace(asks, title=True))
    process = cast("Process", StandIn(alive=alive))
    one = ProcessDemands(process, Claims(history), lambda _: pytest.fail("nobody judges"), no_wait)
    assert one.not_to_ask_for_ever(6) is held
    (stored,) = history.of_type(h.Expectation)
    assert (stored.held, stored.finding) == (held, "" if held else "asks-for-ever")
    assert f"asked {asked} time(s)" in stored.because


@pytest.mark.parametrize(
    ("output", "verdict", "held"),
    [
        pytest.param(LOCKED, Verdict.FAILED_FAST, False, id="locked"),
        pytest.param(JOURNAL, Verdict.FAILED_FAST, False, id="journal mode"),
        pytest.param(QUERY, Verdict.FAILED_FAST, False, id="the query that failed on 1.18.34"),
        pytest.param(MIGRATED + LOCKED, Verdict.FAILED_LATE, False, id="behind a migration"),
        pytest.param(JSON_ERROR, Verdict.FAILED_FAST, False, id="JSON"),
        pytest.param("SQLiteError: table `a` already exists\n", Verdict.FAILED_FAST, False, id="exists, no style"),
        pytest.param("\x1b[31mdatabase\x1b[0m is locked\n", Verdict.FAILED_FAST, False, id="escapes inside"),
        pytest.param(LOCKED, Verdict.COMPLETED, False, id="completed, but it printed the error itself"),
        pytest.param(f"{STYLED}CREATE TABLE `x` (\n  id text\n)\n", Verdict.FAILED_FAST, False, id="several lines"),
        pytest.param("Error: database is locked\n", Verdict.COMPLETED, True, id="the model's own words"),
        pytest.param(JSON_TEXT, Verdict.COMPLETED, True, id="the model's own words in JSON"),
        pytest.param(NOT_FOUND, Verdict.FAILED_FAST, True, id="another error"),
        pytest.param(f"{STYLED}the file already exists\n", Verdict.FAILED_FAST, True, id="a file that exists"),
        pytest.param(f"{STYLED}malformed JSON\n", Verdict.FAILED_FAST, True, id="malformed, but no database"),
        pytest.param(MIGRATED + NOT_FOUND, Verdict.FAILED_FAST, True, id="a migration is no error"),
        pytest.param("", Verdict.BLOCKED, False, id="hung"),
        pytest.param("", Verdict.ALIVE, None, id="alive"),
        pytest.param("", Verdict.OVERRAN, None, id="not over"),
        pytest.param("", Verdict.ENDED_BY_US, None, id="ended by us"),
    ],
)
def test_not_to_die_of_the_database(output: str, verdict: Verdict, held: bool | None) -> None:  # noqa: FBT001
    code = 0 if verdict is Verdict.COMPLETED else 1
    one, history = demands(output, verdict, code=code)
    assert one.not_to_die_of_the_database() is held
    stored = history.of_type(h.Expectation)[-1]
    assert stored.held is held
    assert (stored.finding == "database-error") == (held is False and verdict not in HUNG)


@pytest.mark.parametrize(
    ("output", "verdict", "held"),
    [
        pytest.param(LOCKED, Verdict.FAILED_FAST, True, id="database is locked"),
        pytest.param(f"{STYLED}cannot open /x/opencode.db\n", Verdict.FAILED_FAST, True, id="the file"),
        pytest.param(JSON_ERROR, Verdict.FAILED_FAST, True, id="JSON"),
        pytest.param(QUERY, Verdict.FAILED_FAST, False, id="only a query"),
        pytest.param(JOURNAL, Verdict.FAILED_FAST, False, id="only the folder of the log is called so"),
        pytest.param(MIGRATED + JOURNAL, Verdict.FAILED_FAST, False, id="only the migration is called so"),
        pytest.param(f"{STYLED}see /x/database/y\n", Verdict.FAILED_FAST, False, id="only a folder is called so"),
        pytest.param(f"{STYLED}databases\n", Verdict.FAILED_FAST, False, id="part of a word"),
        pytest.param("", Verdict.BLOCKED, False, id="it says nothing and hangs"),
        pytest.param("done\n", Verdict.COMPLETED, True, id="nothing failed"),
        pytest.param("", Verdict.ALIVE, None, id="it may yet say it"),
    ],
)
def test_to_name_what_it_waits_for(output: str, verdict: Verdict, held: bool | None) -> None:  # noqa: FBT001
    one, history = demands(output, verdict, code=0 if verdict is Verdict.COMPLETED else 1)
    assert one.to_name_what_it_waits_for("opencode.db", "database") is held
    stored = history.of_type(h.Expectation)[-1]
    assert stored.finding == ("unnamed-resource" if held is False else "")


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("", ()),
        ("all fine, no error here\n", ()),
        ("done\n0 errors\n", ()),
        (NOT_FOUND, ("Error: Model not found: bogus/nope-1.",)),
        ("hello\n" + NOT_FOUND, ("Error: Model not found: bogus/nope-1.",)),
        (LOCKED, ("Error: Unexpected error", "database is locked")),
        (JSON_ERROR, ("database is locked",)),
        (JSON_TEXT, ()),
        ('{"type":"error","error":"plain"}\n', ("plain",)),
        ('{"type":"error"\n', ()),
        ("panic(main thread): Segmentation fault\n", ("panic(main thread): Segmentation fault",)),
    ],
)
def test_errors_in(output: str, errors: tuple[str, ...]) -> None:
    assert errors_in(output) == errors


def test_last_words() -> None:
    assert last_words(PRETTY) == 'Check "server" logs.'
    assert last_words(LOCKED) == "Error: Unexpected error / database is locked"
    assert last_words("one\ntwo\n") == "two"
    assert last_words("") == ""
    assert len(last_words("Error: " + "x" * 999)) == 300


def test_plain_takes_out_escapes_only() -> None:
    assert plain("\x1b[0m\r\n> build \x1b]8;;http://x\x07[m1]\x1b]8;;\x07") == "\n> build [m1]"


def answer(status: int, **more: Any) -> Answer:
    values: dict[str, Any] = {"body": "", "error": "", "seconds": 0.1, "purpose": "delete", "role": "server"}
    return Answer(method="DELETE", path="/x", status=status, **{**values, **more})


@pytest.mark.parametrize(("status", "held"), [(200, True), (204, True), (400, False), (409, False), (0, False)])
def test_answers(status: int, held: bool) -> None:  # noqa: FBT001
    history = History()
    assert AnswerDemands(answer(status), Claims(history)).to_be_accepted() is held
    stored = history.of_type(h.Expectation)[-1]
    assert (stored.held, stored.finding) == (held, "" if held else "call-refused")


WORDS = {"type": "text", "text": "done "}
API_ERROR = {"name": "APIError", "data": {"message": "scripted status 400", "statusCode": 400}}


@pytest.mark.parametrize(
    ("body", "finding", "told"),
    [
        pytest.param({"info": {}, "parts": [{"type": "step-start"}, WORDS]}, "", "done", id="words"),
        pytest.param({"info": {"error": None}, "parts": [WORDS]}, "", "done", id="an error that is null"),
        pytest.param({"info": {"error": API_ERROR}, "parts": []}, "failed-turn", "status 400", id="an error"),
        pytest.param(
            {"info": {"error": API_ERROR}, "parts": [WORDS]}, "failed-turn", "APIError", id="words and an error"
        ),
        pytest.param(
            {"info": {"error": {}}, "parts": []}, "failed-turn", "failed: {}", id="an error that says nothing"
        ),
        pytest.param({"info": {}, "parts": [{"type": "step-start"}]}, "failed-turn", "no words", id="only a step"),
        pytest.param({"info": {}, "parts": [{"type": "text", "text": " \n"}]}, "failed-turn", "no words", id="blank"),
        pytest.param({"info": {}, "parts": [{"type": "text"}, 3]}, "failed-turn", "no words", id="torn parts"),
        pytest.param({"parts": [WORDS]}, "failed-turn", "no message", id="no info"),
        pytest.param([WORDS], "failed-turn", "no message", id="a list"),
        pytest.param(True, "failed-turn", "no message", id="what prompt_async gave"),
    ],
)
def test_an_answer_is_a_message_with_words(body: object, finding: str, told: str) -> None:
    history = History()
    given = answer(200, body=json.dumps(body), purpose="a new prompt")
    assert AnswerDemands(given, Claims(history)).to_be_answered() is not bool(finding)
    (stored,) = history.of_type(h.Expectation)
    assert (stored.claim, stored.held, stored.finding) == ("a new prompt is answered", not finding, finding)
    assert told in stored.because


@pytest.mark.parametrize(
    ("given", "finding"),
    [
        (answer(200, body="<html>"), "failed-turn"),
        (answer(204), "failed-turn"),
        (answer(500, body=json.dumps({"info": {}, "parts": [WORDS]})), "call-refused"),
        (answer(0, error="no answer within 20 s", timed_out=True), "call-unanswered"),
        (answer(0, error="ConnectionRefusedError"), "call-refused"),
    ],
)
def test_what_is_no_message_is_no_answer(given: Answer, finding: str) -> None:
    history = History()
    assert AnswerDemands(given, Claims(history)).to_be_answered() is False
    (stored,) = history.of_type(h.Expectation)
    assert stored.finding == finding
    assert given.error in stored.because


def database(**more: Any) -> r.DatabaseReading:
    values: dict[str, Any] = {"readable": True}
    return r.DatabaseReading(path="db", size_bytes=1, wal_bytes=0, **{**values, **more})


def part(session: str) -> r.UnfinishedPart:
    return r.UnfinishedPart(session=session, message="m", part="p", tool="bash", status="running", started=True)


@pytest.mark.parametrize(
    ("reading", "held", "findings"),
    [
        (database(), True, ["", ""]),
        (database(unfinished_parts=(part("s1"),)), False, ["orphaned-part", ""]),
        (database(unfinished_parts=(part("other"),)), True, ["", ""]),
        (
            database(unfinished_messages=(r.UnfinishedMessage(session="s1", message="m"),)),
            False,
            ["", "orphaned-message"],
        ),
        (database(readable=False, error="torn"), None, [""]),
    ],
)
def test_orphans(reading: r.DatabaseReading, held: bool | None, findings: list[str]) -> None:  # noqa: FBT001
    history = History()
    assert DatabaseDemands(reading, Claims(history)).to_have_no_orphans("s1") is held
    assert [claim.finding for claim in history.of_type(h.Expectation)] == findings
