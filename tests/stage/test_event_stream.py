from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History
from pytest_ocrepro.stage import event_stream as room
from pytest_ocrepro.stage.event_stream import EventStream


class Source:
    """A server whose stream says what the test tells it to."""

    def __init__(self) -> None:
        self.more, self.gone = threading.Semaphore(0), threading.Event()
        self.said: list[bytes | None] = []
        self.kind = "text/event-stream"
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", source.kind)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while source.more.acquire(timeout=20):
                    some = source.said.pop(0)
                    try:
                        self.wfile.write(f"{len(some or b''):x}\r\n".encode() + (some or b"") + b"\r\n")
                    except OSError:
                        break
                    if some is None:
                        break
                source.gone.set()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def say(self, some: bytes | None) -> None:
        self.said.append(some)
        self.more.release()

    def tell(self, kind: str, **properties: object) -> None:
        event = {"directory": "/p", "payload": {"type": kind, "properties": properties}}
        self.say(f"data: {json.dumps(event)}\n\n".encode())


@pytest.fixture
def source() -> Iterator[Source]:
    one = Source()
    yield one
    one.server.shutdown()
    one.server.server_close()
    one.thread.join()


def test_waits_for_the_event_of_the_session_and_counts_what_was_told(source: Source) -> None:
    history = History()
    with EventStream(source.port, "server", history) as events:
        source.tell("session.idle", sessionID="other")
        source.tell("session.idle", sessionID="mine")
        source.tell("session.idle", sessionID="mine", second=True)
        assert events.wait_for("session.idle").session == "other"
        assert events.wait_for("session.idle", session="mine", count=2).properties["second"] is True
        first, *_ = events.told
        assert (first.kind, first.session) == ("session.idle", "other")
        source.tell("server.heartbeat")
        assert events.wait_for("server.heartbeat").session == ""
    (note,) = history.of_type(Note)
    assert note.text == "events of server: server.heartbeat 1, session.idle 3"


def test_an_event_in_pieces_is_one_and_what_is_none_is_passed_over(source: Source) -> None:
    with EventStream(source.port, "server", History()) as events:
        for piece in (
            b": comment\n\ndata: x\n\ndata: 7\n\ndata: {}\n\nda",
            b'ta: {"type": "a", ',
            b'"properties": 5}\n',
        ):
            source.say(piece)
        assert events.wait_for("a").properties == {}
        assert [one.kind for one in events.told] == ["a"]


def test_what_does_not_come_is_named_with_the_reason(source: Source) -> None:
    with EventStream(source.port, "server", History()) as events:
        with pytest.raises(NotReachedError, match=r"server told 0 event\(s\) a of session s of 1: not within 0.01 s"):
            events.wait_for("a", session="s", timeout_s=0.01)
        source.say(None)
        with pytest.raises(NotReachedError, match=r"told 0 event\(s\) a of 1: the stream ended before \(its end"):
            events.wait_for("a", timeout_s=20)


def test_leaving_it_breaks_the_connection_off(source: Source) -> None:
    with EventStream(source.port, "server", History()):
        pass
    while not source.gone.wait(0.01):
        source.tell("a")


def test_what_is_no_stream_or_no_server_is_refused(source: Source) -> None:
    source.kind = "text/html"
    with (
        pytest.raises(NotReachedError, match="server begins no stream of events: 200, text/html"),
        EventStream(source.port, "server", History()),
    ):
        pass
    source.say(None)
    source.server.server_close()
    with (
        pytest.raises(NotReachedError, match=r"server begins no stream of events: .*refused"),
        EventStream(1, "server", History()),
    ):
        pass


def test_a_flood_is_counted_and_not_kept(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_EVENTS", 2)
    monkeypatch.setattr(room, "LINE_BYTES", 200)
    history = History()
    with EventStream(source.port, "server", history) as events:
        for _ in range(5):
            source.tell("a")
        source.say(b"x" * 300)
        with pytest.raises(NotReachedError, match="a line of over 200 bytes"):
            events.wait_for("b", timeout_s=20)
        assert len(events.told) == 2
    assert history.of_type(Note)[0].text == "events of server: a 5"
