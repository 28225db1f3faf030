from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_ocrepro.events import FaultHealed, FaultInjected, OffLoopback, RegistryRequest, Trouble
from pytest_ocrepro.history import History
from pytest_ocrepro.stage.process import until
from pytest_ocrepro.stage.registry import Registry

WAIT_S = 10.0
PACKAGE = "/@opencode-ai%2fplugin"


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def registry(history: History) -> Iterator[Registry]:
    one = Registry(history, asker=lambda address: int(address.rpartition(":")[2]))
    yield one
    one.close()
    assert history.of_type(Trouble) == []


class Client:
    """One kept-alive connection."""

    def __init__(self, registry: Registry) -> None:
        host, port = registry.address.split(":")
        self.line = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)

    def ask(self, path: str = PACKAGE, method: str = "GET", body: bytes | None = None) -> int:
        self.line.request(method, path, body)
        answer = self.line.getresponse()
        answer.read()
        return answer.status

    def begin(self, history: History) -> None:
        """Ask, and come back when the registry has read it."""
        before = len(history.of_type(RegistryRequest))
        self.line.request("GET", PACKAGE)
        until(lambda: len(history.of_type(RegistryRequest)) > before, timeout_s=WAIT_S, what="the request")

    def is_answered(self, within_s: float) -> bool:
        assert self.line.sock is not None
        self.line.sock.settimeout(within_s)
        try:
            return bool(self.line.sock.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return False


@pytest.fixture
def client(registry: Registry) -> Iterator[Callable[[], Client]]:
    with contextlib.ExitStack() as opened:

        def connect() -> Client:
            one = Client(registry)
            opened.callback(one.line.close)
            return one

        yield connect


def faults(history: History) -> list[tuple[str, bool]]:
    return [(event.detail, event.silent_for_good) for event in history.of_type(FaultInjected)]


def test_not_found_at_once_by_any_method(registry: Registry, history: History, client: Callable[[], Client]) -> None:
    one = client()
    methods = ("GET", "POST", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS")
    assert [one.ask(method=method, body=b"{}") for method in methods] == [404] * 7
    asked = history.of_type(RegistryRequest)
    assert [(event.path, event.reply) for event in asked] == [(PACKAGE, "not-found")] * 7
    assert asked[0].pid == one.line.sock.getsockname()[1]
    assert registry.url == f"http://{registry.address}/"


def test_stall_for_good_until_healed(registry: Registry, history: History, client: Callable[[], Client]) -> None:
    registry.stall()
    first, second = client(), client()
    first.begin(history)
    registry.stall()  # once more: those who wait already must not be forgotten
    second.begin(history)
    assert not first.is_answered(0.2)
    assert not second.is_answered(0.1)
    registry.heal()
    assert [one.line.getresponse().status for one in (first, second)] == [404, 404]
    assert client().ask() == 404
    assert faults(history) == [("silent: accepts connections and never answers", True)] * 2
    assert [event.fault for event in history.of_type(FaultHealed)] == ["registry"]
    assert [event.address for event in history.of_type(FaultInjected)] == [registry.address] * 2


def test_heal_of_what_is_whole_says_nothing(registry: Registry, history: History) -> None:
    registry.heal()
    assert history.of_type(FaultHealed) == []


def test_stall_for_seconds_is_a_delay_of_each_request(
    registry: Registry, history: History, client: Callable[[], Client]
) -> None:
    registry.stall(seconds=0.3)
    for _ in range(2):
        begun = time.monotonic()
        assert client().ask() == 404
        assert 0.3 <= time.monotonic() - begun < WAIT_S
    assert faults(history) == [("slow: answers 0.3 s late", False)]


def test_stall_of_one_path_alone_answers_every_other(
    registry: Registry, history: History, client: Callable[[], Client]
) -> None:
    registry.stall(only="/api.json")
    assert client().ask() == 404
    waiting = client()
    waiting.line.request("GET", "/api.json?all")
    until(lambda: len(history.of_type(RegistryRequest)) == 2, timeout_s=WAIT_S, what="its request")
    assert not waiting.is_answered(0.2)
    assert [one.reply for one in history.of_type(RegistryRequest)] == ["not-found", "stalled"]
    assert faults(history) == [("silent: accepts connections and never answers, asked for /api.json", False)]
    registry.reset()  # another fault is one of all paths again
    with pytest.raises(ConnectionResetError):
        client().ask()


def test_client_that_leaves_a_stall_frees_its_thread(
    registry: Registry, history: History, client: Callable[[], Client]
) -> None:
    registry.stall()
    before = threading.active_count()
    one = client()
    one.begin(history)
    assert threading.active_count() == before + 1
    one.line.close()
    until(lambda: threading.active_count() == before, timeout_s=WAIT_S, what="the end of its thread")


def test_reset_is_seen_as_econnreset(registry: Registry, history: History, client: Callable[[], Client]) -> None:
    registry.reset()
    with pytest.raises(ConnectionResetError) as caught:
        client().ask()
    assert caught.type is ConnectionResetError, "http.client calls a polite end a reset, too"
    assert history.of_type(RegistryRequest)[0].reply == "reset"
    registry.heal()
    assert client().ask() == 404


def test_refuse_is_seen_as_econnrefused_and_heals_at_the_same_address(
    registry: Registry, history: History, client: Callable[[], Client]
) -> None:
    kept = client()
    assert kept.ask() == 404
    registry.refuse()
    with pytest.raises(ConnectionRefusedError):
        client().ask()
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        kept.ask()
    assert history.of_type(RegistryRequest)[-1].reply == "refused"
    registry.heal()
    assert client().ask() == 404
    registry.refuse()
    registry.stall()  # from one fault to another
    with socket.create_connection(tuple(registry.address.split(":")), timeout=WAIT_S):  # type: ignore[arg-type]
        registry.heal()


@pytest.mark.parametrize("mode", ["heal", "stall"])
def test_whoever_wants_to_leave_loopback_is_refused_and_recorded(
    registry: Registry, history: History, client: Callable[[], Client], mode: str
) -> None:
    getattr(registry, mode)()
    assert client().ask("models.example:443", "CONNECT") == 403
    assert client().ask("http://models.example/api.json") == 403
    assert client().ask("http://models.example/api.json", "DELETE") == 403
    assert client().ask("https://models.example/x", "POST", b"{}") == 403
    assert [event.destination for event in history.of_type(OffLoopback)] == [
        "models.example:443",
        "http://models.example/api.json",
        "http://models.example/api.json",
        "https://models.example/x",
    ]
    assert all(event.pid for event in history.of_type(OffLoopback))
    assert history.of_type(RegistryRequest) == []


def test_our_own_address_through_the_proxy_is_no_way_out(
    registry: Registry, history: History, client: Callable[[], Client]
) -> None:
    assert client().ask(f"{registry.url}left-pad") == 404
    assert client().ask(f"http://{registry.address}.example/left-pad") == 403
    assert [event.path for event in history.of_type(RegistryRequest)] == ["/left-pad"]
    assert len(history.of_type(OffLoopback)) == 1


def test_close_breaks_off_whoever_waits_and_records_nothing(history: History) -> None:
    registry = Registry(history)
    registry.stall()
    one = Client(registry)
    one.begin(history)
    events = len(history)
    registry.close()
    registry.close()
    with pytest.raises(OSError, match=r"reset by peer|closed connection"):
        one.line.getresponse()
    one.line.close()
    assert len(history) == events
    with pytest.raises(ConnectionRefusedError):
        Client(registry).ask()


def test_a_published_package_is_served_whatever_way_its_name_is_written(
    registry: Registry, client: Callable[[], Client], history: History
) -> None:
    registry.publish("@opencode-ai/plugin", "1.2.3")
    one = client()
    assert [one.ask(path) for path in (PACKAGE, "/@opencode-ai/plugin", "/other")] == [200, 200, 404]
    tarball = "/@opencode-ai/plugin/-/plugin-1.2.3.tgz"
    assert one.ask(tarball) == 200
    replies = [request.reply for request in history.of_type(RegistryRequest)]
    assert replies == ["served", "served", "not-found", "served"]


def test_a_published_package_is_not_served_by_a_registry_that_resets(
    registry: Registry, client: Callable[[], Client]
) -> None:
    registry.publish("@opencode-ai/plugin", "1.2.3")
    registry.reset()
    with pytest.raises(ConnectionError):
        client().ask()
    registry.heal()
    assert client().ask() == 200
