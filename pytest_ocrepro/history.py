"""The one append-only record of a trial: stage and observe write it, judge reads it.

A history is kept as it will be stored: each event passes the gate
(redaction) before anything keeps it, so judging a stored bundle and judging the live trial read the same bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pytest_ocrepro.events import AnyEvent, Event

if TYPE_CHECKING:
    from typing import Self


E = TypeVar("E", bound=Event)
Gate = Callable[[str], str]
Sink = Callable[[bytes], None]
Rewrite = Callable[[Sequence[bytes]], None]
Excerpt = Callable[[str, int], str]  # History.excerpt
LONGEST_SECRET = 8192  # characters; half of a longer one could pass where a text is cut

_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()


class History:
    """Append-only and safe to use from several threads.

    ``gate`` is applied to every string of every event; ``sink`` gets each event as one JSON line (bytes, with the
    newline) before ``append`` returns, so that a killed harness leaves all but the last line. ``rewrite`` gets all
    lines where the gate has learned and some of them must be stored anew.
    """

    def __init__(self, *, gate: Gate | None = None, sink: Sink | None = None, rewrite: Rewrite | None = None) -> None:
        self._events: list[Event] = []
        self._gate = gate
        self._sink = sink
        self._rewrite = rewrite
        self._changed = threading.Condition()

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """A history of these events, as they are."""
        history = cls()
        history._events.extend(events)
        return history

    def append(self, event: E) -> E:
        """Keep the event; returns it as kept (redacted)."""
        with self._changed:  # the gate, too: what it lets through must be kept before it learns anything
            line = self._gated(event)
            kept: Any = _decoder.decode(line)
            self._events.append(kept)
            if self._sink is not None:
                self._sink(line + b"\n")
            self._changed.notify_all()
        return kept  # type: ignore[no-any-return]

    def pass_again(self) -> None:
        """Put all that is kept, and all that was streamed, through the gate once more, because it has learned."""
        with self._changed:
            lines = [self._gated(event) for event in self._events]
            if lines == [_encoder.encode(event) for event in self._events]:
                return
            self._events[:] = [_decoder.decode(line) for line in lines]
            if self._rewrite is not None:
                self._rewrite([line + b"\n" for line in lines])

    def _gated(self, event: Event) -> bytes:
        line = _encoder.encode(event)
        if self._gate is None:
            return line
        return _encoder.encode(_through(msgspec.json.decode(line), self._gate))

    def excerpt(self, text: str, limit: int) -> str:
        """The first ``limit`` characters, or the last ones where it is negative, as the gate lets them through.

        The gate comes before the cut: a secret that is cut in two would pass it in halves. Of a long text only the
        nearer part is looked at; what stands at its outer edge may itself be half a secret and is dropped.
        """
        width = abs(limit)
        sign = 1 if limit > 0 else -1
        piece = cut(text, sign * (width + 3 * LONGEST_SECRET))
        whole = len(piece) == len(text)
        piece = self._gate(piece) if self._gate is not None else piece
        if not whole:
            piece = cut(piece, sign * max(0, len(piece) - LONGEST_SECRET))
        return cut(piece, limit)

    def __iter__(self) -> Iterator[Event]:
        with self._changed:
            return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def of_type(self, kind: type[E]) -> list[E]:
        """All events of one kind, oldest first."""
        return [event for event in self if isinstance(event, kind)]

    def wait_for(self, condition: Callable[[Self], bool], *, deadline_ns: int) -> bool:
        """Block until ``condition(self)`` holds (asked again at every event) or the deadline has passed."""
        with self._changed:
            while not condition(self):
                left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True


def cut(text: str, limit: int) -> str:
    """The first ``limit`` characters, or the last ones where it is negative; an Excerpt without a gate."""
    return text[:limit] if limit >= 0 else text[limit:]


def decode_event(line: bytes | str) -> Event:
    """One stored line. Raises msgspec.DecodeError or msgspec.ValidationError."""
    return _decoder.decode(line)


def _through(value: Any, gate: Gate) -> Any:
    if isinstance(value, str):
        return gate(value)
    if isinstance(value, list):
        return [_through(item, gate) for item in value]
    if isinstance(value, dict):
        return {key: item if key == "event" else _through(item, gate) for key, item in value.items()}
    return value


def now_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds, the clock of every event."""
    return time.monotonic_ns()
