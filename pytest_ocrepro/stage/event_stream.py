"""A client of a server's events (GET /global/event, text/event-stream): who waits for one instead of polling.

Only what opencode sends is understood: a line ``data: {"payload": {"type": .., "properties": {..}}}`` an event
(server-sent events of WHATWG HTML; measured on 1.14.48 and 1.18.34). The stream of one directory, GET /event, is not
used: 1.14.48 ends it behind its first event.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from pytest_ocrepro.errors import NotReachedError
from pytest_ocrepro.events import Note
from pytest_ocrepro.history import History, now_ns

MOST_EVENTS = 20_000  # kept; a stream that sends more is read on and counted
LINE_BYTES = 1 << 22
READ_BYTES = 1 << 16
CONNECT_S = 10.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One event as the server told it, and when it was read."""

    at_ns: int
    kind: str
    properties: dict[str, Any]

    @property
    def session(self) -> str:
        """The session that it is about; "" where it names none."""
        return str(self.properties.get("sessionID") or "")


class EventStream:
    """A context: connected while it is open. What was told is counted in the evidence when it is left."""

    def __init__(self, port: int, role: str, history: History) -> None:
        self._port = port
        self._role = role
        self._history = history
        self._told: list[Told] = []
        self._counts: Counter[str] = Counter()
        self._news = threading.Condition()
        self._over = ""
        self._line: socket.socket | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Connect. Raises NotReachedError where the server does not begin a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CONNECT_S)
        try:
            connection.request("GET", "/global/event", headers={"Accept": "text/event-stream"})
            line = connection.sock
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotReachedError(f"{self._role} begins no stream of events: {error}") from None
        kind = response.getheader("Content-Type") or "no type"
        if not kind.startswith("text/event-stream"):
            connection.close()
            raise NotReachedError(f"{self._role} begins no stream of events: {response.status}, {kind}")
        line.settimeout(None)
        self._line = line
        self._reader = threading.Thread(target=self._read, args=(response,), name="ocrepro-events", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Break the connection off, as a listener does that goes away."""
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
        if self._reader is not None:
            self._reader.join()
        if self._line is not None:
            self._line.close()
        said = ", ".join(f"{name} {count}" for name, count in sorted(self._counts.items())) or "nothing"
        self._history.append(Note(at_ns=now_ns(), text=f"events of {self._role}: {said}"))

    @property
    def told(self) -> tuple[Told, ...]:
        """Everything until now."""
        with self._news:
            return tuple(self._told)

    def wait_for(self, kind: str, *, session: str = "", count: int = 1, timeout_s: float = 30.0) -> Told:
        """The ``count``-th event of this kind (of this session), whenever it came. Raises NotReachedError."""

        def come() -> list[Told]:
            return [one for one in self._told if one.kind == kind and session in ("", one.session)]

        with self._news:
            self._news.wait_for(lambda: len(come()) >= count or self._over, timeout=timeout_s)
            found = come()
        if len(found) >= count:
            return found[count - 1]
        about = f" of session {session}" if session else ""
        why = f"the stream ended before ({self._over})" if self._over else f"not within {timeout_s:g} s"
        raise NotReachedError(f"{self._role} told {len(found)} event(s) {kind}{about} of {count}: {why}")

    def _read(self, response: http.client.HTTPResponse) -> None:
        why = "its end"
        try:
            for told in _events(response):
                with self._news:
                    self._counts[told.kind] += 1
                    if len(self._told) < MOST_EVENTS:
                        self._told.append(told)
                    self._news.notify_all()
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            with suppress(OSError, http.client.HTTPException):
                response.close()
        with self._news:
            self._over = why
            self._news.notify_all()


def _events(response: http.client.HTTPResponse) -> Iterator[Told]:
    """What comes, until the stream ends. A line that is no event of opencode is passed over."""
    for line in _lines(response):
        name, _, data = line.partition(b":")
        if name != b"data":
            continue
        with suppress(ValueError):
            event = _inner({"event": json.loads(data)}, "event")
            event = _inner(event, "payload") or event
            if isinstance(event.get("type"), str):
                yield Told(at_ns=now_ns(), kind=event["type"], properties=_inner(event, "properties"))


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """By read1: readline of a chunked answer ends without a word where a chunk does (CPython's http.client)."""
    rest = b""
    while some := response.read1(READ_BYTES):
        *whole, rest = (rest + some).split(b"\n")
        yield from whole
        if len(rest) > LINE_BYTES:
            raise ValueError(f"a line of over {LINE_BYTES} bytes")


def _inner(properties: dict[str, Any], name: str) -> dict[str, Any]:
    found = properties.get(name)
    return found if isinstance(found, dict) else {}
