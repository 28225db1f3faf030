"""What the harness asks of its supervisor's process, and what that answers: one message of JSON each.

They go over a SOCK_SEQPACKET pair, so that a message arrives whole or not at all (unix(7)); descriptors go beside.
"""

from __future__ import annotations

import msgspec

from pytest_ocrepro.errors import StageError
from pytest_ocrepro.readings import ProcessId

MARKER = "OCREPRO_MARK"  # the environment variable by which ours are known
MESSAGE_BYTES = 1 << 20


class Spawn(msgspec.Struct, frozen=True, kw_only=True, tag="spawn"):
    """Start a program; stdin, stdout and stderr travel with the message (SCM_RIGHTS)."""

    number: int
    argv: list[str]
    environment: dict[str, str]
    directory: str


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag="signal"):
    """Send a signal to a process, if it is still that process."""

    number: int
    id: ProcessId
    signal: int


class Sweep(msgspec.Struct, frozen=True, kw_only=True, tag="sweep"):
    """End every process whose marker is ``mark`` (a prefix when it ends in ``*``)."""

    number: int
    mark: str
    grace_s: float


class Spawned(msgspec.Struct, frozen=True, kw_only=True, tag="spawned"):
    """Answer to Spawn; ``error`` is empty when it worked. ``inner_pid``: in its PID namespace; 0: the same."""

    number: int
    id: ProcessId
    inner_pid: int = 0
    error: str = ""


class Signalled(msgspec.Struct, frozen=True, kw_only=True, tag="signalled"):
    """Answer to Signal; not ``sent`` when that process was gone."""

    number: int
    sent: bool


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="swept"):
    """Answer to Sweep: pids that we ended, and those that would not end."""

    number: int
    ended: list[int]
    leaked: list[int]


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """A child of the supervisor has ended. ``code``: status, or minus the signal.

    ``swept``: while the supervisor was ending everything, so that nobody can say it ended by itself.
    """

    pid: int
    code: int
    at_ns: int
    swept: bool = False


Request = Spawn | Signal | Sweep
Reply = Spawned | Signalled | Ended | Exited
decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply).decode
encode = msgspec.json.encode


def encoded(request: Request) -> bytes:
    """As it is sent. Raises StageError for text that is not UTF-8, and for more than one message holds."""
    try:
        message = encode(request)
    except UnicodeEncodeError as error:
        raise StageError(f"cannot send {error.object!r} to the supervisor: not UTF-8; change it") from error
    if len(message) > MESSAGE_BYTES:
        raise too_large(len(message))
    return message


def too_large(size_bytes: int) -> StageError:
    """What to say of a program that cannot be asked for."""
    return StageError(
        f"cannot start a program with {size_bytes} bytes of arguments and environment: more than one message to the "
        "supervisor holds; pass less, or a file"
    )


def matches(value: str, mark: str) -> bool:
    """Whether a mark is meant by another one, which may end in ``*``."""
    return value.startswith(mark[:-1]) if mark.endswith("*") else value == mark
