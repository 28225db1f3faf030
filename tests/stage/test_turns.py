from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from pytest_ocrepro.errors import UsageError
from pytest_ocrepro.events import ProviderReply, ProviderRequest
from pytest_ocrepro.history import History, now_ns
from pytest_ocrepro.stage.provider import Provider
from pytest_ocrepro.stage.turns import (
    Turn,
    bash,
    broken_off,
    costing,
    error,
    events_of,
    finishing,
    never_ending,
    opened,
    stall_after,
    text,
    together,
    whole,
    with_comments,
)  # fmt: skip

WAIT_S = 20.0
WORDS = text("one two three")


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider(History())
    yield made
    made.close()


@contextmanager
def ask(provider: Provider, *, messages: list[dict[str, Any]] | None = None) -> Iterator[http.client.HTTPResponse]:
    host, port = provider.address.split(":")
    line = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    body = {"model": "m1", "stream": True, "tools": [{}], "messages": messages or [{"role": "user", "content": "hi"}]}
    line.request("POST", "/v1/chat/completions", json.dumps(body))
    with closing(line), line.getresponse() as answer:
        yield answer


def replies(provider: Provider) -> list[str]:
    found = provider._history
    assert found.wait_for(lambda history: len(history.of_type(ProviderReply)) > 1, deadline_ns=now_ns() + 10**10)
    return [event.what for event in found.of_type(ProviderReply)]


def test_a_polite_end_without_a_finish(provider: Provider) -> None:
    provider.script(broken_off(2, WORDS))
    with ask(provider) as answer:
        said = answer.read().decode()
    assert "one" in said
    assert "two" not in said
    assert 'finish_reason": "' not in said
    assert "[DONE]" not in said
    assert replies(provider) == ["begun", "broken-off"]


def test_a_reset(provider: Provider) -> None:
    provider.script(broken_off(0, WORDS, how="reset"))
    with pytest.raises((ConnectionResetError, http.client.HTTPException)), ask(provider) as answer:
        answer.read()
    assert replies(provider)[-1] == "broken-off"


def test_no_other_way_to_break_off() -> None:
    with pytest.raises(UsageError, match="no way to break a turn off: 'bang'; use one of eof, reset"):
        broken_off(1, WORDS, how="bang")


def test_comments_go_on_where_the_turn_is_silent(provider: Provider) -> None:
    provider.script(with_comments(0.01, stall_after(1, WORDS)))
    with ask(provider) as answer:
        lines = [answer.readline() for _ in range(8)]
    assert lines.count(b": keepalive\n") >= 3
    assert not any(b"one" in line for line in lines)


def test_what_is_said_in_the_end() -> None:
    assert list(events_of(finishing("length", WORDS)))[-1]["choices"][0]["finish_reason"] == "length"
    assert whole(finishing("", text("")))["choices"][0]["finish_reason"] == ""
    assert [event["choices"][0]["finish_reason"] for event in events_of(WORDS)][-1] == "stop"


def test_a_call_whose_arguments_never_come() -> None:
    turn = opened("bash")
    (_, call) = events_of(turn)
    function = call["choices"][0]["delta"]["tool_calls"][0]["function"]
    assert (function, turn.silent) == ({"name": "bash", "arguments": ""}, True)


def test_tokens_that_the_prompt_is_said_to_have_had() -> None:
    turn = costing(99_000, WORDS)
    assert list(events_of(turn))[-1]["usage"]["prompt_tokens"] == 99_000
    assert whole(turn)["usage"]["total_tokens"] == 99_001
    assert list(events_of(WORDS))[-1]["usage"]["prompt_tokens"] == 1


def test_several_calls_in_one_answer() -> None:
    turn = together(text("first this"), bash("true"), bash("false"))
    calls = [call for event in events_of(turn) for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert (turn.name, turn.words) == ("text + tool bash + tool bash", ("first ", "this "))


@pytest.mark.parametrize(
    ("turn", "beyond"),
    [(WORDS, False), (error(429), False), (never_ending(), False), (stall_after(2, WORDS), False),
     (with_comments(1, never_ending()), True), (broken_off(1, WORDS), True), (opened("bash"), True),
     (finishing("", WORDS), True), (costing(9, WORDS), True)],
)  # fmt: skip
def test_what_a_short_script_cannot_say(turn: Turn, beyond: bool) -> None:  # noqa: FBT001  of a table
    assert turn.beyond_a_script is beyond


def test_calls_that_no_result_follows_are_in_the_history(provider: Provider) -> None:
    calls = [{"id": n, "function": {"name": name}} for n, name in (("a", "bash"), ("b", "write"))]
    told: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "a"}]
    provider.script(WORDS)
    with ask(provider, messages=told) as answer:
        answer.read()
    (request,) = provider._history.of_type(ProviderRequest)
    assert request.unanswered == ("write",)
