"""A process that we neither started nor arranged: nothing is declared of it, and nobody tells us what it was asked.

What it may wait for is read off its children and descriptors: a tool that runs, an open connection that nothing comes
in on, a standard input that somebody keeps open. Which of its connections matters cannot be seen from outside, so
those edges are inferred and not binding: before the deadline no verdict rests on them. How long a tool may take
nobody knows, so a wait for one is never called hung.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ocrepro.events import SnapshotTaken
from pytest_ocrepro.history import History
from pytest_ocrepro.judge.judgement import Record
from pytest_ocrepro.judge.life import Life, tail_of
from pytest_ocrepro.judge.signs import name_of, rank_of, reads_stdin
from pytest_ocrepro.readings import MILESTONES, FdKind, ProcessReading, Snapshot, SocketReading

OPEN = ("ESTABLISHED", "SYN_SENT")
LOOPBACK = ("127.", "[::1]")
TOOL_RUNS = "waits for its tool"
BLIND = "its descriptors cannot be read: whether it makes progress cannot be told"
SILENT_S = 1.0  # without data; less is no silence


class ForeignWait(Record, frozen=True, kw_only=True):
    """Something outside that it may wait for. ``server_pid``: who has the other end on this machine.

    ``tool_pid``: it is this child, and key, kind and label are not used.
    """

    key: str = ""
    kind: str = ""  # outsider, input
    label: str = ""
    verb: str
    grade: str = "inferred"
    facts: tuple[str, ...]
    server_pid: int | None = None
    tool_pid: int | None = None


def foreign_waits(process: ProcessReading, snapshot: Snapshot) -> Iterator[ForeignWait]:
    """Its tools, its open connections and its standard input, the telling ones first."""
    pid = process.id.pid
    yield from _tools(process, snapshot)
    held = [name_of(lock) for lock in snapshot.lock_directories if lock.holder_pid == pid and lock.holder_alive]
    holds = (f"it holds {', '.join(held)}",) if held else ()
    for sockets in _connections(pid, snapshot) if process.is_subject or not _serves(pid, snapshot) else ():
        first = sockets[0]
        where = "" if first.remote.startswith(LOOPBACK) else " on another machine"
        label = f"{first.remote}{where}{_silence(sockets)}"
        facts = (*(_in_words(socket) for socket in sockets), *holds)
        yield ForeignWait(
            key=f"address:{first.remote}",
            kind="outsider",
            label=label,
            verb="waits for an answer of",
            facts=facts,
            server_pid=first.peer_pid,
        )
    yield from _input(process, snapshot)


def last_talk(process: ProcessReading, snapshot: Snapshot) -> tuple[int, str] | None:
    """When data last came or went on a connection that it made, and to whom; None: never, or not told."""
    ages = [
        (age_s, f"{what} {one.remote}")
        for one in _asked(process.id.pid, snapshot)
        for age_s, count, what in (
            (one.received_ago_s, one.received_bytes, "data came from"),
            (one.sent_ago_s, one.sent_bytes, "it sent data to"),
        )
        if age_s is not None and count
    ]
    age_s, what = min(ages, default=(0.0, ""))
    return (snapshot.started_ns - round(age_s * 1e9), what) if what else None


def clients_of(pid: int, snapshot: Snapshot) -> list[SocketReading]:
    """The connections that others have made to it."""
    own = [one for one in snapshot.sockets if one.pid == pid]
    served = {port_of(one) for one in own if one.state == "LISTEN"}
    return [one for one in own if one.state == "ESTABLISHED" and port_of(one) in served and one.peer_pid != pid]


def unanswered(client: SocketReading) -> bool | None:
    """Whether the last word on it is the client's; None: not told. An event stream is answered at once (measured)."""
    if client.received_ago_s is None or client.sent_ago_s is None:
        return None
    return bool(client.received_bytes) and (client.sent_bytes == 0 or client.sent_ago_s > client.received_ago_s)


def is_blind(history: History, life: Life, until_ns: int) -> bool:
    """Whether no look could read its descriptors: then neither its log nor what it writes is seen to move."""
    return not any(
        reading is not None and reading.fds
        for event in history.of_type(SnapshotTaken)
        if event.snapshot.full and event.snapshot.started_ns <= until_ns
        for reading in [life.reading(event.snapshot)]
    )


def _tools(process: ProcessReading, snapshot: Snapshot) -> Iterator[ForeignWait]:
    """The bash tool's child has a session of its own (measured), which tells it from servers that opencode keeps."""
    for one in snapshot.processes:
        leads = one.session_pid == one.id.pid and one.parent_pid == process.id.pid
        if leads and not one.is_subject and one.state not in ("Z", "X"):
            fact = f"a child in a session of its own: {' '.join(one.argv)[:120]}"
            yield ForeignWait(verb=TOOL_RUNS, facts=(fact,), tool_pid=one.id.pid)


def _connections(pid: int, snapshot: Snapshot) -> list[list[SocketReading]]:
    """By remote address: those on which it asked and has nothing to read; not its own clients', not to itself."""
    found: dict[str, list[SocketReading]] = {}
    for one in _asked(pid, snapshot):
        if one.rx_queue_bytes == 0:
            found.setdefault(one.remote, []).append(one)
    return sorted(found.values(), key=lambda sockets: min(_telling(one) for one in sockets))


def _serves(pid: int, snapshot: Snapshot) -> bool:
    """It does many things at a time: what it asks says nothing about whom it keeps waiting."""
    return any(one.pid == pid and one.state == "LISTEN" for one in snapshot.sockets)


def _asked(pid: int, snapshot: Snapshot) -> list[SocketReading]:
    own = [one for one in snapshot.sockets if one.pid == pid]
    served = {port_of(one) for one in own if one.state == "LISTEN"}
    return [one for one in own if one.state in OPEN and port_of(one) not in served and one.peer_pid != pid]


def port_of(socket: SocketReading) -> str:
    """Of its own end."""
    return socket.local.rpartition(":")[2]


def _telling(socket: SocketReading) -> tuple[bool, bool, bool, str]:
    return socket.state != "SYN_SENT", socket.tx_queue_bytes == 0, not owes_us(socket), socket.remote


def owes_us(socket: SocketReading) -> bool:
    """Whether this end has said the last word on it."""
    received, sent = socket.received_ago_s, socket.sent_ago_s
    nothing_back = bool(socket.sent_bytes) and socket.received_bytes == 0
    return nothing_back or (received is not None and sent is not None and sent < received)


def _silence(sockets: list[SocketReading]) -> str:
    """For how long nothing has come from there; empty where that was not seen."""
    ages = [one.received_ago_s for one in sockets if one.state != "SYN_SENT"]
    known = [age_s for age_s in ages if age_s is not None]
    return f" (silent for {min(known):.0f} s)" if known and len(known) == len(ages) and min(known) >= SILENT_S else ""


def _in_words(socket: SocketReading) -> str:
    unread = f", {socket.tx_queue_bytes} bytes not taken by the other side" if socket.tx_queue_bytes else ""
    came = ""
    if socket.received_ago_s is not None:
        came = f", {socket.received_bytes} bytes came on it, nothing for {socket.received_ago_s:.1f} s"
    return f"fd {socket.fd} is {socket.state} to {socket.remote}, receive queue 0 bytes{unread}{came}"


def _input(process: ProcessReading, snapshot: Snapshot) -> Iterator[ForeignWait]:
    stdin = next((fd for fd in process.fds if fd.fd == 0 and fd.kind is FdKind.PIPE), None)
    tail = tail_of(snapshot, process.id.pid)
    how = reads_stdin(process)
    if stdin is None or not how or (tail is not None and rank_of(tail.milestone) >= MILESTONES.index("turn-started")):
        return
    writers = [
        f"{one.role} (pid {one.id.pid})"
        for one in snapshot.processes
        if one.id.pid != process.id.pid and any(fd.writable and fd.inode == stdin.inode for fd in one.fds)
    ]
    who = f"kept open by {', '.join(writers)}" if writers else "whose writer could not be seen"
    yield ForeignWait(
        key=f"input:{stdin.target}",
        kind="input",
        label=f"standard input ({stdin.target}), {who}",
        verb="waits for",
        facts=(how,),
        grade="proved",
    )
