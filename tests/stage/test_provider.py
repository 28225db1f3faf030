from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.events import FaultInjected, ProviderReply, ProviderRequest, Trouble
from pytest_ocrepro.history import History
from pytest_ocrepro.stage import turns as scripted
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.provider import MODELS, TITLE, Provider
from pytest_ocrepro.stage.turns import Turn

WAIT_S = 10.0
TOOLS = [{"type": "function", "function": {"name": "bash"}}]


class Asking:
    """One request to the provider, and its answer as far as it has come."""

    def __init__(
        self, provider: Provider, body: object, path: str = "/v1/chat/completions", method: str = "POST"
    ) -> None:
        host, port = provider.address.split(":")
        self.line = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.line.request(method, path, data)
        assert self.line.sock is not None
        self.socket = self.line.sock

    def answer(self) -> tuple[int, str]:
        response = self.line.getresponse()
        with response:
            return response.status, response.read().decode()

    def events(self, count: int | None = None) -> list[Any]:
        """Server-sent events: the first ``count``, or all to the end."""
        response = self.line.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream"
        found: list[Any] = []
        for line in response:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                found.append(data.decode() if data == b"[DONE]" else json.loads(data))
            if len(found) == count:
                return found
        return found

    def silent(self, for_s: float) -> bool:
        self.socket.settimeout(for_s)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        return False


Ask = Callable[..., Asking]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def provider(history: History) -> Iterator[Provider]:
    one = Provider(history, asker=lambda _: 4711)
    yield one
    one.close()


@pytest.fixture
def ask(provider: Provider) -> Iterator[Ask]:
    asked: list[Asking] = []

    def begin(words: str = "hi", *, model: str = "m1", stream: bool = True, tools: object = TOOLS) -> Asking:
        content = [{"type": "text", "text": words}]
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}], "tools": tools}
        asked.append(Asking(provider, body))
        return asked[-1]

    yield begin
    for one in asked:
        one.line.close()


def replies(history: History) -> list[tuple[int, str]]:
    """What became of each request, in the order of asking: a thread of its own serves each, and notes it."""
    return sorted(((event.request, event.what) for event in history.of_type(ProviderReply)), key=lambda one: one[0])


def troubles(history: History) -> list[str]:
    return [event.what for event in history.of_type(Trouble)]


def words_of(events: list[Any]) -> str:
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in events if one != "[DONE]")


def test_the_tools_that_were_offered_are_named(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(*[scripted.text("one")] * 3)
    for tools in ([*TOOLS, {"type": "function", "function": {"name": "read"}}], [7, {}, {"function": 7}], {"x": 1}):
        assert ask(tools=tools).answer()[0] == 200
    assert [one.offered for one in history.of_type(ProviderRequest)] == [("bash", "read"), (), ()]


def test_text_is_streamed_and_recorded(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.text("one two"))
    events = ask("count").events()
    assert words_of(events) == "one two "
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    (asked,) = provider.requests()
    assert (asked.pid, asked.model, asked.tools, asked.title, asked.last_text) == (4711, "m1", 1, False, "count")
    until(lambda: replies(history) == [(1, "begun"), (1, "finished")], timeout_s=WAIT_S, what="the replies")
    assert troubles(history) == []


@pytest.mark.parametrize(
    ("turn", "name", "arguments"),
    [
        (scripted.bash("sleep 9"), "bash", {"command": "sleep 9", "description": "scripted", "timeout": 600_000}),
        (scripted.tool("write", path="a"), "write", {"path": "a"}),
    ],
)
def test_tool_call(provider: Provider, ask: Ask, turn: Turn, name: str, arguments: dict[str, object]) -> None:
    provider.script(turn)
    events = ask().events()
    (call,) = (c for e in events[:-1] for c in e["choices"][0]["delta"].get("tool_calls", ()))
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (name, arguments)
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_question_carries_its_options(provider: Provider, ask: Ask) -> None:
    provider.script(scripted.question("Where?", ("up", "down")))
    call = ask().events()[1]["choices"][0]["delta"]["tool_calls"][0]["function"]
    (asked,) = json.loads(call["arguments"])["questions"]
    assert (asked["question"], [option["label"] for option in asked["options"]]) == ("Where?", ["up", "down"])


def test_title_is_answered_beside_the_script(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.text("for the conversation"))
    assert words_of(ask(tools=None).events()).strip() == TITLE
    with pytest.raises(NotReachedError) as caught:
        provider.wait_for_request(timeout_s=0)
    assert str(caught.value) == "the model was not asked 1 time(s) within 0 s; see what the run printed"
    assert words_of(ask().events()) == "for the conversation "
    provider.wait_for_request(timeout_s=WAIT_S)
    assert [event.title for event in history.of_type(ProviderRequest)] == [True, False]


def test_exhausted_script_is_our_trouble(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.text("only"))
    ask().events()
    status, body = ask().answer()
    assert status == 400
    assert "no turn left" in body
    what = "the provider was asked for 'm1' (request 2) but its script is exhausted"
    assert troubles(history) == [f"{what}; add a turn to the scenario's script"]
    until(lambda: (2, "unexpected") in replies(history), timeout_s=WAIT_S, what="the reply")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", b"{half"),
        ("POST", "/v1/chat/completions", b"\xff\xfe"),
        ("POST", "/v1/chat/completions", []),
        ("POST", "/v1/chat/completions", {"model": "m1"}),
        ("POST", "/v1/responses", {"model": "m1", "messages": []}),
        ("GET", "/v1/files", b""),
    ],
)
def test_unexpected_request_is_our_trouble_and_takes_no_turn(
    provider: Provider, history: History, ask: Ask, method: str, path: str, body: object
) -> None:
    provider.script(scripted.text("kept"))
    asking = Asking(provider, body, path, method)
    assert asking.answer()[0] == 400
    asking.line.close()
    assert troubles(history) == [
        f"the provider cannot read {method} {path} (pid 4711); see that build's provider client"
    ]
    assert words_of(ask().events()) == "kept "


def test_list_of_models(provider: Provider, history: History) -> None:
    asking = Asking(provider, b"", "/v1/models", "GET")
    assert [one["id"] for one in json.loads(asking.answer()[1])["data"]] == list(MODELS)
    asking.line.close()
    assert troubles(history) == []


def test_scripts_by_model_and_by_phrase(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.text("first"), scripted.for_ever(scripted.text("ever")))
    provider.script(scripted.text("second"), model="other")
    provider.script(scripted.text("third"), when="about m1")
    provider.script(scripted.text("fourth"), when="m2")
    said = [
        ask("x", model="other"),
        ask("tell about m1"),
        ask("other", model="m1"),  # a model's name in a prompt is no phrase
        ask("m2", model="m1"),  # and a phrase can be a model's name
        ask(),
        ask(),
    ]
    assert [words_of(one.events()) for one in said] == ["second ", "third ", "first ", "fourth ", "ever ", "ever "]
    assert troubles(history) == []


def test_error_status(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.error(429))
    status, body = ask().answer()
    assert (status, json.loads(body)["error"]["message"]) == (429, "scripted status 429")
    until(lambda: replies(history) == [(1, "error")], timeout_s=WAIT_S, what="the reply")


def test_never_ending_turn_is_a_declared_fault(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.never_ending("Hm"))
    asking = ask()
    assert words_of(asking.events(2)) == "Hm"
    assert asking.silent(0.2)
    until(lambda: replies(history) == [(1, "begun"), (1, "stalled")], timeout_s=WAIT_S, what="the stall")
    (fault,) = history.of_type(FaultInjected)
    assert (fault.fault, fault.silent_for_good, fault.address) == ("provider", True, provider.address)
    assert fault.detail == "silent: the turn 'never-ending' says nothing more"


@pytest.mark.parametrize(("after", "sent"), [(0, 0), (2, 2), (99, 4)])
def test_stall_after_the_nth_event(provider: Provider, history: History, ask: Ask, after: int, sent: int) -> None:
    provider.script(scripted.stall_after(after, scripted.text("a b")))
    asking = ask()
    response = asking.line.getresponse()
    got = [line for line in (response.readline() for _ in range(2 * sent)) if line.strip()]
    assert len(got) == sent
    assert asking.silent(0.2)
    until(lambda: (1, "stalled") in replies(history), timeout_s=WAIT_S, what="the stall")
    assert len(history.of_type(FaultInjected)) == 1
    response.close()


def test_client_that_leaves_a_silence_frees_its_thread(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.never_ending())
    before = threading.active_count()
    asking = ask()
    response = asking.line.getresponse()
    response.readline()
    assert threading.active_count() == before + 1
    response.close()
    asking.line.close()
    asking.socket.close()
    until(lambda: replies(history)[-1:] == [(1, "client-left")], timeout_s=WAIT_S, what="the client seen leaving")
    until(lambda: threading.active_count() == before, timeout_s=WAIT_S, what="the end of its thread")
    assert troubles(history) == []


def seconds_of(history: History, what: str) -> list[float]:
    """When these replies were noted, from the question on."""
    (begun,) = history.of_type(ProviderRequest)
    return [(event.at_ns - begun.at_ns) / 1e9 for event in history.of_type(ProviderReply) if event.what == what]


def test_late_turn_sends_nothing_before_its_time(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.late(0.3, scripted.text("at last")))
    asking = ask()
    assert asking.silent(0.1)
    asking.socket.settimeout(WAIT_S)
    assert words_of(asking.events()) == "at last "
    assert seconds_of(history, "begun")[0] >= 0.3
    assert history.of_type(FaultInjected) == [], "a slow model is no broken one"


def test_turn_that_is_late_for_good_is_declared_silent(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.late(scripted.FOR_GOOD_S, scripted.text("never")))
    asking = ask()
    until(lambda: replies(history) == [(1, "stalled")], timeout_s=WAIT_S, what="the silence")
    assert [event.silent_for_good for event in history.of_type(FaultInjected)] == [True]
    assert asking.silent(0.1), "not even its headers are sent"


def test_late_error(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.late(0.3, scripted.error(500)))
    assert ask().answer()[0] == 500
    until(lambda: replies(history) == [(1, "error")], timeout_s=WAIT_S, what="the reply")
    assert seconds_of(history, "error")[0] >= 0.3


def test_paced_turn_comes_event_by_event(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.paced(0.1, scripted.text("one two")))
    assert words_of(ask().events()) == "one two "
    until(lambda: replies(history)[-1:] == [(1, "finished")], timeout_s=WAIT_S, what="the end")
    said = [*seconds_of(history, "begun"), *seconds_of(history, "continued")]
    assert all(later - sooner >= 0.1 for sooner, later in pairwise(said))
    assert len(said) == 4
    assert history.of_type(FaultInjected) == []


def test_client_that_leaves_a_slow_turn(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.late(WAIT_S * 9, scripted.text("x")), scripted.paced(WAIT_S * 9, scripted.text("x")))
    for asking in (ask(), ask()):
        until(lambda: len(history.of_type(ProviderRequest)) == 2, timeout_s=WAIT_S, what="both questions")
        asking.line.close()
        asking.socket.close()
    until(
        lambda: {(1, "client-left"), (2, "client-left")} <= set(replies(history)), timeout_s=WAIT_S, what="both gone"
    )


def test_barrier_holds_until_opened(provider: Provider, ask: Ask) -> None:
    barrier = provider.barrier("gate")
    provider.script(scripted.for_ever(scripted.held(barrier, scripted.text("through"))))
    first, second = ask(), ask()
    barrier.wait_for_arrival(2, timeout_s=WAIT_S)
    assert first.silent(0.2)
    barrier.open()
    assert [words_of(one.events()) for one in (first, second, ask())] == ["through "] * 3


def test_barrier_that_nobody_comes_to(provider: Provider, ask: Ask) -> None:
    barrier = provider.barrier("gate")
    provider.script(scripted.held(barrier, scripted.text("through")))
    ask()
    barrier.wait_for_arrival(timeout_s=WAIT_S)
    with pytest.raises(NotReachedError) as caught:
        barrier.wait_for_arrival(2, timeout_s=0)
    what = "0 of 2 request(s) came to the provider's barrier 'gate' within 0 s"
    assert str(caught.value) == f"{what}; see the provider's requests"


def test_client_that_leaves_a_barrier(provider: Provider, history: History, ask: Ask) -> None:
    barrier = provider.barrier()
    provider.script(scripted.held(barrier, scripted.text("through")))
    asking = ask()
    barrier.wait_for_arrival(timeout_s=WAIT_S)
    asking.line.close()
    until(lambda: replies(history) == [(1, "client-left")], timeout_s=WAIT_S, what="the client seen leaving")


def test_several_connections_at_once(provider: Provider, history: History, ask: Ask) -> None:
    barrier = provider.barrier()
    held = [scripted.held(barrier, scripted.text(f"turn{n}")) for n in range(20)]
    provider.script(*held)
    asked = [ask() for _ in range(20)]
    barrier.wait_for_arrival(20, timeout_s=WAIT_S)
    assert words_of(ask(tools=None).events()).strip() == TITLE, "others are served meanwhile"
    barrier.open()
    assert sorted(words_of(one.events()) for one in asked) == sorted(f"turn{n} " for n in range(20))
    assert len({event.request for event in history.of_type(ProviderRequest)}) == 21


def test_answer_that_is_not_streamed(provider: Provider, history: History, ask: Ask) -> None:
    provider.script(scripted.text("one two"), scripted.bash("true"), scripted.never_ending())
    status, body = ask(stream=False).answer()
    (choice,) = json.loads(body)["choices"]
    assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, "one two ", "stop")
    (choice,) = json.loads(ask(stream=False).answer()[1])["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "bash"
    assert ask(stream=False).silent(0.2)
    expected = [(1, "finished"), (2, "finished"), (3, "stalled")]
    until(lambda: replies(history) == expected, timeout_s=WAIT_S, what="the three replies")


def test_close_ends_every_thread_and_records_nothing_more(history: History) -> None:
    before = threading.active_count()
    provider = Provider(history)
    barrier = provider.barrier()
    provider.script(scripted.held(barrier, scripted.text("x")), scripted.never_ending())
    body = {"model": "m1", "stream": True, "messages": [], "tools": TOOLS}
    asked = [Asking(provider, body)]
    barrier.wait_for_arrival(timeout_s=WAIT_S)
    asked.append(Asking(provider, body))
    until(lambda: (2, "stalled") in replies(history), timeout_s=WAIT_S, what="the silence")
    events = len(history)
    provider.close()
    provider.close()
    until(lambda: threading.active_count() == before, timeout_s=WAIT_S, what="the end of all threads")
    assert len(history) == events
    for one in asked:
        one.line.close()


def test_bug_of_ours_is_our_trouble(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int | None:
        raise ZeroDivisionError("planted")

    provider = Provider(history, asker=fail)
    asking = Asking(provider, {"messages": [], "tools": TOOLS})
    with pytest.raises(http.client.RemoteDisconnected):
        asking.answer()
    asking.line.close()
    provider.close()
    assert troubles(history) == ["an answer of ours failed: ZeroDivisionError: planted; this is a bug of ours"]


def test_configuration_names_our_address(provider: Provider) -> None:
    config: Any = provider.config()
    assert config["provider"]["mock"]["options"]["baseURL"] == f"http://{provider.address}/v1"
    assert config["model"] == config["small_model"] == "mock/m1"
    assert provider.address.startswith("127.0.0.1:")
