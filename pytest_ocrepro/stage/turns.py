"""What the scripted model can be told to say, and what a turn looks like on the wire."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_ocrepro.errors import NotReachedError, UsageError

BREAKS = ("eof", "reset")
FOR_GOOD_S = 3600.0  # longer than any trial
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class Barrier:
    """A point in an answer where the provider waits for the scenario, and the scenario for the provider."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._opened = threading.Event()
        self._arrived = threading.Semaphore(0)

    def arrive(self) -> threading.Event:
        """The provider is here; wait on the event that is returned."""
        self._arrived.release()
        return self._opened

    def wait_for_arrival(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Block until ``count`` more answers have come here. Raises NotReachedError."""
        deadline = time.monotonic() + timeout_s
        for arrived in range(count):
            if not self._arrived.acquire(timeout=max(0.0, deadline - time.monotonic())):
                what = f"{arrived} of {count} request(s) came to the provider's barrier {self.name!r}"
                raise NotReachedError(f"{what} within {timeout_s:g} s; see the provider's requests")

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._opened.set()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answer of the model. Use the functions below instead of this class."""

    name: str
    words: tuple[str, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()  # (tool, arguments)
    status: int = 200
    stall_after: int | None = None  # events to send before falling silent
    never_ends: bool = False
    barrier: Barrier | None = None
    repeats: bool = False
    late_s: float = 0.0  # before it begins
    pace_s: float = 0.0  # before each event but the first
    comment_s: float = 0.0  # between two comment lines while it is silent; 0: none
    breaks: str = ""  # how the connection ends instead of a finish: see BREAKS
    finish: str | None = None  # the finish_reason that it says; None: the one that fits
    opened_only: bool = False  # its calls are begun, and their arguments never sent
    tokens: int = 0  # that it says the prompt had; 0: one

    @property
    def silent(self) -> bool:
        """It is never finished, and its connection stays."""
        return self.never_ends or (self.stall_after is not None and not self.breaks)

    @property
    def unheard(self) -> bool:
        """So late that not even its headers are sent while the trial lasts."""
        return self.late_s >= FOR_GOOD_S

    @property
    def beyond_a_script(self) -> bool:
        """It does what a short repro script does not."""
        return bool(self.comment_s or self.breaks or self.finish is not None or self.opened_only or self.tokens)


def text(words: str) -> Turn:
    """A plain answer, streamed word by word."""
    return Turn(name="text", words=tuple(word + " " for word in words.split()))


def tool(name: str, **arguments: Any) -> Turn:
    """One call of any tool."""
    return Turn(name=f"tool {name}", calls=((name, arguments),))


def bash(command: str, *, timeout_ms: int = 600_000) -> Turn:
    """One call of the bash tool."""
    return tool("bash", command=command, description="scripted", timeout=timeout_ms)


def question(asked: str = "Which one?", options: tuple[str, ...] = ("left", "right")) -> Turn:
    """One call of the question tool."""
    choices = [{"label": option, "description": f"take {option}"} for option in options]
    return tool("question", questions=[{"question": asked, "header": "Choice", "options": choices}])


def never_ending(words: str = "Thinking") -> Turn:
    """Begins to answer, then says nothing more for as long as the trial lasts."""
    return Turn(name="never-ending", words=(words,), never_ends=True)


def stall_after(events: int, turn: Turn) -> Turn:
    """Fall silent after so many server-sent events of this turn; at the latest before its ``[DONE]``."""
    return _changed(turn, name=f"{turn.name}, stalled after {events} events", stall_after=events)


def with_comments(every_s: float, turn: Turn) -> Turn:
    """While this turn is silent, send a comment line (``: keepalive``) every so many seconds."""
    return _changed(turn, name=f"{turn.name}, a comment every {every_s:g} s", comment_s=every_s)


def opened(name: str) -> Turn:
    """Begin one call of a tool, send none of its arguments, and say nothing more."""
    return Turn(name=f"call of {name} begun", calls=((name, {}),), never_ends=True, opened_only=True)


def broken_off(events: int, turn: Turn, *, how: str = "eof") -> Turn:
    """End the connection after so many events of this turn, with no finish: a polite end (eof), or RST (reset)."""
    if how not in BREAKS:
        raise UsageError(f"no way to break a turn off: {how!r}; use one of {', '.join(BREAKS)}")
    return _changed(turn, name=f"{turn.name}, {how} after {events} events", stall_after=events, breaks=how)


def finishing(reason: str, turn: Turn) -> Turn:
    """Say this ``finish_reason`` in the end: "length", "content_filter", or a word that is none of the API's."""
    return _changed(turn, name=f"{turn.name}, finish {reason or 'empty'}", finish=reason)


def costing(tokens: int, turn: Turn) -> Turn:
    """Say that the prompt of this turn had so many tokens (provider.CONTEXT_TOKENS is what the model can take)."""
    return _changed(turn, name=f"{turn.name}, {tokens} tokens", tokens=tokens)


def together(*turns: Turn) -> Turn:
    """The words and the tool calls of several turns in one answer."""
    return Turn(
        name=" + ".join(turn.name for turn in turns),
        words=tuple(word for turn in turns for word in turn.words),
        calls=tuple(call for turn in turns for call in turn.calls),
    )


def error(status: int) -> Turn:
    """An HTTP error instead of an answer."""
    return Turn(name=f"error {status}", status=status)


def held(barrier: Barrier, turn: Turn) -> Turn:
    """Give this turn only when the barrier is opened."""
    return _changed(turn, name=f"{turn.name}, held at {barrier.name}", barrier=barrier)


def late(seconds: float, turn: Turn) -> Turn:
    """Begin this turn so many seconds after the question; until then not a byte is sent. 3600 s: for good."""
    return _changed(turn, name=f"{turn.name}, {seconds:g} s late", late_s=seconds)


def paced(seconds: float, turn: Turn) -> Turn:
    """Wait so many seconds before each server-sent event of this turn but the first: a slow model."""
    return _changed(turn, name=f"{turn.name}, an event every {seconds:g} s", pace_s=seconds)


def for_ever(turn: Turn) -> Turn:
    """Give this turn to every further request."""
    return _changed(turn, repeats=True)


def _changed(turn: Turn, **changes: Any) -> Turn:
    return Turn(**{**{name: getattr(turn, name) for name in Turn.__dataclass_fields__}, **changes})


def events_of(turn: Turn) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed answer, in OpenAI's shape; all of them, wherever it falls silent."""
    yield _chunk_of({"role": "assistant", "content": ""})
    for word in turn.words:
        yield _chunk_of({"content": word})
    for index, (name, arguments) in enumerate(turn.calls):
        function = {"name": name, "arguments": "" if turn.opened_only else json.dumps(arguments)}
        yield _chunk_of(
            {"tool_calls": [{"index": index, "id": f"call_{index}_{name}", "type": "function", "function": function}]}
        )
    if not turn.never_ends:
        yield _chunk_of({}, finish=_finish(turn), usage=_usage(turn))


def _chunk_of(
    delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk: dict[str, Any] = {"id": "scripted", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}
    return {**chunk, "choices": [choice], **({"usage": usage} if usage else {})}


def whole(turn: Turn) -> dict[str, Any]:
    """The answer to a request that does not stream, in the same shape."""
    calls = [
        {"id": f"call_{index}_{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for index, (name, given) in enumerate(turn.calls)
    ]
    message = {"role": "assistant", "content": "".join(turn.words), **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": _finish(turn)}
    return {"id": "scripted", "object": "chat.completion", "created": 0, "choices": [choice], "usage": _usage(turn)}


def _finish(turn: Turn) -> str:
    return turn.finish if turn.finish is not None else "tool_calls" if turn.calls else "stop"


def _usage(turn: Turn) -> dict[str, int]:
    return {**USAGE, "prompt_tokens": turn.tokens, "total_tokens": turn.tokens + 1} if turn.tokens else USAGE
