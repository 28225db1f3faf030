"""Who waits for whom: edges with their grade and their evidence, built from one full snapshot and the history.

An edge is ``proved`` (a lock owner, a socket pair, a pipe inode shows it), ``inferred`` (consistent with all that is
seen, but no kernel object says it) or ``declared`` (the scenario itself arranged it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_ocrepro.history import (
    FaultHealed,
    FaultInjected,
    History,
    ProcessStarted,
    ProviderReply,
    ProviderRequest,
    RegistryRequest,
    SignalSent,
)
from pytest_ocrepro.judge.judgement import Edge, Graph, Node
from pytest_ocrepro.readings import (
    MILESTONES,
    FdKind,
    FileLock,
    LockDirectory,
    ProcessReading,
    Snapshot,
    SocketReading,
)

WRITER_BYTES = frozenset({"WRITE", "RESERVED", "PENDING", "EXCLUSIVE", "RECOVER", "CKPT"})
# opencode waits for its own lock directories between reading its configuration and starting its services
LOCK_DIRECTORY_MILESTONES = frozenset({"bootstrapping", "config-loading", "plugins-loading"})
STALE_AFTER_S = 60.0  # constant read from the builds: a heartbeat older than this is broken by the next waiter
MAX_CHAIN = 12
STDERR = 2


class _Builder:
    """Collects nodes and edges of one snapshot. Order of edges is order of preference for the chain."""

    def __init__(self, history: History, snapshot: Snapshot) -> None:
        self._history = history
        self._snapshot = snapshot
        self._nodes: dict[str, Node] = {}
        self._edges: list[Edge] = []
        self._processes = {process.id.pid: process for process in snapshot.processes}
        self._roles = {event.id.pid: event.role for event in history.of_type(ProcessStarted)}
        self._milestones = {tail.pid: tail for tail in snapshot.logs}

    def build(self) -> Graph:
        for process in self._snapshot.processes:
            self._suspended(process)
            self._file_locks(process)
            self._lock_directories(process)
            self._sqlite_bytes(process)
            self._servers(process)
            self._input(process)
            self._pipes(process)
            self._children(process)
        edges = tuple(self._edges)
        return Graph(nodes=tuple(self._nodes.values()), edges=edges, cycle=find_cycle(edges))

    def node(self, key: str, kind: str, label: str) -> str:
        self._nodes.setdefault(key, Node(key=key, kind=kind, label=label))
        return key

    def process_node(self, pid: int) -> str:
        reading = self._processes.get(pid)
        role = reading.role if reading else self._roles.get(pid, "a process that is not ours")
        return self.node(f"pid:{pid}", "process", f"{role} (pid {pid})")

    def edge(self, waiter: str, holder: str, grade: str, verb: str, *evidence: str) -> None:
        self._edges.append(Edge(waiter=waiter, holder=holder, grade=grade, verb=verb, evidence=evidence))

    def _suspended(self, process: ProcessReading) -> None:
        if process.state not in ("T", "t"):
            return
        ours = [event for event in self._history.of_type(SignalSent) if event.pid == process.id.pid]
        by = "the scenario (SIGSTOP)" if ours and ours[-1].signal == "SIGSTOP" else "somebody unknown"
        key = self.node(f"stop:{process.id.pid}", "fault", f"suspended by {by}")
        self.edge(
            self.process_node(process.id.pid),
            key,
            "declared" if "scenario" in by else "proved",
            "is",
            f"state {process.state} in /proc",
        )

    def _file_locks(self, process: ProcessReading) -> None:
        """F_SETLKW and flock(2) waiters appear in /proc/locks; SQLite never waits that way."""
        for wanted in self._snapshot.locks:
            if not wanted.waiting or wanted.pid != process.id.pid:
                continue
            key = self.node(f"file:{wanted.path}", "file-lock", f"{wanted.kind} lock on {wanted.path}")
            self.edge(
                self.process_node(process.id.pid),
                key,
                "proved",
                "waits for",
                f"/proc/locks lists pid {process.id.pid} as waiting",
            )
            self._holders_of(key, (lock for lock in self._snapshot.locks if _conflicts(lock, wanted)))

    def _holders_of(self, key: str, locks: Iterable[FileLock]) -> None:
        for lock in locks:
            if lock.pid is not None:
                name = f"{lock.name} byte" if lock.name else f"bytes {lock.start}-{lock.end}"
                self.edge(
                    key,
                    self.process_node(lock.pid),
                    "proved",
                    "is held by",
                    f"{lock.source}: pid {lock.pid} has {lock.access} on the {name}",
                )

    def _lock_directories(self, process: ProcessReading) -> None:
        tail = self._milestones.get(process.id.pid)
        milestone = tail.milestone if tail else ""
        if not process.is_subject or milestone not in LOCK_DIRECTORY_MILESTONES:
            return
        last = tail.lines[-1].text[:160] if tail and tail.lines else "nothing"
        for lock in self._snapshot.lock_directories:
            if lock.holder_pid == process.id.pid or lock.holder_pid is None:
                continue
            key = self._lock_node(lock)
            self.edge(
                self.process_node(process.id.pid),
                key,
                "inferred",
                "waits for",
                f"its log ends at {milestone!r}: {last}",
                "it holds no lock directory itself and leaves no kernel trace but a repeated mkdir",
            )

    def _lock_node(self, lock: LockDirectory) -> str:
        name = lock.key or lock.path.rsplit("/", 1)[-1]
        known = f"lock:{lock.path}" in self._nodes
        key = self.node(f"lock:{lock.path}", "lock-directory", f"lock directory {name}")
        if known or lock.holder_pid is None:
            return key
        heartbeat = "" if lock.heartbeat_age_s is None else f", heartbeat {lock.heartbeat_age_s:.1f} s old"
        if lock.holder_alive:
            self.edge(
                key,
                self.process_node(lock.holder_pid),
                "proved",
                "is held by",
                f"meta.json names pid {lock.holder_pid}, which lives{heartbeat}",
            )
            return key
        left_s = STALE_AFTER_S - (lock.heartbeat_age_s or 0.0)
        dead = self.node(
            f"dead:{lock.holder_pid}",
            "dead-holder",
            f"pid {lock.holder_pid}, which is dead; breaks itself in about {max(0.0, left_s):.0f} s",
        )
        self.edge(
            key, dead, "proved", "is held by", f"meta.json names pid {lock.holder_pid}, no such process{heartbeat}"
        )
        return key

    def _sqlite_bytes(self, process: ProcessReading) -> None:
        """SQLite polls with a non-blocking F_SETLK: the waiter is inferred, the holder proved."""
        pid = process.id.pid
        if not process.is_subject:
            return
        for lock in self._snapshot.locks:
            foreign = lock.pid != pid and not lock.waiting and lock.access == "WRITE"
            if not foreign or not WRITER_BYTES & set(lock.name.replace("+", " ").split()):
                continue
            key = self.node(f"byte:{lock.path}:{lock.name}", "sqlite-byte", f"{lock.name} byte of {lock.path}")
            self.edge(
                self.process_node(pid),
                key,
                "inferred",
                "waits for",
                "it uses this database; SQLite retries without a kernel trace",
            )
            if not any(edge.waiter == key for edge in self._edges):
                self._holders_of(key, (lock,))
                self._lock_fault(lock.pid)

    def _lock_fault(self, pid: int | None) -> None:
        fault = self._fault("database-lock")
        if fault is not None and fault.pid == pid:
            key = self.node("fault:database-lock", "fault", "the scenario's lock holder, which does not let go")
            self.edge(self.process_node(fault.pid or 0), key, "declared", "is", fault.detail)

    def _servers(self, process: ProcessReading) -> None:
        """A request that our provider or registry has taken and not answered, over a socket that is open."""
        open_to = {
            s.remote: s for s in self._snapshot.sockets if s.pid == process.id.pid and s.state == "ESTABLISHED"
        }
        for request, age_s in self._unanswered_by_provider(process.id.pid):
            self._wait_for_server(
                process,
                "provider",
                f"the provider (model {request.model})",
                f"request {request.request} unanswered for {age_s:.1f} s",
                open_to,
            )
        stalled = [
            event
            for event in self._history.of_type(RegistryRequest)
            if event.pid == process.id.pid and event.reply == "stalled"
        ]
        fault = self._fault("registry")
        if stalled and fault is not None and fault.address in open_to:
            age_s = (self._snapshot.started_ns - stalled[-1].at_ns) / 1e9
            self._wait_for_server(
                process,
                "registry",
                f"the npm registry at {fault.address}",
                f"{stalled[-1].path} unanswered for {age_s:.1f} s",
                open_to,
            )

    def _wait_for_server(
        self, process: ProcessReading, kind: str, label: str, request: str, open_to: dict[str, SocketReading]
    ) -> None:
        fault = self._fault(kind)
        key = self.node(f"{kind}:{label}", kind, label)
        socket = open_to.get(fault.address) if fault else None
        seen = (
            (f"fd {socket.fd} is ESTABLISHED to {socket.remote}, receive queue {socket.rx_queue_bytes} bytes",)
            if socket
            else ()
        )
        self.edge(
            self.process_node(process.id.pid),
            key,
            "proved",
            "waits for an answer of",
            *seen,
            f"our own log: {request}",
        )
        if fault is not None and not any(edge.waiter == key for edge in self._edges):
            end = self.node(f"fault:{kind}", "fault", fault.detail)
            self.edge(
                key,
                end,
                "declared",
                "is",
                "the scenario keeps it so" if fault.silent_for_good else "the scenario slows it; it will answer",
            )

    def _unanswered_by_provider(self, pid: int) -> Iterator[tuple[ProviderRequest, float]]:
        over = {
            event.request for event in self._history.of_type(ProviderReply) if event.what not in ("begun", "stalled")
        }
        for request in self._history.of_type(ProviderRequest):
            if request.pid == pid and request.request not in over:
                yield request, (self._snapshot.started_ns - request.at_ns) / 1e9

    def _fault(self, name: str) -> FaultInjected | None:
        """The fault of this name that is in force at the snapshot."""
        current: FaultInjected | None = None
        for event in self._history:
            if event.at_ns > self._snapshot.ended_ns:
                break
            if isinstance(event, FaultInjected) and event.fault == name:
                current = event
            elif isinstance(event, FaultHealed) and event.fault == name:
                current = None
        return current

    def _input(self, process: ProcessReading) -> None:
        started = [event for event in self._history.of_type(ProcessStarted) if event.id.pid == process.id.pid]
        stdin = next((fd for fd in process.fds if fd.fd == 0), None)
        if not started or not started[-1].obligation or started[-1].stdin != "open pipe":
            return
        if stdin is None or stdin.kind is not FdKind.PIPE:
            return
        tail = self._milestones.get(process.id.pid)
        if tail is not None and _rank(tail.milestone) >= MILESTONES.index("turn-started"):
            return
        key = self.node("input:stdin", "input", "standard input, whose writer is open and silent")
        self.edge(
            self.process_node(process.id.pid),
            key,
            "inferred",
            "waits for",
            f"fd 0 is {stdin.target}; we hold its write end and never write",
        )

    def _pipes(self, process: ProcessReading) -> None:
        """A read end here, a write end there: an output that a tool's descendant keeps open."""
        if not process.is_subject:
            return
        reads = {fd.inode for fd in process.fds if fd.kind is FdKind.PIPE and fd.writable is False and fd.fd > STDERR}
        for other in self._snapshot.processes:
            if other.id.pid == process.id.pid or other.is_subject:
                continue
            shared = [fd for fd in other.fds if fd.kind is FdKind.PIPE and fd.writable and fd.inode in reads]
            if shared:
                self.edge(
                    self.process_node(process.id.pid),
                    self.process_node(other.id.pid),
                    "proved",
                    "waits for output of",
                    f"pipe:[{shared[0].inode}] is read here and written there",
                )

    def _children(self, process: ProcessReading) -> None:
        for child in self._snapshot.processes:
            if child.parent_pid == process.id.pid and child.state != "Z":
                self.edge(
                    self.process_node(process.id.pid),
                    self.process_node(child.id.pid),
                    "inferred",
                    "has a child that runs",
                    f"{' '.join(child.argv)[:120]}",
                )


def build(history: History, snapshot: Snapshot) -> Graph:
    """The wait-for graph of one full snapshot."""
    return _Builder(history, snapshot).build()


def find_cycle(edges: Iterable[Edge]) -> tuple[str, ...]:
    """The first cycle met, its first key repeated at the end; empty when there is none."""
    following: dict[str, list[str]] = {}
    for edge in edges:
        following.setdefault(edge.waiter, []).append(edge.holder)
    done: set[str] = set()
    for start in following:
        cycle = _walk(start, following, [], done)
        if cycle:
            return cycle
    return ()


def _walk(key: str, following: dict[str, list[str]], path: list[str], done: set[str]) -> tuple[str, ...]:
    if key in path:
        return (*path[path.index(key) :], key)
    if key in done:
        return ()
    path.append(key)
    for holder in following.get(key, ()):
        cycle = _walk(holder, following, path, done)
        if cycle:
            return cycle
    path.pop()
    done.add(key)
    return ()


def chain_from(graph: Graph, pid: int) -> tuple[Edge, ...]:
    """From a process to the root that waits for nothing, by the preferred edge at each node; stops at a cycle."""
    chain: list[Edge] = []
    seen: set[str] = set()
    key = f"pid:{pid}"
    while key not in seen and len(chain) < MAX_CHAIN:
        seen.add(key)
        edge = next((edge for edge in graph.edges if edge.waiter == key), None)
        if edge is None:
            break
        chain.append(edge)
        key = edge.holder
    return tuple(chain)


def root_of(graph: Graph, chain: tuple[Edge, ...]) -> Node | None:
    """The node that the chain ends at."""
    if not chain:
        return None
    return next((node for node in graph.nodes if node.key == chain[-1].holder), None)


def in_words(graph: Graph, chain: tuple[Edge, ...]) -> tuple[str, ...]:
    """The chain as sentences, waiter first, root last."""
    labels = {node.key: node.label for node in graph.nodes}
    return tuple(
        f"{labels[edge.waiter]} {edge.verb} {labels[edge.holder]} [{edge.grade}: {'; '.join(edge.evidence)}]"
        for edge in chain
    )


def _conflicts(lock: FileLock, wanted: FileLock) -> bool:
    return (
        not lock.waiting
        and lock.path == wanted.path
        and lock.pid != wanted.pid
        and "WRITE" in (lock.access, wanted.access)
        and (lock.end is None or lock.end >= wanted.start)
        and (wanted.end is None or wanted.end >= lock.start)
    )


def _rank(milestone: str) -> int:
    return MILESTONES.index(milestone) if milestone in MILESTONES else -1
